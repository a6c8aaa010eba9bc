//! Starts, reloads and stops the monitor's tasks.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::catalogs::{self, Catalogs};
use super::settings::ShardSettings;
use super::watch::{Lines, Order, ShardWatch};
use crate::audit::Audit;
use crate::config::Config;
use crate::topology::{Shard, SharedTopology, Topology};

/// The monitor, before it runs.
#[derive(Debug)]
pub struct Monitor;

/// To speak to a running monitor. Clones speak to the same one; it stops when the last of them goes.
#[derive(Clone, Debug)]
pub struct MonitorHandle {
    shards: Arc<ArcSwap<Vec<ShardLine>>>,
    catalogs: Arc<Catalogs>,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug, Clone)]
struct ShardLine {
    kicks: watch::Sender<u64>,
    rounds: watch::Receiver<u64>,
}

enum Command {
    Reload(oneshot::Sender<()>),
    Shutdown(oneshot::Sender<()>),
}

struct Supervisor {
    config: Arc<ArcSwap<Config>>,
    topology: SharedTopology,
    audit: Audit,
    catalogs: Arc<Catalogs>,
    lines: Arc<ArcSwap<Vec<ShardLine>>>,
    watches: Vec<(String, mpsc::Sender<Order>, ShardLine)>,
    tasks: JoinSet<()>,
}

impl Monitor {
    /// Starts watching what `config` names. When this returns the topology holds every node, in no role yet.
    /// To be called within a tokio runtime, after the metrics' recorder was installed.
    pub fn spawn(config: Arc<ArcSwap<Config>>, topology: SharedTopology, audit: Audit) -> MonitorHandle {
        let (commands, receiver) = mpsc::channel(8);
        let catalogs = Arc::new(Catalogs::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(catalogs::load_forever(Arc::clone(&catalogs), Arc::clone(&config), Arc::clone(&topology)));
        let mut supervisor = Supervisor {
            config,
            topology,
            audit,
            catalogs: Arc::clone(&catalogs),
            lines: Arc::default(),
            watches: Vec::new(),
            tasks,
        };
        supervisor.adopt_config();
        let shards = Arc::clone(&supervisor.lines);
        tokio::spawn(supervisor.run(receiver));
        MonitorHandle { shards, catalogs, commands }
    }
}

impl MonitorHandle {
    /// Asks for a fresh position of all nodes of a shard (its place in the topology) now, not at the next
    /// interval. Cheap; many at once make one poll.
    pub fn kick(&self, shard: usize) {
        if let Some(line) = self.shards.load().get(shard) {
            line.kicks.send_modify(|kick| *kick = kick.wrapping_add(1));
        }
    }

    /// To wait until positions of a shard's nodes may have changed: raised after each poll of each of its nodes.
    pub fn rounds(&self, shard: usize) -> Option<watch::Receiver<u64>> {
        self.shards.load().get(shard).map(|line| line.rounds.clone())
    }

    /// A statement has changed this database's catalog, or may have.
    pub fn catalog_changed(&self, database: &str) {
        self.catalogs.changed(database);
    }

    /// What is known of the databases' catalogs.
    pub fn catalogs(&self) -> &Arc<Catalogs> {
        &self.catalogs
    }

    /// Takes the config that is now in force. When this returns the topology has its nodes.
    pub async fn reload(&self) {
        self.command(Command::Reload).await;
    }

    /// Stops all of the monitor's tasks. The topology stays as it was last known.
    pub async fn shutdown(&self) {
        self.command(Command::Shutdown).await;
    }

    async fn command(&self, command: fn(oneshot::Sender<()>) -> Command) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(command(done)).await.is_ok() {
            // An error here means that the monitor has ended meanwhile.
            let _ = wait.await;
        }
    }
}

impl Supervisor {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Reload(done) => {
                    self.reload().await;
                    let _ = done.send(());
                }
                Command::Shutdown(done) => {
                    self.tasks.shutdown().await;
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    async fn reload(&mut self) {
        for (orders, settings) in self.adopt_config() {
            let (done, wait) = oneshot::channel();
            if orders.send(Order::Reload(Box::new(settings), done)).await.is_ok() {
                let _ = wait.await;
            }
        }
        self.order_topology();
        self.catalogs.config_changed();
    }

    /// Starts what is new and stops what is gone. Returns who is to be told of its new settings.
    fn adopt_config(&mut self) -> Vec<(mpsc::Sender<Order>, ShardSettings)> {
        let all = ShardSettings::all(&self.config.load());
        let mut old = std::mem::take(&mut self.watches);
        let mut kept = Vec::new();
        for settings in all {
            let name = settings.shard.name.clone();
            let watch = match old.iter().position(|(of, ..)| *of == name) {
                Some(index) => {
                    let watch = old.swap_remove(index);
                    kept.push((watch.1.clone(), settings));
                    watch
                }
                None => self.start(settings),
            };
            self.watches.push(watch);
        }
        // A watch ends when nobody can give it orders any more.
        drop(old);
        self.lines.store(Arc::new(self.watches.iter().map(|(.., line)| line.clone()).collect()));
        self.order_topology();
        kept
    }

    fn start(&mut self, settings: ShardSettings) -> (String, mpsc::Sender<Order>, ShardLine) {
        let name = settings.shard.name.clone();
        let (orders, orders_end) = mpsc::channel(4);
        let (kicks, kicks_end) = watch::channel(0);
        let (rounds, rounds_end) = watch::channel(0);
        let lines = Lines { orders: orders_end, kicks: kicks_end, rounds };
        self.tasks.spawn(ShardWatch::new(settings, Arc::clone(&self.topology), self.audit.clone(), lines).run());
        (name, orders, ShardLine { kicks, rounds: rounds_end })
    }

    /// The config's shards, in the config's order.
    fn order_topology(&self) {
        self.topology.rcu(|current| Topology {
            shards: (self.watches.iter())
                .filter_map(|(name, ..)| current.shards.iter().find(|shard| *shard.name == **name))
                .map(|shard| Shard { name: Arc::clone(&shard.name), nodes: shard.nodes.clone() })
                .collect(),
        });
    }
}
