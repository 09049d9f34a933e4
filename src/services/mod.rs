//! Replicated state machines without side effects: the same commands in the same order give the same bytes on every
//! node.
//!
//! The tour: `service.rs` has the [`Service`] interface; `registry.rs` routes commands to services by their first byte
//! and writes one snapshot of all of them (`snapshot_format.rs` is its framing); `digests.rs` computes the digests that
//! nodes compare (with `checksum.rs`); `sessions.rs` makes each command take effect once. The services: `directory.rs`
//! has the addresses of all nodes, `kv/` is the key-value store, `jobs/` runs users' programs, `sql/` is a SQL
//! database, `chat/` has accounts, rooms and messages. `apply` never depends on clocks, randomness, hash order or local
//! settings; a command that fails does so on every node.
//! Not here: replication of commands (`raft/`), when snapshots are taken (`node/threads/apply.rs`).

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

pub use self::service::{Replicated, Reply, Service};

/// Adds up costs; stops as soon as the sum exceeds `most`.
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
