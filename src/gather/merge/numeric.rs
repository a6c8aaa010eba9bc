//! `numeric` in binary format (`numeric_send` in
//! <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/utils/adt/numeric.c>): digits to the base of 10,000,
//! the weight of the first, and a sign, or something that is no number.

use std::cmp::Ordering;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;

/// What stands in front of the digits: their number, the weight, the sign, the scale.
const HEADER: usize = 8;

struct Numeric<'b> {
    weight: i16,
    sign: u16,
    /// Two bytes each.
    digits: &'b [u8],
}

impl<'b> Numeric<'b> {
    fn read(bytes: &'b [u8]) -> Option<Self> {
        let (header, digits) = bytes.split_at_checked(HEADER)?;
        let half = |at: usize| Some([*header.get(at)?, *header.get(at + 1)?]);
        let count = usize::from(u16::from_be_bytes(half(0)?));
        let numeric = Self { weight: i16::from_be_bytes(half(2)?), sign: u16::from_be_bytes(half(4)?), digits };
        (digits.len() == 2 * count).then_some(numeric)
    }

    /// Below zero, zero, or above, with what is no number at the ends.
    fn class(&self) -> Option<i8> {
        match self.sign {
            MINUS_INFINITY => Some(-2),
            INFINITY => Some(2),
            // Greater than all others.
            NAN => Some(3),
            _ if self.digits.is_empty() => Some(0),
            NEGATIVE => Some(-1),
            0 => Some(1),
            _ => None,
        }
    }

    /// Without the sign. Digits begin with one that is not zero, and end with one.
    fn magnitude(&self) -> (i16, &[u8]) {
        (self.weight, self.digits)
    }
}

/// `None` where one is no `numeric`.
pub(super) fn compare_numeric(one: &[u8], other: &[u8]) -> Option<Ordering> {
    let (one, other) = (Numeric::read(one)?, Numeric::read(other)?);
    let (class, other_class) = (one.class()?, other.class()?);
    Some(class.cmp(&other_class).then_with(|| match class {
        1 => one.magnitude().cmp(&other.magnitude()),
        -1 => other.magnitude().cmp(&one.magnitude()),
        _ => Ordering::Equal,
    }))
}
