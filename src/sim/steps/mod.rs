//! What happens in a run, one event after another.

pub(crate) mod chat;
pub(crate) mod clients;
pub(crate) mod departures;
pub(crate) mod effects;
pub(crate) mod faults;
pub(crate) mod liveness;
pub(crate) mod restarts;
pub(crate) mod snapshot_transfers;
pub(crate) mod takeover;
pub(crate) mod witnesses;
pub(crate) mod workers;
