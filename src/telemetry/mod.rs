//! What pgsluice tells of itself: metric names and handles in one place, and the set-up of logs.

mod histograms;
mod labels;
pub mod logs;
pub mod metrics;

pub use histograms::Exposition;
#[cfg(test)]
pub(crate) use histograms::Recorder;
