//! Tells systemd how the service is doing: `sd_notify(3)`, for a unit of `Type=notify`.
//!
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// This process serves, and is the service's main process from now on.
pub fn ready() {
    tell(&format!("READY=1\nMAINPID={}\n", std::process::id()));
}

/// The service ends.
pub fn stopping() {
    tell("STOPPING=1\n");
}

/// Does nothing where nobody listens.
fn tell(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd could not be told of the service's state");
    }
}
