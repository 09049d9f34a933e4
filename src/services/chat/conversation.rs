//! One conversation: a room or two people, its messages in order, and which of them were deleted.
//!
//! Invariants: T1 numbers are assigned once and in order. T2 positions grow with numbers. T3 `bytes` counts the
//! messages that are kept. T4 `erased` holds the numbers of kept messages without a text.
//! Not here: permissions (`state.rs`), read marks (`accounts.rs`).

use super::commands::{AccountId, MESSAGE_BYTES, MESSAGES_MAX, Name, TALK_BYTES_MAX};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What kind of conversation it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConversationKind {
    /// A room, which any account may join.
    Room(Name),
    /// Two accounts, the smaller number first. Either may be deleted.
    Direct(AccountId, AccountId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its position among all events.
    pub position: u64,
    /// Log time.
    pub at_ms: u64,
    pub from: AccountId,
    /// `None`: deleted.
    pub text: Option<String>,
}

/// The part of a conversation in a snapshot, except its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub kind: ConversationKind,
    pub members: OrdSet<AccountId>,
    /// Number of the newest message ever sent.
    pub newest: u64,
    /// Position at which each message was deleted, by its number.
    pub erased: OrdMap<u64, u64>,
    /// Newest position of a deletion.
    pub erased_at: u64,
    /// Position of the last change of the members.
    pub members_at: u64,
    /// Position of the newest message that is no longer kept.
    pub dropped_at: u64,
    /// Newest position of any event in it.
    pub touched: u64,
}

impl Message {
    /// Its share of the byte counts.
    pub fn bytes(&self) -> usize {
        MESSAGE_BYTES + self.text.as_ref().map_or(0, String::len)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Talk {
    pub(crate) head: Head,
    pub(crate) messages: OrdMap<u64, Arc<Message>>,
    pub(crate) bytes: usize,
}

impl Talk {
    pub fn new(kind: ConversationKind, members: OrdSet<AccountId>, position: u64) -> Talk {
        let head = Head {
            kind,
            members,
            newest: 0,
            erased: OrdMap::new(),
            erased_at: 0,
            members_at: position,
            dropped_at: 0,
            touched: position,
        };
        Talk { head, messages: OrdMap::new(), bytes: 0 }
    }

    pub fn kind(&self) -> &ConversationKind {
        &self.head.kind
    }

    pub fn members(&self) -> &OrdSet<AccountId> {
        &self.head.members
    }

    /// Number of the newest message ever sent.
    pub fn newest(&self) -> u64 {
        self.head.newest
    }

    /// Number of the oldest message that is kept; one more than the newest if none is.
    pub fn oldest(&self) -> u64 {
        self.messages.get_min().map_or(self.head.newest + 1, |(number, _)| *number)
    }

    /// Messages after a read mark, without the reader's own and those that were deleted.
    pub fn unread(&self, reader: AccountId, read: u64) -> impl Iterator<Item = &Arc<Message>> {
        let beyond = self.messages.range(read.saturating_add(1)..).map(|(_, message)| message);
        beyond.filter(move |message| message.from != reader && message.text.is_some())
    }

    /// Adds a message; returns its number, and the oldest messages that were dropped for it.
    pub fn append(&mut self, message: Message) -> (u64, Vec<Arc<Message>>) {
        self.head.newest += 1;
        self.head.touched = message.position;
        self.bytes += message.bytes();
        self.messages.insert(self.head.newest, Arc::new(message));
        let mut dropped = Vec::new();
        while self.messages.len() as u64 > MESSAGES_MAX || (self.bytes > TALK_BYTES_MAX && self.messages.len() > 1) {
            dropped.extend(self.drop_first());
        }
        (self.head.newest, dropped)
    }

    fn drop_first(&mut self) -> Option<Arc<Message>> {
        let (number, oldest) = self.messages.get_min().map(|(number, oldest)| (*number, Arc::clone(oldest)))?;
        self.messages.remove(&number);
        self.head.erased.remove(&number);
        self.bytes -= oldest.bytes();
        self.head.dropped_at = oldest.position;
        Some(oldest)
    }

    /// Deletes a message's text; returns how many bytes it had.
    pub fn erase(&mut self, number: u64, position: u64) -> usize {
        let message = self.messages.get_mut(&number).expect("the caller has found the message");
        let bytes = Arc::make_mut(message).text.take().map_or(0, |text| text.len());
        self.bytes -= bytes;
        self.head.erased.insert(number, position);
        self.head.erased_at = position;
        self.head.touched = position;
        bytes
    }

    /// Kept messages after a position, in order.
    pub fn beyond(&self, position: u64) -> impl Iterator<Item = (u64, &Arc<Message>)> {
        let (mut low, mut high) = (self.oldest(), self.head.newest + 1);
        // Binary search: positions grow with numbers, and no number between the two is missing.
        while low < high {
            let middle = low.midpoint(high);
            match self.messages.get(&middle) {
                Some(message) if message.position > position => high = middle,
                _ => low = middle + 1,
            }
        }
        self.messages.range(low..).map(|(number, message)| (*number, message))
    }

    /// Asserts the invariants.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn check(&self) {
        let mut before = self.head.dropped_at;
        for (number, message) in &self.messages {
            assert!(*number <= self.head.newest, "T1: {number}");
            assert!(message.position > before && message.position <= self.head.touched, "T2: {number}");
            before = message.position;
            assert_eq!(message.text.is_none(), self.head.erased.contains_key(number), "T4: {number}");
        }
        let bytes: usize = self.messages.values().map(|message| message.bytes()).sum();
        assert_eq!(bytes, self.bytes, "T3");
        assert_eq!(self.messages.len() as u64, self.head.newest + 1 - self.oldest(), "T1: a gap");
    }
}
