//! Recovery as a running pgsluice has it: by the config, and on the primaries that the monitor has found.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pgsluice::audit::Audit;
use pgsluice::commit::{ConnectError, Coordinators, Outcome, Primaries, Reach, Recovery, Settings};
use pgsluice::config::Config;
use pgsluice::monitor::Monitor;
use pgsluice::topology::SharedTopology;

use crate::stand::{Moment, Script, Shards, Strike, transfer};
use crate::support::DEADLINE;

fn config(shards: &Shards) -> Config {
    let mut text = "[auth]\nmethod = \"trust\"\n[[databases]]\nname = \"app\"\n".to_owned();
    for (cluster, name) in shards.clusters.iter().zip(&shards.names) {
        let (node, monitor) = (cluster.primary().address(), &cluster.options().monitor);
        text += &format!(
            "[[shards]]\nname = {:?}\nnodes = [{node:?}]\nuser = {:?}\npassword = {:?}\n",
            name.as_str(),
            monitor.user,
            monitor.password
        );
    }
    Config::parse(&text, std::path::Path::new(""), "test").unwrap()
}

#[tokio::test]
async fn recovery_goes_where_the_monitor_says() {
    let shards = Shards::start().await;
    let config = Arc::new(ArcSwap::from_pointee(config(&shards)));
    let topology = SharedTopology::default();
    let reach = Primaries::new(Arc::clone(&config), Arc::clone(&topology));
    assert_eq!((reach.shards(), reach.databases()), (shards.names.clone(), vec!["app".to_owned()]));
    let nowhere = reach.connect(&"nowhere".parse().unwrap(), None).await;
    assert!(matches!(nowhere, Err(ConnectError::NoSuchShard)));
    assert!(matches!(reach.connect(&shards.names[0], None).await, Err(ConnectError::NoPrimary)));

    // Nobody knows a primary yet: recovery begins with nothing, and goes on.
    let coordinators = Arc::new(Coordinators::default());
    let settings = Settings { interval: Duration::from_millis(100), grace: Duration::ZERO, ..Settings::default() };
    let (rounds, mut seen) = tokio::sync::watch::channel((0, 0));
    let recovery = Recovery::new(reach, Arc::clone(&coordinators), settings);
    let recovery = tokio::spawn(recovery.run(move |round| {
        rounds.send_modify(|(committed, rolled_back)| {
            *committed += round.committed;
            *rolled_back += round.rolled_back;
        });
    }));
    let monitor = Monitor::spawn(config, topology, Audit::off());
    let after_decision = Script::new(2, Moment::Answered, Strike::Coordinator);
    assert!(transfer(&shards, &Coordinators::default(), &after_decision, 1).await.is_none());
    let settled = tokio::time::timeout(DEADLINE, seen.wait_for(|seen| *seen == (2, 0))).await;
    settled.expect("in time").expect("it works");
    let lost = Script::new(0, Moment::Answered, Strike::Connection);
    let outcome = transfer(&shards, &coordinators, &lost, 2).await;
    let Some(Outcome::RolledBack { id, .. }) = outcome else { panic!("{outcome:?}") };
    tokio::time::timeout(DEADLINE, coordinators.settled(id)).await.expect("in time");
    assert_eq!(shards.prepared().await, Vec::<String>::new());
    assert_eq!(shards.check().await.into_iter().collect::<Vec<_>>(), [1]);
    recovery.abort();
    monitor.shutdown().await;
    shards.stop().await;
}
