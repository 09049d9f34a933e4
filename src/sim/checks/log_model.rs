//! A model of one node's log: what its disk was given to write, without payloads.
//!
//! Each entry is kept as its term and a chain hash over itself and everything before it, so that two logs are equal up
//! to an index exactly if their chain hashes there are equal. `raft_checker.rs` keeps two log models per identity: what
//! the disk was given and what it has synced, and compares with them what a restart recovers.
//!
//! Invariants: S1 `ids[i]` belongs to index `base + 1 + i`. S2 `members` is ascending, with all indexes above `base`.

use crate::raft::{Entry, HardState, Membership, Payload, Persist, SnapshotMeta};
use crate::sim::violation::Hash;
use crate::types::{Index, Term};
use std::sync::Arc;

/// An entry's term and the hash of the log up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    pub term: Term,
    /// Hash of the log up to here.
    pub chain: u64,
}

/// The empty log's end.
pub const ORIGIN: Id = Id { term: Term(0), chain: 0 };

#[derive(Clone, Debug)]
pub struct LogModel {
    /// Term and vote.
    pub hard: HardState,
    /// The log starts after this index.
    pub base: u64,
    base_id: Id,
    base_membership: Arc<Membership>,
    ids: Vec<Id>,
    members: Vec<(u64, Arc<Membership>)>,
}

/// One entry of a job.
#[derive(Clone, Debug)]
pub struct Line {
    pub index: u64,
    /// Term and chain hash.
    pub id: Id,
    /// What it carries, if it is a membership.
    pub membership: Option<Arc<Membership>>,
}

/// A `Persist` as the model sees it.
#[derive(Clone, Debug)]
pub struct Job {
    pub seq: u64,
    /// New term and vote.
    pub hard: Option<HardState>,
    /// The log restarts here.
    pub install: Option<(u64, Id, Arc<Membership>)>,
    /// New entries.
    pub lines: Vec<Line>,
}

/// The chain hash of an entry.
pub fn chain(before: u64, entry: &Entry) -> u64 {
    let mut hash = Hash::new(before);
    hash.add(entry.index.0);
    hash.add(entry.term.0);
    match &entry.payload {
        Payload::Noop => hash.add(1),
        Payload::Command(bytes) => {
            hash.add(2);
            hash.add_bytes(bytes);
        }
        Payload::Membership(membership) => {
            hash.add(3);
            for (kind, members) in [(4, &membership.voters), (5, &membership.learners)] {
                for (id, uuid) in members {
                    hash.add(kind);
                    hash.add(id.0);
                    hash.add_bytes(uuid.as_bytes());
                }
            }
        }
    }
    hash.end()
}

impl Default for LogModel {
    fn default() -> LogModel {
        LogModel {
            hard: HardState::default(),
            base: 0,
            base_id: ORIGIN,
            base_membership: Arc::default(),
            ids: Vec::new(),
            members: Vec::new(),
        }
    }
}

impl LogModel {
    pub fn last(&self) -> u64 {
        self.base + self.ids.len() as u64
    }

    /// The entry at an index, or at the base.
    pub fn id_at(&self, index: u64) -> Option<Id> {
        if index == self.base {
            return Some(self.base_id);
        }
        self.ids.get(index.checked_sub(self.base + 1)? as usize).copied()
    }

    /// The newest membership and the index that brought it.
    pub fn membership(&self) -> (u64, &Arc<Membership>) {
        self.members.last().map_or((self.base, &self.base_membership), |(index, membership)| (*index, membership))
    }

    /// The membership in force below an index, and the index that brought it.
    pub fn membership_below(&self, index: u64) -> (u64, Arc<Membership>) {
        let found = self.members.iter().rev().find(|(at, _)| *at < index);
        found.cloned().unwrap_or_else(|| (self.base, self.base_membership.clone()))
    }

    /// The log restarts after a snapshot.
    pub fn restart_at(&mut self, base: u64, id: Id, membership: Arc<Membership>) {
        (self.base, self.base_id, self.base_membership) = (base, id, membership);
        self.ids.clear();
        self.members.clear();
    }

    /// Writes an entry, cutting the entries from there on.
    pub fn put(&mut self, line: &Line) {
        self.cut(line.index);
        self.ids.push(line.id);
        if let Some(membership) = &line.membership {
            self.members.push((line.index, membership.clone()));
        }
    }

    /// Cuts the entry at `from` and all after it.
    pub fn cut(&mut self, from: u64) {
        self.ids.truncate((from - self.base - 1) as usize);
        while self.members.last().is_some_and(|(index, _)| *index >= from) {
            self.members.pop();
        }
    }

    /// Memberships after `from` and up to `to`.
    pub fn members_between(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, Arc<Membership>)> {
        self.members.iter().filter(move |(at, _)| *at > from && *at <= to).cloned()
    }

    /// Applies a job.
    pub fn apply_job(&mut self, job: &Job) {
        if let Some(hard) = job.hard {
            self.hard = hard;
        }
        if let Some((index, id, membership)) = &job.install {
            self.restart_at(*index, *id, membership.clone());
        }
        for line in &job.lines {
            self.put(line);
        }
    }

    /// A job for what raft asks of the disk, to be carried out on this log model next. `base_id` gives the id of a
    /// committed index. `Err` says what does not fit together.
    pub fn job(&self, persist: &Persist, base_id: impl Fn(&SnapshotMeta) -> Option<Id>) -> Result<Job, String> {
        let mut job = Job { seq: persist.seq, hard: persist.hard_state, install: None, lines: Vec::new() };
        let mut before: Option<(u64, Id)> = None;
        if let Some(meta) = &persist.install {
            let id = base_id(meta).ok_or_else(|| format!("snapshot at {} is not of committed entries", meta.index))?;
            job.install = Some((meta.index.0, id, Arc::new(meta.membership.clone())));
            before = Some((meta.index.0, id));
        }
        for entry in &persist.entries {
            let Index(index) = entry.index;
            let (last, id) = match before {
                Some(before) => before,
                None if index > self.base && index <= self.last() + 1 => {
                    (index - 1, self.id_at(index - 1).expect("between base and last"))
                }
                None => return Err(format!("entry {index} does not join the log {}..={}", self.base, self.last())),
            };
            if index != last + 1 {
                return Err(format!("entry {index} is to be written after {last}"));
            }
            if entry.term < id.term {
                return Err(format!("entry {index} has term {} after term {}", entry.term, id.term));
            }
            let membership = match &entry.payload {
                Payload::Membership(membership) => Some(membership.clone()),
                _ => None,
            };
            let id = Id { term: entry.term, chain: chain(id.chain, entry) };
            job.lines.push(Line { index, id, membership });
            before = Some((index, id));
        }
        Ok(job)
    }
}

/// A committed entry.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its term and the hash of the log up to it.
    pub id: Id,
    /// Term of the leader that committed it.
    pub(crate) by_term: Term,
}
