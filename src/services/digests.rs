//! Digests of the whole replicated state at one index, for comparison between nodes.
//!
//! A checkpoint command in the log determines the index. Every node that applies it digests its copy of each service's
//! state and of the session table: nodes that have applied the same entries must get the same digests.
//! A digest is the CRC-32 and the length of the bytes that a snapshot would have; for the database it is computed from
//! the content, because equal databases may differ in their pages. It detects faults, but not deliberate manipulation.
//! Not here: when checkpoints are taken and how digests are exchanged (`node/views/integrity.rs`), which node is wrong
//! (`cluster/integrity.rs`).

use super::checksum::digest_of;
use super::registry::{PARTS, Registry, SESSIONS};
use super::{Replicated, sql::Database};
use crate::types::Index;
use serde::{Deserialize, Serialize};

/// The digests of one node's state at one index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// Index of the checkpoint's entry, which the state includes.
    pub index: Index,
    /// Number and digest of each part; the numbers are those of a snapshot ([`SESSIONS`] is the session table). A part
    /// that this node could not read, or that is not at this index, is missing.
    pub parts: Vec<(u8, u64)>,
}

/// In which parts of the state nodes differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Index of the checkpoint at which they differ.
    pub index: Index,
    /// Numbers of the parts that differ.
    pub parts: Vec<u8>,
}

impl Difference {
    /// Returns the names of the parts as text: `key-value and sql`.
    pub fn parts_text(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|number| part_name(*number)).collect();
        match names.as_slice() {
            [] => "state".to_string(),
            [one] => (*one).to_string(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        }
    }
}

/// Returns the name of a part in status, events and on the command line; `unknown` if there is no such part.
pub fn part_name(number: u8) -> &'static str {
    PARTS.iter().find(|(of, _)| *of == number).map_or("unknown", |(_, name)| name)
}

/// Returns the number of the part with this name.
pub fn part_number(name: &str) -> Option<u8> {
    PARTS.iter().find(|(_, of)| *of == name).map(|(number, _)| *number)
}

impl Registry {
    /// Computes the digests of all parts; `rest` is called after each piece of work. Digests in `known` are used
    /// instead of being computed again. A part that cannot be read is left out.
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

    /// Returns a digest of all parts except the database, and the digest of the database, for tests and the simulator.
    /// The latter is `None` if the database file is ahead of the entries applied since the start.
    pub fn digests(&self) -> (u64, Option<u64>) {
        let digest = self.state_digest(&[], &mut || {});
        let (sql, others): (Vec<_>, Vec<_>) = digest.parts.into_iter().partition(|(number, _)| *number == Database::ID);
        let bytes = postcard::to_stdvec(&(digest.index, others)).expect("encoding into memory cannot fail");
        (crc32fast::hash(&bytes).into(), sql.first().map(|(_, digest)| *digest))
    }
}
