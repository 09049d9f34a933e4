//! Commands that start clusters of their own: to try, to break and to measure them.

pub mod bench;
pub mod demo;
pub mod dev;
pub mod sim;
