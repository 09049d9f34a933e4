//! Reports about a node and its cluster, from what its threads publish: the row of its heartbeats, the status with the
//! monitor frame, and the metrics.

pub(crate) mod heartbeat;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod readiness;
pub(crate) mod status;
