//! Real drivers get from pgsluice what they get from PostgreSQL: see `tests/drivers/run.py`.

mod support;

use std::path::Path;

use pgsluice::demo::ClusterOptions;
use support::Stand;
use tokio::process::Command;

async fn compare(driver: &str) {
    let options = ClusterOptions::with_replicas(2).setting("max_prepared_transactions", "10");
    let superuser = options.superuser.clone();
    let stand = Stand::start_with(options, "").await;
    let direct =
        format!("postgresql://{}:{}@{}/app", superuser.user, superuser.password, stand.cluster.primary().address());
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers/run.py");
    let output = Command::new("python3")
        .arg(run)
        .args(["--direct", &direct, "--proxy", &stand.superuser_url(), "--only", driver])
        .kill_on_drop(true)
        .output()
        .await
        .expect("python3 runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\nthe proxy's log:\n{}", stand.proxy.log_text());
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg() {
    compare("psycopg").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asyncpg() {
    compare("asyncpg").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_postgres() {
    compare("node_postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql() {
    compare("psql").await;
}
