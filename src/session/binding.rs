//! SCRAM's channel binding, as PostgreSQL holds clients to it: what mechanism a client has chosen, what it says of
//! channel binding, and whether it speaks to us or to somebody in between.
//!
//! RFC 5802, section 6; `read_client_first_message` and `read_client_final_message` in
//! <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/libpq/auth-scram.c>

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postgres_protocol::authentication::sasl::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};

use super::auth::Rejection;
use crate::tls::EndPoint;
use crate::wire::ErrorReply;

/// The one type of channel binding, as it stands at the beginning of a client's first message.
const TYPE: &str = "tls-server-end-point";

/// A `SASLInitialResponse` that fits what was offered.
#[derive(Debug)]
pub(super) struct Initial<'a> {
    /// `client-first-message`
    pub(super) message: &'a [u8],
    /// What `c=` of the last message has to be.
    binding: String,
    is_bound: bool,
}

impl<'a> Initial<'a> {
    /// Reads the body of the message. `SCRAM-SHA-256-PLUS` was offered where there is an end point.
    pub(super) fn read(body: &'a [u8], end_point: Option<&EndPoint>) -> Result<Self, Rejection> {
        let (mechanism, message) = split(body).ok_or_else(|| malformed(None))?;
        let is_bound = match end_point {
            _ if mechanism == SCRAM_SHA_256.as_bytes() => false,
            Some(_) if mechanism == SCRAM_SHA_256_PLUS.as_bytes() => true,
            _ => return Err(fatal("08P01", "client selected an invalid SASL authentication mechanism", None)),
        };
        let flag = message.split(|byte| *byte == b',').next().unwrap_or_default();
        let header = match (flag, is_bound) {
            (b"n" | b"y", true) => {
                return Err(malformed(Some(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
                )));
            }
            (b"y", false) if end_point.is_some() => {
                return Err(fatal(
                    "28000",
                    "SCRAM channel binding negotiation error",
                    Some(
                        "The client supports SCRAM channel binding but thinks the server does not.  \
                         However, this server does support channel binding.",
                    ),
                ));
            }
            (b"n", false) => "n,,",
            (b"y", false) => "y,,",
            (flag, _) if !flag.starts_with(b"p=") => return Err(malformed(None)),
            (_, false) => {
                return Err(malformed(Some(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
                )));
            }
            (flag, true) if &flag[2..] != TYPE.as_bytes() => {
                return Err(fatal("08P01", "unsupported SCRAM channel-binding type", None));
            }
            (_, true) => "p=tls-server-end-point,,",
        };
        let hash = end_point.filter(|_| is_bound).map_or(&[][..], |end_point| &end_point.hash);
        Ok(Self { message, binding: STANDARD.encode([header.as_bytes(), hash].concat()), is_bound })
    }
}

/// Whether the client has seen the certificate that we have shown.
pub(super) fn check_final(initial: &Initial<'_>, message: &[u8]) -> Result<(), Rejection> {
    let attribute = message.split(|byte| *byte == b',').next().unwrap_or_default();
    let binding = attribute.strip_prefix(b"c=").ok_or_else(|| malformed(None))?;
    if binding == initial.binding.as_bytes() {
        return Ok(());
    }
    Err(match initial.is_bound {
        true => fatal("28000", "SCRAM channel binding check failed", None),
        false => fatal("08P01", "unexpected SCRAM channel-binding attribute in client-final-message", None),
    })
}

/// The mechanism's name, and its first message.
fn split(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (mechanism, rest) = (&body[..end], &body[end + 1..]);
    let (length, message) = rest.split_first_chunk()?;
    (usize::try_from(i32::from_be_bytes(*length)).ok()? == message.len()).then_some((mechanism, message))
}

fn malformed(detail: Option<&str>) -> Rejection {
    fatal("08P01", "malformed SCRAM message", detail)
}

fn fatal(sqlstate: &'static str, message: &str, detail: Option<&str>) -> Rejection {
    let reply = ErrorReply::fatal(sqlstate, message);
    Rejection::Told(match detail {
        Some(detail) => reply.detail(detail),
        None => reply,
    })
}

#[cfg(test)]
mod tests {
    use pgwire::api::auth::sasl::scram::ScramServerAuth;

    use super::*;

    fn body(mechanism: &str, message: &str) -> Vec<u8> {
        let length = i32::try_from(message.len()).unwrap().to_be_bytes();
        [mechanism.as_bytes(), b"\0", &length, message.as_bytes()].concat()
    }

    /// The binding that is expected, or the SQLSTATE and the beginning of the message.
    fn read(mechanism: &str, flag: &str, is_offered: bool) -> Result<String, (&'static str, String)> {
        let end_point = EndPoint { hash: b"hash".to_vec(), scram: ScramServerAuth::new() };
        let body = body(mechanism, &format!("{flag},,n=,r=abc"));
        let initial = Initial::read(&body, is_offered.then_some(&end_point));
        initial.map(|initial| initial.binding).map_err(|rejection| match rejection {
            Rejection::Told(reply) => (reply.sqlstate, reply.message),
            Rejection::Gone => ("", String::new()),
        })
    }

    #[test]
    fn what_a_client_says_of_binding_fits_what_was_offered() {
        let (plain, plus) = (SCRAM_SHA_256, SCRAM_SHA_256_PLUS);
        let binding = |text: &str| Ok(STANDARD.encode(text));
        let refused = |sqlstate, message: &str| Err((sqlstate, message.to_owned()));
        let malformed = || refused("08P01", "malformed SCRAM message");
        let invalid = || refused("08P01", "client selected an invalid SASL authentication mechanism");
        let cases = [
            (plain, "n", false, binding("n,,")),
            (plain, "y", false, binding("y,,")),
            (plain, "n", true, binding("n,,")),
            (plain, "y", true, refused("28000", "SCRAM channel binding negotiation error")),
            (plain, "p=tls-server-end-point", true, malformed()),
            (plain, "p=tls-server-end-point", false, malformed()),
            (plain, "x", true, malformed()),
            (plain, "", true, malformed()),
            (plus, "p=tls-server-end-point", true, binding("p=tls-server-end-point,,hash")),
            (plus, "p=tls-unique", true, refused("08P01", "unsupported SCRAM channel-binding type")),
            (plus, "n", true, malformed()),
            (plus, "y", true, malformed()),
            (plus, "p=tls-server-end-point", false, invalid()),
            ("SCRAM-SHA-1", "n", true, invalid()),
        ];
        for (mechanism, flag, is_offered, expected) in cases {
            assert_eq!(read(mechanism, flag, is_offered), expected, "{mechanism} {flag} {is_offered}");
        }
    }

    #[test]
    fn broken_bodies_are_refused() {
        for bytes in
            [&b""[..], b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0\0\0\x05n,,", b"\0\xff\xff\xff\xff"]
        {
            assert!(Initial::read(bytes, None).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_last_message_repeats_the_binding() {
        let body = body(SCRAM_SHA_256, "n,,n=,r=abc");
        let Ok(initial) = Initial::read(&body, None) else { panic!("a sound message") };
        assert!(check_final(&initial, b"c=biws,r=abcdef,p=x").is_ok());
        for message in [&b"c=eSws,r=abcdef,p=x"[..], b"r=abcdef,p=x", b"", b"c="] {
            assert!(check_final(&initial, message).is_err(), "{message:?}");
        }
    }
}
