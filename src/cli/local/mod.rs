//! Commands that work on this machine only: a node, its settings and secrets, and its data folder.

pub(crate) mod allocator;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod log;
pub(crate) mod man;
pub(crate) mod node;
pub(crate) mod recover;
pub(crate) mod secret;
