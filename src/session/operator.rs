//! Who comes in at the admin database, and what is told in greeting.

use pgwire::messages::Message;
use pgwire::messages::startup::{Authentication, BackendKeyData, SecretKey};

use super::auth::Rejection;
use crate::admin::console::{self, Operator, Rank};
use crate::config::Config;
use crate::wire::backend::{TransactionStatus, put_parameter_status, put_ready_for_query};
use crate::wire::{ErrorReply, Link};

/// What this user may do at the admin database.
pub(super) fn operator(config: &Config, user: String) -> Result<Operator, Rejection> {
    let is_in = |users: &[String]| users.contains(&user);
    let rank = match () {
        () if is_in(&config.admin.admins) => Rank::Admin,
        () if is_in(&config.admin.stats) => Rank::Stats,
        () => {
            let message = format!("permission denied for database \"{}\"", console::DATABASE);
            let hint = format!("Name the user \"{user}\" in admin.admins or admin.stats of pgsluice's config.");
            return Err(Rejection::Told(ErrorReply::fatal("42501", message).hint(hint)));
        }
    };
    Ok(Operator { user: user.into(), rank })
}

/// What drivers want to be told by any server, from one that is none.
pub(super) async fn greet_operator(link: &mut Link) -> Result<(), Rejection> {
    Authentication::Ok.encode(&mut link.output).map_err(|_| Rejection::Gone)?;
    for (name, value) in [
        // psql takes its own features by this number: those that ask the least.
        ("server_version", concat!("14.0 (pgsluice ", env!("CARGO_PKG_VERSION"), ")")),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ] {
        put_parameter_status(&mut link.output, name, value.as_bytes());
    }
    // There is nothing to cancel.
    BackendKeyData::new(0, SecretKey::I32(0)).encode(&mut link.output).map_err(|_| Rejection::Gone)?;
    put_ready_for_query(&mut link.output, TransactionStatus::Idle);
    link.flush().await.map_err(|_| Rejection::Gone)
}
