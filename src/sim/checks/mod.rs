//! What must hold: models and rules that each run is held against.

pub mod client_checker;
pub mod delivery_checker;
pub mod jobs_checker;
pub mod kv_model;
pub mod log_model;
pub mod raft_checker;
pub mod raft_rules;
