//! What a client was told of the server's settings, and what that means for reading its texts.

use std::borrow::Cow;
use std::sync::Arc;

use crate::pool::{Reported, note_parameter};
use crate::shard::Charset;
use crate::wire::backend;

/// Settings that a server reports of itself, and not of the session: each node has its own value,
/// so a client is told the first and no other.
const OF_ONE_SERVER: &[&str] = &["in_hot_standby", "server_version", "is_superuser"];

/// In these an ASCII byte can be the second half of a character.
const UNSAFE_ENCODINGS: [&[u8]; 7] = [b"BIG5", b"GBK", b"GB18030", b"JOHAB", b"SJIS", b"SHIFT_JIS_2004", b"UHC"];

/// See the module.
#[derive(Debug)]
pub(super) struct Told {
    /// Mostly the same for all clients of a kind.
    values: Arc<Reported>,
    is_safe_encoding: bool,
    is_standard: bool,
    charset: Charset,
}

impl Default for Told {
    fn default() -> Self {
        Self::from(Arc::new(Reported::new()))
    }
}

impl From<Arc<Reported>> for Told {
    fn from(values: Arc<Reported>) -> Self {
        let mut told = Self { values, is_safe_encoding: true, is_standard: true, charset: Charset::of("", "") };
        told.understand();
        told
    }
}

impl Told {
    /// All of it.
    pub(super) fn values(&self) -> &Arc<Reported> {
        &self.values
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(|value| &**value)
    }

    /// Takes note of a server's `ParameterStatus`, by its body; whether the client is to hear of it.
    pub(super) fn note(&mut self, body: &[u8]) -> bool {
        let Some((name, value)) = backend::parameter_status(body) else { return false };
        let is_old = |known: &[u8]| known == value || OF_ONE_SERVER.contains(&name);
        if self.get(name).is_some_and(is_old) {
            return false;
        }
        note_parameter(Arc::make_mut(&mut self.values), body);
        self.understand();
        true
    }

    /// Whether a text means what the analysis takes it to mean, under this client's encoding and settings.
    pub(super) fn can_read(&self, text: &[u8]) -> bool {
        self.is_safe_encoding && (self.is_standard || !text.contains(&b'\\'))
    }

    /// Whether texts can be read whatever is in them.
    pub(super) fn can_read_all(&self) -> bool {
        self.is_safe_encoding && self.is_standard
    }

    /// How its texts are encoded.
    pub(super) fn charset(&self) -> Charset {
        self.charset
    }

    fn understand(&mut self) {
        let reported = |name: &str| self.get(name).map_or(Cow::Borrowed(""), String::from_utf8_lossy);
        self.charset = Charset::of(&reported("client_encoding"), &reported("server_encoding"));
        let encoding = self.get("client_encoding");
        self.is_safe_encoding = encoding.is_none_or(|name| !UNSAFE_ENCODINGS.contains(&name));
        self.is_standard = self.get("standard_conforming_strings") != Some(b"off");
    }
}
