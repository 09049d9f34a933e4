//! Exactly once: a command that is sent again after its leader died takes effect only the first time.
//!
//! Each process numbers the commands it takes in and says with each below which number it waits for nothing any more.
//! The table keeps the replies from there on, so a second copy gets the first one's reply, and what it has forgotten is
//! refused, never run again. It is part of the snapshot and expires by log time.
//!
//! Invariants: S1 a (origin, number) is recorded at most once. S2 `floor` never goes back.
//! Not here: who numbers commands (`node/shared.rs`), who sends them again (`node/requests.rs`).

use super::Reply;
use crate::types::{Index, Stamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A process that sent nothing for so long (log time, in milliseconds) is forgotten: every request of it is long over.
const IDLE_MS_MAX: u64 = 3_600_000;

/// Names one command among all that were ever sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Drawn by the process that took the command in, when it started.
    pub origin: Uuid,
    /// Grows by one with each of its commands.
    pub number: u64,
    /// It waits for nothing below this number.
    pub done_below: u64,
}

/// What is known of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not seen before: run it.
    New,
    /// It ran at this index, with this reply.
    Before(Index, Reply),
    /// Whether it ran is forgotten, because its sender had given it up.
    Forgotten,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    floor: u64,
    replies: BTreeMap<u64, (Index, Reply)>,
    at_ms: u64,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    by_origin: BTreeMap<Uuid, Session>,
}

impl Sessions {
    /// Looks a tag up, and forgets what its sender no longer waits for.
    pub fn look(&mut self, at: Stamp, tag: &Tag) -> Seen {
        let session = self.by_origin.entry(tag.origin).or_default();
        session.at_ms = at.at_ms;
        if let Some((index, reply)) = session.replies.get(&tag.number) {
            return Seen::Before(*index, reply.clone());
        }
        if tag.number < session.floor {
            return Seen::Forgotten;
        }
        if tag.done_below > session.floor {
            session.floor = tag.done_below.min(tag.number);
            session.replies = session.replies.split_off(&session.floor);
        }
        Seen::New
    }

    /// Records what a new tag's command answered.
    pub fn record(&mut self, at: Stamp, tag: &Tag, reply: &Reply) {
        let session = self.by_origin.entry(tag.origin).or_default();
        let before = session.replies.insert(tag.number, (at.index, reply.clone()));
        assert!(before.is_none(), "command {} of {} ran twice", tag.number, tag.origin);
    }

    /// Forgets processes that have long been silent.
    pub fn expire(&mut self, at: Stamp) {
        self.by_origin.retain(|_, session| at.at_ms.saturating_sub(session.at_ms) < IDLE_MS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, at_ms: u64) -> Stamp {
        Stamp { index: Index(index), at_ms }
    }

    fn tag(number: u64, done_below: u64) -> Tag {
        Tag { origin: Uuid::from_u128(1), number, done_below }
    }

    #[test]
    fn a_second_copy_gets_the_first_ones_reply_until_its_sender_is_done() {
        let mut sessions = Sessions::default();
        let reply = Reply::Ok(vec![7]);
        assert_eq!(sessions.look(at(1, 0), &tag(1, 1)), Seen::New);
        sessions.record(at(1, 0), &tag(1, 1), &reply);
        assert_eq!(sessions.look(at(2, 0), &tag(1, 1)), Seen::Before(Index(1), reply));
        assert_eq!(sessions.look(at(3, 0), &tag(2, 2)), Seen::New);
        assert_eq!(sessions.look(at(4, 0), &tag(1, 1)), Seen::Forgotten);
    }

    #[test]
    fn numbers_may_arrive_out_of_order() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.look(at(1, 0), &tag(5, 3)), Seen::New);
        sessions.record(at(1, 0), &tag(5, 3), &Reply::Ok(vec![]));
        assert_eq!(sessions.look(at(2, 0), &tag(3, 3)), Seen::New);
        assert_eq!(sessions.look(at(2, 0), &tag(2, 2)), Seen::Forgotten);
    }

    #[test]
    fn a_silent_origin_is_forgotten_by_log_time() {
        let mut sessions = Sessions::default();
        sessions.look(at(1, 0), &tag(1, 1));
        sessions.expire(at(2, IDLE_MS_MAX - 1));
        assert_eq!(sessions.by_origin.len(), 1);
        sessions.expire(at(3, IDLE_MS_MAX));
        assert_eq!(sessions, Sessions::default());
    }

    #[test]
    #[should_panic(expected = "ran twice")]
    fn a_second_run_is_our_bug() {
        let mut sessions = Sessions::default();
        sessions.record(at(1, 0), &tag(1, 1), &Reply::Ok(vec![]));
        sessions.record(at(2, 0), &tag(1, 1), &Reply::Ok(vec![]));
    }
}
