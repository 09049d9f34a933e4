//! The threads of one running node; the only room that spawns threads.

pub mod handle;
pub mod status;

pub use handle::{Handle, Level, Metric, Published, SessionGuard};
