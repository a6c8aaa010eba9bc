use std::cmp::Ordering;

use proptest::prelude::*;

use super::numeric::compare_numeric;
use super::values::Type;
use super::{Misordered, Order, RowShape, Unmergeable, cut};
use crate::sql::SortKey;

/// As `numeric_send` writes it: digits, weight, sign.
fn numeric(sign: u16, weight: i16, digits: &[u16]) -> Vec<u8> {
    let mut bytes = u16::try_from(digits.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(weight.to_be_bytes());
    bytes.extend(sign.to_be_bytes());
    bytes.extend([0, 0]);
    digits.iter().for_each(|digit| bytes.extend(digit.to_be_bytes()));
    bytes
}

#[test]
fn numerics_in_postgresqls_order() {
    let (negative, nan, infinity, minus_infinity) = (0x4000, 0xC000, 0xD000, 0xF000);
    let ascending = [
        numeric(minus_infinity, 0, &[]),
        numeric(negative, 1, &[1, 1]),
        numeric(negative, 1, &[1]),
        numeric(negative, 0, &[9999, 5000]),
        numeric(negative, 0, &[9999]),
        numeric(negative, -5, &[1]),
        numeric(0, 0, &[]),
        numeric(0, -1, &[1]),
        numeric(0, -1, &[5000]),
        numeric(0, 0, &[1]),
        numeric(0, 0, &[1, 1]),
        numeric(0, 0, &[2]),
        numeric(0, 7, &[1]),
        numeric(infinity, 0, &[]),
        numeric(nan, 0, &[]),
    ];
    for (at, one) in ascending.iter().enumerate() {
        for (other_at, other) in ascending.iter().enumerate() {
            assert_eq!(compare_numeric(one, other), Some(at.cmp(&other_at)), "{at} {other_at}");
        }
    }
    assert_eq!(compare_numeric(&numeric(0, 0, &[1])[..9], &numeric(0, 0, &[1])), None);
    assert_eq!(compare_numeric(&numeric(0x1234, 0, &[1]), &numeric(0, 0, &[1])), None);
}

#[test]
fn floats_in_postgresqls_order() {
    let ascending = [f64::NEG_INFINITY, -1.5, -0.0, 1e-300, 2.0, f64::INFINITY, f64::NAN];
    for (at, one) in ascending.iter().enumerate() {
        for (other_at, other) in ascending.iter().enumerate() {
            let ordering = Type::Float8.compare(&one.to_be_bytes(), &other.to_be_bytes());
            assert_eq!(ordering, Some(at.cmp(&other_at)), "{one} {other}");
        }
    }
    assert_eq!(Type::Float8.compare(&0f64.to_be_bytes(), &(-0f64).to_be_bytes()), Some(Ordering::Equal));
    assert_eq!(Type::Float4.compare(&1f32.to_be_bytes(), &f32::NAN.to_be_bytes()), Some(Ordering::Less));
    assert_eq!(Type::Float4.compare(&1f64.to_be_bytes(), &1f32.to_be_bytes()), None);
}

proptest! {
    #[test]
    fn integers_are_compared_as_such(one: i64, other: i64) {
        let ordering = Type::Integer.compare(&one.to_be_bytes(), &other.to_be_bytes());
        prop_assert_eq!(ordering, Some(one.cmp(&other)));
    }

    #[test]
    fn blanks_at_the_end_do_not_count(text in "[a-c ]{0,6}", blanks in 0usize..4) {
        let padded = format!("{text}{}", " ".repeat(blanks));
        prop_assert_eq!(Type::Padded.compare(text.as_bytes(), padded.as_bytes()), Some(Ordering::Equal));
    }

    #[test]
    fn what_is_no_message_is_no_shape_and_no_row(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = RowShape::read(&bytes);
        let _ = cut(&bytes, 1);
        let _ = Type::Numeric.compare(&bytes, &bytes);
    }
}

fn description(columns: &[(&str, u32)]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for (name, oid) in columns {
        body.extend(name.as_bytes());
        body.extend([0; 7]);
        body.extend(oid.to_be_bytes());
        body.extend([0; 8]);
    }
    body
}

fn shape(columns: &[(&str, u32)]) -> RowShape {
    RowShape::read(&description(columns)).unwrap()
}

#[test]
fn rows_that_go_together() {
    let one = shape(&[("id", 23), ("t", 25)]);
    assert_eq!(one.goes_with(&shape(&[("id", 23), ("t", 25)])), Ok(()));
    assert_eq!(one.goes_with(&shape(&[("id", 20), ("t", 25)])), Err(Unmergeable::Differ));
    assert_eq!(one.goes_with(&shape(&[("id", 23), ("x", 25)])), Err(Unmergeable::Differ));
    assert_eq!(one.goes_with(&shape(&[("id", 23)])), Err(Unmergeable::Differ));
    let own = shape(&[("m", 16400)]);
    assert_eq!(own.goes_with(&own), Err(Unmergeable::OwnType));
    let mut out = bytes::BytesMut::new();
    one.put(1, &[[0, 1]], &mut out);
    assert_eq!(out[..], [&[b'T', 0, 0, 0, 27, 0, 1][..], b"id\0", &[0; 6], &[0, 0, 0, 23], &[0; 6], &[0, 1]].concat());
}

#[test]
fn a_row_without_its_last_columns() {
    let row = [&[0, 3][..], &[0, 0, 0, 1], b"x", &[255; 4], &[0, 0, 0, 2], b"yz"].concat();
    assert_eq!(cut(&row, 1), Some((7, vec![None, Some(&b"yz"[..])])));
    assert_eq!(cut(&row, 3), Some((17, Vec::new())));
    assert_eq!(cut(&row, 4), None);
    assert_eq!(cut(&row[..16], 1), None);
}

#[test]
fn nulls_and_directions() {
    let key = |is_descending, nulls_first, is_bytewise| SortKey { is_descending, nulls_first, is_bytewise };
    let columns = shape(&[("x", 25), ("a", 23), ("b", 25)]);
    let keys = [key(true, true, false), key(false, false, true)];
    let order = Order::new(&keys, &columns, true).unwrap();
    let row = |a: Option<i32>, b: Option<&str>| {
        [a.map(|a| a.to_be_bytes().as_slice().into()), b.map(|b| b.as_bytes().into())]
    };
    let ascending = [
        row(None, Some("a")),
        row(Some(2), None),
        row(Some(1), Some("a")),
        row(Some(1), Some("b")),
        row(Some(1), None),
    ];
    for (at, one) in ascending.iter().enumerate() {
        for (other_at, other) in ascending.iter().enumerate() {
            assert_eq!(order.compare(one, other), Ok(at.cmp(&other_at)));
        }
    }
    assert_eq!(order.compare(&[Some([1].as_slice().into())], &row(Some(1), None)), Err(Misordered));
    // A text by a collation that is not known, or in another encoding; a type without an order here.
    assert_eq!(Order::new(&[key(false, false, false)], &columns, true).err(), Some(Unmergeable::Order));
    assert_eq!(Order::new(&[key(false, false, true)], &columns, false).err(), Some(Unmergeable::Order));
    assert_eq!(Order::new(&[key(false, false, true)], &shape(&[("j", 3802)]), true).err(), Some(Unmergeable::Order));
}
