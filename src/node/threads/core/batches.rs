//! The held commands and queries as raft's next input: which commands make one entry, in which order, and within the
//! quotas; one read for all queries; an empty entry when something is due to expire.
//!
//! Not here: what becomes of them (`pending_requests.rs`), what a quota allows (`node/quota.rs`).

use super::pending_requests::{PendingRequest, PendingRequests, TAG_BYTES, command_of};
use crate::limits::APPEND_BYTES_MAX;
use crate::node::quota::{Added, Check, QuotaDecision};
use crate::node::shared::request::ReplyTo;
use crate::raft::{Input, Token};
use crate::services::chat::TokenHash;
use crate::services::registry::encode_batch;
use crate::types::NodeId;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An empty batch for the same expiry is proposed again after so long: the first may have been lost with a leader.
const CLOCK_RETRY: Duration = Duration::from_millis(500);

/// A command of at most so many bytes may be taken before a larger one of another client, which may take a second to
/// write.
const SMALL_COMMAND_BYTES: usize = 64 << 10;

impl PendingRequests {
    /// Commands for one entry, encoded once, straight from where they are held; those beyond a quota are refused.
    pub(super) fn next_batch(&mut self, token: Token) -> Option<Arc<[u8]>> {
        let (mut count, mut bytes) = (0, 0);
        for held in &self.commands {
            bytes += command_of(held).1.len() + TAG_BYTES;
            if count > 0 && bytes > APPEND_BYTES_MAX {
                break;
            }
            count += 1;
        }
        if count == 0 {
            self.has_postponed = false;
            return None;
        }
        let small = self.overtaking();
        self.has_overtaken = !small.is_empty();
        let next: Vec<PendingRequest> = if small.is_empty() {
            self.commands.drain(..count).collect()
        } else {
            let (mut next, mut rest) = (Vec::with_capacity(small.len()), VecDeque::new());
            for (at, held) in std::mem::take(&mut self.commands).into_iter().enumerate() {
                if small.contains(&at) { next.push(held) } else { rest.push_back(held) }
            }
            self.commands = rest;
            next
        };
        let (taken, added) = self.within_quotas(next);
        if taken.is_empty() {
            return None;
        }
        let batch = encode_batch(self.shared.stamp_ms(), taken.iter().map(command_of)).into();
        self.asked.insert(token, taken);
        self.proposed = Some((token, added));
        Some(batch)
    }

    /// The commands that quotas admit to the next entry, and what they may add. Of the others, some are refused, some
    /// wait at the front of the queue.
    fn within_quotas(&mut self, next: Vec<PendingRequest>) -> (Vec<PendingRequest>, Added) {
        let shared = Arc::clone(&self.shared);
        let written_by = |token: &TokenHash| shared.chat.newest().bytes_of(token) as u64;
        // The index first: the sizes include what is applied up to it.
        let unapplied = self.unapplied.after(shared.applied());
        let sizes = shared.sizes();
        let mut check = Check::new(&shared.settings, &sizes, unapplied);
        let (mut taken, mut postponed, mut left_behind) = (Vec::with_capacity(next.len()), Vec::new(), BTreeSet::new());
        for held in next {
            let source = self.source_of(&held);
            if source.is_some_and(|source| left_behind.contains(&source)) {
                postponed.push(held);
                continue;
            }
            match check.admit(command_of(&held).1, written_by) {
                QuotaDecision::Admitted => taken.push(held),
                QuotaDecision::Refused(why) => self.refuse(held, why),
                QuotaDecision::Postponed => {
                    left_behind.extend(source);
                    postponed.push(held);
                }
            }
        }
        self.has_postponed = !postponed.is_empty();
        for held in postponed.into_iter().rev() {
            self.commands.push_front(held);
        }
        (taken, check.added())
    }

    /// The client whose commands keep their order: this node's pipelined connections, or another node. `None`: a thread
    /// that waits for an answer.
    fn source_of(&self, held: &PendingRequest) -> Option<NodeId> {
        match &held.request.reply {
            ReplyTo::Local(_) => None,
            ReplyTo::Peer(link, _) => Some(link.who.id),
            ReplyTo::Callback(_) | ReplyTo::Discard => Some(self.shared.me.id),
        }
    }

    /// Positions of the small commands that are taken first, every other time when a large one is the oldest: so a
    /// small one waits for two large entries at most, and a large one for one small entry; never while commands wait
    /// because of a quota, which might wait forever then. A thread that waits for an
    /// answer has no other command here, so its command may overtake any other. Commands of this node's pipelined
    /// connections, and those that one other node has forwarded, keep their order: it is not known which of them belong
    /// to one client.
    fn overtaking(&self) -> BTreeSet<usize> {
        let size = |held: &PendingRequest| command_of(held).1.len() + TAG_BYTES;
        let (mut taken, mut bytes, mut left_behind) = (BTreeSet::new(), 0, BTreeSet::new());
        if self.has_overtaken
            || self.has_postponed
            || self.commands.front().is_none_or(|oldest| size(oldest) <= SMALL_COMMAND_BYTES)
        {
            return taken;
        }
        for (at, held) in self.commands.iter().enumerate() {
            let (source, size) = (self.source_of(held), size(held));
            let is_behind = source.is_some_and(|source| left_behind.contains(&source));
            if is_behind || size > SMALL_COMMAND_BYTES || bytes + size > APPEND_BYTES_MAX {
                left_behind.extend(source);
            } else {
                bytes += size;
                taken.insert(at);
            }
        }
        taken
    }

    /// Something is due to expire, and log time advances only with the log: proposes an empty batch.
    pub(super) fn maybe_move_clock(&mut self, token: Token) -> Option<Input> {
        let due_ms = self.shared.next_expiry_ms().filter(|at_ms| *at_ms <= self.shared.log_now_ms())?;
        // An entry removes a part of what has expired; the next one follows when it is applied.
        let left_at = self.shared.left_at();
        let is_new = self.clocked.is_none_or(|(for_ms, at, for_left)| {
            for_ms != due_ms || (left_at.is_some() && left_at != for_left) || at.elapsed() > CLOCK_RETRY
        });
        if !is_new || !self.waiting.is_empty() {
            return None;
        }
        self.clocked = Some((due_ms, Instant::now(), left_at));
        self.asked.insert(token, Vec::new());
        Some(Input::Propose { token, command: encode_batch(self.shared.stamp_ms(), []).into() })
    }

    /// One read for all linearizable queries that wait, on the leader and on a follower.
    pub fn next_read(&mut self, token: Token) -> Option<Input> {
        if self.queries.is_empty() {
            return None;
        }
        self.asked.insert(token, std::mem::take(&mut self.queries));
        Some(Input::Read { token })
    }
}
