//! Changes one part of the state behind the log's back, as a fault of a disk, of memory or of ours would: for the simulator, and
//! for nodes that were started for a lab. Nothing else may call it.
//!
//! Not here: who finds out (`cluster/integrity.rs`).

use super::registry::{CHAT, DIRECTORY, JOBS, KV, Registry, SESSIONS, SQL};
use super::sessions::Tag;
use super::{Reply, Service, chat, directory, jobs};
use crate::types::{Identity, NodeId};
use std::collections::BTreeSet;
use uuid::Uuid;

impl Registry {
    /// Changes the part of this number; another number changes nothing.
    pub fn alter(&mut self, part: u8) {
        let at = self.applied();
        let reply = match part {
            DIRECTORY => {
                let command = directory::Command::Note { id: "altered".to_string(), text: at.index.to_string() };
                self.directory_mut().apply(at, &command.encode())
            }
            KV => {
                self.kv_mut().alter();
                Reply::Ok(Vec::new())
            }
            JOBS => {
                let worker = Identity { id: NodeId(NodeId::MAX), uuid: Uuid::from_u128(at.index.0.into()) };
                let command = jobs::Command::Join { worker, slots: 1, runtimes: BTreeSet::new(), trouble: None };
                self.jobs_mut().apply(at, &command.encode())
            }
            SQL => {
                self.sql_mut().alter();
                Reply::Ok(Vec::new())
            }
            CHAT => {
                let command = chat::Command::TryLogIn { key: "altered".to_string() };
                self.chat_mut().apply(at, &command.encode())
            }
            SESSIONS => {
                let tag = Tag { origin: Uuid::from_u128(1), number: at.index.0, done_below: 0 };
                let reply = Reply::Ok(Vec::new());
                self.sessions_mut().look(&tag);
                self.sessions_mut().record(at, &tag, &reply);
                reply
            }
            _ => return,
        };
        assert!(matches!(reply, Reply::Ok(_)), "part {part} was not altered: {reply:?}");
    }
}
