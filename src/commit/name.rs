//! Names: of a shard, of a transaction over several shards, and of what is prepared of it (the gid).
//!
//! A gid says all that recovery needs: `pgsluice:1:ID:DECIDER:ORDINAL`, that is the version of this form, the
//! transaction, the shard where its decision is found, and which of the participants this is. At most 118 bytes of the
//! 199 that PostgreSQL takes, of characters that need no quoting. The id is a hash of a secret that the coordinator
//! alone knows: everybody may read gids in `pg_prepared_xacts`, and must not be able to decide by them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

/// What every gid of ours begins with; others are never touched.
pub const PREFIX: &str = "pgsluice:";

/// Of the form of gids. Another one is left to the version of pgsluice that knows it.
const VERSION: &str = "1";

/// `NAMEDATALEN - 1`.
const LONGEST_NAME: usize = 63;

/// The name of a shard: 1 to 63 ASCII letters, digits, `-`, `_`, `.`, as the config has them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardName(Arc<str>);

/// The text cannot be the name of a shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not 1 to 63 ASCII letters, digits, `-`, `_` or `.`")]
pub struct UnfitName(String);

impl ShardName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShardName {
    type Err = UnfitName;

    fn from_str(text: &str) -> Result<Self, UnfitName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(UnfitName(text.to_owned()))
        }
    }
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// What it takes to decide on a transaction. In no log and no message but the one that decides.
pub(super) struct Secret(u128);

impl Secret {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// 32 hexadecimal digits, which PostgreSQL takes for a uuid.
    pub(super) fn expose(&self) -> String {
        format!("{:032x}", self.0)
    }

    /// `pgsluice.decision_id()` makes the same of it.
    pub(super) fn id(&self) -> TransactionId {
        let digest = digest(&SHA256, &self.0.to_be_bytes());
        let head = digest.as_ref().iter().take(16);
        TransactionId(head.fold(0, |id, byte| id << 8 | u128::from(*byte)))
    }
}

/// A transaction over several shards; `pgsluice.decision.id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(u128);

impl FromStr for TransactionId {
    type Err = NotOurs;

    /// 32 lower-case hexadecimal digits, and no other form: a gid must be found again by its text.
    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match u128::from_str_radix(text, 16) {
            Ok(id) if text.len() == 32 && text.bytes().all(digit) => Ok(Self(id)),
            _ => Err(NotOurs),
        }
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The name under which one shard's part of a transaction is prepared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gid {
    /// The transaction.
    pub id: TransactionId,
    /// Where its decision is found, in the database of the same name.
    pub decider: ShardName,
    /// Of this part among the transaction's.
    pub ordinal: u32,
}

/// A gid that is not of this form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name that this version of pgsluice gives")]
pub struct NotOurs;

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{VERSION}:{}:{}:{}", self.id, self.decider, self.ordinal)
    }
}

impl FromStr for Gid {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let mut parts = text.strip_prefix(PREFIX).ok_or(NotOurs)?.split(':');
        let mut next = || parts.next().ok_or(NotOurs);
        if next()? != VERSION {
            return Err(NotOurs);
        }
        let gid = Self {
            id: next()?.parse()?,
            decider: next()?.parse().map_err(|_| NotOurs)?,
            ordinal: next()?.parse().map_err(|_| NotOurs)?,
        };
        // Written in another way it would be another gid.
        if parts.next().is_some() || gid.to_string() != text {
            return Err(NotOurs);
        }
        Ok(gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids_are_read_as_they_are_written() {
        let decider: ShardName = "x".repeat(LONGEST_NAME).parse().unwrap();
        let gid = Gid { id: Secret::random().id(), decider, ordinal: u32::MAX };
        let text = gid.to_string();
        assert_eq!(text.parse(), Ok(gid));
        assert_eq!(text.len(), 118);
        let id = "0123456789abcdef0123456789abcdef";
        let gid: Gid = format!("pgsluice:1:{id}:shard-a.b_c:0").parse().unwrap();
        assert_eq!((gid.id.to_string().as_str(), gid.decider.as_str(), gid.ordinal), (id, "shard-a.b_c", 0));
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        let id = "0123456789abcdef0123456789abcdef";
        let strangers = [
            String::new(),
            "pgsluice".to_owned(),
            format!("pgsluice:2:{id}:a:0"),
            format!("pgsluice:1:{id}:a"),
            format!("pgsluice:1:{id}:a:0:1"),
            format!("pgsluice:1:{id}:a:00"),
            format!("pgsluice:1:{id}:a:+1"),
            format!("pgsluice:1:{id}:a:4294967296"),
            format!("pgsluice:1:{id}::0"),
            format!("pgsluice:1:{id}:a'b:0"),
            format!("pgsluice:1:{}:a:0", id.to_uppercase()),
            format!("pgsluice:1:+{}:a:0", &id[1..]),
            format!("pgsluice:1:{}:a:0", &id[1..]),
            format!("other:1:{id}:a:0"),
        ];
        for text in strangers {
            assert_eq!(text.parse::<Gid>(), Err(NotOurs), "{text}");
        }
    }

    #[test]
    fn names_that_would_need_quoting_are_none() {
        for text in ["", "a b", "a'b", "a:b", "ä", &"x".repeat(64)] {
            assert!(text.parse::<ShardName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_id_is_a_hash_of_its_secret() {
        // SELECT pgsluice.decision_id('00000000000000000000000000000001')
        assert_eq!(Secret(1).id().to_string(), "7c3ccd10bb7ec37b46d37926ae627426");
    }
}
