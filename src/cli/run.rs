//! `pgsluice run --config FILE`: serve until SIGTERM.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{descriptors, succession};
use crate::admin::http::{self, HttpState};
use crate::audit::Event;
use crate::config::{Config, ConfigErrors, ConfigWatcher};
use crate::proxy::Proxy;
use crate::takeover::{self, Given, Offer, Serving, notify};
use crate::telemetry::logs::LogHandle;
use crate::telemetry::metrics;
use crate::workers::STACK_SIZE;

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;

/// How long the end waits for the audit log to be written.
const AUDIT_FLUSH_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Serves what the file says. With `takeover`, on the sockets of the process that runs already, if one does.
///
/// # Errors
/// The config is bad, an address cannot be listened on, or the other process does not hand over.
pub fn run(path: &Path, takeover: bool) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        // Before the file is read, so that no change falls in between; what is wrong with the file says more.
        let watcher = ConfigWatcher::new(path);
        let config = Config::load(path)?;
        let mut watcher = watcher.context("the config file cannot be watched")?;
        let config = follow_certificates(config, path, &mut watcher)?;
        let logs = crate::telemetry::logs::init(config.log.format, &config.log.level)?;
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        descriptors::raise_limit();
        descriptors::check(&config);
        let given = if takeover { succession::ask(&config).await? } else { None };
        let server = Server::start(config, given).await?;
        server.run(path, watcher, &logs, end_signal()?).await
    })
}

/// Threads beside those that serve clients.
const OTHERS: usize = 2;

/// The runtime on which all runs that is no client's.
///
/// # Errors
/// The system gives no threads.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(OTHERS)
        .enable_all()
        .thread_stack_size(STACK_SIZE)
        .build()
        .context("the runtime cannot be started")
}

/// Resolves at SIGTERM or SIGINT.
///
/// # Errors
/// The signals cannot be caught.
pub fn end_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A proxy with its listeners.
pub struct Server {
    /// Where clients connect.
    pub address: std::net::SocketAddr,
    /// Where metrics are.
    pub http_address: std::net::SocketAddr,
    proxy: Arc<Proxy>,
    listener: TcpListener,
    http_listener: TcpListener,
    state: HttpState,
    /// The process that serves on these sockets still.
    serving: Option<Serving>,
}

impl Server {
    /// Listens, on the sockets that another process has given where they are those of the config, and starts the
    /// monitor.
    ///
    /// # Errors
    /// An address cannot be listened on, or the audit log cannot be written.
    pub async fn start(config: Config, given: Option<Given>) -> anyhow::Result<Self> {
        let metrics = metrics::install().context("metrics cannot be recorded")?;
        let (given, serving) = match given.map(Given::split) {
            Some((listener, http, serving)) => ((Some(listener), Some(http)), Some(serving)),
            None => ((None, None), None),
        };
        let listener = listen(config.listen.address, "listen.address", given.0)?;
        let http_listener = listen(config.http.address, "http.address", given.1)?;
        let (address, http_address) = (listener.local_addr()?, http_listener.local_addr()?);
        let proxy = Proxy::start(config)?;
        let state = HttpState {
            metrics,
            topology: Arc::clone(&proxy.topology),
            draining: proxy.shutdown_signal().into_receiver(),
        };
        Ok(Self { address, http_address, proxy, listener, http_listener, state, serving })
    }

    /// Waits until the monitor knows every shard's primary.
    ///
    /// # Errors
    /// That takes too long.
    pub(super) fn wait_until_ready(&self) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let proxy = Arc::clone(&self.proxy);
        async move { succession::wait_until_ready(&proxy).await }
    }

    /// Serves, and takes over the config's file again whenever it changes or SIGHUP comes, until `end`, or until
    /// another process has taken over and the last client is gone; then drains.
    ///
    /// # Errors
    /// Signals cannot be caught; or what is to be taken over from another process cannot be.
    pub async fn run(
        self,
        path: &Path,
        mut watcher: ConfigWatcher,
        logs: &LogHandle,
        end: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let (mut hangup, mut succeed) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined2())?);
        let program = std::env::current_exe();
        if self.serving.is_some() {
            succession::wait_until_ready(&self.proxy).await?;
        }
        let Self { address, http_address, proxy, listener, http_listener, state, serving } = self;
        let (offer, mut orders) = Offer::new(&listener, &http_listener, Arc::clone(&proxy.clients))?;
        let (stop_http, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut stop_http = Some(stop_http);
        let http = tokio::spawn(http::serve(http_listener, state, async {
            let _ = stopped.await;
        }));
        let mut requests = proxy.take_reload_requests();
        let mut clients = tokio::spawn(Arc::clone(&proxy).serve(listener));
        succession::begin(&proxy, serving, offer, address).await?;
        tracing::info!(%address, http = %http_address, version = env!("CARGO_PKG_VERSION"), "pgsluice serves");
        notify::ready();

        let mut end = std::pin::pin!(end);
        let mut is_successor_there = false;
        let is_over = loop {
            tokio::select! {
                () = &mut end => break false,
                _ = &mut clients, if is_successor_there => break true,
                // Whoever asked in one of these ways reads of the outcome in the log.
                _ = hangup.recv() => drop(reload(&proxy, path, &mut watcher, logs, "SIGHUP").await),
                () = watcher.changed() => drop(reload(&proxy, path, &mut watcher, logs, "a file has changed").await),
                Some(request) = requests.recv() => {
                    let outcome = reload(&proxy, path, &mut watcher, logs, "RELOAD").await;
                    // An operator who has gone does not wait for it.
                    let _ = request.send(outcome);
                }
                _ = succeed.recv() => succession::spawn(&proxy, &program, path, is_successor_there),
                Some(order) = orders.recv() => {
                    is_successor_there = true;
                    drop(stop_http.take());
                    succession::retire(&proxy, order).await;
                }
            }
        };
        if !is_over {
            if !is_successor_there {
                notify::stopping();
            }
            proxy.shut_down();
            let _ = clients.await;
        }
        drop(stop_http);
        let _ = http.await;
        proxy.audit.tell(Event::Ended {});
        if !proxy.audit.flush(AUDIT_FLUSH_LIMIT).await {
            tracing::error!("the audit log could not be written to its end");
        }
        tracing::info!("pgsluice ends");
        Ok(())
    }
}

/// Watches the certificates that the config names. What one of them held before it was watched may have changed since,
/// so they are read again.
fn follow_certificates(mut config: Config, path: &Path, watcher: &mut ConfigWatcher) -> Result<Config, ConfigErrors> {
    while watcher.follow(config.certificate_files()) {
        config = Config::load(path)?;
    }
    Ok(config)
}

/// A new config is taken whole, or not at all.
async fn reload(
    proxy: &Proxy,
    path: &Path,
    watcher: &mut ConfigWatcher,
    logs: &LogHandle,
    cause: &str,
) -> Result<(), String> {
    let loaded = Config::load(path).and_then(|config| follow_certificates(config, path, watcher));
    watcher.refresh();
    let config = loaded.map_err(|mistakes| {
        proxy.refuse_config(mistakes.mistakes().iter().map(ToString::to_string).collect());
        tracing::error!(cause, "the new config is refused, the old one stays:\n{mistakes}");
        mistakes.to_string()
    })?;
    if let Err(error) = logs.set_level(&config.log.level) {
        tracing::error!(%error, "the log level stays as it is");
    }
    proxy.adopt(config).await.map_err(|error| {
        tracing::error!(cause, %error, "the new config is refused, the old one stays");
        error.to_string()
    })?;
    descriptors::check(&proxy.config.load());
    tracing::info!(cause, "the config was reloaded");
    Ok(())
}

/// The socket that was given, where it is the one that is asked for; else a new one.
fn listen(address: std::net::SocketAddr, key: &str, given: Option<TcpListener>) -> anyhow::Result<TcpListener> {
    if let Some(given) = given.filter(|given| takeover::fits(address, given)) {
        return Ok(given);
    }
    let bind = || {
        let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("cannot listen on {address} ({key})"))
}
