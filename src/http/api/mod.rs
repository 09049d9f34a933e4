//! The JSON API: what is asked of the node.
//!
//! The tour: `health.rs` says how the node is, `members.rs` changes who belongs to the cluster;
//! `kv.rs` and `locks.rs` are the key-value store; `jobs.rs`, `new_job.rs`,
//! `job_json.rs`, `job_output.rs` and `job_waiting.rs` run programs.
//! Not here: who may ask (`http/protocol/guard.rs`), which path is which (`http/routes.rs`), which status a failure has
//! (`http/outcome.rs`).

pub(crate) mod health;
pub(crate) mod job_output;
pub(crate) mod jobs;
pub(crate) mod kv;
pub(crate) mod locks;
pub(crate) mod members;

mod job_json;
mod job_waiting;
mod new_job;
