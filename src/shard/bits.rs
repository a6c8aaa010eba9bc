//! The text formats of `uuid` and `bytea`.

use std::borrow::Cow;

use super::key::Undecided;

/// `string_to_uuid`, `src/backend/utils/adt/uuid.c`: 32 hexadecimal digits of either case, a hyphen or none after each
/// four of them, braces around all or none, no white space.
pub(super) fn uuid(text: &[u8]) -> Result<[u8; 16], Undecided> {
    const FORM: Undecided = Undecided::Form("uuid");
    let mut rest = match text {
        [b'{', inner @ .., b'}'] => inner,
        bare => bare,
    };
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return Err(FORM) };
        *byte = hex(*high).ok_or(FORM)? << 4 | hex(*low).ok_or(FORM)?;
        rest = match tail {
            [b'-', tail @ ..] if index % 2 == 1 && index < 15 => tail,
            tail => tail,
        };
    }
    if rest.is_empty() { Ok(uuid) } else { Err(FORM) }
}

/// `byteain`, `src/backend/utils/adt/varlena.c`: the hex format, or the escape format.
pub(super) fn bytea(text: &[u8]) -> Result<Cow<'_, [u8]>, Undecided> {
    match text {
        [b'\\', b'x', digits @ ..] => from_hex(digits).map(Cow::Owned),
        plain if !plain.contains(&b'\\') => Ok(Cow::Borrowed(plain)),
        escaped => from_escapes(escaped).map(Cow::Owned),
    }
}

/// White space may stand between two bytes, but not within one.
fn from_hex(mut rest: &[u8]) -> Result<Vec<u8>, Undecided> {
    const FORM: Undecided = Undecided::Form("bytea in hex format");
    let mut bytes = Vec::with_capacity(rest.len() / 2);
    loop {
        rest = match rest {
            [] => return Ok(bytes),
            [b' ' | b'\n' | b'\t' | b'\r', tail @ ..] => tail,
            [high, low, tail @ ..] => {
                bytes.push(hex(*high).ok_or(FORM)? << 4 | hex(*low).ok_or(FORM)?);
                tail
            }
            [_] => return Err(FORM),
        };
    }
}

/// `\\` is a backslash, `\` and three octal digits a byte, all else itself.
fn from_escapes(mut rest: &[u8]) -> Result<Vec<u8>, Undecided> {
    let octal = |digit: &u8| matches!(digit, b'0'..=b'7');
    let mut bytes = Vec::with_capacity(rest.len());
    loop {
        rest = match rest {
            [] => return Ok(bytes),
            [b'\\', b'\\', tail @ ..] => {
                bytes.push(b'\\');
                tail
            }
            [b'\\', a @ b'0'..=b'3', b, c, tail @ ..] if octal(b) && octal(c) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                tail
            }
            [b'\\', ..] => return Err(Undecided::Form("bytea in escape format")),
            [byte, tail @ ..] => {
                bytes.push(*byte);
                tail
            }
        };
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids() {
        let value = *b"\xa0\xee\xbc\x99\x9c\x0b\x4e\xf8\xbb\x6d\x6b\xb9\xbd\x38\x0a\x11";
        for text in [
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
        ] {
            assert_eq!(uuid(text.as_bytes()), Ok(value), "{text}");
        }
        for text in [
            "",
            "{}",
            "{",
            " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 ",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}}",
            "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0-eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1",
            "a0eebc999c0b4ef8bb6d6bb9bd380a111",
            "g0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert_eq!(uuid(text.as_bytes()), Err(Undecided::Form("uuid")), "{text:?}");
        }
    }

    #[test]
    fn byteas() {
        for (text, value) in [
            (r"\xdeadBEEF", &b"\xde\xad\xbe\xef"[..]),
            (r"\x", b""),
            ("\\x de\tad\n", b"\xde\xad"),
            ("", b""),
            ("abc", b"abc"),
            (" abc ", b" abc "),
            (r"a\\b", br"a\b"),
            (r"\000\377\101", b"\x00\xffA"),
            (r"\Xab", b""),
        ] {
            match bytea(text.as_bytes()) {
                Ok(bytes) => assert_eq!(&*bytes, value, "{text:?}"),
                Err(reason) => {
                    assert_eq!((text, reason), (r"\Xab", Undecided::Form("bytea in escape format")));
                }
            }
        }
        for text in [r"\xa", r"\xa b", r"\xgg", r"\", r"a\", r"\4", r"\400", r"\08", r"\00", r"\n"] {
            assert!(bytea(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
