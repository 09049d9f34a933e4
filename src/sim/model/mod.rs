//! State of the nodes, clients and workers of a run.

pub(crate) mod host;
pub(crate) mod hosting;
pub(crate) mod liveness;
pub(crate) mod log_reports;
pub(crate) mod operations;
pub(crate) mod services;
pub(crate) mod snapshot_transfers;
pub(crate) mod worker;
