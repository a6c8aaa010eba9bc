//! Places in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A log sequence number: a byte offset in the WAL (`pg_lsn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not `XXXXXXXX/XXXXXXXX`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a pg_lsn")]
pub struct LsnError;

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let (high, low) = text.split_once('/').ok_or(LsnError)?;
        let part = |digits: &str| {
            (1..=8)
                .contains(&digits.len())
                .then(|| u32::from_str_radix(digits, 16).ok())
                .flatten()
                .filter(|_| !digits.starts_with('+'))
                .ok_or(LsnError)
        };
        Ok(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

/// An LSN and the timeline that it is on. Positions on different timelines do not compare, so this
/// has no order: ask [`Position::reaches`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Timeline ID (`TimeLineID`), from 1.
    pub timeline: u32,
    /// Where on it.
    pub lsn: Lsn,
}

impl Position {
    /// Whether a server at this position has replayed all up to `floor`. False across timelines.
    pub fn reaches(self, floor: Self) -> bool {
        self.timeline == floor.timeline && self.lsn >= floor.lsn
    }

    /// What reaches both, where both are on one timeline.
    pub fn covering(self, other: Self) -> Option<Self> {
        (self.timeline == other.timeline).then_some(if self.lsn >= other.lsn { self } else { other })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_and_prints_as_postgresql_does() {
        for (text, value) in [("0/0", 0), ("0/1", 1), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", u64::MAX)]
        {
            assert_eq!(text.parse(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for bad in ["", "/", "0", "0/", "/0", "0/G", "123456789/0", "0/+1", "0/0/0"] {
            assert_eq!(bad.parse::<Lsn>(), Err(LsnError), "{bad}");
        }
    }

    #[test]
    fn positions_of_two_timelines_do_not_compare() {
        let at = |timeline, lsn| Position { timeline, lsn: Lsn(lsn) };
        assert!(at(1, 5).reaches(at(1, 5)));
        assert!(!at(1, 4).reaches(at(1, 5)));
        assert!(!at(2, 9).reaches(at(1, 5)));
        assert!(!at(1, 9).reaches(at(2, 5)));
        assert_eq!(at(1, 4).covering(at(1, 5)), Some(at(1, 5)));
        assert_eq!(at(1, 5).covering(at(1, 4)), Some(at(1, 5)));
        assert_eq!(at(2, 9).covering(at(1, 5)), None);
    }
}
