//! libpq's connection strings, as far as the driver does not read them itself: the parameters of TLS.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>

/// A connection string, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// What the driver reads.
    pub(super) text: String,
    /// What it does not.
    pub(super) tls: TlsParts,
}

/// Parameters of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsParts {
    pub(super) mode: Option<String>,
    pub(super) root_cert: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
}

impl TlsParts {
    /// Takes the parameter, if it is one of these.
    fn takes(&mut self, key: &str, value: &str) -> bool {
        let place = match key {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.root_cert,
            "sslcert" => &mut self.cert,
            "sslkey" => &mut self.key,
            _ => return false,
        };
        *place = Some(value.to_owned());
        true
    }
}

/// Takes the parameters of TLS out.
pub(super) fn split(text: &str) -> Parts {
    let is_url = ["postgresql://", "postgres://"].iter().any(|scheme| text.starts_with(scheme));
    if is_url { split_url(text) } else { split_pairs(text) }
}

fn split_url(text: &str) -> Parts {
    let Some((base, query)) = text.split_once('?') else {
        return Parts { text: text.to_owned(), tls: TlsParts::default() };
    };
    let mut tls = TlsParts::default();
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| pair.split_once('=').is_none_or(|(key, value)| !tls.takes(key, &decoded(value))))
        .collect();
    let text = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    Parts { text, tls }
}

/// `key = 'value'` and the like. What is no pair is left to the driver to complain about.
fn split_pairs(text: &str) -> Parts {
    let (mut tls, mut kept, mut rest) = (TlsParts::default(), String::new(), text.trim_start());
    while let Some((key, behind)) = rest.split_once('=') {
        let behind = behind.trim_start();
        let (value, end) = pair_value(behind);
        if !tls.takes(key.trim(), &value) {
            kept.push_str(&rest[..rest.len() - behind.len() + end]);
            kept.push(' ');
        }
        rest = behind[end..].trim_start();
    }
    kept.push_str(rest);
    Parts { text: kept, tls }
}

/// The value at the start, and where it ends.
fn pair_value(text: &str) -> (String, usize) {
    let is_quoted = text.starts_with('\'');
    let start = usize::from(is_quoted);
    let mut value = String::new();
    let mut characters = text[start..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if is_quoted => return (value, start + at + 1),
            ' ' | '\t' | '\n' | '\r' if !is_quoted => return (value, start + at),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, text.len())
}

/// Without its percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_tls_are_taken_out() {
        let cases = [
            ("", "", [None, None]),
            ("postgresql://a:b@h:1/d", "postgresql://a:b@h:1/d", [None, None]),
            ("postgres://h/?sslmode=verify-full", "postgres://h/", [Some("verify-full"), None]),
            (
                "postgres://h/?application_name=x&sslrootcert=%2Fa%20b&sslmode=require&options=-c",
                "postgres://h/?application_name=x&options=-c",
                [Some("require"), Some("/a b")],
            ),
            ("host=h  sslmode = disable user=u", "host=h user=u", [Some("disable"), None]),
            (
                r"host='a\'b c' sslrootcert='/x y' port=1 sslmode=verify-ca",
                r"host='a\'b c' port=1 ",
                [Some("verify-ca"), Some("/x y")],
            ),
            ("nonsense", "nonsense", [None, None]),
        ];
        for (text, kept, [mode, root_cert]) in cases {
            let parts = split(text);
            assert_eq!(parts.text.trim(), kept.trim(), "{text}");
            assert_eq!([parts.tls.mode.as_deref(), parts.tls.root_cert.as_deref()], [mode, root_cert], "{text}");
        }
    }
}
