//! Whole numbers, as all the integer types and `numeric` write them.
//!
//! A number is an `i64` where it fits one, else its decimal digits: one form for each value. A fraction that is not
//! zero is undecided, because PostgreSQL rounds it where it is assigned and compares it exactly where it is not.

use super::key::{Undecided, WideInteger};

/// A whole number in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whole {
    Narrow(i64),
    Wide(WideInteger),
}

/// Longer numbers are undecided: `1e131071` is ten bytes to read and 131,072 to hash.
pub(super) const MAX_DIGITS: usize = 1000;

/// An exponent that no `numeric` has, and that cannot overflow what is added to it.
const MAX_EXPONENT: i64 = 1_000_000;

const FORM: Undecided = Undecided::Form("number");

/// The text format of `int2`, `int4`, `int8` and `numeric`, and a number among a statement's tokens, with its sign if
/// it has one. Hexadecimal digits and underscores mean something from PostgreSQL 16 on only, so they do not here.
///
/// `numeric_in`, `src/backend/utils/adt/numeric.c`.
pub(super) fn from_text(text: &[u8]) -> Result<Whole, Undecided> {
    let text = trim(text);
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == rest.len() && (1..=18).contains(&digits) {
        let magnitude = rest.iter().fold(0i64, |sum, byte| sum * 10 + i64::from(byte - b'0'));
        return Ok(Whole::Narrow(if negative { -magnitude } else { magnitude }));
    }
    let (whole, rest) = rest.split_at(digits);
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => rest.split_at(rest.iter().take_while(|byte| byte.is_ascii_digit()).count()),
        rest => (&[][..], rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(match rest.to_ascii_lowercase().as_slice() {
            b"nan" | b"inf" | b"infinity" => Undecided::NotFinite,
            _ => FORM,
        });
    }
    scaled(negative, whole, fraction, exponent(rest)?)
}

/// What follows the digits: nothing, or `e` and a number.
fn exponent(rest: &[u8]) -> Result<i64, Undecided> {
    let digits = match rest {
        [] => return Ok(0),
        [b'e' | b'E', digits @ ..] => digits,
        _ => return Err(FORM),
    };
    let (negative, digits) = match digits {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(FORM);
    }
    let size = digits.iter().fold(0, |sum: i64, byte| (sum * 10 + i64::from(byte - b'0')).min(MAX_EXPONENT));
    Ok(if negative { -size } else { size })
}

/// The digits of `whole.fraction` × 10^`exponent`, if that has no fraction.
fn scaled(negative: bool, whole: &[u8], fraction: &[u8], exponent: i64) -> Result<Whole, Undecided> {
    let all = [whole, fraction].concat();
    let significant = all.iter().position(|&digit| digit != b'0').map_or(&[][..], |first| &all[first..]);
    if significant.is_empty() {
        return Ok(Whole::Narrow(0));
    }
    let zeros = significant.iter().rev().take_while(|&&digit| digit == b'0').count();
    let kept = &significant[..significant.len() - zeros];
    let length = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let shift = exponent.saturating_sub(length(fraction.len())).saturating_add(length(zeros));
    let shift = usize::try_from(shift).map_err(|_| Undecided::Fraction)?;
    if kept.len().saturating_add(shift) > MAX_DIGITS {
        return Err(Undecided::TooLong);
    }
    let mut digits = String::with_capacity(kept.len() + shift + 1);
    digits.extend(kept.iter().map(|&digit| char::from(digit)));
    digits.extend(std::iter::repeat_n('0', shift));
    Ok(canonical(negative, digits))
}

/// `digits` begins with one that is not zero.
fn canonical(negative: bool, mut digits: String) -> Whole {
    if negative {
        digits.insert(0, '-');
    }
    digits.parse().map_or_else(|_| Whole::Wide(WideInteger::new(digits)), Whole::Narrow)
}

/// The binary format of `numeric`: digits to the base 10,000.
///
/// `numeric_recv`, `src/backend/utils/adt/numeric.c`. PostgreSQL cuts off digits behind the `dscale` that the message
/// gives; here they are a fraction.
pub(super) fn from_binary_numeric(bytes: &[u8]) -> Result<Whole, Undecided> {
    let word = |at: usize| bytes.get(at..at + 2).map(|two| i32::from(two[0]) << 8 | i32::from(two[1])).ok_or(FORM);
    let (count, weight, sign, scale) = (word(0)?, word(2)?, word(4)?, word(6)?);
    let weight = if weight > 0x7fff { weight - 0x1_0000 } else { weight };
    let negative = match sign {
        0x0000 => false,
        0x4000 => true,
        0xC000 | 0xD000 | 0xF000 => return Err(Undecided::NotFinite),
        _ => return Err(FORM),
    };
    let size = usize::try_from(count).map_err(|_| FORM)?;
    if bytes.len() != 8 + 2 * size || scale > 0x3fff {
        return Err(FORM);
    }
    let mut digits = String::new();
    for position in 0..count {
        let digit = word(8 + 2 * usize::try_from(position).map_err(|_| FORM)?)?;
        if digit > 9999 {
            return Err(FORM);
        }
        if position > weight {
            if digit != 0 {
                return Err(Undecided::Fraction);
            }
        } else if digits.is_empty() {
            if digit != 0 {
                digits = digit.to_string();
            }
        } else {
            digits.push_str(&format!("{digit:04}"));
        }
        if digits.len() > MAX_DIGITS {
            return Err(Undecided::TooLong);
        }
    }
    if digits.is_empty() {
        return Ok(Whole::Narrow(0));
    }
    let missing = usize::try_from((weight + 1 - count).max(0)).map_err(|_| FORM)? * 4;
    if digits.len() + missing > MAX_DIGITS {
        return Err(Undecided::TooLong);
    }
    digits.extend(std::iter::repeat_n('0', missing));
    Ok(canonical(negative, digits))
}

/// Without the white space that PostgreSQL's `isspace` takes from both ends of a number or a date.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    let start = text.iter().position(|byte| !space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !space(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(digits: &str) -> Whole {
        Whole::Wide(WideInteger::new(digits.to_owned()))
    }

    #[test]
    fn texts() {
        for (text, value) in [
            ("42", 42),
            (" 42 ", 42),
            ("\t\n\x0b\x0c\r42\n", 42),
            ("+42", 42),
            ("-42", -42),
            ("0042", 42),
            ("-0", 0),
            ("0", 0),
            ("00000000000000000000000000000042", 42),
            ("42.", 42),
            ("42.000", 42),
            (".0", 0),
            ("-0.0", 0),
            ("1e3", 1000),
            ("1E+3", 1000),
            ("1.5e1", 15),
            ("4200e-2", 42),
            ("0.042e3", 42),
            ("0e-999999999999", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-9223372036854775808.0", i64::MIN),
        ] {
            assert_eq!(from_text(text.as_bytes()), Ok(Whole::Narrow(value)), "{text:?}");
        }
        for (text, value) in [
            ("9223372036854775808", "9223372036854775808"),
            ("-9223372036854775809", "-9223372036854775809"),
            ("0009223372036854775808.0", "9223372036854775808"),
            ("1e20", "100000000000000000000"),
        ] {
            assert_eq!(from_text(text.as_bytes()), Ok(wide(value)), "{text:?}");
        }
        assert_eq!(from_text(b"-1e999"), Ok(wide(&format!("-1{}", "0".repeat(999)))));
    }

    #[test]
    fn what_is_not_certain() {
        let form = Undecided::Form("number");
        for (text, reason) in [
            ("", form),
            (" ", form),
            ("-", form),
            ("- 42", form),
            ("+-42", form),
            ("4 2", form),
            ("4_2", form),
            ("0x2A", form),
            ("0b1", form),
            ("0o7", form),
            ("42a", form),
            ("1e", form),
            ("1e+", form),
            ("1e1.5", form),
            (".", form),
            (".e1", form),
            ("1..0", form),
            ("\u{a0}42", form),
            ("４２", form),
            ("1.5", Undecided::Fraction),
            ("1e-1", Undecided::Fraction),
            ("10.01", Undecided::Fraction),
            ("1e-99999999999999999999999", Undecided::Fraction),
            ("NaN", Undecided::NotFinite),
            ("-Infinity", Undecided::NotFinite),
            ("1e1000", Undecided::TooLong),
            ("1e99999999999999999999999", Undecided::TooLong),
        ] {
            assert_eq!(from_text(text.as_bytes()), Err(reason), "{text:?}");
        }
    }

    fn binary(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Vec<u8> {
        let head = [digits.len() as u16, weight as u16, sign, scale];
        head.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn binary_numerics() {
        for (bytes, value) in [
            (binary(0, 0, 0, &[]), Whole::Narrow(0)),
            (binary(0, 0x4000, 0, &[]), Whole::Narrow(0)),
            (binary(0, 0, 0, &[42]), Whole::Narrow(42)),
            (binary(0, 0x4000, 2, &[42]), Whole::Narrow(-42)),
            (binary(1, 0, 0, &[1, 2]), Whole::Narrow(10_002)),
            (binary(2, 0, 0, &[1]), Whole::Narrow(100_000_000)),
            (binary(2, 0, 0, &[0, 0, 7]), Whole::Narrow(7)),
            (binary(0, 0, 4, &[7, 0]), Whole::Narrow(7)),
            (binary(-5, 0, 4, &[0]), Whole::Narrow(0)),
            (binary(5, 0, 0, &[1]), wide("100000000000000000000")),
        ] {
            assert_eq!(from_binary_numeric(&bytes), Ok(value), "{bytes:?}");
        }
        let form = Undecided::Form("number");
        for (bytes, reason) in [
            (vec![], form),
            (vec![0; 7], form),
            (binary(0, 0, 0, &[10_000]), form),
            (binary(0, 1, 0, &[1]), form),
            (binary(0, 0, 0x4000, &[1]), form),
            ([binary(0, 0, 0, &[1]), vec![0]].concat(), form),
            (binary(0, 0, 1, &[1, 5000]), Undecided::Fraction),
            (binary(0, 0, 0, &[1, 5000]), Undecided::Fraction),
            (binary(-1, 0, 1, &[5000]), Undecided::Fraction),
            (binary(0, 0xC000, 0, &[]), Undecided::NotFinite),
            (binary(0, 0xD000, 0, &[]), Undecided::NotFinite),
            (binary(0, 0xF000, 0, &[]), Undecided::NotFinite),
            (binary(i16::MAX, 0, 0, &[1]), Undecided::TooLong),
            (binary(299, 0, 0, &[1; 300]), Undecided::TooLong),
        ] {
            assert_eq!(from_binary_numeric(&bytes), Err(reason), "{bytes:?}");
        }
    }
}
