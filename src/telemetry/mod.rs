//! What pgsluice tells of itself: metric names and handles in one place, and the set-up of logs.

pub mod logs;
pub mod metrics;
