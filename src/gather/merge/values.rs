//! Values in binary format, compared as PostgreSQL's default ordering of their type does it.
//!
//! The formats are those of the types' `send` functions; see `src/backend/utils/adt/` of PostgreSQL.

use std::cmp::Ordering;

use super::numeric::compare_numeric;

/// A type whose order is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// Whose values are sorted as their bytes are: `bytea`, `uuid`, `bool`, `oid`, and texts by collation `"C"`.
    Bytes,
    /// `bpchar` by collation `"C"`: blanks at the end do not count.
    Padded,
    /// `int2`, `int4`, `int8`, and what is one of these within: dates and times.
    Integer,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
}

impl Type {
    /// By its OID in `pg_type.dat`. A text's order is known only where its collation is.
    pub(super) fn of_oid(oid: u32, is_bytewise: bool) -> Option<Self> {
        match oid {
            16 | 17 | 26 | 2950 => Some(Self::Bytes),
            20 | 21 | 23 | 1082 | 1083 | 1114 | 1184 => Some(Self::Integer),
            25 | 1043 if is_bytewise => Some(Self::Bytes),
            1042 if is_bytewise => Some(Self::Padded),
            700 => Some(Self::Float4),
            701 => Some(Self::Float8),
            1700 => Some(Self::Numeric),
            _ => None,
        }
    }

    /// Whether it is a text, whose bytes are the server's only where the client's encoding is.
    pub(super) fn is_text(oid: u32) -> bool {
        matches!(oid, 25 | 1042 | 1043)
    }

    /// `None` where one is no value of this type.
    pub(super) fn compare(self, one: &[u8], other: &[u8]) -> Option<Ordering> {
        match self {
            Self::Bytes => Some(one.cmp(other)),
            Self::Padded => Some(one.trim_ascii_blanks().cmp(other.trim_ascii_blanks())),
            Self::Integer => Some(integer(one)?.cmp(&integer(other)?)),
            Self::Float4 => {
                let value = |bytes: &[u8]| bytes.try_into().ok().map(f32::from_be_bytes).map(f64::from);
                Some(compare_floats(value(one)?, value(other)?))
            }
            Self::Float8 => {
                let value = |bytes: &[u8]| bytes.try_into().ok().map(f64::from_be_bytes);
                Some(compare_floats(value(one)?, value(other)?))
            }
            Self::Numeric => compare_numeric(one, other),
        }
    }
}

trait Trim {
    fn trim_ascii_blanks(&self) -> &[u8];
}

impl Trim for [u8] {
    fn trim_ascii_blanks(&self) -> &[u8] {
        let end = self.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
        self.get(..end).unwrap_or_default()
    }
}

fn integer(bytes: &[u8]) -> Option<i64> {
    match bytes.len() {
        2 => bytes.try_into().ok().map(i16::from_be_bytes).map(i64::from),
        4 => bytes.try_into().ok().map(i32::from_be_bytes).map(i64::from),
        8 => bytes.try_into().ok().map(i64::from_be_bytes),
        _ => None,
    }
}

/// NaN equals itself and is greater than all others; both zeros are equal (`float8_cmp_internal`).
fn compare_floats(one: f64, other: f64) -> Ordering {
    one.partial_cmp(&other).unwrap_or_else(|| one.is_nan().cmp(&other.is_nan()))
}
