//! Recovery's connections between its rounds: the same ones as long as they are to the right place, and in nobody's way.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pgsluice::audit::Audit;
use pgsluice::commit::{Primaries, Recovery, Round, Settings, Why, sql};
use pgsluice::config::Config;
use pgsluice::demo::{Cluster, ClusterOptions, Server, StopMode};
use pgsluice::monitor::Monitor;
use pgsluice::topology::SharedTopology;
use tokio_postgres::NoTls;

use crate::stand::Shards;
use crate::support::DEADLINE;

/// Each round looks for everything.
const THOROUGH: Settings = Settings {
    interval: Duration::from_secs(3600),
    grace: Duration::ZERO,
    forget_interval: Duration::ZERO,
    retention: Duration::ZERO,
};

/// A loaded machine must not pass for a server that is lost.
fn config(clusters: &[&Cluster], password: Option<&str>) -> Config {
    let mut text =
        "[auth]\nmethod = \"trust\"\n[lag]\npoll_timeout = \"60s\"\n[[databases]]\nname = \"app\"\n".to_owned();
    for (cluster, name) in clusters.iter().zip(["a", "b", "c"]) {
        let monitor = &cluster.options().monitor;
        let nodes: Vec<String> = cluster.servers().iter().map(Server::address).collect();
        let password = password.unwrap_or(&monitor.password);
        text += &format!(
            "[[shards]]\nname = {name:?}\nnodes = {nodes:?}\nuser = {:?}\npassword = {password:?}\n",
            monitor.user
        );
    }
    Config::parse(&text, Path::new(""), "test").unwrap()
}

/// Process, and database, of each connection of recovery's.
async fn sessions(server: &Server) -> Vec<String> {
    let rows = server
        .sql(
            "SELECT pid || ' ' || datname FROM pg_stat_activity WHERE application_name = 'pgsluice_monitor' \
             AND (query LIKE '%pg_prepared_xacts%' OR query LIKE '%pgsluice.decision%') ORDER BY pid",
        )
        .await
        .unwrap();
    rows.into_iter().flatten().flatten().collect()
}

async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(met) = condition().await {
            return met;
        }
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rounds until one leaves nothing.
async fn whole_round(recovery: &mut Recovery<Primaries>) -> Round {
    until("a round that reaches all shards", async || {
        let round = recovery.round().await;
        round.left.is_empty().then_some(round)
    })
    .await
}

#[tokio::test]
async fn rounds_do_not_log_in_anew() {
    let shards = Shards::start().await;
    let clusters: Vec<&Cluster> = shards.clusters.iter().collect();
    let config_now = Arc::new(ArcSwap::from_pointee(config(&clusters, None)));
    let topology = SharedTopology::default();
    let monitor = Monitor::spawn(Arc::clone(&config_now), Arc::clone(&topology), Audit::off());
    let reach = Primaries::new(Arc::clone(&config_now), topology);
    let mut recovery = Recovery::new(reach.clone(), Arc::default(), THOROUGH);
    let all = async || {
        let mut all = Vec::new();
        for shard in 0..3 {
            all.push(sessions(shards.server(shard)).await);
        }
        all
    };
    for _ in 0..3 {
        whole_round(&mut recovery).await;
    }
    let before = all().await;
    assert!(before.iter().all(|kept| kept.iter().any(|one| one.ends_with(" app"))), "{before:?}");
    for _ in 0..20 {
        assert_eq!(recovery.round().await.left, []);
    }
    assert_eq!(all().await, before);
    // A server that was started anew, and the others.
    shards.server(1).kill().await.unwrap();
    shards.server(1).start().await.unwrap();
    for _ in 0..3 {
        whole_round(&mut recovery).await;
    }
    let after = all().await;
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    assert!(!after[1].is_empty() && after[1].iter().all(|one| !before[1].contains(one)), "{before:?} {after:?}");
    // With another password than they were made with they are of no use, wrong as it is.
    config_now.store(Arc::new(config(&clusters, Some("wrong"))));
    let round = recovery.round().await;
    assert!(
        round.left.len() == 3 && round.left.iter().all(|left| matches!(left.why, Why::Unreachable(_))),
        "{round:?}"
    );
    config_now.store(Arc::new(config(&clusters, None)));
    whole_round(&mut recovery).await;
    // Whoever wants the database for himself gets it, and keeps it for some rounds.
    let is_left = async || {
        let kept = all().await.into_iter().flatten().filter(|one| one.ends_with(" app")).count();
        (kept == 0).then_some(())
    };
    assert!(is_left().await.is_none());
    reach.vacate("app");
    until("the database is left", is_left).await;
    for _ in 0..3 {
        whole_round(&mut recovery).await;
    }
    until("the database stays left", is_left).await;
    shards.server(0).sql("ALTER DATABASE app RENAME TO other").await.unwrap();
    monitor.shutdown().await;
    shards.stop().await;
}

#[tokio::test]
async fn recovery_goes_with_the_primary() {
    let cluster = Cluster::start(ClusterOptions::with_replicas(1)).await.unwrap();
    let (old, new) = (cluster.primary(), &cluster.replicas()[0]);
    let options = cluster.options();
    let (app, account, database) = (&options.app, &options.monitor.user, options.database.as_str());
    for text in [sql::INSTALL, &sql::grant_recovery(account), &format!("GRANT {} TO {account}", app.user)] {
        old.sql_in(database, text).await.unwrap();
    }
    let (client, connection) = tokio_postgres::connect(&old.conninfo(&app.user, database), NoTls).await.unwrap();
    tokio::spawn(connection);
    let gid = "pgsluice:1:0123456789abcdef0123456789abcdef:a:1";
    client.batch_execute(&format!("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION '{gid}'")).await.unwrap();

    let config = Arc::new(ArcSwap::from_pointee(config(&[&cluster], None)));
    let topology = SharedTopology::default();
    let monitor = Monitor::spawn(Arc::clone(&config), Arc::clone(&topology), Audit::off());
    let reach = Primaries::new(config, topology);
    let patient = Settings { grace: Duration::from_secs(3600), ..THOROUGH };
    let mut recovery = Recovery::new(reach.clone(), Arc::default(), patient);
    assert_eq!(whole_round(&mut recovery).await.waiting, 1);
    assert!(!sessions(old).await.is_empty());
    cluster.wait_replicated().await.unwrap();
    old.stop(StopMode::Immediate).await.unwrap();
    new.sql("SELECT pg_promote()").await.unwrap();
    let mut recovery = Recovery::new(reach, Arc::default(), THOROUGH);
    until("it is settled on the new primary", async || (recovery.round().await.rolled_back == 1).then_some(())).await;
    let prepared = "SELECT gid FROM pg_prepared_xacts";
    assert!(new.sql(prepared).await.unwrap().is_empty());
    // The old one comes back, as the primary that it was: it is nobody's.
    old.start().await.unwrap();
    for _ in 0..3 {
        whole_round(&mut recovery).await;
    }
    assert_eq!(sessions(old).await, Vec::<String>::new());
    assert_eq!(old.sql(prepared).await.unwrap().len(), 1);
    monitor.shutdown().await;
    cluster.shutdown().await.unwrap();
}
