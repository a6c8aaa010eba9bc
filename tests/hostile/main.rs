//! Clients that send garbage, half a message, impossible lengths, or nothing; that take more than they
//! read; that vanish. Each is told why where the protocol lets one, and cut off within bounded time and
//! memory, and nobody else notices.

#[path = "../support/mod.rs"]
mod support;

mod bystander;
mod cancel;
mod limits;
mod login;
mod memory;
mod messages;
mod tls;
mod vanish;
