//! The first service: who is where, and small notes.
//!
//! Every node registers its identity and addresses here once it is a member, so all nodes (and `config.json`) agree on
//! where everyone is. Notes are small texts under a name, for trying a cluster out and measuring failover; writing one
//! twice is the same as writing it once, so a command that got lost may be sent again.
//!
//! Invariants: `version` grows with each change of the node table and is equal on every node at the same index;
//! at most [`NOTES_MAX`] notes, the oldest write goes first.
//! Not here: who is a member (`raft/`), who is alive (`cluster/gossip.rs`).

use super::{Reply, Service};
use crate::types::{Addresses, Identity, Index, NodeId, Stamp};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;
use uuid::Uuid;

/// Notes kept; beyond it the one written longest ago is dropped, on every node alike.
pub const NOTES_MAX: usize = 100_000;
/// Bytes of a note's name.
pub const NOTE_ID_BYTES_MAX: usize = 256;
/// Bytes of a note's text.
pub const NOTE_TEXT_BYTES_MAX: usize = 64 << 10;

/// Changes the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// This node is reachable here; replaces what stood under its id.
    Register {
        /// Who.
        who: Identity,
        /// Where.
        addresses: Addresses,
        /// It serves clients, and neither votes nor runs jobs.
        is_gateway: bool,
    },
    /// This node left for good.
    Forget {
        /// Which.
        id: NodeId,
    },
    /// Writes a note.
    Note {
        /// Its name.
        id: String,
        /// Its text.
        text: String,
    },
}

/// Asks the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// One note: `Option<Note>`.
    Note {
        /// Its name.
        id: String,
    },
    /// The node table: [`Nodes`].
    Nodes,
}

/// A note as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its text.
    pub text: String,
    /// Index of the entry that wrote it.
    pub index: Index,
}

/// The node table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// Grows by one with each change.
    pub version: u64,
    /// Every registered node.
    pub nodes: BTreeMap<NodeId, (Uuid, Addresses)>,
    /// Those among them that neither vote nor run jobs.
    pub gateways: BTreeSet<NodeId>,
}

/// The state. A clone shares all notes with the original.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    nodes: Nodes,
    notes: OrdMap<Arc<str>, (u64, Arc<Note>)>,
    /// Note names by the order of their last write: what to drop first.
    order: OrdMap<u64, Arc<str>>,
    writes: u64,
}

impl Nodes {
    /// Whether exactly this is registered.
    pub fn has(&self, who: Identity, addresses: &Addresses, is_gateway: bool) -> bool {
        let row = self.nodes.get(&who.id);
        row.is_some_and(|(uuid, at)| *uuid == who.uuid && at == addresses)
            && self.gateways.contains(&who.id) == is_gateway
    }
}

impl Command {
    /// The bytes that go into the log, without the service's routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

impl Query {
    /// The bytes of a query, without the service's routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// Decodes the reply to [`Query::Note`].
pub fn decode_note(bytes: &[u8]) -> Option<Note> {
    postcard::from_bytes(bytes).ok().flatten()
}

impl Directory {
    /// The node table.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// One note.
    pub fn note(&self, id: &str) -> Option<&Note> {
        self.notes.get(id).map(|(_, note)| &**note)
    }

    fn register(&mut self, who: Identity, addresses: Addresses, is_gateway: bool) -> Reply {
        if !self.nodes.has(who, &addresses, is_gateway) {
            self.nodes.nodes.insert(who.id, (who.uuid, addresses));
            match is_gateway {
                true => self.nodes.gateways.insert(who.id),
                false => self.nodes.gateways.remove(&who.id),
            };
            self.nodes.version += 1;
        }
        Reply::Ok(Vec::new())
    }

    fn forget(&mut self, id: NodeId) -> Reply {
        if self.nodes.nodes.remove(&id).is_some() {
            self.nodes.gateways.remove(&id);
            self.nodes.version += 1;
        }
        Reply::Ok(Vec::new())
    }

    fn write_note(&mut self, index: Index, id: String, text: String) -> Reply {
        if id.is_empty() || id.len() > NOTE_ID_BYTES_MAX {
            return Reply::Failed(format!("a note's id has 1 to {NOTE_ID_BYTES_MAX} bytes, this one {}", id.len()));
        }
        if text.len() > NOTE_TEXT_BYTES_MAX {
            return Reply::Failed(format!("a note has at most {NOTE_TEXT_BYTES_MAX} bytes, this one {}", text.len()));
        }
        self.writes += 1;
        let id: Arc<str> = id.into();
        if let Some((old, _)) = self.notes.insert(Arc::clone(&id), (self.writes, Arc::new(Note { text, index }))) {
            self.order.remove(&old);
        }
        self.order.insert(self.writes, id);
        while self.notes.len() > NOTES_MAX {
            let first = self.order.get_min().map(|(write, _)| *write).expect("every note has its place in the order");
            let oldest = self.order.remove(&first).expect("it was just seen");
            self.notes.remove(&*oldest);
        }
        Reply::Ok(Vec::new())
    }
}

impl Service for Directory {
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply {
        match postcard::from_bytes::<Command>(command) {
            Ok(Command::Register { who, addresses, is_gateway }) => self.register(who, addresses, is_gateway),
            Ok(Command::Forget { id }) => self.forget(id),
            Ok(Command::Note { id, text }) => self.write_note(at.index, id, text),
            Err(_) => Reply::Failed("not a directory command".to_string()),
        }
    }

    fn query(&self, _at: Stamp, query: &[u8]) -> Reply {
        let bytes = match postcard::from_bytes::<Query>(query) {
            Ok(Query::Note { id }) => postcard::to_stdvec(&self.note(&id)),
            Ok(Query::Nodes) => postcard::to_stdvec(&self.nodes),
            Err(_) => return Reply::Failed("not a directory query".to_string()),
        };
        Reply::Ok(bytes.expect("encoding into memory cannot fail"))
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let out = BufWriter::with_capacity(64 << 10, out);
        postcard::to_io(self, out).map_err(io::Error::other)?.flush()
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        *self = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(directory: &mut Directory, index: u64, id: &str, text: &str) -> Reply {
        let command = Command::Note { id: id.to_string(), text: text.to_string() };
        directory.apply(Stamp { index: Index(index), at_ms: 0 }, &command.encode())
    }

    #[test]
    fn a_note_reads_back_with_its_index_and_survives_a_snapshot() {
        let mut directory = Directory::default();
        assert_eq!(note(&mut directory, 4, "a", "one"), Reply::Ok(Vec::new()));
        note(&mut directory, 5, "a", "two");
        let mut bytes = Vec::new();
        directory.snapshot(&mut bytes).unwrap();
        let mut restored = Directory::default();
        restored.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(restored, directory);
        let reply = restored.query(Stamp::default(), &Query::Note { id: "a".to_string() }.encode());
        let Reply::Ok(bytes) = reply else { panic!("{reply:?}") };
        assert_eq!(decode_note(&bytes), Some(Note { text: "two".to_string(), index: Index(5) }));
    }

    #[test]
    fn a_bad_note_fails_and_changes_nothing() {
        let mut directory = Directory::default();
        assert!(matches!(note(&mut directory, 1, "", "x"), Reply::Failed(_)));
        assert!(matches!(note(&mut directory, 1, "a", &"x".repeat(NOTE_TEXT_BYTES_MAX + 1)), Reply::Failed(_)));
        assert!(matches!(directory.apply(Stamp::default(), &[99, 1, 2]), Reply::Failed(_)));
        assert_eq!(directory, Directory::default());
    }

    #[test]
    fn registering_the_same_place_twice_is_one_change() {
        let mut directory = Directory::default();
        let who = Identity { id: NodeId(1), uuid: Uuid::from_u128(1) };
        let command = Command::Register { who, addresses: Addresses::default(), is_gateway: false }.encode();
        directory.apply(Stamp::default(), &command);
        directory.apply(Stamp::default(), &command);
        assert_eq!(directory.nodes().version, 1);
        let as_gateway = Command::Register { who, addresses: Addresses::default(), is_gateway: true }.encode();
        directory.apply(Stamp::default(), &as_gateway);
        assert!(directory.nodes().gateways.contains(&NodeId(1)));
        directory.apply(Stamp::default(), &command);
        assert_eq!((directory.nodes().gateways.len(), directory.nodes().version), (0, 3));
        directory.apply(Stamp::default(), &Command::Forget { id: NodeId(1) }.encode());
        assert_eq!(directory.nodes().version, 4);
    }

    #[test]
    fn the_oldest_write_is_dropped_when_there_are_too_many() {
        let mut directory = Directory::default();
        for i in 0..=NOTES_MAX as u64 {
            note(&mut directory, i, &i.to_string(), "");
        }
        assert!(directory.note("0").is_none());
        assert!(directory.note("1").is_some());
        assert_eq!(directory.notes.len(), directory.order.len());
    }
}
