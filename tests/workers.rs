//! `listen.workers`: clients of several threads share the server connections of one pool.

mod support;

use futures_util::future::join_all;
use pgsluice::demo::{Cluster, ClusterOptions, proxy_config};
use support::certificates::Authority;
use support::{ProxyProcess, Stand, connect};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Of the pool: all of it has to go from thread to thread.
const ONE: &str = "[pool]\nsize = 1\n[consistency]\nlevel = \"primary\"\n";

const THREADS: usize = 3;

async fn clients(url: &str) -> Vec<Client> {
    join_all((0..2 * THREADS).map(|_| connect(url))).await
}

async fn value(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.expect("a row").to_owned()
}

/// How many of a process's threads serve clients.
fn workers(pid: i32) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    threads.flatten().map(name).filter(|name| name.starts_with("worker-")).count()
}

async fn shares_one_connection(url: &str) {
    let clients = clients(url).await;
    let first = value(&clients[0], "SELECT pg_backend_pid()").await;
    for _ in 0..20 {
        for client in &clients {
            assert_eq!(value(client, "SELECT pg_backend_pid()").await, first);
        }
    }
    // All at once: they wait for each other, over all threads.
    let rounds = clients.iter().map(async |client| {
        for number in 0..100 {
            assert_eq!(
                value(client, &format!("SELECT {number} + length(repeat('x', 20000))")).await,
                (20_000 + number).to_string()
            );
        }
    });
    join_all(rounds).await;
    assert_eq!(value(&clients[THREADS], "SELECT pg_backend_pid()").await, first);
}

#[tokio::test]
async fn a_connection_goes_from_thread_to_thread() {
    let stand = Stand::start_listening(0, &format!("workers = {THREADS}\n"), ONE).await;
    assert_eq!(workers(stand.proxy.pid()), THREADS);
    shares_one_connection(&stand.url()).await;
    stand.stop().await;
}

#[tokio::test]
async fn a_connection_with_tls_goes_from_thread_to_thread() {
    let authority = Authority::new("servers");
    let certificate = Some(authority.sign("server", &["127.0.0.1"]).for_servers(None));
    let cluster =
        Cluster::start(ClusterOptions { certificate, ..ClusterOptions::with_replicas(0) }).await.expect("the cluster");
    let config = proxy_config(&cluster, &format!("sslmode = \"require\"\n{ONE}")).replacen(
        "[listen]\n",
        &format!("[listen]\nworkers = {THREADS}\n"),
        1,
    );
    let proxy = ProxyProcess::start_with_config(&config).await;
    proxy.wait_for_metric("pgsluice_node_up", &["role=\"primary\""], |value| value == 1.0).await;
    let options = cluster.options();
    let url =
        format!("postgresql://{}:{}@{}/{}", options.app.user, options.app.password, proxy.address, options.database);
    let client = connect(&url).await;
    assert_eq!(value(&client, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await, "t");
    drop(client);
    shares_one_connection(&url).await;
    proxy.stop().await;
    cluster.shutdown().await.expect("the cluster stops");
}

/// What a server has said while nobody listened is heard by whichever thread uses the connection next: a write is
/// not lost on one that is closed.
#[tokio::test]
async fn a_connection_that_was_closed_is_not_used_by_another_thread() {
    let stand = Stand::start_listening(0, &format!("workers = {THREADS}\n"), ONE).await;
    let clients = clients(&stand.url()).await;
    clients[0].batch_execute("CREATE TABLE written (number int)").await.expect("made");
    for (number, client) in clients.iter().cycle().take(5 * clients.len()).enumerate() {
        let closed = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
                      WHERE usename = 'app' AND backend_type = 'client backend'";
        stand.cluster.primary().sql(closed).await.expect("closed");
        client.batch_execute(&format!("INSERT INTO written VALUES ({number})")).await.expect("written");
    }
    let count = value(&clients[0], "SELECT count(DISTINCT number) FROM written").await;
    assert_eq!(count, (5 * clients.len()).to_string());
    stand.stop().await;
}
