//! Addresses: where pgsluice listens, and where the servers are.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use toml::de::DeValue;

use super::error::{Complaint, quoted};
use super::values::text;

const LISTEN_FORM: &str = "an IP address and a port, such as \"127.0.0.1:6432\" or \"[::1]:6432\"";
const NODE_FORM: &str = "host:port, such as \"10.0.0.1:5432\", \"db1.example.com:5432\" or \"[fd00::1]:5432\"";

/// An address to listen on. Port 0 takes any free one.
pub(super) fn listen_address(value: &DeValue<'_>) -> Result<SocketAddr, Complaint> {
    let text = text(value, LISTEN_FORM)?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.is_empty() {
        return Err(Complaint::new("is empty").expected(LISTEN_FORM));
    }
    Err(listen_complaint(text).expected(LISTEN_FORM))
}

fn listen_complaint(text: &str) -> Complaint {
    if let Some(address) = bare_ipv6(text) {
        return Complaint::new(format!("{} is an IPv6 address without brackets", quoted(text))).suggest(address);
    }
    if text.parse::<IpAddr>().is_ok() {
        return Complaint::new(format!("{} has no port", quoted(text)));
    }
    if text.parse::<u16>().is_ok() {
        return Complaint::new(format!("{} has no IP address", quoted(text)))
            .suggest(Some(format!("127.0.0.1:{text}")));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Complaint::new(format!("{} has no port", quoted(text)));
    };
    if port.parse::<u16>().is_err() {
        return port_complaint(text, port);
    }
    let meant = match host {
        "localhost" | "" => Some("127.0.0.1"),
        "*" => Some("0.0.0.0"),
        _ => None,
    };
    Complaint::new(format!("{} is not an IP address", quoted(host))).suggest(meant.map(|ip| format!("{ip}:{port}")))
}

/// `host:port` of a server; an IPv6 address stands in brackets and is returned without them.
pub(super) fn node_address(text: &str) -> Result<(String, u16), Complaint> {
    if text.contains("://") || text.contains('@') {
        // Not shown: such a URI often holds a password.
        return Err(Complaint::new("is a connection URI").expected(NODE_FORM));
    }
    if text.starts_with(['/', '.']) {
        return Err(Complaint::new(format!("{} is a path; servers are reached over TCP only", quoted(text)))
            .expected(NODE_FORM));
    }
    parse_node(text).map_err(|complaint| complaint.expected(NODE_FORM))
}

fn parse_node(text: &str) -> Result<(String, u16), Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("is empty"));
    }
    if let Some(address) = bare_ipv6(text) {
        return Err(Complaint::new(format!("{} is an IPv6 address without brackets", quoted(text))).suggest(address));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) =
                rest.split_once(']').ok_or_else(|| Complaint::new(format!("{} has no closing `]`", quoted(text))))?;
            let address: Ipv6Addr =
                inside.parse().map_err(|_| Complaint::new(format!("{} is not an IPv6 address", quoted(inside))))?;
            (address.to_string(), after.strip_prefix(':'))
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host_name(host)?, Some(port)),
            None => (host_name(text)?, None),
        },
    };
    let Some(port) = port else {
        return Err(Complaint::new(format!("{} has no port", quoted(text))).suggest(Some(format!("{text}:5432"))));
    };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && !port.starts_with('+') => Ok((host, number)),
        _ => Err(port_complaint(text, port)),
    }
}

fn port_complaint(text: &str, port: &str) -> Complaint {
    match port {
        "" => Complaint::new(format!("{} has no port after the colon", quoted(text))),
        _ if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Complaint::new(format!("port {port} is out of range, which is 1 to 65535"))
        }
        _ => Complaint::new(format!("{} is not a port number", quoted(port))),
    }
}

/// A host name or an IPv4 address, as DNS and `hosts` files allow them (underscores too: containers have them).
fn host_name(host: &str) -> Result<String, Complaint> {
    if host.is_empty() {
        return Err(Complaint::new("has no host before the colon"));
    }
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return Ok(host.to_owned());
    }
    let looks_like_ipv4 = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let valid = host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label);
    match valid && !looks_like_ipv4 {
        true => Ok(host.to_owned()),
        false => Err(Complaint::new(format!("{} is not a host name or an IP address", quoted(host)))),
    }
}

/// The same address in brackets, if the text is an IPv6 address without them, with or without a port.
///
/// `fd00::1:5432` is an address of its own by the letter; whoever writes it nearly always means a port.
fn bare_ipv6(text: &str) -> Option<Option<String>> {
    let Ok(address) = text.parse::<Ipv6Addr>() else { return None };
    let split = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.parse::<Ipv6Addr>().ok()?;
        let port = port.parse::<u16>().ok().filter(|port| *port >= 1024)?;
        Some(format!("[{host}]:{port}"))
    });
    Some(Some(split.unwrap_or_else(|| format!("[{address}]:5432"))))
}

/// Whether two listeners cannot both have what they ask for.
pub(super) fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let same_family = one.is_ipv4() == other.is_ipv4();
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (one.ip() == other.ip() || same_family && any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Result<(String, u16), String> {
        node_address(text).map_err(|complaint| match complaint.suggestion {
            Some(suggestion) => format!("{} -> {suggestion}", complaint.problem),
            None => complaint.problem,
        })
    }

    #[test]
    fn nodes() {
        let good = [
            ("10.0.0.1:5432", ("10.0.0.1", 5432)),
            ("db1.example.com:1", ("db1.example.com", 1)),
            ("pg_replica-2:65535", ("pg_replica-2", 65535)),
            ("[fd00:0::1]:5432", ("fd00::1", 5432)),
            ("3com.example:5432", ("3com.example", 5432)),
        ];
        for (text, (host, port)) in good {
            assert_eq!(node(text), Ok((host.to_owned(), port)), "{text}");
        }
        let bad = [
            ("", "is empty"),
            ("10.0.0.1", "\"10.0.0.1\" has no port -> 10.0.0.1:5432"),
            ("10.0.0.1:", "\"10.0.0.1:\" has no port after the colon"),
            ("10.0.0.1:0", "port 0 is out of range, which is 1 to 65535"),
            ("10.0.0.1:65536", "port 65536 is out of range, which is 1 to 65535"),
            ("10.0.0.1:+5", "\"+5\" is not a port number"),
            ("10.0.0.1:pg", "\"pg\" is not a port number"),
            ("10.0.0.256:5432", "\"10.0.0.256\" is not a host name or an IP address"),
            ("a b:5432", "\"a b\" is not a host name or an IP address"),
            (":5432", "has no host before the colon"),
            ("fd00::1", "\"fd00::1\" is an IPv6 address without brackets -> [fd00::1]:5432"),
            ("fd00::1:5432", "\"fd00::1:5432\" is an IPv6 address without brackets -> [fd00::1]:5432"),
            ("[fd00::1:5432", "\"[fd00::1:5432\" has no closing `]`"),
            ("[fd00::1]", "\"[fd00::1]\" has no port -> [fd00::1]:5432"),
            ("[10.0.0.1]:5432", "\"10.0.0.1\" is not an IPv6 address"),
            ("postgres://app:hunter2@db:5432", "is a connection URI"),
            ("/var/run/postgresql", "\"/var/run/postgresql\" is a path; servers are reached over TCP only"),
        ];
        for (text, complaint) in bad {
            assert_eq!(node(text), Err(complaint.to_owned()), "{text}");
        }
    }

    #[test]
    fn listeners() {
        let parse = |text: &str| {
            listen_address(&DeValue::String(text.into())).map_err(|complaint| (complaint.problem, complaint.suggestion))
        };
        for text in ["127.0.0.1:6432", "0.0.0.0:0", "[::]:6432"] {
            assert_eq!(parse(text), Ok(text.parse().expect("address")), "{text}");
        }
        let bad = [
            ("localhost:6432", "\"localhost\" is not an IP address", Some("127.0.0.1:6432")),
            ("*:6432", "\"*\" is not an IP address", Some("0.0.0.0:6432")),
            (":6432", "\"\" is not an IP address", Some("127.0.0.1:6432")),
            ("6432", "\"6432\" has no IP address", Some("127.0.0.1:6432")),
            ("127.0.0.1", "\"127.0.0.1\" has no port", None),
            ("::1:6432", "\"::1:6432\" is an IPv6 address without brackets", Some("[::1]:6432")),
            ("127.0.0.1:70000", "port 70000 is out of range, which is 1 to 65535", None),
            ("somewhere", "\"somewhere\" has no port", None),
        ];
        for (text, problem, suggestion) in bad {
            assert_eq!(parse(text), Err((problem.to_owned(), suggestion.map(str::to_owned))), "{text}");
        }
    }

    #[test]
    fn listeners_clash_over_the_same_port() {
        let cases = [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("[::]:1", "[::1]:1", true),
        ];
        for (one, other, expected) in cases {
            assert_eq!(clash(one.parse().expect("one"), other.parse().expect("other")), expected, "{one} {other}");
        }
    }
}
