//! The directory service: identity and addresses of every node, and the history that the page shows.
//!
//! Every node registers itself here once it is a member, so all nodes and `config.json` have the same addresses.
//!
//! Invariant: `version` grows with each change of the node table and is equal on every node at the same index.
//! The history is here so that it is the same on every node, also after a restart.
//! Not here: who writes which event (`node/threads/gossip.rs`), the membership (`raft/`), which nodes are alive
//! (`cluster/gossip.rs`).

use super::{Replicated, Reply, Service};
use crate::limits::{FAILOVERS_MAX, HISTORY_MAX, HISTORY_TEXT_BYTES_MAX};
use crate::types::{Addresses, Identity, NodeId, NodeKind, Stamp, Term};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;
use uuid::Uuid;

/// Approximate maximum size of a row of the node table in an answer.
const NODE_BYTES: usize = 256;
/// Stands before the history in a snapshot. Earlier versions wrote something else there, or nothing.
const HISTORY_MAGIC: &[u8] = b"phalanx history 1\n";
/// Stands before the witnesses, which follow the history if there are any. Earlier versions ignore it.
const WITNESSES_MAGIC: &[u8] = b"phalanx witnesses 1\n";

/// A change of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Registers a node with its addresses; replaces the row of its id.
    Register {
        /// Id and uuid of the node.
        who: Identity,
        /// Addresses at which the node is reachable.
        addresses: Addresses,
        /// Whether the node is a gateway: it serves clients, but neither votes nor runs jobs.
        is_gateway: bool,
    },
    /// Removes a node that has left for good.
    Forget { id: NodeId },
    /// Wrote a short text in earlier versions. Old logs may contain it; it changes nothing.
    Note {
        /// Name of the text.
        id: String,
        text: String,
    },
    /// Adds to the history. Lines that it has already are skipped: a command may be sent twice.
    Record {
        /// Events, in order.
        lines: Vec<HistoryLine>,
        /// Changes of leader, in order.
        leaders: Vec<LeaderChange>,
    },
    /// Registers a witness; replaces the row of its id.
    RegisterWitness {
        /// Id and uuid of the node.
        who: Identity,
        /// Addresses at which the node is reachable.
        addresses: Addresses,
    },
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// When, by the clock of the node that wrote it, in milliseconds since 1970.
    pub at_ms: u64,
    /// `election`, `failure`, `membership`, `start`, ...
    pub kind: String,
    pub node: Option<NodeId>,
    /// A sentence.
    pub text: String,
}

/// One change of leader, as the new leader saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderChange {
    /// Term of the new leader.
    pub term: Term,
    /// Old leader.
    pub from: Option<NodeId>,
    /// New leader.
    pub to: NodeId,
    /// `link lost`, `timeout`, `leadership transfer`, ...
    pub cause: String,
    /// How long the new leader had known no leader.
    pub leaderless_ms: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The newest events and changes of leader, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Number of changes so far.
    pub version: u64,
    /// Number of the newest line: the first ever has 1.
    pub newest: u64,
    /// At most [`HISTORY_MAX`].
    pub lines: VecDeque<HistoryLine>,
    /// At most [`FAILOVERS_MAX`].
    pub leaders: VecDeque<LeaderChange>,
}

/// A query of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Returns the node table: [`Nodes`].
    Nodes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// Number of changes so far.
    pub version: u64,
    /// Uuid and addresses of every registered node.
    pub nodes: BTreeMap<NodeId, (Uuid, Addresses)>,
    /// The registered nodes that are gateways: they neither vote nor run jobs.
    pub gateways: BTreeSet<NodeId>,
    /// The registered nodes that are witnesses: they vote and keep no data. Written apart, because snapshots of earlier
    /// versions do not have it.
    #[serde(skip)]
    pub witnesses: BTreeSet<NodeId>,
}

/// State of the directory service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    nodes: Nodes,
    history: Arc<History>,
}

impl Nodes {
    /// Whether this node is registered with exactly these addresses and as this kind.
    pub fn has(&self, who: Identity, addresses: &Addresses, kind: NodeKind) -> bool {
        let row = self.nodes.get(&who.id);
        row.is_some_and(|(uuid, at)| *uuid == who.uuid && at == addresses) && self.kind_of(who) == kind
    }

    /// What a node is for; a full node, if it is not registered: another identity may have had its id.
    pub fn kind_of(&self, who: Identity) -> NodeKind {
        match self.nodes.get(&who.id) {
            Some((uuid, _)) if *uuid != who.uuid => NodeKind::Full,
            _ if self.gateways.contains(&who.id) => NodeKind::Gateway,
            _ if self.witnesses.contains(&who.id) => NodeKind::Witness,
            _ => NodeKind::Full,
        }
    }
}

impl Command {
    /// Returns the command that registers a node of this kind.
    pub fn register(who: Identity, addresses: Addresses, kind: NodeKind) -> Command {
        match kind {
            NodeKind::Witness => Command::RegisterWitness { who, addresses },
            NodeKind::Full | NodeKind::Gateway => {
                Command::Register { who, addresses, is_gateway: kind == NodeKind::Gateway }
            }
        }
    }

    /// Encodes the command without the service's routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

impl Directory {
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    fn record(&mut self, lines: Vec<HistoryLine>, leaders: Vec<LeaderChange>) -> Reply {
        let history = Arc::make_mut(&mut self.history);
        history.version += 1;
        for mut line in lines {
            let end = line.text.floor_char_boundary(HISTORY_TEXT_BYTES_MAX);
            line.text.truncate(end);
            line.kind.truncate(line.kind.floor_char_boundary(HISTORY_TEXT_BYTES_MAX));
            if !history.lines.contains(&line) {
                history.newest += 1;
                history.lines.push_back(line);
            }
        }
        for mut change in leaders {
            change.cause.truncate(change.cause.floor_char_boundary(HISTORY_TEXT_BYTES_MAX));
            if !history.leaders.contains(&change) {
                history.leaders.push_back(change);
            }
        }
        history.lines.drain(..history.lines.len().saturating_sub(HISTORY_MAX));
        history.leaders.drain(..history.leaders.len().saturating_sub(FAILOVERS_MAX));
        Reply::Ok(Vec::new())
    }

    fn register(&mut self, who: Identity, addresses: Addresses, kind: NodeKind) -> Reply {
        if !self.nodes.has(who, &addresses, kind) {
            self.nodes.nodes.insert(who.id, (who.uuid, addresses));
            for (of, set) in
                [(NodeKind::Gateway, &mut self.nodes.gateways), (NodeKind::Witness, &mut self.nodes.witnesses)]
            {
                match of == kind {
                    true => set.insert(who.id),
                    false => set.remove(&who.id),
                };
            }
            self.nodes.version += 1;
        }
        Reply::Ok(Vec::new())
    }

    fn forget(&mut self, id: NodeId) -> Reply {
        if self.nodes.nodes.remove(&id).is_some() {
            self.nodes.gateways.remove(&id);
            self.nodes.witnesses.remove(&id);
            self.nodes.version += 1;
        }
        Reply::Ok(Vec::new())
    }
}

impl Replicated for Directory {
    const ID: u8 = 1;
    const NAME: &'static str = "directory";
    type Command = Command;
    type Query = Query;
}

impl Service for Directory {
    fn apply(&mut self, _at: Stamp, command: &[u8]) -> Reply {
        match postcard::from_bytes::<Command>(command) {
            Ok(Command::Register { who, addresses, is_gateway: false }) => {
                self.register(who, addresses, NodeKind::Full)
            }
            Ok(Command::Register { who, addresses, is_gateway: true }) => {
                self.register(who, addresses, NodeKind::Gateway)
            }
            Ok(Command::RegisterWitness { who, addresses }) => self.register(who, addresses, NodeKind::Witness),
            Ok(Command::Forget { id }) => self.forget(id),
            Ok(Command::Note { .. }) => Reply::Ok(Vec::new()),
            Ok(Command::Record { lines, leaders }) => self.record(lines, leaders),
            Err(_) => Reply::Failed("not a directory command".to_string()),
        }
    }

    fn query(&self, _at: Stamp, query: &[u8]) -> Reply {
        let bytes = match postcard::from_bytes::<Query>(query) {
            Ok(Query::Nodes) => postcard::to_stdvec(&self.nodes),
            Err(_) => return Reply::Failed("not a directory query".to_string()),
        };
        Reply::Ok(bytes.expect("encoding into memory cannot fail"))
    }

    fn read_cost(&self, _query: &[u8], _most: usize) -> usize {
        self.nodes.nodes.len() * NODE_BYTES
    }

    fn alter(&mut self, _at: Stamp) {
        self.nodes.version += 1;
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let out = BufWriter::with_capacity(64 << 10, out);
        let mut out = postcard::to_io(&self.nodes, out).map_err(io::Error::other)?;
        let has_witnesses = !self.nodes.witnesses.is_empty();
        if has_witnesses || *self.history != History::default() {
            out.write_all(HISTORY_MAGIC)?;
            out = postcard::to_io(&*self.history, out).map_err(io::Error::other)?;
        }
        if has_witnesses {
            out.write_all(WITNESSES_MAGIC)?;
            out = postcard::to_io(&self.nodes.witnesses, out).map_err(io::Error::other)?;
        }
        out.flush()
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        // Earlier versions wrote short texts after the node table; they are ignored.
        let (mut nodes, rest): (Nodes, _) = postcard::take_from_bytes(&bytes).map_err(io::Error::other)?;
        let (history, rest) = match rest.strip_prefix(HISTORY_MAGIC) {
            Some(rest) => postcard::take_from_bytes(rest).map_err(io::Error::other)?,
            None => (History::default(), rest),
        };
        if let Some(witnesses) = rest.strip_prefix(WITNESSES_MAGIC) {
            nodes.witnesses = postcard::from_bytes(witnesses).map_err(io::Error::other)?;
        }
        (self.nodes, self.history) = (nodes, Arc::new(history));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Earlier versions wrote the node table, then texts by name, their order and a count.
    #[test]
    fn a_snapshot_with_texts_of_former_versions_gives_its_node_table() {
        let mut directory = Directory::default();
        let who = Identity { id: NodeId(1), uuid: Uuid::from_u128(1) };
        directory.apply(
            Stamp::default(),
            &Command::Register { who, addresses: Addresses::default(), is_gateway: false }.encode(),
        );
        let mut bytes = Vec::new();
        directory.snapshot(&mut bytes).unwrap();
        let mut restored = Directory::default();
        restored.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(restored, directory);
        let texts = BTreeMap::from([("n", (1_u64, ("text", 5_u64)))]);
        bytes.extend(postcard::to_stdvec(&(texts, BTreeMap::from([(1_u64, "n")]), 1_u64)).unwrap());
        let mut former = Directory::default();
        former.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(former, directory);
        for end in 0..20 {
            assert!(Directory::default().restore(&mut &bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn the_history_is_bounded_takes_nothing_twice_and_is_in_snapshots() {
        let mut directory = Directory::default();
        let line = |at_ms, text: &str| HistoryLine { at_ms, kind: "start".into(), node: None, text: text.into() };
        let change = |term| LeaderChange {
            term: Term(term),
            from: None,
            to: NodeId(1),
            cause: "timeout".into(),
            leaderless_ms: 7,
            at_ms: 9,
        };
        for number in 0..150 {
            let lines = vec![line(number, "one"), line(number, "one"), line(number, &"é".repeat(1000))];
            let record = Command::Record { lines, leaders: vec![change(number)] };
            for _ in 0..2 {
                assert_eq!(directory.apply(Stamp::default(), &record.encode()), Reply::Ok(Vec::new()));
            }
        }
        let history = directory.history().clone();
        assert_eq!((history.newest, history.version), (300, 300));
        assert_eq!((history.lines.len(), history.leaders.len()), (HISTORY_MAX, FAILOVERS_MAX));
        assert_eq!(history.lines.back().map(|line| line.text.len()), Some(HISTORY_TEXT_BYTES_MAX));
        assert_eq!(history.leaders.back(), Some(&change(149)));
        let mut bytes = Vec::new();
        directory.snapshot(&mut bytes).unwrap();
        let mut restored = Directory::default();
        restored.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(restored, directory);
        assert!(restored.restore(&mut &bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn texts_of_former_versions_and_garbage_change_nothing() {
        let mut directory = Directory::default();
        let text = Command::Note { id: "a".into(), text: "b".into() };
        assert_eq!(directory.apply(Stamp::default(), &text.encode()), Reply::Ok(Vec::new()));
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
    fn a_witness_is_one_until_its_id_is_registered_otherwise_and_snapshots_say_so() {
        let mut directory = Directory::default();
        let who = |uuid| Identity { id: NodeId(3), uuid: Uuid::from_u128(uuid) };
        let register = |uuid, kind| Command::register(who(uuid), Addresses::default(), kind).encode();
        let saved = |directory: &Directory| {
            let mut bytes = Vec::new();
            directory.snapshot(&mut bytes).unwrap();
            bytes
        };
        directory.apply(Stamp::default(), &register(1, NodeKind::Full));
        assert!(!saved(&directory).windows(5).any(|it| it == b"witne"), "as in earlier versions");
        directory.apply(Stamp::default(), &register(1, NodeKind::Witness));
        directory.apply(Stamp::default(), &register(1, NodeKind::Witness));
        assert_eq!(directory.nodes().version, 2, "registering it twice is one change");
        assert_eq!(directory.nodes().kind_of(who(1)), NodeKind::Witness);
        assert_eq!(directory.nodes().kind_of(who(2)), NodeKind::Full, "the identity of another folder");
        let bytes = saved(&directory);
        let mut restored = Directory::default();
        restored.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(restored, directory);
        assert!(restored.restore(&mut &bytes[..bytes.len() - 1]).is_err());
        directory.apply(Stamp::default(), &register(1, NodeKind::Gateway));
        assert_eq!(directory.nodes().kind_of(who(1)), NodeKind::Gateway);
        directory.apply(Stamp::default(), &register(1, NodeKind::Witness));
        directory.apply(Stamp::default(), &Command::Forget { id: NodeId(3) }.encode());
        assert_eq!(directory.nodes().witnesses.len(), 0);
    }
}
