//! Replicated state machines, pure: the same commands in the same order give the same bytes on every node.
//!
//! The tour: `service.rs` holds the [`Service`] interface; `registry.rs` routes commands to services by their first byte and
//! writes one snapshot for all (`snapshot_format.rs` is its frame); `digests.rs` computes what nodes compare (`checksum.rs`
//! is how); `sessions.rs` makes each command take effect once. The services: `directory.rs`, the addresses of all nodes;
//! `kv/`, the key-value store; `jobs/`, people's programs; `sql/`, a SQL database; `chat/`, messages between people.
//! Clocks, randomness, hash order and local settings never enter `apply`; a failed command is data like any other.
//! Not here: how commands are agreed on (`raft/`), when snapshots are taken (`node/threads/apply.rs`).

pub(crate) mod chat;
mod checksum;
pub(crate) mod digests;
pub(crate) mod directory;
pub mod jobs;
pub mod kv;
pub(crate) mod registry;
mod service;
#[cfg(test)]
mod service_contract;
pub mod sessions;
mod snapshot_format;
pub mod sql;

pub use self::service::{Growth, Replicated, Reply, Service};

/// The sum of costs, which is not computed beyond `most`.
fn cost_within(costs: impl Iterator<Item = usize>, most: usize) -> usize {
    let mut sum: usize = 0;
    for cost in costs {
        sum = sum.saturating_add(cost);
        if sum > most {
            break;
        }
    }
    sum
}
