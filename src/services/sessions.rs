//! Exactly-once execution: a command that is sent again, for instance after the leader has failed, takes effect only
//! the first time.
//!
//! Each process (an *origin*) numbers its commands, and sends with each command the number below which it waits for no
//! reply any more. The table keeps the replies from that number on, so a repeated command gets the first one's reply. A
//! command below that number is refused and never run again. The table is part of the snapshot.
//!
//! An origin that sends nothing for an hour of session time is forgotten. Session time follows log time, but advances
//! by at most a minute per entry: if a new leader's clock is hours ahead, the table must not forget the commands that
//! clients are sending again to that leader.
//!
//! The size of the table is bounded: an origin that is a node has one reply for each command that it still waits for,
//! and accepts no more commands than its endpoints have memory for; an origin that is an `Idempotency-Key` has one; a
//! reply has at most [`super::kv::commands::BATCH_REPLY_BYTES_MAX`] bytes. With more than [`ORIGINS_MAX`] origins, those
//! that were idle for [`IDLE_CROWDED_MS`] are forgotten, which is still longer than any request timeout.
//!
//! Invariants: S1 an (origin, number) is recorded at most once. S2 `floor` never decreases. S3 `silent` has one row for
//! each origin.
//! Not here: numbering and resending commands (`node/threads/core/pending_requests.rs`).

use super::Reply;
use super::snapshot_format::{bad, put_numbers, put_record, take_numbers, take_record};
use crate::types::{Index, Stamp};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use uuid::Uuid;

/// Idle time after which an origin is forgotten, in milliseconds of session time. All its requests have timed out by
/// then.
pub const IDLE_MS_MAX: u64 = 3_600_000;
/// The same while there are more than [`ORIGINS_MAX`] origins. Longer than the maximum of `request_timeout_ms`, ten
/// minutes.
pub const IDLE_CROWDED_MS: u64 = 900_000;
/// Number of origins above which [`IDLE_CROWDED_MS`] applies: about 400 MB if each has one small reply. Lower in tests.
pub const ORIGINS_MAX: usize = if cfg!(test) { 10_000 } else { 1_000_000 };
/// Maximum advance of session time per entry, in milliseconds.
const STEP_MS_MAX: u64 = 60_000;
/// An origin's row in `silent` is updated only when it is older than this, so that most commands of a busy node need no
/// update. In milliseconds of session time.
const REFRESH_MS: u64 = 60_000;
/// Maximum number of origins that are forgotten with one entry, so that no entry takes long to apply.
const FORGOTTEN_PER_ENTRY_MAX: usize = 1_000;

/// Identifies one command among all commands that were ever sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Random id that the process which accepted the command drew at its start, or the id of an `Idempotency-Key`.
    pub origin: Uuid,
    /// Sequence number of the command within its origin.
    pub number: u64,
    /// The origin no longer waits for replies to commands below this number.
    pub done_below: u64,
}

/// Result of looking up a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagLookup {
    /// The command was not seen before and must be run.
    New,
    /// The command ran at this index, with this reply.
    Before(Index, Reply),
    /// It is unknown whether the command ran, because its origin no longer waits for it; it must not be run.
    Forgotten,
}

/// The reply of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredReply {
    number: u64,
    index: Index,
    reply: Reply,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    floor: u64,
    /// Ordered by number.
    replies: VecDeque<StoredReply>,
    /// Session time of this origin's row in `silent`.
    heard_ms: u64,
}

/// The session table. A clone shares its data with the original (copy-on-write).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    by_origin: OrdMap<Uuid, Arc<Session>>,
    /// Origins by the session time of their last command, accurate to [`REFRESH_MS`].
    silent: OrdSet<(u64, Uuid)>,
    /// Present session time.
    now_ms: u64,
    /// Highest log time so far.
    at_ms: u64,
}

impl Session {
    fn find(&self, number: u64) -> Result<usize, usize> {
        // Fast path: numbers arrive nearly in order, so most are greater than the last one.
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

    /// Advances session time to an entry's time and forgets origins that have been idle for too long.
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

    /// Looks up a tag, and discards the replies for which its origin no longer waits.
    pub fn look_up(&mut self, tag: &Tag) -> TagLookup {
        let session = self.session(tag.origin);
        if let Ok(place) = session.find(tag.number) {
            let kept = &session.replies[place];
            return TagLookup::Before(kept.index, kept.reply.clone());
        }
        if tag.number < session.floor {
            return TagLookup::Forgotten;
        }
        if tag.done_below > session.floor {
            session.floor = tag.done_below.min(tag.number);
            while session.replies.front().is_some_and(|kept| kept.number < session.floor) {
                session.replies.pop_front();
            }
        }
        TagLookup::New
    }

    /// Records the reply of a new command. Panics if the tag is recorded already.
    pub fn record(&mut self, at: Stamp, tag: &Tag, reply: &Reply) {
        let session = self.session(tag.origin);
        let place = match session.find(tag.number) {
            Err(place) => place,
            Ok(_) => panic!("command {} of {} ran twice", tag.number, tag.origin),
        };
        if session.replies.is_empty() {
            // Saves memory: most origins of a large table are idempotency keys, which have a single reply.
            session.replies.reserve_exact(1);
        }
        session.replies.insert(place, StoredReply { number: tag.number, index: at.index, reply: reply.clone() });
    }

    /// Returns the table with empty replies, for a witness: it answers nobody, but must know which commands ran.
    pub(super) fn without_replies(&self) -> Sessions {
        let blank = |(origin, session): (&Uuid, &Arc<Session>)| {
            let mut session = Session::clone(session);
            session.replies.iter_mut().for_each(|kept| kept.reply = Reply::Ok(Vec::new()));
            (*origin, Arc::new(session))
        };
        Sessions { by_origin: self.by_origin.iter().map(blank).collect(), ..self.clone() }
    }

    /// Simulates a fault by recording a reply without a command (see [`super::Service::alter`]).
    pub(super) fn alter(&mut self, at: Stamp) {
        let tag = Tag { origin: Uuid::from_u128(1), number: at.index.0, done_below: 0 };
        self.look_up(&tag);
        self.record(at, &tag, &Reply::Ok(Vec::new()));
    }

    /// Writes the table: session time, log time, number of origins, then one record for each origin.
    ///
    /// # Errors
    /// Returns the error of `out`.
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
    ///
    /// # Errors
    /// Returns the error of `from`, or an error of kind `InvalidData`; the table is then unchanged.
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

    /// Returns an origin's session, creates it if necessary, and records the present session time as its last command.
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

    /// Advances session time with one entry per half minute.
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
        assert_eq!(sessions.look_up(&tag(1, 1)), TagLookup::New);
        sessions.record(at(1, 0), &tag(1, 1), &reply);
        assert_eq!(sessions.look_up(&tag(1, 1)), TagLookup::Before(Index(1), reply));
        assert_eq!(sessions.look_up(&tag(2, 2)), TagLookup::New);
        assert_eq!(sessions.look_up(&tag(1, 1)), TagLookup::Forgotten);
    }

    #[test]
    fn numbers_may_arrive_out_of_order() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.look_up(&tag(5, 3)), TagLookup::New);
        sessions.record(at(1, 0), &tag(5, 3), &Reply::Ok(vec![]));
        assert_eq!(sessions.look_up(&tag(3, 3)), TagLookup::New);
        sessions.record(at(2, 0), &tag(3, 3), &Reply::Ok(vec![3]));
        assert_eq!(sessions.look_up(&tag(3, 3)), TagLookup::Before(Index(2), Reply::Ok(vec![3])));
        assert_eq!(sessions.look_up(&tag(5, 3)), TagLookup::Before(Index(1), Reply::Ok(vec![])));
        assert_eq!(sessions.look_up(&tag(2, 2)), TagLookup::Forgotten);
    }

    #[test]
    fn a_silent_origin_is_forgotten_and_a_busy_one_is_not() {
        let mut sessions = Sessions::default();
        let busy = Tag { origin: Uuid::from_u128(2), number: 1, done_below: 1 };
        sessions.look_up(&tag(1, 1));
        sessions.look_up(&busy);
        for _ in 0..4 {
            pass(&mut sessions, IDLE_MS_MAX / 4 - 1);
            sessions.look_up(&busy);
        }
        assert_eq!(sessions.len(), 2);
        pass(&mut sessions, 4);
        assert_eq!((sessions.len(), sessions.silent.len()), (1, 1));
        assert!(sessions.by_origin.contains_key(&busy.origin));
    }

    #[test]
    fn a_clock_jump_expires_no_session() {
        let mut sessions = Sessions::default();
        sessions.look_up(&tag(1, 1));
        sessions.record(at(1, 0), &tag(1, 1), &Reply::Ok(vec![1]));
        sessions.expire(at(2, 100 * IDLE_MS_MAX));
        assert_eq!(sessions.look_up(&tag(1, 1)), TagLookup::Before(Index(1), Reply::Ok(vec![1])));
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
        sessions.look_up(&tag(1, 1));
        sessions.record(at(1, 0), &tag(1, 1), &Reply::Ok(vec![1]));
        let copy = sessions.clone();
        sessions.look_up(&tag(2, 2));
        sessions.record(at(2, 0), &tag(2, 2), &Reply::Ok(vec![2]));
        let mut bytes = Vec::new();
        copy.snapshot(&mut bytes).unwrap();
        let mut back = Sessions::default();
        back.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(back, copy);
        assert_eq!(back.look_up(&tag(1, 1)), TagLookup::Before(Index(1), Reply::Ok(vec![1])));
        assert_eq!(back.look_up(&tag(2, 1)), TagLookup::New);
    }

    #[test]
    #[should_panic(expected = "ran twice")]
    fn a_second_run_is_our_bug() {
        let mut sessions = Sessions::default();
        sessions.record(at(1, 0), &tag(1, 1), &Reply::Ok(vec![]));
        sessions.record(at(2, 0), &tag(1, 1), &Reply::Ok(vec![]));
    }
}
