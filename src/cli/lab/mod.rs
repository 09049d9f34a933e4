//! Commands that start clusters of their own: to try, to break and to measure them.

pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod sim;
