//! Commands that work on this machine alone: a node, its settings and its folder.

pub mod allocator;
pub mod completions;
pub mod config;
pub mod log;
pub mod man;
pub mod node;
pub mod recover;
