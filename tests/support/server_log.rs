//! What a server was asked, and when, by its own log.
//!
//! The servers run on this machine, so their clock is the test's clock.

use std::time::{Duration, SystemTime};

use pgsluice::demo::{ClusterOptions, Server};

/// Servers that log each statement when it begins, behind the time and the database.
pub fn logging(options: ClusterOptions) -> ClusterOptions {
    options.setting("log_statement", "all").setting("log_line_prefix", "%n|%d|")
}

/// When statements with this text in them began on the application's database, as time since the epoch.
pub fn statements(server: &Server, text: &str) -> Vec<Duration> {
    let log = std::fs::read(server.log_file()).expect("the server's log is read");
    String::from_utf8_lossy(&log).lines().filter_map(|line| began(line, text)).collect()
}

fn began(line: &str, text: &str) -> Option<Duration> {
    let (time, rest) = line.split_once('|')?;
    let (database, message) = rest.split_once('|')?;
    let is_statement = message.starts_with("LOG:  statement: ") || message.starts_with("LOG:  execute ");
    (database == "app" && is_statement && message.contains(text))
        .then(|| Duration::from_secs_f64(time.parse().expect("a time in front of the line")))
}

/// How many there were.
pub fn count(server: &Server, text: &str) -> usize {
    statements(server, text).len()
}

/// Now, as in the log.
pub fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970")
}

/// Waits until the server has been asked this since `since`.
pub async fn wait_asked(server: &Server, text: &str, since: Duration) {
    let start = std::time::Instant::now();
    while !statements(server, text).iter().any(|at| *at > since) {
        assert!(start.elapsed() < super::DEADLINE, "{} is not asked {text:?}", server.name());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
