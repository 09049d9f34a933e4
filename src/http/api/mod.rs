//! The JSON API: what is asked of the node.
//!
//! The tour: `health.rs` says how the node is, `members.rs` changes who belongs to the cluster, `notes.rs` are texts in its
//! directory; `kv.rs` and `locks.rs` are the key-value store; `jobs.rs`, `job_output.rs` and `job_waiting.rs` run programs.
//! Not here: who may ask (`http/protocol/guard.rs`), which path is which (`http/routes.rs`), which status a failure has
//! (`http/outcome.rs`).

pub mod health;
pub mod job_output;
pub mod job_waiting;
pub mod jobs;
pub mod kv;
pub mod locks;
pub mod members;
pub mod notes;
