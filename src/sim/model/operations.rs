//! The state of virtual clients: their operations and results.

use crate::services::chat;
use crate::services::jobs::JobId;
use crate::services::kv::Op;
use crate::services::sessions::Tag;
use crate::sim::model::services::{self, Body};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Attempts of one client are numbered within a block of this size.
pub(crate) const BLOCK: u64 = 1 << 32;

/// The result of an attempt, as a client receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientResult {
    /// Applied; the service's reply.
    Done(Vec<u8>),
    /// Applied, and the service reported an error.
    Failed(String),
    /// What a register held, at an applied index.
    Value { index: u64, value: Option<u64> },
    /// Certainly not applied.
    Refused,
    /// Maybe applied.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Set a register.
    Set {
        key: u8,
        value: u64,
    },
    /// Set a register if it holds `from` (`None`: nothing).
    Swap {
        key: u8,
        from: Option<u64>,
        to: u64,
    },
    /// Increment the counter.
    Count,
    /// Read a register or the counter.
    Read {
        key: u8,
    },
    /// Submit a job.
    Submit,
    Cancel {
        job: JobId,
    },
    /// Change the database.
    Sql,
    /// Send a chat message, under a client id.
    Say {
        who: u64,
        id: u64,
    },
    /// Another chat command.
    Chat,
}

impl OperationKind {
    /// What the store is asked for, if it goes through the log.
    pub(crate) fn op(self) -> Option<Op> {
        match self {
            OperationKind::Set { key, value } => Some(services::set(key, value)),
            OperationKind::Swap { key, from, to } => Some(services::set_if(key, from, to)),
            OperationKind::Count => Some(services::count()),
            _ => None,
        }
    }
}

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Operation {
    pub operation_kind: OperationKind,
    /// For a write: under which name it takes effect once.
    pub tag: Option<Tag>,
    /// For a write: what goes into the log.
    pub(crate) body: Body,
    pub call_us: u64,
    /// For a read: the newest index acknowledged to anyone when it was asked.
    pub floor: u64,
    /// Attempts without an answer.
    pub open: Vec<u64>,
    /// The attempt that it waits for; `None`: it will ask again soon.
    pub current: Option<u64>,
    /// Some attempt may have been applied.
    pub is_ambiguous: bool,
    /// Attempts so far.
    pub tries: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Client {
    pub id: u64,
    pub(crate) origin: Uuid,
    /// Number of its newest write under this origin.
    pub(crate) number: u64,
    /// It waits for nothing below this number.
    pub(crate) done_below: u64,
    pub(crate) attempts: u64,
    pub(crate) values: u64,
    /// What it saw last in each register.
    pub(crate) seen: BTreeMap<u8, u64>,
    /// Jobs that it has submitted.
    pub(crate) jobs: Vec<JobId>,
    /// Its state in the chat.
    pub chat: ChatClient,
    /// What it is doing.
    pub operation: Option<Operation>,
}

impl Client {
    /// A client that has not done anything.
    pub fn new(id: u64) -> Client {
        Client { id, origin: Uuid::from_u128(u128::from(id)), ..Client::default() }
    }

    /// A name for its next write. `lag`: how many writes that it gave up it still counts as open.
    pub(crate) fn tag(&mut self, lag: u64) -> Tag {
        self.number += 1;
        self.done_below = self.done_below.max(self.number.saturating_sub(lag)).max(1);
        Tag { origin: self.origin, number: self.number, done_below: self.done_below }
    }
}

pub fn client_of(attempt: u64) -> usize {
    (attempt / BLOCK) as usize
}

/// A client's state in the chat.
#[derive(Clone, Debug, Default)]
pub struct ChatClient {
    pub(crate) is_member: bool,
    /// Number of its newest message.
    pub(crate) said: u64,
    /// That message.
    pub(crate) last: Option<(u64, chat::Command)>,
}
