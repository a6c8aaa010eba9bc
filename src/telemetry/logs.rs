//! Structured logs on stderr, as text or JSON, with a level that a reload can change.

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` is not a filter.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// Something else in this process logs already.
    #[error("logging is set up already: {0}")]
    Taken(#[from] TryInitError),
    /// The subscriber is gone.
    #[error("logging has ended: {0}")]
    Gone(#[from] reload::Error),
}

/// Changes the level of a running process.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Takes a new `log.level`; a bad one is refused and the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        Ok(self.0.reload(filter(level)?)?)
    }
}

/// Whether `log.level` can be read.
pub fn check_level(level: &str) -> Result<(), LogError> {
    Ok(filter(level).map(drop)?)
}

/// Starts logging to stderr.
pub fn init(format: LogFormat, level: &str) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let events = fmt::layer().with_writer(std::io::stderr);
    let events = match format {
        LogFormat::Text => events.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => events.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(events).try_init()?;
    Ok(LogHandle(handle))
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_tracing_filters() {
        for good in ["info", "warn,pgsluice::monitor=debug", "off"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["info,pgsluice=loud", "a=b=c"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_level_can_be_changed_and_a_bad_one_is_refused() {
        let log = init(LogFormat::Json, "info").unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        log.set_level("debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        log.set_level("pgsluice=loud").unwrap_err();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(matches!(init(LogFormat::Text, "info"), Err(LogError::Taken(_))));
    }
}
