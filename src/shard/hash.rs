//! The hash of a key, version 1: the top 14 bits of SHA-256 over the key's canonical bytes.
//!
//! Each value is one component: a tag for its class, and a body that two different values of the class never share.
//! A component's length stands before it in four bytes, so that neither do two different keys. `docs/sharding.md`
//! specifies the bytes, `install.sql` makes the same in PostgreSQL; rows lie where this says, so it never changes for a
//! version that was released.

use std::fmt;

use ring::digest::{Context, SHA256};

use super::key::KeyValue;

/// Which hash this is. A bucket map names the one that it is made for.
pub const HASH_VERSION: i32 = 1;

/// How many buckets there are.
pub const BUCKETS: usize = 1 << BUCKET_BITS;

const BUCKET_BITS: u32 = 14;

/// The number of a bucket, less than [`BUCKETS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(u16);

impl Bucket {
    /// By its number, if there is such a bucket.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < BUCKETS).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The same, for arrays.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Any of them.
    pub fn random() -> Self {
        Self(rand::random_range(0..1 << BUCKET_BITS))
    }

    /// Another one, far off: repeated, it comes to all of them in turn.
    #[must_use]
    pub fn next_lot(self) -> Self {
        // Odd, and about the golden section of their number.
        const STEP: u16 = 10_125;
        Self((self.0 + STEP) % (1 << BUCKET_BITS))
    }

    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        (0..1u16 << BUCKET_BITS).map(Self)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256 of a key's canonical bytes: it names the key where it is pinned, and its first bits are the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Of a whole key, its values in the order of the table's key columns.
    ///
    /// A key of no values has a digest too; there is no such key, and it is for the caller not to ask.
    #[must_use]
    pub fn of(values: &[KeyValue<'_>]) -> Self {
        let mut hasher = KeyHasher::new();
        for value in values {
            hasher.add(value);
        }
        hasher.finish()
    }

    /// As it was stored.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Where the key lies, unless it is pinned.
    #[must_use]
    pub fn bucket(&self) -> Bucket {
        Bucket(u16::from_be_bytes([self.0[0], self.0[1]]) >> (u16::BITS - BUCKET_BITS))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Takes a key value by value. Nothing is kept of the values, however long they are.
#[derive(Clone)]
pub struct KeyHasher(Context);

impl KeyHasher {
    /// For a new key.
    #[must_use]
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// The value of the next column.
    pub fn add(&mut self, value: &KeyValue<'_>) {
        component(value, |parts| parts.iter().for_each(|part| self.0.update(part)));
    }

    /// After the last one.
    #[must_use]
    pub fn finish(self) -> KeyDigest {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        KeyDigest(digest)
    }
}

impl Default for KeyHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher")
    }
}

/// The canonical bytes of a key, as they are hashed.
#[must_use]
pub fn encode(values: &[KeyValue<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        component(value, |parts| parts.iter().for_each(|part| bytes.extend_from_slice(part)));
    }
    bytes
}

/// Hands over the length, the tag and the body of a value.
fn component(value: &KeyValue<'_>, take: impl FnOnce([&[u8]; 2])) {
    let mut decimal = [0; 20];
    let (days, micros);
    let (tag, body) = match value {
        KeyValue::Integer(number) => (b'i', digits(*number, &mut decimal)),
        KeyValue::Wide(number) => (b'i', number.digits().as_bytes()),
        KeyValue::Text(text) => (b't', text.as_bytes()),
        KeyValue::Uuid(uuid) => (b'u', &uuid[..]),
        KeyValue::Date(date) => {
            days = date.to_be_bytes();
            (b'd', &days[..])
        }
        KeyValue::Timestamptz(moment) => {
            micros = moment.to_be_bytes();
            (b'z', &micros[..])
        }
        KeyValue::Bytea(bytes) => (b'b', &bytes[..]),
    };
    // PostgreSQL's values are shorter than 1 GiB.
    let length = u32::try_from(body.len() + 1).unwrap_or(u32::MAX).to_be_bytes();
    take([&[length[0], length[1], length[2], length[3], tag], body]);
}

/// In decimal, as PostgreSQL writes it.
fn digits(number: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut start = buffer.len();
    loop {
        start -= 1;
        buffer[start] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        start -= 1;
        buffer[start] = b'-';
    }
    &buffer[start..]
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::shard::key::{Charset, KeyColumn, SqlType, WideInteger};

    #[derive(Debug, Clone, PartialEq)]
    enum Owned {
        Integer(i64),
        Wide(String),
        Text(String),
        Uuid([u8; 16]),
        Date(i32),
        Timestamptz(i64),
        Bytea(Vec<u8>),
    }

    impl Owned {
        fn value(&self) -> KeyValue<'_> {
            match self {
                Self::Integer(number) => KeyValue::Integer(*number),
                Self::Wide(digits) => KeyValue::Wide(WideInteger::new(digits.clone())),
                Self::Text(text) => KeyValue::Text(text.into()),
                Self::Uuid(uuid) => KeyValue::Uuid(*uuid),
                Self::Date(days) => KeyValue::Date(*days),
                Self::Timestamptz(micros) => KeyValue::Timestamptz(*micros),
                Self::Bytea(bytes) => KeyValue::Bytea(Cow::Borrowed(bytes)),
            }
        }
    }

    fn values() -> impl Strategy<Value = Vec<Owned>> {
        let value = prop_oneof![
            any::<i64>().prop_map(Owned::Integer),
            (-3i64..4).prop_map(Owned::Integer),
            "-?[1-9][0-9]{19,25}".prop_map(Owned::Wide),
            "\\PC{0,6}".prop_map(Owned::Text),
            "[it0-9]{0,3}".prop_map(Owned::Text),
            any::<[u8; 16]>().prop_map(Owned::Uuid),
            any::<i32>().prop_map(Owned::Date),
            any::<i64>().prop_map(Owned::Timestamptz),
            proptest::collection::vec(prop_oneof![Just(0u8), Just(b'i'), any::<u8>()], 0..6).prop_map(Owned::Bytea),
        ];
        proptest::collection::vec(value, 1..4)
    }

    proptest! {
        /// Reads the canonical bytes back: what can be read back is not shared by two keys.
        #[test]
        fn every_key_has_bytes_of_its_own(key in values()) {
            let bytes = encode(&key.iter().map(Owned::value).collect::<Vec<_>>());
            let (mut rest, mut read) = (&bytes[..], Vec::new());
            while !rest.is_empty() {
                let (length, tail) = rest.split_at(4);
                let (component, tail) = tail.split_at(u32::from_be_bytes(length.try_into().unwrap()) as usize);
                let body = &component[1..];
                let text = || String::from_utf8(body.to_vec()).unwrap();
                read.push(match component[0] {
                    b'i' => text().parse().map_or_else(|_| Owned::Wide(text()), Owned::Integer),
                    b't' => Owned::Text(text()),
                    b'u' => Owned::Uuid(body.try_into().unwrap()),
                    b'd' => Owned::Date(i32::from_be_bytes(body.try_into().unwrap())),
                    b'z' => Owned::Timestamptz(i64::from_be_bytes(body.try_into().unwrap())),
                    _ => Owned::Bytea(body.to_vec()),
                });
                rest = tail;
            }
            prop_assert_eq!(read, key);
        }

        #[test]
        fn value_by_value_is_the_same(key in values()) {
            let key: Vec<_> = key.iter().map(Owned::value).collect();
            let whole = ring::digest::digest(&SHA256, &encode(&key));
            let digest = KeyDigest::of(&key);
            prop_assert_eq!(&digest.as_bytes()[..], whole.as_ref());
        }

        #[test]
        fn digits_as_everybody_writes_them(number in any::<i64>()) {
            let (mut buffer, text) = ([0; 20], number.to_string());
            prop_assert_eq!(digits(number, &mut buffer), text.as_bytes());
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        for number in [0, 9, 10, -1, i64::MAX, i64::MIN] {
            assert_eq!(digits(number, &mut [0; 20]), number.to_string().as_bytes());
        }
        assert_eq!(Bucket::new(16_383).map(Bucket::index), Some(16_383));
        assert_eq!(Bucket::new(16_384), None);
        assert_eq!(Bucket::all().count(), BUCKETS);
        assert_eq!(KeyDigest::from_bytes([0xff; 32]).bucket(), Bucket(16_383));
        assert_eq!(KeyDigest::from_bytes([0; 32]).bucket(), Bucket(0));
    }

    /// The table in docs/sharding.md, line by line: whoever writes the hash in another language holds on to it.
    #[test]
    fn test_vectors() {
        let page = include_str!("../../docs/sharding.md");
        let cells = |line: &'static str| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>();
        let rows: Vec<_> = page
            .lines()
            .skip_while(|line| !line.starts_with("| type | value | canonical bytes |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(cells)
            .collect();
        assert!(rows.len() >= 20, "{} test vectors", rows.len());
        for row in &rows {
            let [_, types, values, bytes, digest, bucket, _] = row[..] else { panic!("{row:?}") };
            let columns: Vec<_> = types.split(", ").map(|name| KeyColumn::of(by_name(name))).collect();
            let texts: Vec<_> = match columns[..] {
                [_] => vec![values],
                _ => values.split(", ").collect(),
            };
            let key: Vec<_> = columns
                .iter()
                .zip(&texts)
                .map(|(column, text)| column.from_text(0, text.trim_matches('\'').as_bytes(), Charset::Utf8).unwrap())
                .collect();
            assert_eq!(key.len(), columns.len(), "{row:?}");
            let hex: String = encode(&key).iter().map(|byte| format!("{byte:02x}")).collect();
            let found = KeyDigest::of(&key);
            let expected = (bytes.replace(' ', ""), digest.to_owned(), bucket.to_owned());
            let short = found.to_string()[..16].to_owned();
            assert_eq!((hex, short, found.bucket().to_string()), expected, "{types} {values}");
        }
    }

    fn by_name(name: &str) -> SqlType {
        [21, 23, 20, 1700, 25, 1043, 1042, 2950, 1082, 1184, 17]
            .into_iter()
            .filter_map(SqlType::of_oid)
            .find(|sql_type| sql_type.name() == name)
            .unwrap_or_else(|| panic!("no type {name}"))
    }
}
