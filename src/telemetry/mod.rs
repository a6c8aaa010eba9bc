//! What pgsluice tells of itself: metric names and handles in one place, and the set-up of logs.

mod labels;
pub mod logs;
pub mod metrics;
