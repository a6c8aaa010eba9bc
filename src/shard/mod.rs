//! Which shard a row belongs to: key → bucket → shard.
//!
//! A shard key's values are brought to one canonical form, whatever type width and wire format they came in
//! ([`key`]), and hashed to one of 16,384 buckets ([`hash`]). A [`BucketMap`] says whose each bucket is ([`map`]),
//! and what moves when a shard comes or goes ([`plan`]). [`sql`] is the same in PostgreSQL. Beside it: what one type is called
//! on each of them ([`type_oids`]).
//!
//! Pure: no I/O, no SQL parsing, nothing of the rest of the crate. A value of which it is not certain is
//! [`Undecided`], never guessed: a row on the wrong shard is a row that nobody finds again.
//! `docs/sharding.md` specifies the hash; a change of what it gives for any value is a new [`HASH_VERSION`].

mod bits;
pub mod hash;
pub mod key;
pub mod map;
mod moment;
mod number;
pub mod plan;
mod score;
pub mod sql;
pub mod type_oids;
mod versions;

pub use hash::{BUCKETS, Bucket, HASH_VERSION, KeyDigest, KeyHasher};
pub use key::{Charset, KeyColumn, KeyType, KeyValue, SqlType, Undecided, UnfitColumn};
pub use map::{BucketMap, MapError, MapParts, Pin, PinParts, Placement, Shard};
pub use plan::{Change, Move, Plan};
pub use versions::{Moving, Versions};
