//! What is allowed, and yet probably not meant. A warning never stops anything.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::rules::Rule;
use super::schema::{AuthMethod, Config, TlsMode};

/// Something in a valid config that deserves a second look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Which key.
    pub key: String,
    /// What about it, and what to do.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Config {
    /// All warnings. Looks at the key files' permissions, and at nothing else outside.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |key: &str, message: String| warnings.push(Warning { key: key.to_owned(), message });
        let listen = &self.listen;
        if listen.tls == TlsMode::Off && !listen.address.ip().to_canonical().is_loopback() {
            let message = "is \"off\" on an address that other machines can reach: queries and rows travel unencrypted";
            warn("listen.tls", message.to_owned());
        }
        if listen.tls != TlsMode::Off
            && let Some(key) = listen.key.as_deref().filter(|key| is_open(key))
        {
            warn("listen.key", open_key(key));
        }
        if self.auth.method == AuthMethod::Trust {
            warn("auth.method", "is \"trust\": whoever reaches this machine's loopback address gets in".to_owned());
        }
        let trusts = |rule: &Rule| rule.method == AuthMethod::Trust;
        if let Some(index) = self.auth.rules.iter().position(trusts) {
            let message = "is \"trust\": whoever reaches this machine's loopback address gets in".to_owned();
            warn(&format!("auth.rules[{index}].method"), message);
        }
        for (index, shard) in self.shards.iter().enumerate() {
            if let Some(key) = shard.sslkey.as_deref().filter(|key| shard.sslmode.reads_files() && is_open(key)) {
                warn(&format!("shards[{index}].sslkey"), open_key(key));
            }
        }
        if self.lag.eject_above < self.lag.poll_interval {
            let (above, interval) = (self.lag.eject_above, self.lag.poll_interval);
            let message = format!(
                "is {}, less than lag.poll_interval ({}): lag is not measured that finely, and replicas will be \
                 ejected without need",
                humantime::format_duration(above),
                humantime::format_duration(interval)
            );
            warn("lag.eject_above", message);
        }
        warnings
    }
}

/// Whether others than its owner and group may read a key.
fn is_open(key: &Path) -> bool {
    std::fs::metadata(key).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
}

fn open_key(key: &Path) -> String {
    format!("every user of this machine may open {0}; chmod 600 {0}", key.display())
}
