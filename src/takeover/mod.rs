//! Restart without a dropped client: a new process takes the listening sockets over from the one that runs.
//!
//! The running process listens on a Unix socket (`listen.takeover`). The new one connects there and is given the
//! listening sockets themselves, as descriptors, so that no connection is lost that waits to be accepted. When
//! it serves it says so; the old one stops accepting and stays for the clients that it has. Their cancel
//! requests now reach the new process, which passes them on over the same Unix connection for as long as both live; and
//! so it does with what its operators want to know of them, or do to them.
//!
//! Until the new process says that it serves nothing changes: whatever becomes of it, the old one goes on.
//! See `docs/decisions/0009-takeover-by-descriptor.md`.

mod elsewhere;
mod message;
mod offer;
mod take;

pub mod notify;

pub use elsewhere::{NoAnswer, Predecessor, ShownClient};
pub use offer::{HandOver, Offer, OfferError};
pub use take::{Given, Serving, TakeError, fits};

use std::path::Path;

use tokio::net::UnixStream;

/// Whether the process at the other end may be trusted with the sockets: it is our own user's, or root's.
fn is_trusted(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own.as_raw() || peer.uid() == 0)
}

/// Connects to the process that offers there; `None`: there is none.
async fn connect(path: &Path) -> std::io::Result<Option<UnixStream>> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}
