//! `pgsluice run --config FILE`: serve until SIGTERM.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::http::{self, HttpState};
use crate::config::{Config, ConfigErrors, ConfigWatcher};
use crate::proxy::Proxy;
use crate::telemetry::logs::LogHandle;
use crate::telemetry::metrics;

/// A stack on which the parser can go as deep as it is allowed to, in bytes.
const STACK_SIZE: usize = 8 << 20;

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;

/// Serves what the file says.
///
/// # Errors
/// The config is bad, or an address cannot be listened on.
pub fn run(path: &Path) -> anyhow::Result<()> {
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
        let server = Server::start(config).await?;
        tracing::info!(
            address = %server.address,
            http = %server.http_address,
            version = env!("CARGO_PKG_VERSION"),
            "pgsluice serves"
        );
        server.run(path, watcher, &logs, end_signal()?).await
    })
}

/// The runtime that all of it runs on.
///
/// # Errors
/// The system gives no threads.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_stack_size(STACK_SIZE).build().context("the runtime cannot be started")
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
}

impl Server {
    /// Listens, and starts the monitor.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let metrics = metrics::install().context("metrics cannot be recorded")?;
        let listener = listen(config.listen.address, "listen.address")?;
        let http_listener = listen(config.http.address, "http.address")?;
        let proxy = Proxy::start(config);
        let state = HttpState {
            metrics,
            topology: Arc::clone(&proxy.topology),
            draining: proxy.shutdown_signal().into_receiver(),
        };
        Ok(Self {
            address: listener.local_addr()?,
            http_address: http_listener.local_addr()?,
            proxy,
            listener,
            http_listener,
            state,
        })
    }

    /// Serves, and takes over the config's file again whenever it changes or SIGHUP comes, until `end`;
    /// then drains.
    ///
    /// # Errors
    /// SIGHUP cannot be caught.
    pub async fn run(
        self,
        path: &Path,
        mut watcher: ConfigWatcher,
        logs: &LogHandle,
        end: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let (stop_http, stopped) = tokio::sync::oneshot::channel::<()>();
        let http = tokio::spawn(http::serve(self.http_listener, self.state, async {
            let _ = stopped.await;
        }));
        let mut requests = self.proxy.take_reload_requests();
        let clients = tokio::spawn(Arc::clone(&self.proxy).serve(self.listener));
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                // Whoever asked in one of these ways reads of the outcome in the log.
                _ = hangup.recv() => drop(reload(&self.proxy, path, &mut watcher, logs, "SIGHUP").await),
                () = watcher.changed() => drop(reload(&self.proxy, path, &mut watcher, logs, "a file has changed").await),
                Some(request) = requests.recv() => {
                    let outcome = reload(&self.proxy, path, &mut watcher, logs, "RELOAD").await;
                    // An operator who has gone does not wait for it.
                    let _ = request.send(outcome);
                }
            }
        }
        self.proxy.shut_down();
        let _ = clients.await;
        let _ = stop_http.send(());
        let _ = http.await;
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
    let config =
        Config::load(path).and_then(|config| follow_certificates(config, path, watcher)).map_err(|mistakes| {
            proxy.refuse_config();
            tracing::error!(cause, "the new config is refused, the old one stays:\n{mistakes}");
            mistakes.to_string()
        })?;
    if let Err(error) = logs.set_level(&config.log.level) {
        tracing::error!(%error, "the log level stays as it is");
    }
    proxy.adopt(config).await;
    tracing::info!(cause, "the config was reloaded");
    Ok(())
}

fn listen(address: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("cannot listen on {address} ({key})"))
}
