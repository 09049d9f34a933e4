//! The interface of a replicated service, and its reply.
//!
//! Not here: which services there are, and what calls them (`registry.rs`).

use super::checksum;
use crate::types::{Index, Stamp};
use serde::Serialize;
use std::io::{self, Read, Write};

/// What a command or query answers: the same bytes on every node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Reply {
    /// The command did what it says; service-specific bytes.
    Ok(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The command could not: a sentence for people. The state is as before.
    Failed(String),
}

/// How a command changes the space that its service takes, as far as can be told before it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// It takes none, or gives some back.
    Nothing,
    /// It gives some back; what stands ready to run beside it may take more than that.
    MayAdd,
    /// It may take more, of about the command's own size.
    Adds,
    /// So many bytes take the place of all.
    Replaces(u64),
}

/// One replicated state machine.
pub trait Service: Send {
    /// Runs one command. Depends on the state, `at` and `command` alone.
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply;
    /// An entry brings this time, before its commands: what is over is gone, on every node at the same index.
    fn expire(&mut self, _at: Stamp) {}
    /// Log time at which something is over next. When it comes the leader sees to it that an entry brings it.
    fn next_expiry_ms(&self) -> Option<u64> {
        None
    }
    /// The entry's commands have run: what a crash must not take back is made to last, before any reply goes out.
    fn finish(&mut self, _at: Stamp) {}
    /// Answers a question without changing anything.
    fn query(&self, at: Stamp, query: &[u8]) -> Reply;
    /// About how many bytes are copied or examined to answer a question; not computed beyond `most`. What costs more than a
    /// moment is asked of a copy of the state on another thread, because commands wait while this one answers.
    fn read_cost(&self, query: &[u8], most: usize) -> usize;
    /// Writes the whole state.
    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()>;
    /// Replaces the state by one that `snapshot` wrote.
    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()>;
    /// The state was restored; the newest entry that it holds had this time.
    fn resume(&mut self, _at: Stamp) {}
    /// Whether the state holds entries that were not applied since the start, as a file can. Its digest is then of no use.
    fn is_ahead(&self) -> bool {
        false
    }
    /// A snapshot of this copy is on the disk.
    fn saved(&self) {}
    /// Events of loading or rebuilding the state that operators should know; each is returned once.
    fn take_news(&mut self) -> Option<String> {
        None
    }
    /// Changes the state without a command, as a fault of a disk or of memory would. Only tests and nodes started for a lab call
    /// it; what clients are answered stays as it was where that is possible.
    fn alter(&mut self, _at: Stamp) {}
    /// A digest of the state: equal on all nodes that have applied the same index. `rest` is called after each piece of
    /// work. It fails when the state cannot be read, as a file may be.
    fn digest(&self, rest: &mut dyn FnMut()) -> io::Result<u64> {
        checksum::digest_of(rest, |out| self.snapshot(out))
    }
}

/// A service as a row of the registry: its number, its types, and how its state passes from one to the next.
pub trait Replicated: Service + Clone + Default {
    /// First byte of its commands and queries, and of its part in a snapshot. Never given to another service.
    const ID: u8;
    /// What it is called in status, events and on the command line.
    const NAME: &'static str;
    /// What changes its state.
    type Command: Serialize;
    /// What is asked of it.
    type Query: Serialize;

    /// A command with its routing byte, as a log entry holds it.
    fn encode_command(command: &Self::Command) -> Vec<u8> {
        postcard::to_extend(command, vec![Self::ID]).expect("encoding into memory cannot fail")
    }

    /// A query with its routing byte.
    fn encode_query(query: &Self::Query) -> Vec<u8> {
        postcard::to_extend(query, vec![Self::ID]).expect("encoding into memory cannot fail")
    }

    /// An empty state into which a snapshot is read.
    fn successor(&self) -> Self {
        Self::default()
    }

    /// A snapshot with the entries up to `applied` was read into this successor, which takes what it needs of the state before.
    ///
    /// # Errors
    /// Its files cannot be changed; the state before is as it was.
    fn take_over(&mut self, _before: &mut Self, _applied: Index) -> io::Result<()> {
        Ok(())
    }
}
