//! The requests of clients, from the moment `core` takes them until they are answered.
//!
//! A request is held until a node can take it: this node if it leads, else the leader it knows. If that leader dies,
//! the request is sent again to the next one: its tag makes it take effect once (`services/sessions.rs`). At its
//! deadline, a request that was never sent is `Refused`, and one that was sent is `Unknown`.
//!
//! Invariants: R1 each request is in exactly one of the queues (`commands`, `queries`, `others`, `later`, `postponed`),
//! `asked`, `waiting`, `forwarded` and `transfers`, and is answered once. R2 a request that waits at an index is
//! answered by the entry of the same term, or is sent again. R3 commands keep the order in which they came, also those
//! that are sent again: the second write of a client that does not wait for answers must not overtake the first. While
//! large commands wait, small ones of other clients may be taken first (`batches.rs`).
//! Not here: which commands make an entry (`batches.rs`), what goes to and from other nodes (`forwarding.rs`), replies of
//! applied commands (`node/threads/apply.rs` sends them), when a request is proposed (`turns.rs`).

use crate::cluster::witness;
use crate::limits::BATCHES_IN_FLIGHT;
use crate::node::quota::{Added, Unapplied};
use crate::node::shared::Shared;
use crate::node::shared::request::{Ack, Answered, Operation, Question, ReplyTo, Request, transferred};
use crate::outcome::{NoLeader, Outcome, Reason, UnknownReason};
use crate::raft::{self, Answer, Input, Refusal, RefusalCause, Token};
use crate::services::Reply;
use crate::services::sessions::Tag;
use crate::types::{Index, NodeId, Term};
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Time between two checks for requests whose deadline has passed.
const EXPIRE_EVERY: Duration = Duration::from_millis(20);

/// For so long an election may be under way, and what is known about other nodes may be old.
const ELECTION_MAX: Duration = Duration::from_secs(1);

/// Bytes that a tag adds to a command at most, in an entry and in a frame.
pub(super) const TAG_BYTES: usize = 48;

/// A request with what this node knows of it.
#[derive(Debug)]
pub(super) struct PendingRequest {
    /// Grows with each request that this node takes in.
    pub(super) number: u64,
    pub(super) request: Request,
    /// Whether the present attempt was sent to a log: from then on a request without an answer is `Unknown`.
    pub(super) was_sent: bool,
    /// Whether an earlier attempt was sent to a log that may still contain it: from then on a refusal does not mean
    /// that it is not applied.
    pub(super) may_be_logged: bool,
    /// Why the leader, this node, has not done it yet.
    pub(super) delayed_by: Option<Refusal>,
}

/// The requests of one entry that is in the log.
pub(super) struct Appended {
    term: Term,
    at: Instant,
    requests: Vec<PendingRequest>,
}

/// All requests of a node that are not answered yet.
pub struct PendingRequests {
    pub(super) shared: Arc<Shared>,
    /// Drawn by each process at its start, because its numbers begin again.
    origin: Uuid,
    newest: u64,
    /// Numbers of this node's own commands that may still be sent (again).
    open: BTreeSet<u64>,
    pub(super) commands: VecDeque<PendingRequest>,
    /// The last batch did not contain the oldest command, so the next one begins with it.
    pub(super) has_overtaken: bool,
    pub(super) queries: Vec<PendingRequest>,
    /// Membership changes and leadership transfers: one at a time.
    pub(super) others: VecDeque<PendingRequest>,
    /// Refused for now, or sent without an answer: tried again in the next turn.
    pub(super) later: Vec<PendingRequest>,
    /// Refused, although an earlier attempt may be in the leader's log: tried again after [`EXPIRE_EVERY`].
    postponed: Vec<PendingRequest>,
    /// Given to raft, not answered yet.
    pub(super) asked: BTreeMap<Token, Vec<PendingRequest>>,
    /// In the log, not applied yet.
    pub(super) waiting: BTreeMap<Index, Appended>,
    /// What the leader's log may add to the use of quotas, and the newest batch while raft has not answered.
    pub(super) unapplied: Unapplied,
    pub(super) proposed: Option<(Token, Added)>,
    /// The last batch did not contain commands that wait until more is applied.
    pub(super) has_postponed: bool,
    /// At the leader, by number.
    pub(super) forwarded: BTreeMap<u64, (NodeId, PendingRequest)>,
    /// Leadership transfers in progress.
    transfers: Vec<(NodeId, PendingRequest)>,
    last_expire: Instant,
    /// The newest empty batch: for which expiry it was proposed, when, and `Shared::left_at` at that time.
    pub(super) clocked: Option<(u64, Instant, Option<Index>)>,
    leaderless_since: Option<Instant>,
}

impl PendingRequests {
    pub fn new(shared: Arc<Shared>) -> PendingRequests {
        PendingRequests {
            shared,
            origin: Uuid::new_v4(),
            newest: 0,
            open: BTreeSet::new(),
            commands: VecDeque::new(),
            has_overtaken: false,
            queries: Vec::new(),
            others: VecDeque::new(),
            later: Vec::new(),
            postponed: Vec::new(),
            asked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            unapplied: Unapplied::default(),
            proposed: None,
            has_postponed: false,
            forwarded: BTreeMap::new(),
            transfers: Vec::new(),
            last_expire: Instant::now(),
            clocked: None,
            leaderless_since: None,
        }
    }

    /// Whether no client waits for anything.
    pub fn is_idle(&self) -> bool {
        self.commands.is_empty()
            && self.queries.is_empty()
            && self.others.is_empty()
            && self.later.is_empty()
            && self.postponed.is_empty()
            && self.asked.is_empty()
            && self.waiting.is_empty()
            && self.forwarded.is_empty()
            && self.transfers.is_empty()
    }

    /// Whether the next turn would begin a batch of commands or a round of reads.
    pub fn has_ready(&self) -> bool {
        !self.queries.is_empty() || (!self.commands.is_empty() && self.waiting.len() < BATCHES_IN_FLIGHT)
    }

    /// Whether commands wait until more of the log is applied, because of a quota.
    pub fn has_postponed(&self) -> bool {
        self.has_postponed
    }

    /// This node leads, with these entries in its log.
    pub fn become_leader(&mut self, unapplied: Unapplied) {
        self.unapplied = unapplied;
    }

    /// Takes a request in.
    pub fn hold(&mut self, mut request: Request) {
        self.newest += 1;
        let number = self.newest;
        if let Operation::Command { tag: tag @ None, .. } = &mut request.operation {
            self.open.insert(number);
            let done_below = self.open.first().copied().unwrap_or(number);
            *tag = Some(Tag { origin: self.origin, number, done_below });
        }
        self.put(PendingRequest { number, request, was_sent: false, may_be_logged: false, delayed_by: None });
    }

    /// Takes in a command of this node itself, whose reply is not needed.
    pub fn hold_own(&mut self, command: Vec<u8>) {
        let operation = Operation::Command { tag: None, command, ack: Ack::Applied };
        let deadline = self.shared.request_deadline();
        self.hold(Request { operation, deadline, reply: ReplyTo::Discard });
    }

    pub(super) fn put(&mut self, held: PendingRequest) {
        match &held.request.operation {
            Operation::Command { .. } => self.commands.push_back(held),
            Operation::Query { .. } => self.queries.push(held),
            Operation::Change(_) | Operation::Transfer(_) => self.others.push_back(held),
        }
    }

    /// Answers a request, which is then no longer sent.
    pub(super) fn finish(&mut self, mut held: PendingRequest, answered: Answered) {
        self.open.remove(&held.number);
        held.request.reply.answer(answered);
    }

    /// The present attempt is refused. The request is refused only if no earlier attempt was sent.
    pub(super) fn refuse(&mut self, mut held: PendingRequest, why: Reason) {
        if held.may_be_logged {
            held.was_sent = false;
            self.postponed.push(held);
        } else {
            self.finish(held, Outcome::Refused(why));
        }
    }

    /// Next input for raft on the leader: the commands that wait as one batch, then queries, then one of the others.
    pub fn next_input(&mut self, next_token: &mut u64) -> Option<Input> {
        *next_token += 1;
        let token = Token(*next_token);
        if self.waiting.len() < BATCHES_IN_FLIGHT
            && let Some(command) = self.next_batch(token)
        {
            return Some(Input::Propose { token, command });
        }
        if let Some(input) = self.next_read(token).or_else(|| self.maybe_move_clock(token)) {
            return Some(input);
        }
        let mut held = self.others.pop_front()?;
        let input = match &held.request.operation {
            Operation::Change(raft::Change::Promote(id)) | Operation::Transfer(Some(id))
                if self.shared.directory().gateways.contains(id) =>
            {
                let why = Reason::Gateway(*id);
                held.request.reply.answer(Outcome::Refused(why));
                return self.next_input(next_token);
            }
            Operation::Transfer(Some(id)) if self.shared.witnesses().contains(id) => {
                let why = Reason::Witness(*id);
                held.request.reply.answer(Outcome::Refused(why));
                return self.next_input(next_token);
            }
            Operation::Change(change) if !self.is_allowed(change) => {
                held.request.reply.answer(Outcome::Refused(Reason::TooFewFullVoters));
                return self.next_input(next_token);
            }
            Operation::Change(change) => Input::Change { token, change: change.clone() },
            Operation::Transfer(Some(to)) if *to == self.shared.me.id => {
                let to = *to;
                held.request.reply.answer(transferred(to));
                return self.next_input(next_token);
            }
            Operation::Transfer(to) => Input::Transfer { token, to: *to },
            Operation::Command { .. } | Operation::Query { .. } => unreachable!("they have queues of their own"),
        };
        self.asked.insert(token, vec![held]);
        Some(input)
    }

    /// Whether witnesses allow the change.
    fn is_allowed(&self, change: &raft::Change) -> bool {
        witness::is_allowed(&self.shared.view().raft, &self.shared.witness_cuts(), change)
    }

    /// Raft's answer; returns the queries that may be served once an index is applied.
    pub fn on_answer(&mut self, token: Token, answer: Answer) -> Option<(Index, Vec<Question>)> {
        let mut taken = self.asked.remove(&token)?;
        match answer {
            Answer::Appended { index, term } => {
                if let Some((_, added)) = self.proposed.take_if(|(proposed, _)| *proposed == token) {
                    self.unapplied.push(index, added);
                }
                for held in &mut taken {
                    held.was_sent = true;
                    if let Operation::Command { ack: Ack::Accepted, .. } = held.request.operation {
                        held.request.reply.answer(Outcome::Done((index, Reply::Ok(Vec::new()))));
                    }
                }
                let appended = Appended { term, at: Instant::now(), requests: taken };
                if let Some(void) = self.waiting.insert(index, appended) {
                    self.send_again_or_give_up(void.requests, UnknownReason::LeaderLost);
                }
            }
            Answer::ReadAt(index) => {
                let queries = taken.into_iter().filter_map(|held| match held.request.operation {
                    Operation::Query { query, .. } => Some((query, held.request.reply)),
                    _ => None,
                });
                return Some((index, queries.collect()));
            }
            Answer::TransferStarted { to } => {
                self.transfers.extend(taken.into_iter().map(|held| (to, held)));
            }
            Answer::Refused(why) => self.on_refusal(why, taken),
        }
        None
    }

    fn on_refusal(&mut self, why: Refusal, taken: Vec<PendingRequest>) {
        match why.cause() {
            RefusalCause::Moment => {
                let delayed_by = Some(why).filter(|why| *why != Refusal::NotLeader);
                let delayed = |held| PendingRequest { delayed_by, ..held };
                self.later.extend(taken.into_iter().map(delayed));
            }
            RefusalCause::Room | RefusalCause::Change => {
                let reason = match self.shared.integrity.corrupt() {
                    Some(corrupt) if why == Refusal::DiskLow => Reason::LeaderCorrupt(corrupt),
                    _ => Reason::Raft(why),
                };
                for held in taken {
                    self.refuse(held, reason.clone());
                }
            }
        }
    }

    /// The requests that wait for the entry at `index`, if it is theirs; otherwise they are sent again.
    pub fn take_waiting(&mut self, index: Index, term: Term) -> Vec<ReplyTo> {
        match self.waiting.remove(&index) {
            Some(appended) if appended.term == term => {
                self.shared.counters.commits.record(appended.at.elapsed(), 1);
                // Committed: it will never be sent again.
                for held in &appended.requests {
                    self.open.remove(&held.number);
                }
                appended.requests.into_iter().map(|held| held.request.reply).collect()
            }
            Some(void) => {
                self.send_again_or_give_up(void.requests, UnknownReason::LeaderLost);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// The log ends here: requests that waited at a later index are sent again, because another leader has cut them
    /// off.
    pub fn on_log_end(&mut self, last: Index) {
        while let Some(entry) = self.waiting.last_entry()
            && *entry.key() > last
        {
            let void = entry.remove();
            self.send_again_or_give_up(void.requests, UnknownReason::LeaderLost);
        }
    }

    /// There is a new leader, or the leader is known again: requests that were sent to an earlier one are sent again.
    pub fn on_leader(&mut self, leader: NodeId) {
        for (to, held) in std::mem::take(&mut self.transfers) {
            match to == leader {
                true => self.finish(held, transferred(leader)),
                false => self.finish(held, Outcome::Refused(Reason::OtherLeads(leader))),
            }
        }
        // A leadership transfer that was forwarded has happened, even if its answer has not arrived yet.
        let is_transferred = |held: &PendingRequest| match &held.request.operation {
            Operation::Transfer(to) => to.is_none_or(|to| to == leader),
            _ => false,
        };
        let done: Vec<_> = self
            .forwarded
            .extract_if(.., |_, (to, held)| *to != leader && is_transferred(held))
            .map(|(_, (_, held))| held)
            .collect();
        for held in done {
            self.finish(held, transferred(leader));
        }
        self.take_back_forwarded(|to| to != leader);
        self.retry_reads();
    }

    /// The connection to a peer is new: what was sent over the old one may be lost.
    pub fn on_link_up(&mut self, peer: NodeId) {
        self.take_back_forwarded(|to| to == peer);
        self.retry_reads();
    }

    /// The leadership transfer was given up.
    pub fn on_transfer_aborted(&mut self, to: NodeId) {
        for (_, held) in std::mem::take(&mut self.transfers) {
            self.finish(held, Outcome::Refused(Reason::NotTakenOver(to)));
        }
    }

    /// This node no longer leads, because it lacks a quorum or a working disk: no node takes over at its request.
    pub fn on_stepped_down(&mut self) {
        for (to, held) in std::mem::take(&mut self.transfers) {
            self.finish(held, Outcome::Refused(Reason::NotTakenOver(to)));
        }
    }

    /// There is no leader. Membership changes and leadership transfers are refused once it is known that there will be
    /// none: commands wait, since their clients can do nothing else.
    pub fn on_no_leader(&mut self, now: Instant) {
        let since = *self.leaderless_since.get_or_insert(now);
        if self.others.is_empty() || now.duration_since(since) < ELECTION_MAX {
            return;
        }
        let why = self.shared.why_no_leader();
        if why != NoLeader::NotInTime {
            for held in std::mem::take(&mut self.others) {
                self.refuse(held, Reason::NoLeader(why));
            }
        }
    }

    pub fn on_some_leader(&mut self) {
        self.leaderless_since = None;
    }

    /// A snapshot replaced the entries up to `index`: it is no longer known whether ours were among them.
    pub fn on_install(&mut self, index: Index) {
        let rest = self.waiting.split_off(&index.next());
        let gone = std::mem::replace(&mut self.waiting, rest);
        let gone = gone.into_values().flat_map(|appended| appended.requests);
        self.send_again_or_give_up(gone, UnknownReason::LogReplaced);
    }

    /// Answers requests whose deadline has passed, and queues those again that were refused for now.
    pub fn expire(&mut self, now: Instant) {
        if !self.later.is_empty() {
            self.later.extend(self.commands.drain(..));
            self.later.sort_by_key(|held| held.number);
            for held in std::mem::take(&mut self.later) {
                self.put(held);
            }
        }
        if now.duration_since(self.last_expire) < EXPIRE_EVERY {
            return;
        }
        self.last_expire = now;
        self.later.append(&mut self.postponed);
        let is_late = |held: &PendingRequest| held.request.deadline <= now;
        let mut late: Vec<PendingRequest> = Vec::new();
        // Usually none is late: queues are rebuilt only if one is.
        for queue in [&mut self.commands, &mut self.others] {
            if queue.iter().any(is_late) {
                let (gone, rest) = queue.drain(..).partition::<Vec<_>, _>(is_late);
                late.extend(gone);
                queue.extend(rest);
            }
        }
        late.extend(self.queries.extract_if(.., |held| is_late(held)));
        late.extend(self.later.extract_if(.., |held| is_late(held)));
        late.extend(self.transfers.extract_if(.., |(_, held)| is_late(held)).map(|(_, held)| held));
        late.extend(self.forwarded.extract_if(.., |_, (_, held)| is_late(held)).map(|(_, (_, held))| held));
        // Computed only if a request is late: it is expensive.
        let shared = Arc::clone(&self.shared);
        let why = LazyCell::new(|| shared.why_no_leader());
        for taken in self.asked.values_mut().chain(self.waiting.values_mut().map(|it| &mut it.requests)) {
            // Late requests are answered and keep their places: `apply` needs the order of a batch.
            for held in taken.iter_mut().filter(|held| is_late(held)) {
                let answered = too_late(held, *why);
                held.request.reply.answer(answered);
            }
        }
        self.asked.retain(|_, taken| !taken.iter().all(is_late));
        for held in late {
            let answered = too_late(&held, *why);
            self.finish(held, answered);
        }
    }

    fn retry_reads(&mut self) {
        let is_read = |taken: &Vec<PendingRequest>| {
            taken.iter().all(|held| matches!(held.request.operation, Operation::Query { .. }))
        };
        let reads: Vec<_> = self.asked.extract_if(.., |_, taken| is_read(taken)).collect();
        self.later.extend(reads.into_iter().flat_map(|(_, taken)| taken));
    }

    /// The present attempts may be in a log that this node no longer hears of. A command or query may be sent twice; the
    /// result of a membership change or leadership transfer is reported as unknown.
    pub(super) fn send_again_or_give_up(&mut self, all: impl IntoIterator<Item = PendingRequest>, why: UnknownReason) {
        for mut held in all {
            match held.request.operation {
                Operation::Change(_) | Operation::Transfer(_) => self.finish(held, Outcome::Unknown(why)),
                Operation::Command { .. } | Operation::Query { .. } => {
                    held.may_be_logged |= held.was_sent;
                    held.was_sent = false;
                    self.later.push(held);
                }
            }
        }
    }
}

/// A command that is held, with its tag.
pub(super) fn command_of(held: &PendingRequest) -> (Tag, &[u8]) {
    match &held.request.operation {
        Operation::Command { tag: Some(tag), command, .. } => (*tag, command),
        other => unreachable!("{other:?} among the commands, or one without a tag"),
    }
}

fn too_late(held: &PendingRequest, why: NoLeader) -> Answered {
    match (&held.request.operation, held.was_sent || held.may_be_logged) {
        (Operation::Change(_) | Operation::Transfer(_), false) if held.delayed_by.is_some() => {
            Outcome::Refused(held.delayed_by.map_or(Reason::NoLeader(why), Reason::Raft))
        }
        (Operation::Query { .. }, _) | (_, false) => Outcome::Refused(Reason::NoLeader(why)),
        (_, true) => Outcome::Unknown(UnknownReason::TooLate(why)),
    }
}

#[cfg(test)]
#[path = "tests/pending_requests.rs"]
mod tests;
