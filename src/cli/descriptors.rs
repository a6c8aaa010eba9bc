//! Open files: how many this process may have, and whether they are enough for what the config promises.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// Listeners, logs, the monitor's connections, and what the runtime and libraries need.
const OTHERS: u64 = 128;

/// Raises the limit as far as this process may by itself.
///
/// The soft limit is mostly 1024 still, for the sake of programs that use `select`; who does not is meant to raise it:
/// <https://0pointer.net/blog/file-descriptor-limits.html>
pub(super) fn raise_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Warns where the config allows more than the limit.
pub(super) fn check(config: &Config) {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).ok();
    if let Some(warning) = limit.and_then(|(soft, _)| shortage(config, soft)) {
        tracing::warn!("{warning}");
    }
}

/// In words, why `limit` is not enough. How many users and databases there will be is not known: one of each counts.
fn shortage(config: &Config, limit: u64) -> Option<String> {
    let (clients, logins, size) = (config.listen.max_clients, config.listen.max_logins, config.pool.size);
    let nodes: usize = config.shards.iter().map(|shard| shard.nodes.len()).sum();
    let needed = u64::try_from(clients + logins + size * nodes).unwrap_or(u64::MAX).saturating_add(OTHERS);
    (needed > limit).then(|| {
        format!(
            "this process may have {limit} open files, and needs {needed} for listen.max_clients ({clients}), \
             listen.max_logins ({logins}), {nodes} nodes with pool.size ({size}) for one user of one database, and \
             {OTHERS} others: raise the hard limit (LimitNOFILE= of systemd, ulimit -Hn), or lower those keys"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_the_config_promises_is_reckoned_up() {
        let text = "[listen]\nmax_clients = 1000\nmax_logins = 500\n[pool]\nsize = 20\n[[shards]]\nname = \"a\"\n\
                    nodes = [\"10.0.0.1:5432\", \"10.0.0.2:5432\"]\nuser = \"u\"\npassword = \"p\"\n\
                    [[auth.users]]\nname = \"u\"\npassword = \"p\"\n";
        let config = Config::parse(text, Path::new("/"), "test.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let needed = 1000 + 500 + 2 * 20 + OTHERS;
        assert_eq!(shortage(&config, needed), None);
        let told = shortage(&config, needed - 1).expect("a warning");
        for figure in ["have 1667 open files", "needs 1668", "max_clients (1000)", "2 nodes with pool.size (20)"] {
            assert!(told.contains(figure), "{told}");
        }
    }
}
