//! From one process to the next: what `pgsluice run` does for [`takeover`](crate::takeover), on both sides.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::admin::http::ready;
use crate::audit::{Event, Outcome};
use crate::config::Config;
use crate::proxy::Proxy;
use crate::takeover::{Given, HandOver, Offer, Serving};

/// How long the servers may take to answer before a takeover is given up.
const READY_LIMIT: Duration = Duration::from_secs(60);

const READY_LOOK: Duration = Duration::from_millis(20);

/// Asks the running process for its sockets.
///
/// # Errors
/// The config names no socket to ask on, or the process does not give them.
pub(super) async fn ask(config: &Config) -> anyhow::Result<Option<Given>> {
    let Some(path) = &config.listen.takeover else {
        bail!("--takeover needs listen.takeover in the config, the same as in the running process");
    };
    let given = Given::ask(path).await?;
    match &given {
        Some(given) => tracing::info!(from = given.from, "taking over"),
        None => tracing::warn!(path = %path.display(), "there is no process to take over from"),
    }
    Ok(given)
}

/// Waits until the servers are known: until then the other process serves better.
pub(super) async fn wait_until_ready(proxy: &Proxy) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        match ready(&proxy.topology.load()) {
            Ok(()) => return Ok(()),
            Err(reason) if began.elapsed() > READY_LIMIT => {
                bail!("not ready after {READY_LIMIT:?} ({reason}): the running process goes on");
            }
            Err(_) => tokio::time::sleep(READY_LOOK).await,
        }
    }
}

/// Clients are accepted here: tells the process before, if there is one, and offers the sockets to the next.
pub(super) async fn begin(
    proxy: &Arc<Proxy>,
    serving: Option<Serving>,
    offer: Offer,
    address: SocketAddr,
) -> anyhow::Result<()> {
    let took_over_from = serving.as_ref().map(|serving| serving.from);
    if let Some(serving) = serving {
        match serving.tell().await {
            Ok(predecessor) => proxy.clients.follow(predecessor),
            // The sockets are here, so clients are served in any case.
            Err(error) => tracing::error!(%error, "whether the other process still accepts clients is not known"),
        }
    }
    let path = proxy.config.load().listen.takeover.clone();
    if let Some(path) = path
        && let Err(error) = offer.publish(&path).await
    {
        if took_over_from.is_none() {
            return Err(error.into());
        }
        tracing::error!(%error, "the next process will not be able to take over from this one");
    }
    proxy.audit.tell(Event::Started { version: env!("CARGO_PKG_VERSION"), address, took_over_from });
    Ok(())
}

/// Another process serves: accepts nobody any more, and says so.
pub(super) async fn retire(proxy: &Proxy, order: HandOver) {
    proxy.retire().await;
    let clients = proxy.client_counts.all.load(Ordering::Relaxed);
    tracing::info!(
        to = order.to,
        clients,
        "another process has taken over; this one stays for the clients that it has"
    );
    proxy.audit.tell(Event::HandedOver { to: order.to, clients });
    // Where that is gone already, so is the reason to wait for this.
    let _ = order.done.send(());
}

/// Starts the next process from the program's file as it is now, to take over from this one.
pub(super) fn spawn(proxy: &Proxy, program: &io::Result<PathBuf>, config: &Path, is_successor_there: bool) {
    let result = if is_successor_there {
        Err(anyhow::anyhow!("another process has taken over already"))
    } else if proxy.config.load().listen.takeover.is_none() {
        Err(anyhow::anyhow!("listen.takeover is not set"))
    } else {
        start(program, config)
    };
    let outcome = match result {
        Ok(pid) => {
            tracing::info!(pid, "SIGUSR2: the next process was started");
            Outcome::Done
        }
        Err(error) => {
            let message = format!("{error:#}");
            tracing::error!(message, "SIGUSR2: the next process was not started");
            Outcome::Refused { message }
        }
    };
    proxy.audit.operator_action("(signal)", None, "SIGUSR2", outcome);
}

fn start(program: &io::Result<PathBuf>, config: &Path) -> anyhow::Result<Option<u32>> {
    let program = program.as_ref().map_err(|error| anyhow::anyhow!("the program's file is not known: {error}"))?;
    let mut command = tokio::process::Command::new(program);
    command.args(["run", "--takeover", "--config"]).arg(config).stdin(std::process::Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let pid = child.id();
    tokio::spawn(async move {
        // It outlives this process, unless it fails at once.
        if let Ok(status) = child.wait().await {
            tracing::warn!(?pid, %status, "the process that was started to take over has ended");
        }
    });
    Ok(pid)
}
