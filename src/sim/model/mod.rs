//! State of the nodes, clients and workers of a run.

pub mod host;
pub mod services;
