//! The directory service: identity and addresses of every node.
//!
//! Every node registers itself here once it is a member, so all nodes and `config.json` have the same addresses.
//!
//! Invariant: `version` grows with each change of the node table and is equal on every node at the same index.
//! Not here: the membership (`raft/`), which nodes are alive (`cluster/gossip.rs`).

use super::{Replicated, Reply, Service};
use crate::types::{Addresses, Identity, NodeId, Stamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Read, Write};
use uuid::Uuid;

/// Approximate maximum size of a row of the node table in an answer.
const NODE_BYTES: usize = 256;

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
    Forget {
        /// Id of the node.
        id: NodeId,
    },
    /// Wrote a short text in earlier versions. Old logs may contain it; it changes nothing.
    Note {
        /// Name of the text.
        id: String,
        /// The text.
        text: String,
    },
}

/// A query of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Returns the node table: [`Nodes`].
    Nodes,
}

/// The node table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// Number of changes so far.
    pub version: u64,
    /// Uuid and addresses of every registered node.
    pub nodes: BTreeMap<NodeId, (Uuid, Addresses)>,
    /// The registered nodes that are gateways: they neither vote nor run jobs.
    pub gateways: BTreeSet<NodeId>,
}

/// State of the directory service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    nodes: Nodes,
}

impl Nodes {
    /// Whether this node is registered with exactly these addresses and this role.
    pub fn has(&self, who: Identity, addresses: &Addresses, is_gateway: bool) -> bool {
        let row = self.nodes.get(&who.id);
        row.is_some_and(|(uuid, at)| *uuid == who.uuid && at == addresses)
            && self.gateways.contains(&who.id) == is_gateway
    }
}

impl Command {
    /// Encodes the command without the service's routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

impl Directory {
    /// Returns the node table.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
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
            Ok(Command::Register { who, addresses, is_gateway }) => self.register(who, addresses, is_gateway),
            Ok(Command::Forget { id }) => self.forget(id),
            Ok(Command::Note { .. }) => Reply::Ok(Vec::new()),
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
        postcard::to_io(&self.nodes, out).map_err(io::Error::other)?.flush()
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        // Earlier versions wrote short texts after the node table; they are ignored.
        let (nodes, _texts) = postcard::take_from_bytes(&bytes).map_err(io::Error::other)?;
        self.nodes = nodes;
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
}
