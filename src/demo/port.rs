//! Ports that are free now and likely to stay so.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng;

use super::error::DemoError;

const RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The lowest port worth trying: below it live well-known services.
const LOWEST: u16 = 10_000;

/// Ports below the ephemeral range that are tried before the system is asked for any.
const TRIES: usize = 50;

/// A loopback port that nobody listens on.
///
/// A port of the ephemeral range (what binding port 0 gives) could be taken by any outgoing
/// connection while its server is down, and the server could not come back. Hence a random port below
/// that range, and port 0 only when none of those can be bound.
pub(super) fn free() -> Result<u16, DemoError> {
    let ephemeral = std::fs::read_to_string(RANGE_FILE).ok().and_then(|text| lower_end(&text)).unwrap_or(32_768);
    if ephemeral > LOWEST {
        let mut random = rand::rng();
        let found = (0..TRIES).map(|_| random.random_range(LOWEST..ephemeral)).find(|port| bind(*port).is_ok());
        if let Some(port) = found {
            return Ok(port);
        }
    }
    bind(0).map_err(DemoError::io("find a free port on 127.0.0.1"))
}

fn bind(port: u16) -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()?.port())
}

fn lower_end(text: &str) -> Option<u16> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_read() {
        let cases = [("32768\t60999\n", Some(32_768)), ("1024 65535", Some(1024)), ("", None), ("x y", None)];
        for (text, expected) in cases {
            assert_eq!(lower_end(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_free_port_can_be_bound_and_a_taken_one_cannot() {
        let port = free().unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(bind(port).is_err());
    }
}
