//! The elements of an array that is a parameter, in either format.
//!
//! `array_in`, `array_recv`: <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>

use std::iter::Peekable;
use std::str::Chars;

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Element<'a> {
    Null,
    Text(String),
    Binary { oid: u32, bytes: &'a [u8] },
}

/// Arrays of the types that rows can be placed by, and what their elements are.
const ELEMENT_TYPES: [(u32, u32); 12] = [
    (1005, 21),
    (1007, 23),
    (1016, 20),
    (1231, 1700),
    (1009, 25),
    (1015, 1043),
    (1014, 1042),
    (2951, 2950),
    (1182, 1082),
    (1185, 1184),
    (1001, 17),
    (0, 0),
];

/// The elements' type, by the array's OID; one that is nothing's where it is not known.
pub(super) fn element_type(array: u32) -> u32 {
    ELEMENT_TYPES.iter().find(|(known, _)| *known == array).map_or(u32::MAX, |(_, element)| *element)
}

/// Of an array of one dimension, or an empty one.
pub(super) fn binary(mut bytes: &[u8]) -> Option<Vec<Element<'_>>> {
    let dimensions = take_i32(&mut bytes)?;
    let _has_nulls = take_i32(&mut bytes)?;
    let oid = u32::try_from(take_i32(&mut bytes)?).ok()?;
    if dimensions == 0 {
        return bytes.is_empty().then(Vec::new);
    }
    let (count, _lower_bound) = (take_i32(&mut bytes)?, take_i32(&mut bytes)?);
    if dimensions != 1 {
        return None;
    }
    let mut elements = Vec::new();
    for _ in 0..count {
        match take_i32(&mut bytes)? {
            -1 => elements.push(Element::Null),
            length => {
                let (element, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
                elements.push(Element::Binary { oid, bytes: element });
                bytes = rest;
            }
        }
    }
    bytes.is_empty().then_some(elements)
}

fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(i32::from_be_bytes(*number))
}

/// The texts of an array in text format, NULLs left out.
pub fn texts(bytes: &[u8]) -> Option<Vec<String>> {
    let texts = text(bytes)?.into_iter().filter_map(|element| match element {
        Element::Text(text) => Some(text),
        Element::Null | Element::Binary { .. } => None,
    });
    Some(texts.collect())
}

/// Of `{1,2,NULL,"a b"}`; `None` for several dimensions, and for bounds in front.
pub(super) fn text(bytes: &[u8]) -> Option<Vec<Element<'static>>> {
    let inner = std::str::from_utf8(bytes).ok()?.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut elements = Vec::new();
    if inner.trim().is_empty() {
        return Some(elements);
    }
    let mut rest = inner.chars().peekable();
    loop {
        skip_blanks(&mut rest);
        elements.push(if rest.next_if_eq(&'"').is_some() { quoted(&mut rest)? } else { bare(&mut rest)? });
        skip_blanks(&mut rest);
        match rest.next() {
            None => return Some(elements),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(char::is_ascii_whitespace).is_some() {}
}

/// Up to its second quote.
fn quoted(rest: &mut Peekable<Chars<'_>>) -> Option<Element<'static>> {
    let mut element = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(Element::Text(element)),
            '\\' => element.push(rest.next()?),
            character => element.push(character),
        }
    }
}

/// Up to the comma behind it, without blanks at its end.
fn bare(rest: &mut Peekable<Chars<'_>>) -> Option<Element<'static>> {
    let (mut element, mut solid) = (String::new(), 0);
    while let Some(character) = rest.next_if(|character| *character != ',') {
        match character {
            '{' | '}' | '"' => return None,
            '\\' => element.push(rest.next()?),
            character => element.push(character),
        }
        if character == '\\' || !character.is_ascii_whitespace() {
            solid = element.len();
        }
    }
    element.truncate(solid);
    match &*element {
        "" => None,
        null if null.eq_ignore_ascii_case("null") => Some(Element::Null),
        _ => Some(Element::Text(element)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_postgresql_reads_them() {
        let texts = |parts: &[Option<&str>]| {
            let element = |part: &Option<&str>| part.map_or(Element::Null, |part| Element::Text(part.to_owned()));
            Some(parts.iter().map(element).collect::<Vec<_>>())
        };
        for (text_of_array, expected) in [
            ("{}", texts(&[])),
            ("{ }", texts(&[])),
            ("{1}", texts(&[Some("1")])),
            ("{1,-2, 3 }", texts(&[Some("1"), Some("-2"), Some("3")])),
            ("{a b,NULL,\"NULL\",null}", texts(&[Some("a b"), None, Some("NULL"), None])),
            (r#"{"a,b","c\"d\\",e}"#, texts(&[Some("a,b"), Some("c\"d\\"), Some("e")])),
            (r#"{x,"y",z}"#, texts(&[Some("x"), Some("y"), Some("z")])),
            (r#"{"y" , "z"}"#, texts(&[Some("y"), Some("z")])),
            (r#"{a\ }"#, texts(&[Some("a ")])),
            ("{{1},{2}}", None),
            ("[0:1]={1,2}", None),
            ("{1,}", None),
            ("{,1}", None),
            ("{\"a}", None),
            ("{\"a\"b}", None),
            ("1,2", None),
        ] {
            assert_eq!(text(text_of_array.as_bytes()), expected, "{text_of_array}");
        }
    }

    #[test]
    fn binary_arrays_tell_their_element_type() {
        let array = |parts: &[i32]| parts.iter().flat_map(|part| part.to_be_bytes()).collect::<Vec<u8>>();
        assert_eq!(binary(&array(&[0, 0, 23])), Some(vec![]));
        let two = array(&[1, 1, 23, 2, 1, 4, 7, -1]);
        let seven = 7i32.to_be_bytes();
        assert_eq!(binary(&two), Some(vec![Element::Binary { oid: 23, bytes: &seven }, Element::Null]));
        assert_eq!(binary(&two[..two.len() - 1]), None, "cut short");
        assert_eq!(binary(&array(&[2, 0, 23, 1, 1, 1, 1, 4, 7])), None, "two dimensions");
    }
}
