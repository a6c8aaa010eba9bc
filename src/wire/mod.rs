//! The wire: frames, typed views of the few messages that matter, and the messages that the proxy
//! makes itself.
//!
//! Bytes that a peer sent are never re-encoded: they are split into frames, looked at, and passed
//! on. Start-up, authentication and error messages are coded by `pgwire`, which is only ever given
//! a frame that was split and length-checked here. Nothing in this room decides anything about SQL.
//!
//! Message formats: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

pub mod backend;
mod error;
mod frame;
pub mod frontend;
mod link;
pub mod outbox;
pub mod scram;
mod socket;
pub mod startup;
mod stream;

pub use error::{ErrorReply, Severity};
pub use frame::{Frame, FrameError, Frames, Header, header};
pub use link::{BUFFER_SIZE, Link};
pub use socket::Socket;
pub use stream::Stream;
