//! The driver's connections, encrypted as the shard's `sslmode` says.

use std::pin::Pin;
use std::sync::Arc;

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode as DriverMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::tls::{DriverTls, HandshakeError, Outbound, SslMode};

/// Connects for a pool.
#[derive(Debug)]
pub(super) struct DriverConnect(pub(super) Arc<Outbound>);

impl Connect for DriverConnect {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move { connect(&config, &self.0).await })
    }
}

/// Connects, and drives the connection in a task of its own, which ends when the client goes or the server does. With
/// `prefer`, a server that fails over TLS is tried without, as libpq does.
pub(crate) async fn connect(config: &Config, tls: &Arc<Outbound>) -> Result<(Client, JoinHandle<()>), Error> {
    let mut config = config.clone();
    let tls = DriverTls(Arc::clone(tls));
    config.ssl_mode(tls.mode());
    match config.connect(tls.clone()).await {
        Ok((client, connection)) => Ok((client, tokio::spawn(note_end(connection)))),
        Err(error) if tls.0.mode() == SslMode::Prefer && may_do_without(&error) => {
            config.ssl_mode(DriverMode::Disable);
            let (client, connection) = config.connect(NoTls).await?;
            Ok((client, tokio::spawn(note_end(connection))))
        }
        Err(error) => Err(error),
    }
}

/// Not a password that is wrong, or a server that is not there: it would be neither without TLS.
fn may_do_without(error: &Error) -> bool {
    match error.code() {
        Some(code) => *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        None => std::error::Error::source(error).is_some_and(|source| source.is::<HandshakeError>()),
    }
}

async fn note_end(connection: impl Future<Output = Result<(), Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of the monitor ended");
    }
}
