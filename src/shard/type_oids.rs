//! The OIDs of types that users have made: each server gives them as things are made there, so that one type has another
//! number on each shard. Clients know types by the numbers of the first shard, from which they read the catalogs;
//! what the others say, and are told, is put into these.
//!
//! <https://www.postgresql.org/docs/current/catalog-pg-type.html>,
//! `FirstNormalObjectId` in <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/include/access/transam.h>

use std::borrow::Cow;
use std::collections::HashMap;

/// The first OID of what is made by users.
pub const FIRST_OF_USERS: u32 = 16384;

/// `unknown`: of a type that the first shard does not have, or that has not been read yet.
const UNKNOWN: u32 = 705;

/// Of parameter types as in `Parse`.
fn oids(types: &[u8]) -> impl Iterator<Item = u32> {
    types.get(2..).unwrap_or_default().as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
}

/// Whether one of these parameter types, as in `Parse`, was made by users.
pub fn has_users(types: &[u8]) -> bool {
    oids(types).any(|oid| oid >= FIRST_OF_USERS)
}

/// Users' types of one shard: schema and name, and the OID.
pub type TypeNames = HashMap<(String, String), u32>;

/// One shard's OIDs, and the clients'.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TypeOids {
    to_clients: HashMap<u32, u32>,
    to_own: HashMap<u32, u32>,
}

impl TypeOids {
    /// Of a shard with such types, for clients that know those of the first one.
    pub fn between(own: &TypeNames, first: &TypeNames) -> Self {
        let pairs = own.iter().filter_map(|(name, own)| Some((*own, *first.get(name)?)));
        let (to_clients, to_own) = pairs.map(|(own, first)| ((own, first), (first, own))).unzip();
        Self { to_clients, to_own }
    }

    /// What clients know this type by.
    fn clients(&self, own: u32) -> u32 {
        if own < FIRST_OF_USERS { own } else { self.to_clients.get(&own).copied().unwrap_or(UNKNOWN) }
    }

    /// Of the body of a `RowDescription`, in place.
    pub fn describe_rows(&self, body: &mut [u8]) {
        let mut rest = body.get_mut(2..).unwrap_or_default();
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            // Behind the name: table, attribute, type, size, modifier, format.
            let Some((field, others)) = rest.get_mut(end + 1..).and_then(|rest| rest.split_at_mut_checked(18)) else {
                return;
            };
            if let Some(oid) = field.get_mut(6..).and_then(<[u8]>::first_chunk_mut) {
                *oid = self.clients(u32::from_be_bytes(*oid)).to_be_bytes();
            }
            rest = others;
        }
    }

    /// Of the body of a `ParameterDescription`, in place.
    pub fn describe_parameters(&self, body: &mut [u8]) {
        for oid in body.get_mut(2..).unwrap_or_default().as_chunks_mut::<4>().0 {
            *oid = self.clients(u32::from_be_bytes(*oid)).to_be_bytes();
        }
    }

    /// Parameter types of a `Parse` as this shard has them; those that it does not have it is to find out by itself.
    pub fn own_parameters<'t>(&self, types: &'t [u8]) -> Cow<'t, [u8]> {
        if !has_users(types) {
            return Cow::Borrowed(types);
        }
        let own =
            |oid: u32| if oid < FIRST_OF_USERS { oid } else { self.to_own.get(&oid).copied().unwrap_or_default() };
        let count = types.iter().copied().take(2);
        Cow::Owned(count.chain(oids(types).flat_map(|oid| own(oid).to_be_bytes())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(types: &[(&str, u32)]) -> TypeNames {
        types.iter().map(|(name, oid)| (("public".to_owned(), (*name).to_owned()), *oid)).collect()
    }

    fn types() -> TypeOids {
        TypeOids::between(
            &names(&[("mood", 16400), ("size", 16500), ("mine", 16600)]),
            &names(&[("mood", 16500), ("size", 16400), ("other", 16600)]),
        )
    }

    #[test]
    fn what_a_shard_says_is_put_into_the_clients_numbers() {
        let field = |name: &[u8], oid: u32| [name, &[0; 7], &oid.to_be_bytes(), &[9; 8]].concat();
        let rows = |oids: [u32; 4]| {
            let fields = oids.iter().map(|oid| field(b"x", *oid)).collect::<Vec<_>>().concat();
            [&[0, 4][..], &fields].concat()
        };
        let mut said = rows([23, 16400, 16500, 16600]);
        types().describe_rows(&mut said);
        assert_eq!(said, rows([23, 16500, 16400, UNKNOWN]));
        let parameters = |oids: [u32; 3]| [&[0, 3][..], &oids.map(u32::to_be_bytes).concat()].concat();
        let mut said = parameters([16500, 25, 20000]);
        types().describe_parameters(&mut said);
        assert_eq!(said, parameters([16400, 25, UNKNOWN]));
        assert_eq!(*types().own_parameters(&parameters([16500, 0, 16600])), parameters([16400, 0, 0]));
        let plain = parameters([23, 0, 25]);
        assert!(matches!(types().own_parameters(&plain), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_no_such_message_stays_as_it_is() {
        for bytes in [&[][..], &[0], &[0, 1, 7, 7], &[0, 1, 7, 0, 1, 2]] {
            let mut body = bytes.to_vec();
            types().describe_rows(&mut body);
            assert_eq!(body, bytes);
        }
    }
}
