//! The interface of a replicated service, and its reply.
//!
//! Not here: the list of services, and the calls of this interface (`registry.rs`).

use super::checksum;
use crate::types::{Index, Stamp};
use serde::Serialize;
use std::io::{self, Read, Write};

/// The reply of a command or query: the same bytes on every node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Reply {
    /// The command succeeded, with a service-specific result.
    Ok(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The command failed for this reason, a message for users. The state is unchanged.
    Failed(String),
}

/// One replicated state machine.
pub trait Service: Send {
    /// Runs one command. The result must depend on the state, `at` and `command` alone.
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply;
    /// Called with each entry's time before its commands: expires data, on every node at the same index.
    fn expire(&mut self, _at: Stamp) {}
    /// Returns the log time at which something expires next. The leader proposes an entry at that time if necessary.
    fn next_expiry_ms(&self) -> Option<u64> {
        None
    }
    /// Called after an entry's commands, before their replies are sent: a service with its own files commits them here.
    fn finish(&mut self, _at: Stamp) {}
    /// Answers a query without changing anything.
    fn query(&self, at: Stamp, query: &[u8]) -> Reply;
    /// Returns about how many bytes are copied or examined to answer a query; stops counting beyond `most`. An
    /// expensive query is answered from a copy of the state on another thread, because commands wait for queries on
    /// this one.
    fn read_cost(&self, query: &[u8], most: usize) -> usize;
    /// Writes the whole state.
    ///
    /// # Errors
    /// Returns the error of `out` or of the service's files.
    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()>;
    /// Replaces the state by one that `snapshot` wrote.
    ///
    /// # Errors
    /// Returns the error of `from` or of the service's files, or an error of kind `InvalidData`.
    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()>;
    /// Called after `restore` with index and time of the newest entry in the snapshot.
    fn resume(&mut self, _at: Stamp) {}
    /// Whether the state includes entries that were not applied since the start, which is possible if it is in a file.
    /// Its digest is then meaningless.
    fn is_ahead(&self) -> bool {
        false
    }
    /// Called when a snapshot of this copy is durable.
    fn saved(&self) {}
    /// Returns events of loading or rebuilding the state that operators should know; each is returned once.
    fn take_news(&mut self) -> Option<String> {
        None
    }
    /// Simulates a fault of a disk or of memory: changes the state without a command, if possible so that no answer to
    /// a client changes. Called only by tests and by nodes started for a lab.
    fn alter(&mut self, _at: Stamp) {}
    /// Returns a digest of the state, which is equal on all nodes that have applied the same index. `rest` is called
    /// after each piece of work.
    ///
    /// # Errors
    /// Returns an error if the service's files cannot be read.
    fn digest(&self, rest: &mut dyn FnMut()) -> io::Result<u64> {
        checksum::digest_of(rest, |out| self.snapshot(out))
    }
}

/// A service in the registry: its number, its command and query types, and how a restored state replaces the old one.
pub trait Replicated: Service + Clone + Default {
    /// First byte of its commands and queries, and number of its part in a snapshot. Never reused for another service.
    const ID: u8;
    /// Name in status, events and on the command line.
    const NAME: &'static str;
    type Command: Serialize;
    /// Type of its queries.
    type Query: Serialize;

    /// Encodes a command with its routing byte, as in a log entry.
    fn encode_command(command: &Self::Command) -> Vec<u8> {
        postcard::to_extend(command, vec![Self::ID]).expect("encoding into memory cannot fail")
    }

    /// Encodes a query with its routing byte.
    fn encode_query(query: &Self::Query) -> Vec<u8> {
        postcard::to_extend(query, vec![Self::ID]).expect("encoding into memory cannot fail")
    }

    /// Returns an empty state into which a snapshot is read.
    fn successor(&self) -> Self {
        Self::default()
    }

    /// Takes over files and settings of the old state. Called on a successor into which a snapshot with the entries up
    /// to `applied` was read.
    ///
    /// # Errors
    /// Returns an error if the service's files cannot be changed; the old state is then unchanged.
    fn take_over(&mut self, _before: &mut Self, _applied: Index) -> io::Result<()> {
        Ok(())
    }
}
