//! The Raft checker: sees every node's memory and disk, and asserts the rules of consensus after every step.
//!
//! It records what no node can know: every leader that ever was, each entry that was ever committed (written once),
//! each vote that ever reached a disk, and for each identity, living or lost, a model of its log as given to the disk
//! and as synced. Each rule has a name that a failure prints: `ElectionSafety`, `LogMatching`, `CommittedPrefix`,
//! `LeaderCompleteness`, `QuorumLog`, `OneVotePerTerm`, `PersistBeforeSend`, `CommitRule`, `MatchTruth`,
//! `NoTruncateCommitted`, `NoGhostLog`, `ConfigFromLog`, `NoopFirst`, `OneInFlight`, `AdjacentOverlap`,
//! `NonVoterSilence`, `LeadershipTransfer` (only the leader of the term before orders one). Single rules are in
//! `raft_rules.rs`; what clients see is checked in `client_checker.rs`.
//!
//! Not here: making things go wrong; progress (`sim/steps/liveness.rs`).

use super::log_model::{Id, Job, LogModel};
use super::raft_rules::{check_change, check_hard, check_kept, ids, is_same_log, note_vote};
use crate::raft::{Body, Durable, HardState, Membership, Message, Persist, Role, View};
use crate::sim::checks::log_model::Committed;
use crate::sim::violation::{CheckResult, Violation, violation};
use crate::types::{Identity, Index, NodeId, Term};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What the Raft checker knows of one identity.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Its log as synced.
    pub durable: LogModel,
    /// Its log in memory: all that its disk was ever given in this life.
    pub latest: LogModel,
    /// Given to the disk and not yet synced.
    pending: VecDeque<Job>,
    /// The disk of this identity is gone or damaged; it never counts again.
    pub is_destroyed: bool,
}

#[derive(Default)]
pub struct RaftChecker {
    leaders: BTreeMap<Term, Identity>,
    /// (index, term) to the chain hash that every log has there.
    chains: BTreeMap<(u64, u64), u64>,
    committed: Vec<Committed>,
    /// Memberships among the committed entries.
    committed_members: Vec<(u64, Arc<Membership>)>,
    votes: BTreeMap<(Identity, Term), Identity>,
    records: BTreeMap<Identity, Record>,
    /// Leadership transfers that a leader has ordered: the target and the term, and the required end of its log.
    orders: BTreeMap<(Identity, Term), Index>,
    /// Entries cut from logs, for coverage.
    pub truncations: u64,
}

impl RaftChecker {
    /// What is known of an identity; an unknown one has an empty log.
    pub fn record(&mut self, who: Identity) -> &mut Record {
        self.records.entry(who).or_default()
    }

    /// All identities there ever were.
    pub fn records(&self) -> impl Iterator<Item = (&Identity, &Record)> {
        self.records.iter()
    }

    /// Entries committed so far.
    pub fn committed_len(&self) -> u64 {
        self.committed.len() as u64
    }

    fn committed_id(&self, index: u64) -> Option<Id> {
        if index == 0 {
            return Some(super::log_model::ORIGIN);
        }
        self.committed.get(index as usize - 1).map(|committed| committed.id)
    }

    /// The membership that the committed log has at an index.
    pub fn committed_membership(&self, index: u64) -> Option<&Arc<Membership>> {
        self.committed_members.iter().rev().find(|(at, _)| *at <= index).map(|(_, membership)| membership)
    }

    /// The first state of a node is on its disk and, if `is_committed`, committed by definition.
    pub fn on_bootstrap(&mut self, who: Identity, durable: &Durable, is_committed: bool) -> CheckResult {
        let (hard_state, entries) = (Some(durable.hard_state), durable.entries.clone());
        let persist = Persist { hard_state, entries, ..Persist::default() };
        self.on_persist(who, &persist, None)?;
        self.on_synced(who, 0)?;
        if is_committed {
            let last = durable.entries.len() as u64;
            self.commit(who, durable.hard_state.term, last);
        }
        Ok(())
    }

    /// Raft gives its disk a job. `leads`: the term that it leads in, if it does.
    pub fn on_persist(&mut self, who: Identity, persist: &Persist, leads: Option<Term>) -> CheckResult {
        let record = self.records.entry(who).or_default();
        if let Some(hard) = persist.hard_state {
            check_hard(who, &record.latest.hard, &hard)?;
        }
        let committed = &self.committed;
        let base_id = |meta: &crate::raft::SnapshotMeta| {
            let id = committed.get(meta.index.0.checked_sub(1)? as usize)?.id;
            (id.term == meta.term).then_some(id)
        };
        let broken = |what| Violation { rule: "LogMatching", what: format!("{who:?}: {what}") };
        let job = record.latest.job(persist, base_id).map_err(broken)?;
        if let Some((index, _, membership)) = &job.install {
            let expected = self.committed_members.iter().rev().find(|(at, _)| at <= index).map(|(_, m)| m);
            if expected != Some(membership) {
                return violation!(
                    "ConfigFromLog",
                    "{who:?} installs a snapshot at {index} with {membership:?}, committed is {expected:?}"
                );
            }
        }
        // What is about to be cut must not be committed, and must really differ.
        if let Some(first) = job.lines.first()
            && job.install.is_none()
            && let Some(old) = record.latest.id_at(first.index)
        {
            if old == first.id {
                return violation!(
                    "NoTruncateCommitted",
                    "{who:?} writes entry {} again without a conflict",
                    first.index
                );
            }
            // A leader of an older term than the one that committed the entry may still have its late message taken by
            // a node that knows neither: that node has not acknowledged the entry in the newer term.
            let term = job.hard.unwrap_or(record.latest.hard).term;
            let is_binding = |committed: &Committed| committed.id == old && committed.by_term <= term;
            if self.committed.get(first.index as usize - 1).is_some_and(is_binding) {
                return violation!("NoTruncateCommitted", "{who:?} cuts committed entry {}", first.index);
            }
            self.truncations += 1;
        }
        let before = job.install.is_some().then(|| record.latest.clone());
        let after = &mut record.latest;
        if let Some((index, id, membership)) = &job.install {
            after.restart_at(*index, *id, membership.clone());
        }
        if let Some(hard) = job.hard {
            after.hard = hard;
        }
        let base_index = job.lines.first().map_or(0, |line| line.index);
        let (mut previous_index, mut previous) = after.membership_below(base_index);
        for line in &job.lines {
            match self.chains.entry((line.index, line.id.term.0)) {
                Entry::Occupied(known) if *known.get() != line.id.chain => {
                    return violation!(
                        "LogMatching",
                        "{who:?} has another entry {} of term {} than others",
                        line.index,
                        line.id.term
                    );
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => {
                    free.insert(line.id.chain);
                    // A new entry: only a leader may create it, in its own term.
                    if let Some(membership) = &line.membership
                        && line.index > 1
                    {
                        if leads != Some(line.id.term) {
                            return violation!(
                                "NoopFirst",
                                "{who:?} creates membership {} without leading",
                                line.index
                            );
                        }
                        check_change(who, line.index, (previous_index, &previous), membership, &self.committed, leads)?;
                    }
                }
            }
            if let Some(membership) = &line.membership {
                (previous_index, previous) = (line.index, membership.clone());
            }
            after.put(line);
        }
        // A snapshot must not take away committed entries above it that were there.
        if let Some(before) = before {
            check_kept(who, "installing a snapshot", &before, after, &self.committed)?;
        }
        record.pending.push_back(job);
        Ok(())
    }

    /// The disk has synced all jobs up to `seq`.
    pub fn on_synced(&mut self, who: Identity, seq: u64) -> CheckResult {
        let record = self.records.entry(who).or_default();
        while record.pending.front().is_some_and(|job| job.seq <= seq) {
            let job = record.pending.pop_front().expect("there is a front");
            record.durable.apply_job(&job);
            if let Some(hard) = job.hard {
                note_vote(&mut self.votes, who, hard)?;
            }
        }
        Ok(())
    }

    /// A restart found this on disk: it must be what was written, nothing synced missing, nothing cut come back.
    pub fn on_recovery(&mut self, who: Identity, found: &Durable) -> CheckResult {
        let record = self.records.entry(who).or_default();
        let mut recovered = LogModel::default();
        recovered.hard = found.hard_state;
        if let Some(meta) = &found.snapshot {
            let id = self.committed.get(meta.index.0 as usize - 1).map(|committed| committed.id);
            match id {
                Some(id) if id.term == meta.term => {
                    recovered.restart_at(meta.index.0, id, Arc::new(meta.membership.clone()));
                }
                _ => return violation!("NoGhostLog", "{who:?} recovers a snapshot of nothing: {meta:?}"),
            }
        }
        let persist = Persist { entries: found.entries.clone(), ..Persist::default() };
        let broken = |what| Violation { rule: "NoGhostLog", what: format!("{who:?}: {what}") };
        let job = recovered.job(&persist, |_| None).map_err(broken)?;
        recovered.apply_job(&job);

        // Every state that the disk may be in: what is synced, then each job in turn, in parts.
        let mut stage = record.durable.clone();
        let mut is_known = is_same_log(&recovered, &stage);
        for job in &record.pending {
            if is_known {
                break;
            }
            if let Some(hard) = job.hard {
                stage.hard = hard;
                is_known |= is_same_log(&recovered, &stage);
            }
            if let Some((index, id, membership)) = &job.install {
                stage.restart_at(*index, *id, membership.clone());
                is_known |= is_same_log(&recovered, &stage);
            }
            for line in &job.lines {
                stage.put(line);
                is_known |= is_same_log(&recovered, &stage);
            }
        }
        if !is_known {
            return violation!(
                "NoGhostLog",
                "{who:?} recovers term {} vote {:?}, log {}..={} ending in term {}: synced were term {} vote {:?}, \
                     log {}..={}, then {} jobs up to {}",
                recovered.hard.term,
                recovered.hard.vote,
                recovered.base,
                recovered.last(),
                recovered.id_at(recovered.last()).map_or(Term(0), |id| id.term),
                record.durable.hard.term,
                record.durable.hard.vote,
                record.durable.base,
                record.durable.last(),
                record.pending.len(),
                record.latest.last()
            );
        }
        if recovered.hard.term < recovered.id_at(recovered.last()).map_or(Term(0), |id| id.term) {
            return violation!("NoGhostLog", "{who:?} recovers entries of a term that it has not seen");
        }
        check_kept(who, "a restart", &record.durable, &recovered, &self.committed)?;
        note_vote(&mut self.votes, who, recovered.hard)?;
        record.pending.clear();
        record.durable = recovered.clone();
        record.latest = recovered;
        Ok(())
    }

    /// A message leaves a node: what it promises must be on the disk.
    pub fn on_send(&mut self, message: &Message) -> CheckResult {
        let record = self.records.entry(message.from).or_default();
        let durable = &record.durable;
        let hard = durable.hard;
        let broken = |what: String| violation!("PersistBeforeSend", "{:?} {what}", message.from);
        let is_binding = !matches!(message.body, Body::PreVote { .. } | Body::PreVoteReply { .. });
        if is_binding && message.term > hard.term {
            return broken(format!("sends term {} with term {} on disk: {:?}", message.term, hard.term, message.body));
        }
        match &message.body {
            Body::VoteReply { is_granted: true }
                if hard != (HardState { term: message.term, vote: Some(message.to) }) =>
            {
                // A vote of a term that has passed meanwhile is late, not false.
                match self.votes.get(&(message.from, message.term)) {
                    Some(vote) if *vote == message.to => Ok(()),
                    known => broken(format!("grants {} to {:?}, on disk is {known:?}", message.term, message.to)),
                }
            }
            Body::AppendReply { result: Ok(matched), .. } if message.term == hard.term => {
                if durable.last() < matched.0 {
                    return broken(format!("accepts up to {matched} with {} on disk", durable.last()));
                }
                Ok(())
            }
            Body::TimeoutNow { last_index } => {
                let ordered = self.orders.entry((message.to, message.term)).or_insert(*last_index);
                *ordered = (*ordered).min(*last_index);
                Ok(())
            }
            Body::Vote { last_index, is_transfer: true, .. } => {
                let before = Term(message.term.0 - 1);
                match self.orders.get(&(message.from, before)) {
                    Some(ordered) if ordered <= last_index => Ok(()),
                    ordered => violation!(
                        "LeadershipTransfer",
                        "{:?} takes over term {} with a log up to {last_index}, ordered was {ordered:?}",
                        message.from,
                        message.term
                    ),
                }
            }
            _ => Ok(()),
        }
    }

    /// A node became leader.
    pub fn on_leader(&mut self, who: Identity, view: &View) -> CheckResult {
        let term = view.term;
        if let Some(other) = self.leaders.insert(term, who)
            && other != who
        {
            return violation!("ElectionSafety", "two leaders in term {term} ({}, {})", other.id, who.id);
        }
        let membership = &view.membership;
        let votes: Vec<NodeId> = membership
            .voters
            .iter()
            .filter(|(id, uuid)| self.votes.get(&(Identity { id: **id, uuid: **uuid }, term)) == Some(&who))
            .map(|(id, _)| *id)
            .collect();
        if votes.len() <= membership.voters.len() / 2 {
            return violation!(
                "NonVoterSilence",
                "{} leads term {term} with durable votes of {votes:?} among {:?}",
                who.id,
                ids(membership)
            );
        }
        let log = &self.records.entry(who).or_default().latest;
        let owed = self.committed.partition_point(|committed| committed.by_term < term) as u64;
        if let Some(id) = owed.checked_sub(1).map(|at| self.committed[at as usize].id)
            && log.base < owed
            && log.id_at(owed) != Some(id)
        {
            return violation!(
                "LeaderCompleteness",
                "{} leads term {term} without committed entry {owed} (its log ends at {})",
                who.id,
                log.last()
            );
        }
        Ok(())
    }

    /// A node moved its commit index. `leads`: the term that it led in before or after the step.
    pub fn on_commit(&mut self, who: Identity, leads: Option<Term>, to: Index) -> CheckResult {
        let to = to.0;
        self.records.entry(who).or_default();
        let log = &self.records[&who].latest;
        let known = (self.committed.len() as u64).min(to);
        if let Some(id) = self.committed_id(known)
            && log.base < known
            && log.id_at(known) != Some(id)
        {
            return violation!("CommittedPrefix", "{who:?} commits another entry {known} than was committed");
        }
        if to <= known {
            return Ok(());
        }
        let Some(term) = leads else {
            return violation!("CommitRule", "{who:?} commits {to} first and does not lead");
        };
        let Some(id) = log.id_at(to) else {
            return violation!("CommitRule", "{who:?} commits {to} beyond its log's end {}", log.last());
        };
        if id.term != term {
            return violation!("CommitRule", "leader {} of term {term} commits {to} of term {}", who.id, id.term);
        }
        let (_, membership) = log.membership();
        let membership = membership.clone();
        let mut holders = Vec::new();
        for (&node, &uuid) in &membership.voters {
            if let Some(record) = self.records.get(&Identity { id: node, uuid })
                && (record.durable.id_at(to) == Some(id) || record.durable.base > to)
            {
                holders.push(node);
            }
        }
        if holders.len() <= membership.voters.len() / 2 {
            return violation!(
                "QuorumLog",
                "{} commits {to} with {holders:?} of {:?} holding it on disk",
                who.id,
                ids(&membership)
            );
        }
        self.commit(who, term, to);
        Ok(())
    }

    fn commit(&mut self, who: Identity, by_term: Term, to: u64) {
        let log = &self.records.entry(who).or_default().latest;
        for index in self.committed.len() as u64 + 1..=to {
            let id = log.id_at(index).expect("a log has no hole, and its committed part is never compacted first");
            self.committed.push(Committed { id, by_term });
        }
        let from = self.committed_members.last().map_or(0, |(at, _)| *at);
        self.committed_members.extend(log.members_between(from, to));
    }

    /// What a leader believes of the others must be true on their disks; what it believes of its log, in its log.
    pub fn on_view(&mut self, who: Identity, view: &View) -> CheckResult {
        self.records.entry(who).or_default();
        let log = &self.records[&who].latest;
        if view.last_index.0 != log.last() || view.term != log.hard.term {
            return violation!(
                "NoGhostLog",
                "{who:?} is at term {} and {}, its disk was given term {} and {}",
                view.term,
                view.last_index,
                log.hard.term,
                log.last()
            );
        }
        let (index, membership) = log.membership();
        if *membership != view.membership {
            return violation!(
                "ConfigFromLog",
                "{who:?} works with {:?}, its log says {membership:?} at {index}",
                view.membership
            );
        }
        if view.role != Role::Leader {
            return Ok(());
        }
        for peer in &view.peers {
            let matched = peer.match_index.0;
            let Some(id) = log.id_at(matched) else { continue };
            let Some(record) = self.records.get(&peer.who) else { continue };
            let disk = &record.durable;
            let is_in_same_term = disk.hard.term <= view.term && record.latest.hard.term <= view.term;
            if is_in_same_term && disk.base < matched && disk.id_at(matched) != Some(id) {
                return violation!(
                    "MatchTruth",
                    "leader {} counts on {matched} at {:?}, whose disk ends at {}",
                    who.id,
                    peer.who,
                    disk.last()
                );
            }
        }
        Ok(())
    }
}
