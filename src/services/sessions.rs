//! Exactly once: a command that is sent again after its leader died takes effect only the first time.
//!
//! Each process numbers the commands it takes in and says with each below which number it waits for nothing any more.
//! The table keeps the replies from there on, so a second copy gets the first one's reply, and what it has forgotten is
//! refused, never run again. It is part of the snapshot.
//!
//! An origin that is silent for an hour of session time is forgotten. Session time follows log time, but no entry moves
//! it by more than a minute: a new leader whose clock is hours ahead must not make the table forget the very commands
//! that are just being sent again to it.
//!
//! What bounds the table: an origin that is a node keeps one reply for each command that it still waits for, and it takes
//! no more of them than its endpoints have room for; an origin that is an `Idempotency-Key` keeps one; a reply has at most
//! [`super::kv::commands::RUN_REPLY_BYTES_MAX`] bytes. Beyond [`ORIGINS_MAX`] origins those go that were silent for
//! [`IDLE_CROWDED_MS`], which is still longer than any request lives.
//!
//! Invariants: S1 a (origin, number) is recorded at most once. S2 `floor` never goes back. S3 `silent` holds one row for
//! each origin.
//! Not here: who numbers commands and sends them again (`node/threads/core/pending_requests.rs`).

use super::Reply;
use super::snapshot_format::{bad, put_numbers, put_record, take_numbers, take_record};
use crate::types::{Index, Stamp};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use uuid::Uuid;

/// An origin that sent nothing for so long (session time, in milliseconds) is forgotten: every request of it is long over.
pub const IDLE_MS_MAX: u64 = 3_600_000;
/// The same while there are more than [`ORIGINS_MAX`]; `request_timeout_ms` is ten minutes at most.
pub const IDLE_CROWDED_MS: u64 = 900_000;
/// Origins beyond which the table is crowded: some 400 MB of them, if each has one small reply. Tests have fewer.
pub const ORIGINS_MAX: usize = if cfg!(test) { 10_000 } else { 1_000_000 };
/// The most that session time moves with one entry.
const STEP_MS_MAX: u64 = 60_000;
/// An origin's row in the order of silence is moved only when it is this old: a busy node costs nothing.
const REFRESH_MS: u64 = 60_000;
/// Origins forgotten with one entry, so that none takes long to apply.
const FORGOTTEN_PER_ENTRY_MAX: usize = 1_000;

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

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    number: u64,
    index: Index,
    reply: Reply,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    floor: u64,
    /// By number.
    replies: VecDeque<Kept>,
    /// Session time of its row in the order of silence.
    heard_ms: u64,
}

/// The table. A clone shares everything with the original until one of them is written to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    by_origin: OrdMap<Uuid, Arc<Session>>,
    /// Origins by the session time at which they were last heard, give or take [`REFRESH_MS`].
    silent: OrdSet<(u64, Uuid)>,
    /// Session time.
    now_ms: u64,
    /// Log time when it last moved.
    at_ms: u64,
}

impl Session {
    fn find(&self, number: u64) -> Result<usize, usize> {
        // Numbers come nearly in order: most are beyond the last.
        match self.replies.back() {
            Some(last) if last.number >= number => self.replies.binary_search_by_key(&number, |kept| kept.number),
            _ => Err(self.replies.len()),
        }
    }
}

impl Sessions {
    /// Number of origins.
    pub(crate) fn len(&self) -> usize {
        self.by_origin.len()
    }

    /// Moves session time on and forgets origins that have long been silent: the beginning of every entry.
    pub fn expire(&mut self, at: Stamp) {
        self.now_ms += at.at_ms.saturating_sub(self.at_ms).min(STEP_MS_MAX);
        self.at_ms = self.at_ms.max(at.at_ms);
        for _ in 0..FORGOTTEN_PER_ENTRY_MAX {
            let idle_ms = if self.len() > ORIGINS_MAX { IDLE_CROWDED_MS } else { IDLE_MS_MAX };
            let Some((heard_ms, origin)) = self.silent.get_min().copied() else { return };
            if self.now_ms - heard_ms < idle_ms {
                return;
            }
            self.silent.remove_min();
            self.by_origin.remove(&origin);
        }
    }

    /// Looks a tag up, and forgets what its sender no longer waits for.
    pub fn look(&mut self, tag: &Tag) -> Seen {
        let session = self.session(tag.origin);
        if let Ok(place) = session.find(tag.number) {
            let kept = &session.replies[place];
            return Seen::Before(kept.index, kept.reply.clone());
        }
        if tag.number < session.floor {
            return Seen::Forgotten;
        }
        if tag.done_below > session.floor {
            session.floor = tag.done_below.min(tag.number);
            while session.replies.front().is_some_and(|kept| kept.number < session.floor) {
                session.replies.pop_front();
            }
        }
        Seen::New
    }

    /// Records what a new tag's command answered.
    pub fn record(&mut self, at: Stamp, tag: &Tag, reply: &Reply) {
        let session = self.session(tag.origin);
        let place = match session.find(tag.number) {
            Err(place) => place,
            Ok(_) => panic!("command {} of {} ran twice", tag.number, tag.origin),
        };
        if session.replies.is_empty() {
            // Most origins of a crowded table are idempotency keys, which keep this one alone.
            session.replies.reserve_exact(1);
        }
        session.replies.insert(place, Kept { number: tag.number, index: at.index, reply: reply.clone() });
    }

    /// Records a reply that no command had, as a fault would (see [`super::Service::alter`]).
    pub(super) fn alter(&mut self, at: Stamp) {
        let tag = Tag { origin: Uuid::from_u128(1), number: at.index.0, done_below: 0 };
        self.look(&tag);
        self.record(at, &tag, &Reply::Ok(Vec::new()));
    }

    /// Writes the table: two times, the number of origins, and for each its length and bytes.
    pub fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(64 << 10, out);
        put_numbers(&mut out, [self.now_ms, self.at_ms, self.len() as u64])?;
        let mut buffer = Vec::new();
        for row in &self.by_origin {
            put_record(&mut out, &mut buffer, &row)?;
        }
        out.flush()
    }

    /// Replaces the table by one that `snapshot` wrote.
    pub fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut from = BufReader::with_capacity(64 << 10, from);
        let [now_ms, at_ms, len] = take_numbers(&mut from)?;
        let mut table = Sessions { now_ms, at_ms, ..Sessions::default() };
        let mut buffer = Vec::new();
        for _ in 0..len {
            let (origin, session): (Uuid, Session) = take_record(&mut from, &mut buffer)?;
            if session.heard_ms > now_ms {
                return Err(bad("a session of the future"));
            }
            table.silent.insert((session.heard_ms, origin));
            table.by_origin.insert(origin, Arc::new(session));
        }
        *self = table;
        Ok(())
    }

    /// An origin's session, which counts as heard of now.
    fn session(&mut self, origin: Uuid) -> &mut Session {
        let now_ms = self.now_ms;
        if !self.by_origin.contains_key(&origin) {
            self.silent.insert((now_ms, origin));
            self.by_origin.insert(origin, Arc::new(Session { heard_ms: now_ms, ..Session::default() }));
        }
        let session = self.by_origin.get_mut(&origin).expect("it was just put there if it was not");
        let session = Arc::make_mut(session);
        if now_ms - session.heard_ms > REFRESH_MS {
            self.silent.remove(&(session.heard_ms, origin));
            self.silent.insert((now_ms, origin));
            session.heard_ms = now_ms;
        }
        session
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

    /// Lets session time pass, by entries that come every half minute.
    fn pass(sessions: &mut Sessions, ms: u64) {
        let end_ms = sessions.at_ms + ms;
        while sessions.at_ms < end_ms {
            let at_ms = (sessions.at_ms + 30_000).min(end_ms);
            sessions.expire(at(1, at_ms));
        }
    }

    #[test]
    fn a_second_copy_gets_the_first_ones_reply_until_its_sender_is_done() {
        let mut sessions = Sessions::default();
        let reply = Reply::Ok(vec![7]);
        assert_eq!(sessions.look(&tag(1, 1)), Seen::New);
        sessions.record(at(1, 0), &tag(1, 1), &reply);
        assert_eq!(sessions.look(&tag(1, 1)), Seen::Before(Index(1), reply));
        assert_eq!(sessions.look(&tag(2, 2)), Seen::New);
        assert_eq!(sessions.look(&tag(1, 1)), Seen::Forgotten);
    }

    #[test]
    fn numbers_may_arrive_out_of_order() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.look(&tag(5, 3)), Seen::New);
        sessions.record(at(1, 0), &tag(5, 3), &Reply::Ok(vec![]));
        assert_eq!(sessions.look(&tag(3, 3)), Seen::New);
        sessions.record(at(2, 0), &tag(3, 3), &Reply::Ok(vec![3]));
        assert_eq!(sessions.look(&tag(3, 3)), Seen::Before(Index(2), Reply::Ok(vec![3])));
        assert_eq!(sessions.look(&tag(5, 3)), Seen::Before(Index(1), Reply::Ok(vec![])));
        assert_eq!(sessions.look(&tag(2, 2)), Seen::Forgotten);
    }

    #[test]
    fn a_silent_origin_is_forgotten_and_a_busy_one_is_not() {
        let mut sessions = Sessions::default();
        let busy = Tag { origin: Uuid::from_u128(2), number: 1, done_below: 1 };
        sessions.look(&tag(1, 1));
        sessions.look(&busy);
        for _ in 0..4 {
            pass(&mut sessions, IDLE_MS_MAX / 4 - 1);
            sessions.look(&busy);
        }
        assert_eq!(sessions.len(), 2);
        pass(&mut sessions, 4);
        assert_eq!((sessions.len(), sessions.silent.len()), (1, 1));
        assert!(sessions.by_origin.contains_key(&busy.origin));
    }

    #[test]
    fn a_clock_that_jumps_makes_nobody_forgotten() {
        let mut sessions = Sessions::default();
        sessions.look(&tag(1, 1));
        sessions.record(at(1, 0), &tag(1, 1), &Reply::Ok(vec![1]));
        sessions.expire(at(2, 100 * IDLE_MS_MAX));
        assert_eq!(sessions.look(&tag(1, 1)), Seen::Before(Index(1), Reply::Ok(vec![1])));
    }

    #[test]
    fn a_crowd_is_forgotten_earlier_and_little_by_little() {
        let mut sessions = Sessions::default();
        for origin in 0..=ORIGINS_MAX as u128 {
            sessions.session(Uuid::from_u128(origin));
        }
        pass(&mut sessions, IDLE_CROWDED_MS - 1);
        assert_eq!(sessions.len(), ORIGINS_MAX + 1);
        pass(&mut sessions, 1);
        assert_eq!(sessions.len(), ORIGINS_MAX, "no more than needed");
        pass(&mut sessions, IDLE_MS_MAX - IDLE_CROWDED_MS);
        assert_eq!(sessions.len(), ORIGINS_MAX - FORGOTTEN_PER_ENTRY_MAX);
    }

    #[test]
    fn a_copy_does_not_see_what_comes_later() {
        let mut sessions = Sessions::default();
        sessions.look(&tag(1, 1));
        sessions.record(at(1, 0), &tag(1, 1), &Reply::Ok(vec![1]));
        let copy = sessions.clone();
        sessions.look(&tag(2, 2));
        sessions.record(at(2, 0), &tag(2, 2), &Reply::Ok(vec![2]));
        let mut bytes = Vec::new();
        copy.snapshot(&mut bytes).unwrap();
        let mut back = Sessions::default();
        back.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(back, copy);
        assert_eq!(back.look(&tag(1, 1)), Seen::Before(Index(1), Reply::Ok(vec![1])));
        assert_eq!(back.look(&tag(2, 1)), Seen::New);
    }

    #[test]
    #[should_panic(expected = "ran twice")]
    fn a_second_run_is_our_bug() {
        let mut sessions = Sessions::default();
        sessions.record(at(1, 0), &tag(1, 1), &Reply::Ok(vec![]));
        sessions.record(at(2, 0), &tag(1, 1), &Reply::Ok(vec![]));
    }
}
