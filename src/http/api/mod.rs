//! The JSON API of the node.
//!
//! The tour: `health.rs` has the state of the node, `members.rs` the membership; `kv.rs` and `locks.rs` are the
//! key-value store; `jobs.rs`, `new_job.rs`, `job_json.rs`, `job_output.rs` and `job_wait_reason.rs` run programs;
//! `lab.rs` has faults on demand.
//! Not here: which requests are allowed (`http/protocol/guard.rs`), the paths (`http/routes.rs`), the statuses of
//! failures (`http/outcome.rs`).

pub(crate) mod health;
pub(crate) mod job_output;
pub(crate) mod jobs;
pub(crate) mod kv;
pub(crate) mod lab;
pub(crate) mod locks;
pub(crate) mod members;

mod job_json;
mod job_wait_reason;
mod new_job;
