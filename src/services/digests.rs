//! Digests of the whole replicated state at one index, for comparison between nodes.
//!
//! A checkpoint command in the log fixes the index. Every node that applies it digests its copy of the state, service by
//! service, and the session table with them: nodes that have applied the same entries must come to the same numbers.
//! A digest is the CRC-32 of the bytes that a snapshot would hold, with their count; the database's is of its content,
//! because equal databases may differ in their pages. It finds faults; it is no defence against someone who crafts states.
//! Not here: when checkpoints are taken and where digests travel (`node/views/integrity.rs`), who is wrong
//! (`cluster/integrity.rs`).

use super::checksum::digest_of;
use super::registry::{PARTS, Registry, SESSIONS};
use super::{Replicated, sql::Database};
use crate::types::Index;
use serde::{Deserialize, Serialize};

/// The digests of one node's state at one index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// Of the checkpoint's entry, which the state includes.
    pub index: Index,
    /// By number of the service, as in a snapshot; 255 is the session table. A part that this node could not read, or that
    /// is not at this index, is left out.
    pub parts: Vec<(u8, u64)>,
}

/// Where states differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Checkpoint at which they do.
    pub index: Index,
    /// Numbers of the parts that do.
    pub parts: Vec<u8>,
}

impl Difference {
    /// The parts in words: `key-value and sql`.
    pub fn parts_text(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|number| part_name(*number)).collect();
        match names.as_slice() {
            [] => "state".to_string(),
            [one] => (*one).to_string(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        }
    }
}

/// What a part is called in status, events and on the command line.
pub fn part_name(number: u8) -> &'static str {
    PARTS.iter().find(|(of, _)| *of == number).map_or("unknown", |(_, name)| name)
}

/// The number of a part, by its name.
pub fn part_number(name: &str) -> Option<u8> {
    PARTS.iter().find(|(_, of)| *of == name).map(|(number, _)| *number)
}

impl Registry {
    /// Digests of all parts; `rest` is called after each piece of work. `known` are parts whose digest need not be computed
    /// again. What cannot be read is left out.
    pub fn state_digest(&self, known: &[(u8, u64)], rest: &mut dyn FnMut()) -> StateDigest {
        let mut parts = Vec::new();
        for (number, service) in self.services() {
            if let Some(part) = known.iter().find(|(of, _)| *of == number) {
                parts.push(*part);
            } else if !service.is_ahead()
                && let Ok(digest) = service.digest(rest)
            {
                parts.push((number, digest));
            }
        }
        let at_ms = self.applied().at_ms;
        let sessions = digest_of(rest, |out| {
            out.write_all(&at_ms.to_le_bytes())?;
            self.sessions.snapshot(out)
        });
        parts.extend(sessions.ok().map(|digest| (SESSIONS, digest)));
        StateDigest { index: self.applied().index, parts }
    }

    /// A fingerprint of the whole state, for tests and the simulator, and beside it that of the database; `None` in its place:
    /// its file is ahead of what was applied since the start, so there is nothing to compare.
    pub fn digests(&self) -> (u64, Option<u64>) {
        let digest = self.state_digest(&[], &mut || {});
        let (sql, others): (Vec<_>, Vec<_>) = digest.parts.into_iter().partition(|(number, _)| *number == Database::ID);
        let bytes = postcard::to_stdvec(&(digest.index, others)).expect("encoding into memory cannot fail");
        (crc32fast::hash(&bytes).into(), sql.first().map(|(_, digest)| *digest))
    }
}
