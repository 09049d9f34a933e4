//! State of the nodes, clients and workers of a run.

pub mod host;
pub mod liveness;
pub mod operations;
pub mod services;
pub mod snapshot_transfers;
pub mod worker;
