//! What must hold: models and rules that each run is held against.

pub(crate) mod client_checker;
pub(crate) mod delivery_checker;
pub(crate) mod jobs_checker;
pub(crate) mod kv_model;
pub(crate) mod log_model;
pub(crate) mod raft_checker;
pub(crate) mod raft_rules;
