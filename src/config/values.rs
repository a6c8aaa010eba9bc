//! Plain values: whole numbers, durations, sizes, choices, names, log filters.
//!
//! Each parser takes one value and says what it has against it. None knows keys or positions.

use std::time::Duration;

use toml::de::DeValue;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::document::kind;
use super::error::{Complaint, nearest, one_of, quoted};

const KIB: u64 = 1024;
/// Units of sizes, in bytes; the same names as in PostgreSQL's settings would say 1024 for `kB`, so those are refused.
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", KIB), ("MiB", KIB * KIB), ("GiB", KIB * KIB * KIB)];

/// The text of a string value.
pub(super) fn text<'v>(value: &'v DeValue<'_>, expected: &str) -> Result<&'v str, Complaint> {
    value.as_str().ok_or_else(|| Complaint::new(format!("is {}", kind(value))).expected(expected))
}

/// A whole number within bounds, both included.
pub(super) fn count(value: &DeValue<'_>, least: u64, most: u64) -> Result<u64, Complaint> {
    let expected = format!("a whole number from {least} to {most}");
    let Some(integer) = value.as_integer() else {
        let complaint = Complaint::new(format!("is {}", kind(value))).expected(expected);
        let in_quotes = value.as_str().and_then(|text| text.trim().parse::<u64>().ok());
        return Err(complaint.suggest(in_quotes.map(|number| number.to_string())));
    };
    match u64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) if number < least => Err(Complaint::new(format!("{number} is too small")).expected(expected)),
        Ok(number) if number <= most => Ok(number),
        _ if integer.as_str().starts_with('-') => {
            Err(Complaint::new(format!("{integer} is negative")).expected(expected))
        }
        _ => Err(Complaint::new(format!("{} is too large", shortened(integer.as_str()))).expected(expected)),
    }
}

/// [`count`] for a number of things in memory.
pub(super) fn count_usize(value: &DeValue<'_>, least: u64, most: u64) -> Result<usize, Complaint> {
    let number = count(value, least, most)?;
    usize::try_from(number).map_err(|_| Complaint::new(format!("{number} is too large for this machine")))
}

/// [`count`] for small numbers.
pub(super) fn count_u32(value: &DeValue<'_>, least: u32, most: u32) -> Result<u32, Complaint> {
    let number = count(value, least.into(), most.into())?;
    u32::try_from(number).map_err(|_| Complaint::new(format!("{number} is too large")))
}

/// Likewise, for smaller ones.
pub(super) fn count_u16(value: &DeValue<'_>, least: u16, most: u16) -> Result<u16, Complaint> {
    let number = count(value, least.into(), most.into())?;
    u16::try_from(number).map_err(|_| Complaint::new(format!("{number} is too large")))
}

fn shortened(digits: &str) -> String {
    if digits.len() <= 24 { digits.to_owned() } else { "the number".to_owned() }
}

/// A list of names, each one of `known`.
pub(super) fn names(value: &DeValue<'_>, known: &[&str]) -> Result<Vec<String>, Complaint> {
    let expected = || format!("a list of {}", one_of(known.iter().copied()));
    let Some(array) = value.as_array() else {
        return Err(Complaint::new(format!("is {}", kind(value))).expected(expected()));
    };
    let name = |entry: &toml::Spanned<DeValue<'_>>| {
        let name = text(entry.get_ref(), &expected())?;
        if known.contains(&name) {
            return Ok(name.to_owned());
        }
        let near = nearest(name, known.iter().copied()).map(str::to_owned);
        Err(Complaint::new(format!("{} is none of them", quoted(name))).expected(expected()).suggest(near))
    };
    array.iter().map(name).collect()
}

/// A list of users' names.
pub(super) fn identifiers(value: &DeValue<'_>) -> Result<Vec<String>, Complaint> {
    let Some(array) = value.as_array() else {
        return Err(Complaint::new(format!("is {}", kind(value))).expected("a list of names"));
    };
    array.iter().map(|entry| identifier(entry.get_ref())).collect()
}

/// What a duration may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Included; zero only where the key says that zero means something.
    pub(super) least: Duration,
    /// Included.
    pub(super) most: Duration,
    /// What a bare number was probably meant in: `ms` or `s`.
    pub(super) unit: &'static str,
}

/// A duration with its unit, such as `"50ms"`, `"5s"`, `"1h 30m"`.
pub(super) fn duration(value: &DeValue<'_>, span: Span) -> Result<Duration, Complaint> {
    const FORM: &str = "a number with its unit, such as \"50ms\", \"5s\" or \"1h 30m\"";
    if let Some(integer) = value.as_integer() {
        let digits = shortened(integer.as_str());
        let suggestion = (integer.radix() == 10 && integer.as_str().parse::<u32>().is_ok())
            .then(|| format!("\"{digits}{}\"", span.unit));
        return Err(Complaint::new(format!("{digits} has no unit")).expected(FORM).suggest(suggestion));
    }
    let text = text(value, FORM)?;
    if let Ok(number) = text.trim().parse::<u64>() {
        let suggestion = format!("{number}{}", span.unit);
        return Err(Complaint::new(format!("{} has no unit", quoted(text))).expected(FORM).suggest(Some(suggestion)));
    }
    let duration = humantime::parse_duration(text.trim()).map_err(|error| {
        let problem = match &error {
            humantime::DurationError::UnknownUnit { unit, .. } => {
                format!("{}: {} is not a unit", quoted(text), quoted(unit))
            }
            humantime::DurationError::NumberOverflow => format!("{} is too long", quoted(text)),
            humantime::DurationError::Empty => "is empty".to_owned(),
            _ => format!("{} is not a duration", quoted(text)),
        };
        let lower = text.trim().to_lowercase();
        let suggestion = humantime::parse_duration(&lower).ok().map(|_| lower.clone());
        Complaint::new(problem).expected(FORM).suggest(suggestion)
    })?;
    let range = || {
        format!(
            "a duration from {} to {}",
            humantime::format_duration(span.least),
            humantime::format_duration(span.most)
        )
    };
    match duration {
        _ if duration.is_zero() && !span.least.is_zero() => {
            Err(Complaint::new(format!("{} is zero", quoted(text))).expected(range()))
        }
        _ if duration < span.least => Err(Complaint::new(format!("{} is too short", quoted(text))).expected(range())),
        _ if duration > span.most => Err(Complaint::new(format!("{} is too long", quoted(text))).expected(range())),
        _ => Ok(duration),
    }
}

/// A size in bytes: a whole number, or a string with a unit, such as `"64KiB"`.
pub(super) fn size(value: &DeValue<'_>, least: u64, most: u64) -> Result<usize, Complaint> {
    const FORM: &str = "bytes as a whole number, or a size such as \"64KiB\" or \"1MiB\"";
    let (shown, bytes) = match value {
        DeValue::Integer(integer) => {
            let digits = integer.as_str();
            let bytes = u64::from_str_radix(digits, integer.radix()).ok();
            if bytes.is_none() && digits.starts_with('-') {
                return Err(Complaint::new(format!("{integer} is negative")).expected(FORM));
            }
            (shortened(digits), bytes)
        }
        _ => {
            let text = text(value, FORM)?;
            (quoted(text), parse_size(text)?)
        }
    };
    let range = format!("a size from {} to {}", format_size(least), format_size(most));
    match bytes {
        Some(bytes) if bytes < least => Err(Complaint::new(format!("{shown} is too small")).expected(range)),
        Some(bytes) if bytes <= most => usize::try_from(bytes)
            .map_err(|_| Complaint::new(format!("{shown} is too large for this machine")).expected(range)),
        _ => Err(Complaint::new(format!("{shown} is too large")).expected(range)),
    }
}

/// The bytes that a text such as `64KiB` says; `Ok(None)` is more than 64 bits hold.
fn parse_size(text: &str) -> Result<Option<u64>, Complaint> {
    let trimmed = text.trim();
    let digits = trimmed.find(|character: char| !character.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim();
    if number.is_empty() {
        return Err(Complaint::new(format!("{} is not a size", quoted(text))).expected("a size such as \"64KiB\""));
    }
    let factor = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => {
            let names = SIZE_UNITS.map(|(name, _)| name);
            let meant = names
                .iter()
                .find(|name| unit.chars().next().is_some_and(|first| name.starts_with(first.to_ascii_uppercase())));
            return Err(Complaint::new(format!("{}: {} is not a unit", quoted(text), quoted(unit)))
                .expected(one_of(names))
                .suggest(meant.map(|name| format!("{number}{name}"))));
        }
    };
    Ok(number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)))
}

/// A size in the largest unit that divides it.
pub(super) fn format_size(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().rev().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) if *factor > 1 => format!("{}{name}", bytes / factor),
        _ => format!("{bytes} bytes"),
    }
}

/// What an enumerated key takes.
#[derive(Debug)]
pub(super) struct Choices<T: 'static> {
    /// Spelling and meaning.
    pub(super) values: &'static [(&'static str, T)],
    /// Values that a later version has.
    pub(super) later: &'static [&'static str],
}

impl<T: Copy + PartialEq> Choices<T> {
    /// The value that the text names.
    pub(super) fn parse(&self, value: &DeValue<'_>) -> Result<T, Complaint> {
        let names = || self.values.iter().map(|(name, _)| *name);
        let text = text(value, &one_of(names().map(quoted)))?;
        if let Some((_, found)) = self.values.iter().find(|(name, _)| *name == text) {
            return Ok(*found);
        }
        if self.later.contains(&text) {
            return Err(Complaint::new(format!(
                "{} is not available in this version; use {}",
                quoted(text),
                one_of(names())
            )));
        }
        let expected = one_of(names().map(quoted));
        let near = nearest(text, names());
        Err(Complaint::new(format!("{} is not one of its values", quoted(text))).expected(expected).suggest(near))
    }

    /// How a value is spelt.
    pub(super) fn name(&self, value: T) -> &'static str {
        self.values.iter().find(|(_, listed)| *listed == value).map_or("", |(name, _)| name)
    }
}

/// The name of a role or a database: what PostgreSQL can hold.
pub(super) fn identifier(value: &DeValue<'_>) -> Result<String, Complaint> {
    /// `NAMEDATALEN - 1`.
    const LONGEST: usize = 63;
    let text = text(value, "a name in quotes")?;
    match text {
        "" => Err(Complaint::new("is empty").expected("a name")),
        _ if text.len() > LONGEST => Err(Complaint::new(format!("{} is {} bytes long", quoted(text), text.len()))
            .expected(format!("a name of at most {LONGEST} bytes, which is all that PostgreSQL keeps"))),
        _ if text.contains(char::is_control) => {
            Err(Complaint::new(format!("{} holds a control character", quoted(text))).expected("a name"))
        }
        _ => Ok(text.to_owned()),
    }
}

/// The name of a shard, which is a label in metrics.
pub(super) fn label(value: &DeValue<'_>) -> Result<String, Complaint> {
    const FORM: &str = "1 to 63 letters, digits, `-`, `_` or `.`";
    let text = text(value, FORM)?;
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    match text {
        "" => Err(Complaint::new("is empty").expected(FORM)),
        _ if text.len() <= 63 && text.chars().all(allowed) => Ok(text.to_owned()),
        _ => Err(Complaint::new(format!("{} cannot be a label", quoted(text))).expected(FORM)),
    }
}

/// A `tracing` filter, stricter than `tracing` itself: it takes a mistyped level such as `inof` for a
/// module's name, and would then log nothing.
pub(super) fn log_filter(value: &DeValue<'_>) -> Result<String, Complaint> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    const FORM: &str = "off, error, warn, info, debug or trace, or a list such as \"info,pgsluice::monitor=debug\"";
    let text = text(value, FORM)?;
    if text.trim_matches(|character: char| character == ',' || character.is_whitespace()).is_empty() {
        return Err(Complaint::new("is empty").expected(FORM));
    }
    let complain = |part: &str| {
        let what = if part.contains(['=', '[']) { "is not a log filter" } else { "is not a level" };
        Complaint::new(format!("{} {what}", quoted(part))).expected(FORM).suggest(nearest(part, LEVELS))
    };
    if text.contains('{') {
        // Fields in braces have commas of their own; such a filter is left to `tracing` as it is.
        return EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|_| complain(text));
    }
    let bare = |part: &str| !part.contains(['=', '[', ']', '"']) && part.parse::<LevelFilter>().is_err();
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    match parts.iter().find(|part| bare(part) || EnvFilter::builder().parse(part).is_err()) {
        Some(part) => Err(complain(part)),
        None => Ok(parts.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::*;

    /// What a parser makes of a value as it is written in the file.
    fn parsed<T>(written: &str, parse: impl Fn(&DeValue<'_>) -> Result<T, Complaint>) -> Result<T, String> {
        let text = format!("x = {written}");
        let document = DeTable::parse(&text).unwrap_or_else(|error| panic!("{written}: {}", error.message()));
        let value = document.get_ref().get("x").expect("x").get_ref();
        parse(value).map_err(|complaint| match complaint.suggestion {
            Some(suggestion) => format!("{} -> {suggestion}", complaint.problem),
            None => complaint.problem,
        })
    }

    fn failed<T>(problem: &str) -> Result<T, String> {
        Err(problem.to_owned())
    }

    #[test]
    fn counts() {
        let cases = [
            ("1", Ok(1)),
            ("100", Ok(100)),
            ("0x1f", Ok(31)),
            ("1_0", Ok(10)),
            ("+5", Ok(5)),
            ("0", failed("0 is too small")),
            ("101", failed("101 is too large")),
            ("-5", failed("-5 is negative")),
            ("99999999999999999999", failed("99999999999999999999 is too large")),
            ("1.5", failed("is a number with a fraction")),
            ("\"20\"", failed("is a string -> 20")),
            ("\"many\"", failed("is a string")),
            ("true", failed("is a boolean")),
        ];
        for (written, expected) in cases {
            assert_eq!(parsed(written, |value| count(value, 1, 100)), expected, "{written}");
        }
    }

    #[test]
    fn durations() {
        let span = Span { least: Duration::from_millis(1), most: Duration::from_secs(3600 * 2), unit: "ms" };
        let cases = [
            ("\"50ms\"", Ok(Duration::from_millis(50))),
            ("\"5s\"", Ok(Duration::from_secs(5))),
            ("\" 5 s \"", Ok(Duration::from_secs(5))),
            ("\"1h 30m\"", Ok(Duration::from_secs(5400))),
            ("\"1.5s\"", Ok(Duration::from_millis(1500))),
            ("50", failed("50 has no unit -> \"50ms\"")),
            ("\"50\"", failed("\"50\" has no unit -> 50ms")),
            ("\"0\"", failed("\"0\" has no unit -> 0ms")),
            ("-5", failed("-5 has no unit")),
            ("1.5", failed("is a number with a fraction")),
            ("\"\"", failed("is empty")),
            ("\"soon\"", failed("\"soon\" is not a duration")),
            ("\"-5s\"", failed("\"-5s\" is not a duration")),
            ("\"5 parsecs\"", failed("\"5 parsecs\": \"parsecs\" is not a unit")),
            ("\"5S\"", failed("\"5S\": \"S\" is not a unit -> 5s")),
            ("\"0s\"", failed("\"0s\" is zero")),
            ("\"10us\"", failed("\"10us\" is too short")),
            ("\"3h\"", failed("\"3h\" is too long")),
            ("\"99999999999999999999s\"", failed("\"99999999999999999999s\" is too long")),
            ("true", failed("is a boolean")),
        ];
        for (written, expected) in cases {
            assert_eq!(parsed(written, |value| duration(value, span)), expected, "{written}");
        }
        let from_zero = Span { least: Duration::ZERO, ..span };
        assert_eq!(parsed("\"0ms\"", |value| duration(value, from_zero)), Ok(Duration::ZERO));
    }

    #[test]
    fn sizes() {
        let cases = [
            ("1024", Ok(1024)),
            ("\"1024\"", Ok(1024)),
            ("\"1024B\"", Ok(1024)),
            ("\"64KiB\"", Ok(65536)),
            ("\" 1 MiB \"", Ok(1 << 20)),
            ("\"1GiB\"", Ok(1 << 30)),
            ("1023", failed("1023 is too small")),
            ("\"2GiB\"", failed("\"2GiB\" is too large")),
            ("\"99999999999GiB\"", failed("\"99999999999GiB\" is too large")),
            ("-1", failed("-1 is negative")),
            ("\"1MB\"", failed("\"1MB\": \"MB\" is not a unit -> 1MiB")),
            ("\"64k\"", failed("\"64k\": \"k\" is not a unit -> 64KiB")),
            ("\"64 lots\"", failed("\"64 lots\": \"lots\" is not a unit")),
            ("\"1.5MiB\"", failed("\"1.5MiB\": \".5MiB\" is not a unit")),
            ("\"MiB\"", failed("\"MiB\" is not a size")),
            ("\"\"", failed("\"\" is not a size")),
            ("1.5", failed("is a number with a fraction")),
        ];
        for (written, expected) in cases {
            assert_eq!(parsed(written, |value| size(value, 1024, 1 << 30)), expected, "{written}");
        }
        for (bytes, shown) in
            [(1, "1 bytes"), (1024, "1KiB"), (1 << 20, "1MiB"), (1500, "1500 bytes"), (3 << 30, "3GiB")]
        {
            assert_eq!(format_size(bytes), shown);
        }
    }

    #[test]
    fn choices() {
        const CHOICES: Choices<u8> = Choices { values: &[("off", 0), ("prefer", 1)], later: &["verify"] };
        let cases = [
            ("'off'", Ok(0)),
            ("'prefer'", Ok(1)),
            ("'Prefer'", failed("\"Prefer\" is not one of its values -> prefer")),
            ("'preferred'", failed("\"preferred\" is not one of its values -> prefer")),
            ("'nothing'", failed("\"nothing\" is not one of its values")),
            ("'verify'", failed("\"verify\" is not available in this version; use off or prefer")),
            ("false", failed("is a boolean")),
        ];
        for (written, expected) in cases {
            assert_eq!(parsed(written, |value| CHOICES.parse(value)), expected, "{written}");
        }
        assert_eq!(CHOICES.name(1), "prefer");
    }

    #[test]
    fn names() {
        let long = format!("'{}'", "é".repeat(32));
        for (written, good) in
            [("'app'", true), ("'Ünï \"x\"'", true), ("''", false), (long.as_str(), false), ("\"a\\u0000\"", false)]
        {
            assert_eq!(parsed(written, identifier).is_ok(), good, "{written}");
        }
        for (written, good) in [("'a-1_b.c'", true), ("''", false), ("'a b'", false), ("'é'", false), ("7", false)] {
            assert_eq!(parsed(written, label).is_ok(), good, "{written}");
        }
    }

    #[test]
    fn log_filters() {
        let cases = [
            ("'info'", None),
            ("'INFO'", None),
            ("'info,pgsluice::monitor=debug'", None),
            ("'warn, pgsluice=trace'", None),
            ("'warn,pgsluice[login{user=x}]=trace'", None),
            ("'inof'", Some("\"inof\" is not a level -> info")),
            ("'info,debgu'", Some("\"debgu\" is not a level -> debug")),
            ("'verbose'", Some("\"verbose\" is not a level")),
            ("'info,pgsluice=verbose'", Some("\"pgsluice=verbose\" is not a log filter")),
            ("' '", Some("is empty")),
            ("'info,'", None),
            ("3", Some("is a whole number")),
        ];
        for (written, problem) in cases {
            assert_eq!(parsed(written, log_filter).err().as_deref(), problem, "{written}");
        }
    }
}
