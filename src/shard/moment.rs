//! The text formats of `date` and `timestamptz`, as far as they mean the same to every session.
//!
//! What depends on DateStyle, TimeZone, the session's time zone abbreviations or the clock is undecided, and so is
//! what PostgreSQL would round: only ISO 8601 with the year first, and for a moment an explicit offset from UTC.
//! That is what PostgreSQL itself and its drivers write.

use super::key::Undecided;
use super::number::trim;

/// Days since 2000-01-01, PostgreSQL's own; `i32::MAX` is infinity, `i32::MIN` is -infinity.
///
/// `date_in`, `src/backend/utils/adt/date.c`: an offset may follow, as some drivers write it, and changes nothing.
pub(super) fn date(text: &[u8]) -> Result<i32, Undecided> {
    const FORM: Undecided = Undecided::Form("date in ISO format");
    let mut rest = trim(text);
    match infinity(rest) {
        Some(Infinity::Later) => return Ok(i32::MAX),
        Some(Infinity::Earlier) => return Ok(i32::MIN),
        None => {}
    }
    let civil = Civil::read(&mut rest).ok_or(FORM)?;
    if rest.first() == Some(&b' ') && matches!(rest.get(1), Some(b'+' | b'-')) {
        rest = &rest[1..];
        offset(&mut rest).ok_or(FORM)?;
    }
    let days = civil.of_era(rest).and_then(Civil::days).ok_or(FORM)?;
    if (FIRST_DAY..DATE_END).contains(&days) { i32::try_from(days).map_err(|_| FORM) } else { Err(FORM) }
}

/// Microseconds since 2000-01-01 00:00 UTC; `i64::MAX` is infinity, `i64::MIN` is -infinity.
///
/// `timestamptz_in`, `src/backend/utils/adt/timestamp.c`.
pub(super) fn timestamptz(text: &[u8]) -> Result<i64, Undecided> {
    const FORM: Undecided = Undecided::Form("timestamptz in ISO format with an offset from UTC");
    let text = trim(text);
    match infinity(text) {
        Some(Infinity::Later) => Ok(i64::MAX),
        Some(Infinity::Earlier) => Ok(i64::MIN),
        None => instant(text).ok_or(FORM),
    }
}

fn instant(mut rest: &[u8]) -> Option<i64> {
    let civil = Civil::read(&mut rest)?;
    take(&mut rest, |byte| matches!(byte, b' ' | b'T'))?;
    let local = time_of_day(&mut rest)?;
    if rest.first() == Some(&b' ') && matches!(rest.get(1), Some(b'+' | b'-')) {
        rest = &rest[1..];
    }
    let east = offset(&mut rest)?;
    let days = civil.of_era(rest)?.days()?;
    // Near the ends of the range the offset decides what is still within it; PostgreSQL checks more than once.
    if !(FIRST_DAY + 1..TIMESTAMP_END - 1).contains(&days) {
        return None;
    }
    Some(days * DAY + local - east * 1_000_000)
}

const DAY: i64 = 86_400_000_000;
/// 4713-11-24 BC, Julian day zero of the Gregorian calendar.
const FIRST_DAY: i64 = -2_451_545;
/// 5874898-01-01.
const DATE_END: i64 = 2_145_031_949;
/// 294277-01-01.
const TIMESTAMP_END: i64 = 106_751_983;

enum Infinity {
    Later,
    Earlier,
}

fn infinity(text: &[u8]) -> Option<Infinity> {
    if text.eq_ignore_ascii_case(b"infinity") {
        Some(Infinity::Later)
    } else if text.eq_ignore_ascii_case(b"-infinity") {
        Some(Infinity::Earlier)
    } else {
        None
    }
}

/// A day by the Gregorian calendar. Year 0 is 1 BC once the era is known; before, there is none.
#[derive(Clone, Copy)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
}

impl Civil {
    /// `YYYY-MM-DD`: four digits of the year or more, so that it cannot be taken for a day or a month.
    fn read(rest: &mut &[u8]) -> Option<Self> {
        let size = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(4..=7).contains(&size) {
            return None;
        }
        let year = number(rest, size)?;
        take(rest, |byte| byte == b'-')?;
        let month = number(rest, 2)?;
        take(rest, |byte| byte == b'-')?;
        let day = number(rest, 2)?;
        (year > 0).then_some(Self { year, month, day })
    }

    /// What follows date and time says before or after Christ.
    fn of_era(self, rest: &[u8]) -> Option<Self> {
        match rest {
            b"" => Some(self),
            b" BC" => Some(Self { year: 1 - self.year, ..self }),
            _ => None,
        }
    }

    /// Days since 2000-01-01, if there is such a day.
    ///
    /// `days_from_civil` of <https://howardhinnant.github.io/date_algorithms.html>.
    fn days(self) -> Option<i64> {
        let Self { year, month, day } = self;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        if !(1..=length).contains(&day) {
            return None;
        }
        // Years begin in March, so that the leap day is the last.
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Some(era * 146_097 + day_of_era - 730_425)
    }
}

/// `HH:MM`, `HH:MM:SS` or `HH:MM:SS.ffffff`, in microseconds. 24:00 and second 60 are left to PostgreSQL.
fn time_of_day(rest: &mut &[u8]) -> Option<i64> {
    let hours = number(rest, 2)?;
    take(rest, |byte| byte == b':')?;
    let minutes = number(rest, 2)?;
    let mut seconds = 0;
    let mut micros = 0;
    if take(rest, |byte| byte == b':').is_some() {
        seconds = number(rest, 2)?;
        if take(rest, |byte| byte == b'.').is_some() {
            let size = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let unit = 10i64.checked_pow(6u32.checked_sub(u32::try_from(size).ok()?)?)?;
            micros = number(rest, size)? * unit;
        }
    }
    (hours < 24 && minutes < 60 && seconds < 60).then_some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

/// `Z`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS`, in seconds east of Greenwich.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    if take(rest, |byte| byte == b'Z').is_some() {
        return Some(0);
    }
    let sign = take(rest, |byte| matches!(byte, b'+' | b'-'))?;
    let hours = number(rest, 2)?;
    let (mut minutes, mut seconds) = (0, 0);
    if take(rest, |byte| byte == b':').is_some() {
        minutes = number(rest, 2)?;
        if take(rest, |byte| byte == b':').is_some() {
            seconds = number(rest, 2)?;
        }
    } else if rest.first().is_some_and(u8::is_ascii_digit) {
        minutes = number(rest, 2)?;
    }
    // `MAX_TZDISP_HOUR`, src/include/datatype/timestamp.h.
    if hours > 15 || minutes > 59 || seconds > 59 {
        return None;
    }
    let size = (hours * 60 + minutes) * 60 + seconds;
    Some(if sign == b'-' { -size } else { size })
}

/// The next byte, if it is one of these.
fn take(rest: &mut &[u8], wanted: impl Fn(u8) -> bool) -> Option<u8> {
    let (&first, tail) = rest.split_first()?;
    if !wanted(first) {
        return None;
    }
    *rest = tail;
    Some(first)
}

/// The next `size` digits; none is a mistake, and so are fewer.
fn number(rest: &mut &[u8], size: usize) -> Option<i64> {
    let digits = rest.get(..size).filter(|digits| size > 0 && digits.iter().all(u8::is_ascii_digit))?;
    *rest = &rest[size..];
    Some(digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, days) in [
            ("2000-01-01", 0),
            (" 2000-01-01\n", 0),
            ("2000-02-29", 59),
            ("2000-03-01", 60),
            ("1999-12-31", -1),
            ("1970-01-01", -10_957),
            ("2024-01-31", 8_796),
            ("2024-01-31 +01", 8_796),
            ("2024-01-31 -11:30", 8_796),
            ("10000-01-01", 2_921_940),
            ("0001-01-01", -730_119),
            ("0001-12-31 BC", -730_120),
            ("0001-02-29 BC", -730_426),
            ("4714-11-24 BC", -2_451_545),
            ("5874897-12-31", 2_145_031_948),
            ("infinity", i32::MAX),
            ("-Infinity", i32::MIN),
        ] {
            assert_eq!(date(text.as_bytes()), Ok(days), "{text:?}");
        }
        for text in [
            "",
            "2024-02-30",
            "2023-02-29",
            "1900-02-29",
            "0002-02-29 BC",
            "0000-01-01",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "2024-1-5",
            "24-01-05",
            "01/02/2024",
            "20240105",
            "2024-Jan-05",
            "Jan 5 2024",
            "2024-01-05T00:00:00Z",
            "2024-01-05 10:00:00+00",
            "2024-01-05 AD",
            "2024-01-05 bc",
            "2024-01-05 Z",
            "4714-11-23 BC",
            "5874898-01-01",
            "99999999-01-01",
            "now",
            "today",
            "epoch",
            "inf",
            "+infinity",
            "-2024-01-05",
        ] {
            assert!(date(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn moments() {
        for (text, micros) in [
            ("2000-01-01 00:00:00+00", 0),
            ("2000-01-01T00:00:00Z", 0),
            (" 2000-01-01 00:00+00 ", 0),
            ("2000-01-01 00:00:00 +00", 0),
            ("2000-01-01 02:00:00+02", 0),
            ("2000-01-01 05:30:00+0530", 0),
            ("2000-01-01 05:30:00+05:30", 0),
            ("1999-12-31 16:00:00-08", 0),
            ("1999-12-31 16:00:00.000000-08:00:00", 0),
            ("2000-01-01 00:19:32+00:19:32", 0),
            ("2000-01-01 00:00:00.000001+00", 1),
            ("2000-01-01 00:00:00.5+00", 500_000),
            ("2000-01-01 23:59:59.999999Z", 86_399_999_999),
            ("1970-01-01 00:00:00+00", -946_684_800_000_000),
            ("0044-03-15 12:00:00+00 BC", -64_464_465_600_000_000),
            ("infinity", i64::MAX),
            ("-infinity", i64::MIN),
        ] {
            assert_eq!(timestamptz(text.as_bytes()), Ok(micros), "{text:?}");
        }
        for text in [
            "",
            "2024-01-31",
            "2024-01-31 10:00:00",
            "2024-01-31T10:00:00",
            "2024-01-31 10:00:00 UTC",
            "2024-01-31 10:00:00 Europe/Berlin",
            "2024-01-31 10:00:00+00 AD",
            "2024-01-31 10:00:00.1234567+00",
            "2024-01-31 10:00:00.+00",
            "2024-01-31 24:00:00+00",
            "2024-01-31 10:60:00+00",
            "2024-01-31 10:00:60+00",
            "2024-01-31 10:00:00+16",
            "2024-01-31 10:00:00+05:60",
            "2024-01-31 10:00:00+5",
            "2024-01-31 10:00:00+05:3",
            "2024-01-31 10:00:00+053",
            "2024-01-31  10:00:00+00",
            "2024-01-31 10+00",
            "2024-02-30 10:00:00+00",
            "0000-01-01 00:00:00+00",
            "294277-01-01 00:00:00+00",
            "4714-11-23 00:00:00+00 BC",
            "now",
            "epoch",
        ] {
            assert!(timestamptz(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
