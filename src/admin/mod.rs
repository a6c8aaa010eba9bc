//! For people and machines that look after pgsluice: health, metrics.

pub mod http;
