//! `pgbench`, of the servers' own version where it comes with them.

use std::process::Stdio;

use pgsluice::demo::Binaries;
use tokio::process::{Child, Command};

/// Its three ways to send a statement.
pub const MODES: [&str; 3] = ["simple", "extended", "prepared"];

/// Starts it with these arguments.
pub fn start(url: &str, arguments: &[&str]) -> Child {
    let program = Binaries::find().expect("the servers' binaries").client("pgbench").expect("pgbench");
    Command::new(program)
        .args(arguments)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("pgbench starts")
}

/// Waits for its end. It must have met no error and failed no transaction; the number of its transactions.
pub async fn finish(child: Child) -> u64 {
    let output = tokio::time::timeout(2 * super::DEADLINE, child.wait_with_output());
    let output = output.await.expect("pgbench ends").expect("its output");
    let (report, messages) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{report}\n{messages}", output.status);
    assert!(!messages.to_lowercase().contains("error"), "{messages}");
    // Versions before 15 do not have this line.
    assert_eq!(number(&report, "number of failed transactions: ").unwrap_or(0), 0, "{report}");
    number(&report, "number of transactions actually processed: ").unwrap_or(0)
}

/// From start to end.
pub async fn run(url: &str, arguments: &[&str]) -> u64 {
    finish(start(url, arguments)).await
}

fn number(report: &str, label: &str) -> Option<u64> {
    let rest = report.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
