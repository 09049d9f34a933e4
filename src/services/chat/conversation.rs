//! One conversation: a room or two people, its messages in order, and what was taken back.
//!
//! Invariants: T1 numbers are given once and in order. T2 positions grow with numbers. T3 `bytes` counts the messages that are
//! kept. T4 `erased` holds the numbers of kept messages without a text.
//! Not here: who may do what (`state.rs`), how far somebody has read (`accounts.rs`).

use super::commands::{AccountId, MESSAGE_BYTES, MESSAGES_MAX, Name, TALK_BYTES_MAX};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What kind of conversation it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Whoever joins.
    Room(Name),
    /// Two accounts, the smaller number first. Either may be deleted.
    Direct(AccountId, AccountId),
}

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its place in everything that happened.
    pub position: u64,
    /// Log time.
    pub at_ms: u64,
    /// Who said it.
    pub from: AccountId,
    /// `None`: taken back.
    pub text: Option<String>,
}

/// What a snapshot holds of a conversation besides its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Room or direct.
    pub kind: Kind,
    /// Who is in it.
    pub members: OrdSet<AccountId>,
    /// Number of the newest message that there ever was.
    pub newest: u64,
    /// Position at which each message was taken back, by its number.
    pub erased: OrdMap<u64, u64>,
    /// Newest position at which that happened.
    pub erased_at: u64,
    /// Position at which the members changed last.
    pub members_at: u64,
    /// Position of the newest message that is not kept any more.
    pub dropped_at: u64,
    /// Newest position of anything here.
    pub touched: u64,
}

impl Message {
    /// What it counts for.
    pub fn bytes(&self) -> usize {
        MESSAGE_BYTES + self.text.as_ref().map_or(0, String::len)
    }
}

/// One conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Talk {
    pub(crate) head: Head,
    pub(crate) messages: OrdMap<u64, Arc<Message>>,
    pub(crate) bytes: usize,
}

impl Talk {
    /// Nothing said yet.
    pub fn new(kind: Kind, members: OrdSet<AccountId>, position: u64) -> Talk {
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

    /// Room or direct.
    pub fn kind(&self) -> &Kind {
        &self.head.kind
    }

    /// Who is in it.
    pub fn members(&self) -> &OrdSet<AccountId> {
        &self.head.members
    }

    /// Number of the newest message that there ever was.
    pub fn newest(&self) -> u64 {
        self.head.newest
    }

    /// Number of the oldest that is kept; one more than the newest if none is.
    pub fn oldest(&self) -> u64 {
        self.messages.get_min().map_or(self.head.newest + 1, |(number, _)| *number)
    }

    /// Messages beyond a read mark, without those that were taken back.
    pub fn unread(&self, read: u64) -> u64 {
        let beyond = read.max(self.oldest() - 1);
        let erased = self.head.erased.range(beyond.saturating_add(1)..).count() as u64;
        self.head.newest.saturating_sub(beyond).saturating_sub(erased)
    }

    /// Adds a message; its number, and the oldest ones that went for it.
    pub fn say(&mut self, message: Message) -> (u64, Vec<Arc<Message>>) {
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

    /// Takes a text back; how many bytes it had.
    pub fn erase(&mut self, number: u64, position: u64) -> usize {
        let message = self.messages.get_mut(&number).expect("whoever erases a message has looked at it");
        let bytes = Arc::make_mut(message).text.take().map_or(0, |text| text.len());
        self.bytes -= bytes;
        self.head.erased.insert(number, position);
        self.head.erased_at = position;
        self.head.touched = position;
        bytes
    }

    /// Kept messages beyond a position, in order.
    pub fn beyond(&self, position: u64) -> impl Iterator<Item = (u64, &Arc<Message>)> {
        let (mut low, mut high) = (self.oldest(), self.head.newest + 1);
        // Positions grow with numbers, and no number between the two is missing.
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
    #[cfg(test)]
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
