//! The monitor against a real primary with streaming replicas.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pgsluice::audit::Audit;
use pgsluice::config::{self, Config};
use pgsluice::demo::{Cluster, ClusterOptions, Server, StopMode};
use pgsluice::monitor::{Monitor, MonitorHandle};
use pgsluice::telemetry;
use pgsluice::topology::{Admission, EjectReason, Node, Role, SharedTopology};

const DEADLINE: Duration = Duration::from_secs(60);

struct Watched {
    cluster: Cluster,
    config: Arc<ArcSwap<Config>>,
    topology: SharedTopology,
    monitor: MonitorHandle,
}

impl Watched {
    async fn start(options: ClusterOptions) -> Self {
        let metrics = telemetry::metrics::install().unwrap();
        let cluster = Cluster::start(options).await.unwrap();
        let config = Arc::new(ArcSwap::from_pointee(config_for(&cluster, cluster.servers())));
        let topology = SharedTopology::default();
        let monitor = Monitor::spawn(Arc::clone(&config), Arc::clone(&topology), Audit::off());
        let this = Self { cluster, config, topology, monitor };
        drop(metrics);
        this.until("roles and fresh replicas", |this| {
            this.role(this.cluster.primary()) == Role::Primary
                && this.cluster.replicas().iter().all(|replica| this.is_admitted(replica))
        })
        .await;
        this
    }

    fn node(&self, server: &Server) -> Arc<Node> {
        let topology = self.topology.load();
        let member = topology.shards[0].nodes.iter().find(|member| *member.node.name == *server.address());
        Arc::clone(&member.unwrap().node)
    }

    fn role(&self, server: &Server) -> Role {
        let topology = self.topology.load();
        topology.shards[0].nodes.iter().find(|member| *member.node.name == *server.address()).unwrap().role
    }

    fn is_admitted(&self, server: &Server) -> bool {
        self.role(server) == Role::Replica && self.node(server).admission() == Admission::Admitted
    }

    fn is_out(&self, server: &Server, reason: EjectReason) -> bool {
        self.node(server).admission() == Admission::Ejected(reason)
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut rounds = self.monitor.rounds(0).unwrap();
        let end = Instant::now() + DEADLINE;
        while !condition(self) {
            assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}\n{:#?}", self.topology.load());
            let _ = tokio::time::timeout(Duration::from_secs(1), rounds.changed()).await;
        }
    }

    async fn stop(self) {
        self.monitor.shutdown().await;
        self.cluster.shutdown().await.unwrap();
    }
}

fn config_for(cluster: &Cluster, servers: &[Server]) -> Config {
    let monitor = &cluster.options().monitor;
    let nodes: Vec<String> = servers.iter().map(|server| format!("{:?}", server.address())).collect();
    let text = format!(
        r#"
        [auth]
        method = "trust"
        [lag]
        eject_above = "300ms"
        readmit_below = "150ms"
        readmit_after = "500ms"
        [[shards]]
        name = "a"
        nodes = [{}]
        user = {:?}
        password = {:?}
        "#,
        nodes.join(", "),
        monitor.user,
        monitor.password
    );
    Config::parse(&text, std::path::Path::new(""), "test").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_leaves_and_returns() {
    let watched = Watched::start(ClusterOptions::with_replicas(2)).await;
    let (primary, paused, other) =
        (watched.cluster.primary(), &watched.cluster.replicas()[0], &watched.cluster.replicas()[1]);
    let node = watched.node(paused);
    let life = node.incarnation();

    paused.pause_replay().await.unwrap();
    // A pause alone is no lag: there is nothing to replay. A write is.
    primary.sql("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    watched.until("the paused replica is out for lag", |w| w.is_out(paused, EjectReason::Lag)).await;
    assert!(node.lag().unwrap() > Duration::from_millis(300), "{:?}", node.lag());
    assert!(node.lag_bytes().unwrap() > 0);
    watched.until("lag grows while nothing is written", |_| node.lag() > Some(Duration::from_millis(900))).await;
    assert!(watched.is_admitted(other), "{:?}", watched.node(other).admission());

    paused.resume_replay().await.unwrap();
    watched
        .until("the probation's reads wait to be taken", |_| node.admission() != Admission::Ejected(EjectReason::Lag))
        .await;
    watched.until("it is back", |w| w.is_admitted(paused)).await;
    assert!(node.lag() <= Some(Duration::from_millis(300)));
    assert_eq!(node.incarnation(), life, "it was the same life all the time");

    let text = telemetry::metrics::install().unwrap().render();
    let labels = format!(r#"{{shard="a",node="{}""#, paused.address());
    let line = |name: &str, more: &str| format!("{name}{labels}{more}");
    assert!(text.contains(&line("pgsluice_replica_ejections_total", r#",reason="lag"} 1"#)), "{text}");
    assert!(text.contains(&line("pgsluice_node_up", r#",role="replica"} 1"#)), "{text}");
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_is_unknown_and_comes_back_in_another_life() {
    let watched = Watched::start(ClusterOptions::with_replicas(1)).await;
    let replica = &watched.cluster.replicas()[0];
    let node = watched.node(replica);
    let life = node.incarnation();
    assert!(node.sample().is_some());

    replica.kill().await.unwrap();
    watched.until("lag is unknown", |w| w.is_out(replica, EjectReason::LagUnknown)).await;
    assert_eq!((node.lag(), node.lag_bytes(), node.sample()), (None, None, None));
    assert!(!node.is_reachable());
    assert_eq!(node.incarnation(), life + 1, "once per loss");
    assert_eq!(watched.role(replica), Role::Replica, "it keeps its part");
    watched.until("it stays lost", |_| node.incarnation() == life + 1).await;

    replica.start().await.unwrap();
    watched.until("it is back", |w| w.is_admitted(replica)).await;
    assert!(node.is_reachable());
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_primary_lag_is_unknown() {
    let watched = Watched::start(ClusterOptions::with_replicas(1)).await;
    let (primary, replica) = (watched.cluster.primary(), &watched.cluster.replicas()[0]);
    primary.stop(StopMode::Immediate).await.unwrap();
    watched.until("replica out", |w| w.is_out(replica, EjectReason::LagUnknown)).await;
    let node = watched.node(replica);
    assert!(node.is_reachable() && node.sample().is_some(), "its own position is still known");
    assert_eq!(watched.role(primary), Role::Primary, "an unreachable primary stays the primary");
    assert!(pgsluice::admin::http::ready(&watched.topology.load()).is_err());
    primary.start().await.unwrap();
    watched.until("all is well", |w| w.is_admitted(replica)).await;
    assert!(pgsluice::admin::http::ready(&watched.topology.load()).is_ok());
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_replica_is_noticed() {
    let watched = Watched::start(ClusterOptions::with_replicas(1)).await;
    let replica = &watched.cluster.replicas()[0];
    let life = watched.node(replica).incarnation();
    replica.signal_all(nix::sys::signal::Signal::SIGSTOP).unwrap();
    watched.until("lag is unknown", |w| w.is_out(replica, EjectReason::LagUnknown)).await;
    assert_eq!(watched.node(replica).incarnation(), life + 1);
    replica.signal_all(nix::sys::signal::Signal::SIGCONT).unwrap();
    watched.until("it is back", |w| w.is_admitted(replica)).await;
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_reach_an_idle_primary_wherever_its_wal_ends() {
    let watched = Watched::start(ClusterOptions::with_replicas(1)).await;
    let (primary, replica) = (watched.cluster.primary(), &watched.cluster.replicas()[0]);
    let (primary_node, replica_node) = (watched.node(primary), watched.node(replica));
    primary.sql("CREATE TABLE t (a int)").await.unwrap();
    for round in 0..5 {
        primary.sql(&format!("INSERT INTO t VALUES ({round})")).await.unwrap();
        primary.sql("SELECT pg_switch_wal()").await.unwrap();
        let after = Instant::now();
        watched.monitor.kick(0);
        watched
            .until("the replica reaches what the primary said after the switch", |_| {
                let sample = primary_node.sample().filter(|sample| sample.asked_at > after);
                sample.is_some_and(|sample| replica_node.has_replayed(sample.position))
            })
            .await;
    }
    watched.stop().await;
}

/// WAL that an open transaction has inserted and nobody has flushed is not a replica's lag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_makes_no_lag() {
    let watched = Watched::start(ClusterOptions::with_replicas(1)).await;
    let (primary, replica) = (watched.cluster.primary(), &watched.cluster.replicas()[0]);
    primary.sql("CREATE TABLE t (a int, b text)").await.unwrap();
    let superuser = &watched.cluster.options().superuser;
    let (client, connection) = tokio_postgres::Config::new()
        .host(primary.host())
        .port(primary.port())
        .user(&superuser.user)
        .password(&superuser.password)
        .dbname("postgres")
        .connect(tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
        .batch_execute("BEGIN; INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 40) g")
        .await
        .unwrap();
    watched.until("it is fresh", |w| w.is_admitted(replica)).await;
    let mut rounds = watched.monitor.rounds(0).unwrap();
    for _ in 0..100 {
        rounds.changed().await.unwrap();
        assert!(
            watched.is_admitted(replica),
            "{:?} {:?}",
            watched.node(replica).admission(),
            watched.node(replica).lag()
        );
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_follow_a_promotion_and_timelines_part() {
    let watched = Watched::start(ClusterOptions::with_replicas(2)).await;
    let (old, promoted, left) =
        (watched.cluster.primary(), &watched.cluster.replicas()[0], &watched.cluster.replicas()[1]);
    // What the old primary writes after the switch, if only of itself, nobody who is to follow the new one may have.
    left.sql("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    left.sql("SELECT pg_reload_conf()").await.unwrap();
    let start = Instant::now();
    while !left.sql("SELECT 1 FROM pg_stat_wal_receiver").await.unwrap().is_empty() {
        assert!(start.elapsed() < DEADLINE, "its receiver goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let life = watched.node(promoted).incarnation();
    promoted.sql("SELECT pg_promote(true, 60)").await.unwrap();
    watched.until("the promoted one is the primary", |w| w.role(promoted) == Role::Primary).await;
    assert!(watched.node(promoted).incarnation() > life, "another part is another life");
    watched.until("the old one is not", |w| w.role(old) == Role::Unknown).await;
    watched.until("who follows the old one is out", |w| w.is_out(left, EjectReason::Timeline)).await;
    watched
        .until("its position is on the new timeline", |w| {
            w.node(promoted).sample().is_some_and(|sample| sample.position.timeline == 2)
        })
        .await;
    // Pointed at the new primary it follows, and returns.
    let conninfo = promoted.conninfo(&watched.cluster.options().superuser.user, "postgres").replace('\'', "''");
    left.sql(&format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await.unwrap();
    // Its slot is on the old primary.
    left.sql("ALTER SYSTEM SET primary_slot_name = ''").await.unwrap();
    left.sql("SELECT pg_reload_conf()").await.unwrap();
    watched.until("it follows", |w| w.is_admitted(left)).await;
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_adds_and_removes_nodes_and_keeps_the_others() {
    let watched = Watched::start(ClusterOptions::with_replicas(2)).await;
    let servers = watched.cluster.servers();
    let (kept, gone) = (watched.node(&servers[1]), watched.node(&servers[2]));

    let mut fewer = config_for(&watched.cluster, &servers[..2]);
    fewer.shards[0].nodes[1].weight = 7;
    watched.config.store(Arc::new(fewer));
    watched.monitor.reload().await;
    assert_eq!(watched.topology.load().shards[0].nodes.len(), 2);
    assert!(Arc::ptr_eq(&kept, &watched.node(&servers[1])));
    assert_eq!(kept.weight(), 7);
    assert_eq!(kept.admission(), Admission::Admitted, "it is not disturbed");
    assert_eq!(gone.admission(), Admission::Ejected(EjectReason::NotAMember));

    watched.config.store(Arc::new(config_for(&watched.cluster, servers)));
    watched.monitor.reload().await;
    watched.until("the node is back", |w| w.is_admitted(&servers[2])).await;
    assert!(!Arc::ptr_eq(&gone, &watched.node(&servers[2])));

    let mut locked_out = config_for(&watched.cluster, servers);
    locked_out.shards[0].password = Some(config::Secret::new("wrong"));
    watched.config.store(Arc::new(locked_out));
    watched.monitor.reload().await;
    watched.until("the new password is used", |w| !w.node(&servers[0]).is_reachable()).await;
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogs_are_loaded_and_follow_changes() {
    let watched = Watched::start(ClusterOptions::with_replicas(1)).await;
    let primary = watched.cluster.primary();
    let catalogs = Arc::clone(watched.monitor.catalogs());
    let functions = || catalogs.get("postgres").as_deref().map(|catalog| catalog.len().0);
    watched.until("the catalog is there", |_| functions().is_some()).await;
    let before = functions().unwrap();
    assert!(before > 1000, "{before} functions");

    primary.sql("CREATE FUNCTION of_mine() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'").await.unwrap();
    watched.monitor.catalog_changed("postgres");
    watched.until("told of a change, it is read anew", |_| functions() == Some(before + 1)).await;
    primary.sql("DROP FUNCTION of_mine()").await.unwrap();
    watched.until("a change that nobody told of is found", |_| functions() == Some(before)).await;

    assert!(catalogs.get("no_such_database").is_none());
    watched.stop().await;
}
