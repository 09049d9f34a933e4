//! What happens in a run, one event after another.

pub mod chat;
pub mod clients;
pub mod effects;
pub mod faults;
pub mod liveness;
pub mod restarts;
pub mod snapshot_transfers;
pub mod workers;
