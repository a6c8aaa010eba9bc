//! Values of a shard key, in the one form that they are hashed in.
//!
//! A [`KeyColumn`] takes a value as a client sends it (text or binary, of any type that PostgreSQL compares with the
//! column by the value alone) and gives the [`KeyValue`] that a row of the table would have in that column. Equal
//! values give equal [`KeyValue`]s. Where that is not certain, the answer is [`Undecided`] with the reason.
//!
//! Invariant: what is decided here is what the server stores or compares, on every supported version, whatever the
//! session's settings. NULL is not a value: it is the caller's affair. So is the column's collation, which must be
//! deterministic: under another one, texts that differ in their bytes can be equal.

use std::borrow::Cow;
use std::fmt;

use super::number::Whole;
use super::{bits, moment, number};

/// The types of a key: values of one of these are hashed alike, whatever their SQL type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// `int2`, `int4`, `int8`, and `numeric` without a fraction.
    Integer,
    /// `text`, `varchar`, and `bpchar` without its trailing blanks.
    Text,
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `timestamptz`
    Timestamptz,
    /// `bytea`
    Bytea,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Integer, Self::Text, Self::Uuid, Self::Date, Self::Timestamptz, Self::Bytea];

    /// The class of a built-in type, with the type itself, if values of it can be keys.
    #[must_use]
    pub fn of_oid(oid: u32) -> Option<(Self, SqlType)> {
        SqlType::of_oid(oid).map(|sql_type| (sql_type.key_type(), sql_type))
    }
}

/// A type that a key column, or a value that is sent for it, can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlType {
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `numeric`
    Numeric,
    /// `text`
    Text,
    /// `character varying`
    Varchar,
    /// `character`
    Bpchar,
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `timestamp with time zone`
    Timestamptz,
    /// `bytea`
    Bytea,
}

impl SqlType {
    /// By the OID in `src/include/catalog/pg_type.dat`; these never change. A domain's OID is not here: give its base
    /// type's.
    #[must_use]
    pub fn of_oid(oid: u32) -> Option<Self> {
        Some(match oid {
            21 => Self::Int2,
            23 => Self::Int4,
            20 => Self::Int8,
            1700 => Self::Numeric,
            25 => Self::Text,
            1043 => Self::Varchar,
            1042 => Self::Bpchar,
            2950 => Self::Uuid,
            1082 => Self::Date,
            1184 => Self::Timestamptz,
            17 => Self::Bytea,
            _ => return None,
        })
    }

    /// The class that its values are hashed in.
    #[must_use]
    pub fn key_type(self) -> KeyType {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Numeric => KeyType::Integer,
            Self::Text | Self::Varchar | Self::Bpchar => KeyType::Text,
            Self::Uuid => KeyType::Uuid,
            Self::Date => KeyType::Date,
            Self::Timestamptz => KeyType::Timestamptz,
            Self::Bytea => KeyType::Bytea,
        }
    }

    /// PostgreSQL's short name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int2 => "int2",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Varchar => "varchar",
            Self::Bpchar => "bpchar",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::Timestamptz => "timestamptz",
            Self::Bytea => "bytea",
        }
    }
}

/// Why it is not known which rows a value stands for. The value is not in it: it may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// The server would convert or refuse a value of this type, or compare it otherwise than by its value.
    #[error("a value of type {given} (OID {oid}) is not placed by a key column of type {column}")]
    Mismatch {
        /// The type's OID.
        oid: u32,
        /// Its name, where it is one that can be a key at all.
        given: &'static str,
        /// The column's type.
        column: &'static str,
    },
    /// No value of the type, or one in a form that sessions or versions of PostgreSQL read differently.
    #[error("this is not a {0} in a form that means the same to every session and version of PostgreSQL")]
    Form(&'static str),
    /// Rounded where it is assigned to an integer, equal to no row where it is compared.
    #[error("a number with a fraction is not placed")]
    Fraction,
    /// NaN, and the infinities of `numeric`.
    #[error("NaN and infinity are not placed")]
    NotFinite,
    /// More than 1,000 digits.
    #[error("a number of more than {} digits is not placed", number::MAX_DIGITS)]
    TooLong,
    /// Not UTF-8, or characters that the server may convert.
    #[error("a text that is not ASCII is placed only where client_encoding and server_encoding are both UTF8")]
    Encoding,
    /// More digits of the second than the column keeps.
    #[error("the column's precision would round this time")]
    Precision,
}

/// Why a column cannot be one of a shard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnfitColumn {
    /// Its type has no canonical form.
    #[error(
        "a column of the type with OID {0} cannot be a shard key: its type must be smallint, integer, bigint, numeric, \
         text, varchar, char, uuid, date, timestamptz or bytea"
    )]
    Type(u32),
    /// `numeric(5, -2)` stores 42 as 0.
    #[error(
        "a numeric column with a negative scale cannot be a shard key: it rounds the keys that are written to it; \
         declare it with the scale 0"
    )]
    NegativeScale,
}

/// What the bytes of a text are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// `client_encoding` and `server_encoding` are both UTF8: a text is stored as it was sent.
    Utf8,
    /// Anything else. ASCII alone is the same in all of them.
    Other,
}

impl Charset {
    /// Of a session, by the two settings as servers report them.
    #[must_use]
    pub fn of(client_encoding: &str, server_encoding: &str) -> Self {
        let utf8 = |name: &str| name.eq_ignore_ascii_case("utf8") || name.eq_ignore_ascii_case("utf-8");
        if utf8(client_encoding) && utf8(server_encoding) { Self::Utf8 } else { Self::Other }
    }

    fn check(self, bytes: &[u8]) -> Result<&str, Undecided> {
        if bytes.contains(&0) {
            return Err(Undecided::Form("text"));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if self == Self::Utf8 || text.is_ascii() => Ok(text),
            _ => Err(Undecided::Encoding),
        }
    }
}

/// A value of a shard key, in canonical form: equal values of a class are equal here. Made by [`KeyColumn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyValue<'a> {
    /// A whole number that fits.
    Integer(i64),
    /// One that does not.
    Wide(WideInteger),
    /// In UTF-8; of a `bpchar`, without trailing blanks.
    Text(Cow<'a, str>),
    /// Its 16 bytes.
    Uuid([u8; 16]),
    /// Days since 2000-01-01; `i32::MAX` and `i32::MIN` are the infinities.
    Date(i32),
    /// Microseconds since 2000-01-01 00:00 UTC; `i64::MAX` and `i64::MIN` are the infinities.
    Timestamptz(i64),
    /// The bytes.
    Bytea(Cow<'a, [u8]>),
}

impl KeyValue<'_> {
    /// The class that it is hashed in.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        match self {
            Self::Integer(_) | Self::Wide(_) => KeyType::Integer,
            Self::Text(_) => KeyType::Text,
            Self::Uuid(_) => KeyType::Uuid,
            Self::Date(_) => KeyType::Date,
            Self::Timestamptz(_) => KeyType::Timestamptz,
            Self::Bytea(_) => KeyType::Bytea,
        }
    }

    /// The same, of bytes of its own.
    #[must_use]
    pub fn into_owned(self) -> KeyValue<'static> {
        match self {
            Self::Integer(number) => KeyValue::Integer(number),
            Self::Wide(digits) => KeyValue::Wide(digits),
            Self::Text(text) => KeyValue::Text(text.into_owned().into()),
            Self::Uuid(bytes) => KeyValue::Uuid(bytes),
            Self::Date(days) => KeyValue::Date(days),
            Self::Timestamptz(micros) => KeyValue::Timestamptz(micros),
            Self::Bytea(bytes) => KeyValue::Bytea(bytes.into_owned().into()),
        }
    }
}

impl From<Whole> for KeyValue<'_> {
    fn from(number: Whole) -> Self {
        match number {
            Whole::Narrow(number) => Self::Integer(number),
            Whole::Wide(digits) => Self::Wide(digits),
        }
    }
}

/// The decimal digits of a whole number beyond 64 bits, with a `-` before them where it is negative, and no zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WideInteger(String);

impl WideInteger {
    pub(super) fn new(digits: String) -> Self {
        Self(digits)
    }

    pub(super) fn digits(&self) -> &str {
        &self.0
    }
}

/// A column of a shard key: its type, and what the server does to a value that is stored in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyColumn {
    sql_type: SqlType,
    limit: Limit,
}

/// What the type's modifier makes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    None,
    /// `varchar(n)`: blanks behind the n-th character are cut off without an error.
    Characters(usize),
    /// `timestamptz(p)`: rounded to a multiple of so many microseconds.
    Microseconds(i64),
}

/// What stands before the modifier of a type with a length or a scale.
const VARHDRSZ: i32 = 4;

impl KeyColumn {
    /// By `pg_attribute.atttypid` and `atttypmod`; of a domain, its base type's and `pg_type.typtypmod`.
    ///
    /// # Errors
    /// Where values in such a column have no canonical form.
    pub fn new(type_oid: u32, typmod: i32) -> Result<Self, UnfitColumn> {
        let sql_type = SqlType::of_oid(type_oid).ok_or(UnfitColumn::Type(type_oid))?;
        let limit = match sql_type {
            // `numeric_typmod_scale`, src/backend/utils/adt/numeric.c: eleven bits with their sign.
            SqlType::Numeric if typmod >= VARHDRSZ && (typmod - VARHDRSZ) & 0x400 != 0 => {
                return Err(UnfitColumn::NegativeScale);
            }
            SqlType::Varchar if typmod >= VARHDRSZ => {
                Limit::Characters(usize::try_from(typmod - VARHDRSZ).unwrap_or(usize::MAX))
            }
            SqlType::Timestamptz => match u32::try_from(typmod) {
                Ok(digits @ 0..6) => Limit::Microseconds(10i64.pow(6 - digits)),
                _ => Limit::None,
            },
            _ => Limit::None,
        };
        Ok(Self { sql_type, limit })
    }

    /// Of a type without a modifier.
    #[must_use]
    pub fn of(sql_type: SqlType) -> Self {
        Self { sql_type, limit: Limit::None }
    }

    /// The column's type.
    #[must_use]
    pub fn sql_type(self) -> SqlType {
        self.sql_type
    }

    /// The class that its values are hashed in.
    #[must_use]
    pub fn key_type(self) -> KeyType {
        self.sql_type.key_type()
    }

    /// A value in PostgreSQL's text format: a parameter, a field of COPY, the contents of a string literal once its
    /// quotes and escapes are gone, or what a DBA has typed.
    ///
    /// `oid` is the type that the server takes it for: a parameter's, or that of the cast around it; 0 or 705 where it
    /// has none and so takes on the column's. A cast with a length or precision of its own, as in
    /// `$1::varchar(3)`, changes the value: it is not for here.
    ///
    /// # Errors
    /// Where it is not certain which rows it stands for.
    pub fn from_text<'a>(self, oid: u32, value: &'a [u8], charset: Charset) -> Result<KeyValue<'a>, Undecided> {
        let given = self.given(oid)?;
        self.stored(match given.key_type() {
            KeyType::Integer => number::from_text(value)?.into(),
            KeyType::Text => KeyValue::Text(self.text(charset.check(value)?).into()),
            KeyType::Uuid => KeyValue::Uuid(bits::uuid(value)?),
            KeyType::Date => KeyValue::Date(moment::date(value)?),
            KeyType::Timestamptz => KeyValue::Timestamptz(moment::timestamptz(value)?),
            KeyType::Bytea => KeyValue::Bytea(bits::bytea(charset.check(value)?.as_bytes())?),
        })
    }

    /// A value in PostgreSQL's binary format. `oid` is as for [`Self::from_text`]; without one it is read as the
    /// column's own type.
    ///
    /// # Errors
    /// Where it is not certain which rows it stands for.
    pub fn from_binary<'a>(self, oid: u32, value: &'a [u8], charset: Charset) -> Result<KeyValue<'a>, Undecided> {
        let given = self.given(oid)?;
        let form = Undecided::Form(given.name());
        self.stored(match given {
            SqlType::Int2 => KeyValue::Integer(i16::from_be_bytes(exact(value).ok_or(form)?).into()),
            SqlType::Int4 => KeyValue::Integer(i32::from_be_bytes(exact(value).ok_or(form)?).into()),
            SqlType::Int8 => KeyValue::Integer(i64::from_be_bytes(exact(value).ok_or(form)?)),
            SqlType::Numeric => number::from_binary_numeric(value)?.into(),
            SqlType::Text | SqlType::Varchar | SqlType::Bpchar => {
                KeyValue::Text(self.text(charset.check(value)?).into())
            }
            SqlType::Uuid => KeyValue::Uuid(exact(value).ok_or(form)?),
            SqlType::Date => KeyValue::Date(i32::from_be_bytes(exact(value).ok_or(form)?)),
            SqlType::Timestamptz => KeyValue::Timestamptz(i64::from_be_bytes(exact(value).ok_or(form)?)),
            SqlType::Bytea => KeyValue::Bytea(Cow::Borrowed(value)),
        })
    }

    /// A number among a statement's tokens, such as `42` or `-1e3`, with its sign. A quoted literal is for
    /// [`Self::from_text`], with the OID 0.
    ///
    /// # Errors
    /// Where it is not certain which rows it stands for; for a column that is no number, always.
    pub fn from_number(self, token: &str) -> Result<KeyValue<'static>, Undecided> {
        self.given(NUMERIC)?;
        Ok(number::from_text(token.as_bytes())?.into())
    }

    /// What type a value of the type `oid` has, next to this column.
    fn given(self, oid: u32) -> Result<SqlType, Undecided> {
        if matches!(oid, UNSPECIFIED | UNKNOWN) {
            return Ok(self.sql_type);
        }
        let given = SqlType::of_oid(oid);
        given.filter(|given| self.compares_with(*given)).ok_or_else(|| Undecided::Mismatch {
            oid,
            given: given.map_or("unknown here", SqlType::name),
            column: self.sql_type.name(),
        })
    }

    /// Whether a value of another column that equals one of this column's is placed alike.
    #[must_use]
    pub fn is_placed_as(self, other: Self) -> bool {
        let is_blank_padded = |column: Self| column.sql_type == SqlType::Bpchar;
        self.key_type() == other.key_type() && is_blank_padded(self) == is_blank_padded(other)
    }

    /// By the value alone. A `varchar` next to a `bpchar` is compared as one, without its trailing blanks, and so equal
    /// to texts that are placed elsewhere.
    fn compares_with(self, given: SqlType) -> bool {
        let blanks_count = self.sql_type != SqlType::Bpchar;
        given.key_type() == self.key_type() && !(given == SqlType::Bpchar && blanks_count)
    }

    /// Blanks at the end mean nothing in a `bpchar`; `varchar(n)` cuts them off behind its last character. A text that
    /// is too long otherwise stays whole: no row has it, and no shard takes it.
    fn text(self, text: &str) -> &str {
        if self.sql_type == SqlType::Bpchar {
            return text.trim_end_matches(' ');
        }
        match self.limit {
            Limit::Characters(limit) if text.len() > limit => match text.char_indices().nth(limit) {
                Some((end, _)) if text[end..].bytes().all(|byte| byte == b' ') => &text[..end],
                _ => text,
            },
            _ => text,
        }
    }

    fn stored(self, value: KeyValue<'_>) -> Result<KeyValue<'_>, Undecided> {
        match (self.limit, &value) {
            (Limit::Microseconds(unit), KeyValue::Timestamptz(micros))
                if micros % unit != 0 && !matches!(*micros, i64::MIN | i64::MAX) =>
            {
                Err(Undecided::Precision)
            }
            _ => Ok(value),
        }
    }
}

impl fmt::Display for KeyColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sql_type.name())
    }
}

/// What a client gives for a parameter whose type the server shall find.
const UNSPECIFIED: u32 = 0;
/// `unknown`
const UNKNOWN: u32 = 705;
const NUMERIC: u32 = 1700;

fn exact<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(sql_type: SqlType) -> KeyColumn {
        KeyColumn::of(sql_type)
    }

    const INT2: u32 = 21;
    const INT4: u32 = 23;
    const INT8: u32 = 20;
    const TEXT: u32 = 25;
    const VARCHAR: u32 = 1043;
    const BPCHAR: u32 = 1042;
    const UUID: u32 = 2950;
    const DATE: u32 = 1082;
    const TIMESTAMPTZ: u32 = 1184;
    const BYTEA: u32 = 17;
    const FLOAT8: u32 = 701;
    const TIMESTAMP: u32 = 1114;
    const OIDS: [u32; 11] = [INT2, INT4, INT8, NUMERIC, TEXT, VARCHAR, BPCHAR, UUID, DATE, TIMESTAMPTZ, BYTEA];

    #[test]
    fn oids() {
        for oid in OIDS {
            let (class, sql_type) = KeyType::of_oid(oid).unwrap();
            assert_eq!((SqlType::of_oid(oid), sql_type.key_type()), (Some(sql_type), class));
            assert_eq!(KeyColumn::new(oid, -1), Ok(column(sql_type)));
        }
        for oid in [UNSPECIFIED, UNKNOWN, FLOAT8, TIMESTAMP, 16, 19, 700, 1114, 3802] {
            assert_eq!(KeyType::of_oid(oid), None);
            assert_eq!(KeyColumn::new(oid, -1), Err(UnfitColumn::Type(oid)));
        }
    }

    /// Which types are compared by the value alone, for each column.
    #[test]
    fn types_next_to_columns() {
        for sql_type in OIDS.map(|oid| SqlType::of_oid(oid).unwrap()) {
            let decided: Vec<_> = OIDS.into_iter().filter(|oid| column(sql_type).given(*oid).is_ok()).collect();
            let expected: &[u32] = match sql_type {
                SqlType::Bpchar => &[TEXT, VARCHAR, BPCHAR],
                SqlType::Text | SqlType::Varchar => &[TEXT, VARCHAR],
                SqlType::Uuid => &[UUID],
                SqlType::Date => &[DATE],
                SqlType::Timestamptz => &[TIMESTAMPTZ],
                SqlType::Bytea => &[BYTEA],
                _ => &[INT2, INT4, INT8, NUMERIC],
            };
            assert_eq!(decided, expected, "{sql_type:?}");
            assert_eq!(column(sql_type).given(UNSPECIFIED), Ok(sql_type));
            assert_eq!(column(sql_type).given(UNKNOWN), Ok(sql_type));
            for other in [FLOAT8, TIMESTAMP, 19] {
                assert!(matches!(column(sql_type).given(other), Err(Undecided::Mismatch { .. })));
            }
        }
        let refused = column(SqlType::Int4).from_text(FLOAT8, b"1", Charset::Utf8).unwrap_err().to_string();
        assert_eq!(refused, "a value of type unknown here (OID 701) is not placed by a key column of type int4");
        assert!(column(SqlType::Text).from_number("42").is_err());
        assert_eq!(column(SqlType::Numeric).from_number("-4.20e1"), Ok(KeyValue::Integer(-42)));
    }

    #[test]
    fn modifiers() {
        let scale = |scale: i32| VARHDRSZ + (5 << 16 | (scale & 0x7ff));
        assert!(KeyColumn::new(NUMERIC, scale(0)).is_ok());
        assert!(KeyColumn::new(NUMERIC, scale(1000)).is_ok());
        assert_eq!(KeyColumn::new(NUMERIC, scale(-2)), Err(UnfitColumn::NegativeScale));

        let short = KeyColumn::new(VARCHAR, VARHDRSZ + 3).unwrap();
        for (text, stored) in [
            ("abc", "abc"),
            ("ab ", "ab "),
            ("abc  ", "abc"),
            ("ab   ", "ab "),
            ("äöü ", "äöü"),
            ("äöü", "äöü"),
            ("abcd", "abcd"),
            ("abc d", "abc d"),
            ("abc\t", "abc\t"),
        ] {
            assert_eq!(
                short.from_text(0, text.as_bytes(), Charset::Utf8),
                Ok(KeyValue::Text(stored.into())),
                "{text:?}"
            );
            assert_eq!(
                short.from_binary(TEXT, text.as_bytes(), Charset::Utf8),
                Ok(KeyValue::Text(stored.into())),
                "{text:?}"
            );
        }

        let tenths = KeyColumn::new(TIMESTAMPTZ, 1).unwrap();
        let (even, odd) = (100_000i64.to_be_bytes(), 100_001i64.to_be_bytes());
        assert_eq!(tenths.from_binary(0, &even, Charset::Utf8), Ok(KeyValue::Timestamptz(100_000)));
        assert_eq!(tenths.from_binary(0, &odd, Charset::Utf8), Err(Undecided::Precision));
        assert_eq!(tenths.from_text(0, b"infinity", Charset::Utf8), Ok(KeyValue::Timestamptz(i64::MAX)));
        let all = KeyColumn::new(TIMESTAMPTZ, 6).unwrap();
        assert_eq!(all.from_binary(0, &odd, Charset::Utf8), Ok(KeyValue::Timestamptz(100_001)));
    }

    #[test]
    fn blanks_at_the_end() {
        for (oid, sql_type, stored) in [
            (0, SqlType::Bpchar, " a\t"),
            (TEXT, SqlType::Bpchar, " a\t"),
            (BPCHAR, SqlType::Bpchar, " a\t"),
            (0, SqlType::Text, " a\t  "),
            (VARCHAR, SqlType::Text, " a\t  "),
        ] {
            let value = column(sql_type).from_text(oid, b" a\t  ", Charset::Utf8);
            assert_eq!(value, Ok(KeyValue::Text(stored.into())), "{oid} {sql_type:?}");
        }
    }

    #[test]
    fn encodings() {
        let text = column(SqlType::Text);
        assert_eq!(Charset::of("UTF8", "UTF8"), Charset::Utf8);
        assert_eq!(Charset::of("utf-8", "UTF8"), Charset::Utf8);
        assert_eq!(Charset::of("LATIN1", "UTF8"), Charset::Other);
        assert_eq!(Charset::of("UTF8", "SQL_ASCII"), Charset::Other);
        assert_eq!(text.from_text(0, "ä".as_bytes(), Charset::Utf8), Ok(KeyValue::Text("ä".into())));
        assert_eq!(text.from_text(0, b"a", Charset::Other), Ok(KeyValue::Text("a".into())));
        assert_eq!(text.from_text(0, "ä".as_bytes(), Charset::Other), Err(Undecided::Encoding));
        assert_eq!(text.from_text(0, b"\xe4", Charset::Utf8), Err(Undecided::Encoding));
        assert_eq!(text.from_text(0, b"a\0", Charset::Utf8), Err(Undecided::Form("text")));
        let bytea = column(SqlType::Bytea);
        assert_eq!(bytea.from_text(0, "ä".as_bytes(), Charset::Other), Err(Undecided::Encoding));
        assert!(bytea.from_binary(0, b"\xe4\0", Charset::Other).is_ok());
    }

    #[test]
    fn binary_values_of_the_wrong_size() {
        for sql_type in
            [SqlType::Int2, SqlType::Int4, SqlType::Int8, SqlType::Uuid, SqlType::Date, SqlType::Timestamptz]
        {
            for size in [0, 1, 3, 5, 7, 9, 15, 17] {
                let bytes = vec![0; size];
                let refused = column(sql_type).from_binary(0, &bytes, Charset::Utf8);
                assert_eq!(refused, Err(Undecided::Form(sql_type.name())), "{sql_type:?} {size}");
            }
        }
    }

    fn numeric(value: i64) -> Vec<u8> {
        let (mut rest, mut digits) = (value.unsigned_abs(), Vec::new());
        while rest > 0 {
            digits.insert(0, u16::try_from(rest % 10_000).unwrap());
            rest /= 10_000;
        }
        let sign = if value < 0 { 0x4000 } else { 0 };
        let head = [digits.len() as u16, (digits.len() as u16).wrapping_sub(1), sign, 0];
        head.iter().chain(&digits).flat_map(|word| word.to_be_bytes()).collect()
    }

    proptest! {
        #[test]
        fn integers_of_all_widths_and_formats(value in prop_oneof![any::<i64>(), -40_000i64..40_000]) {
            let expected = Ok(KeyValue::Integer(value));
            for sql_type in [SqlType::Int2, SqlType::Int4, SqlType::Int8, SqlType::Numeric] {
                let column = column(sql_type);
                let text = value.to_string();
                for oid in [0, INT2, INT4, INT8, NUMERIC] {
                    prop_assert_eq!(&column.from_text(oid, text.as_bytes(), Charset::Utf8), &expected);
                }
                prop_assert_eq!(&column.from_number(&format!("{text}.0")), &expected);
                let mut binaries = vec![(INT8, value.to_be_bytes().to_vec()), (NUMERIC, numeric(value))];
                binaries.extend(i32::try_from(value).map(|narrow| (INT4, narrow.to_be_bytes().to_vec())));
                binaries.extend(i16::try_from(value).map(|narrow| (INT2, narrow.to_be_bytes().to_vec())));
                for (oid, bytes) in &binaries {
                    prop_assert_eq!(&column.from_binary(*oid, bytes, Charset::Utf8), &expected);
                }
            }
        }

        #[test]
        fn uuids_and_bytes_of_both_formats(bytes in any::<[u8; 16]>(), upper in any::<bool>()) {
            let hex: String = bytes.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect();
            let uuid = column(SqlType::Uuid);
            prop_assert_eq!(uuid.from_text(0, hex.as_bytes(), Charset::Utf8), Ok(KeyValue::Uuid(bytes)));
            prop_assert_eq!(uuid.from_binary(UUID, &bytes, Charset::Utf8), Ok(KeyValue::Uuid(bytes)));
            let (bytea, text) = (column(SqlType::Bytea), format!("\\x{hex}"));
            prop_assert_eq!(
                bytea.from_text(BYTEA, text.as_bytes(), Charset::Utf8),
                bytea.from_binary(BYTEA, &bytes, Charset::Utf8)
            );
        }

        #[test]
        fn nothing_panics(oid in prop_oneof![Just(0u32), any::<u32>(), proptest::sample::select(OIDS.to_vec())],
                          typmod in prop_oneof![Just(-1i32), any::<i32>()],
                          kind in proptest::sample::select(OIDS.to_vec()),
                          text in "[-+0-9a-fxeE.: TZBC{}\\\\\\PC]{0,40}",
                          bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(column) = KeyColumn::new(kind, typmod) {
                for value in [text.as_bytes(), &bytes] {
                    let _ = column.from_text(oid, value, Charset::Utf8);
                    let _ = column.from_binary(oid, value, Charset::Utf8);
                }
                let _ = column.from_number(&text);
            }
        }
    }
}
