//! A step of raft and its effects: messages, writes, committed entries, answers, snapshots and events.
//!
//! Not here: when raft takes a step (`turns.rs`).

use super::leadership_events;
use super::state::Core;
use crate::node::process::outdated;
use crate::node::quota::Unapplied;
use crate::node::shared::messages::{ApplyJob, DiskJob};
use crate::node::shared::request::ReplyTo;
use crate::node::snapshots::{transfer, witness};
use crate::node::spawn;
use crate::raft::{Answer, Effects, Entry, Event, Input, Message, Payload, SnapshotMeta, StepDownCause, Token};
use crate::services::registry::checkpoint_command;
use crate::store::SnapshotReader;
use crate::types::{Identity, Index};
use crate::wire::Frame;
use crossbeam_channel::{Receiver, Sender};
use log::warn;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot causes a checkpoint, unless the last one was within this time.
const CHECKPOINT_GAP: Duration = Duration::from_secs(10);

impl Core {
    /// One step of raft, with its effects.
    pub(super) fn step(&mut self, input: Input) {
        if self.is_outdated {
            return;
        }
        let mut effects = Effects::default();
        self.raft.step(input, &mut self.rng, &mut effects);
        self.perform(effects);
    }

    pub(super) fn perform(&mut self, effects: Effects) {
        if let Some(why) = effects.refused {
            self.shared.counters.refuse_frame(why);
        }
        for message in effects.send_now {
            self.send(message);
        }
        if let Some(meta) = &effects.install {
            // `apply` waits until the disk thread sends it the snapshot's bytes; later entries wait in its inbox.
            let (data, ready) = crossbeam_channel::bounded(1);
            let persist = effects.persist.expect("an installed snapshot is persisted in the same step");
            self.disk.push(DiskJob::Install { persist, promises: effects.after_sync, data });
            self.requests.on_install(meta.index);
            self.apply.push(ApplyJob::Install { meta: meta.clone(), data: ready });
            self.sent_to_apply = meta.index;
            self.is_view_stale = true;
        } else if let Some(persist) = effects.persist {
            self.disk.push(DiskJob::Persist { persist, promises: effects.after_sync });
        } else {
            assert!(effects.after_sync.is_empty(), "promises without a persist to wait for");
        }
        for (token, answer) in effects.answers {
            self.on_answer(token, answer);
        }
        if let Some(commit) = effects.commit {
            self.send_to_apply(commit);
        }
        for to in effects.send_snapshot {
            self.send_snapshot(to);
        }
        for event in effects.events {
            self.on_event(event);
        }
    }

    pub(super) fn on_answer(&mut self, token: Token, answer: Answer) {
        if self.autopilot_token == Some(token) {
            self.autopilot_token = None;
            if let Answer::Refused(why) = answer {
                log::debug!("autopilot change refused err={why}");
            }
            return;
        }
        if let Some((at_least, queries)) = self.requests.on_answer(token, answer) {
            self.apply.push(ApplyJob::Queries { at_least, queries });
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        self.is_view_stale = true;
        match &event {
            Event::Membership { index, .. } => {
                self.membership_index = *index;
                self.update_links();
            }
            Event::Following { leader, .. } => self.requests.on_leader(*leader),
            Event::BecameLeader { .. } => {
                self.membership_index = self.raft.last_index();
                let applied = self.shared.applied();
                let entries = self.raft.entries(applied.next(), self.raft.last_index());
                let unapplied = Unapplied::inherited(applied, self.raft.view().snapshot_index, entries);
                self.requests.become_leader(unapplied);
                self.requests.on_leader(self.shared.me.id);
                self.declare_lost_workers();
            }
            Event::SteppedDown { cause: StepDownCause::NoQuorum | StepDownCause::DiskStalled, .. } => {
                self.requests.on_stepped_down();
            }
            Event::TransferAborted { to } => self.requests.on_transfer_aborted(*to),
            Event::LeaderForgot { leader, index } => outdated::refuse_leader(&self.shared, *leader, *index),
            _ => {}
        }
        // The prefix of the log line must already show the new role.
        self.publish();
        leadership_events::record(&self.shared, &event, &mut self.hints);
    }

    pub(super) fn send_to_apply(&mut self, commit: Index) {
        if commit <= self.sent_to_apply {
            return;
        }
        let first = self.sent_to_apply.next();
        let mut run = Vec::new();
        for entry in self.raft.entries(first, commit).iter() {
            let waiting = self.requests.take_waiting(entry.index, entry.term);
            run.push((entry.clone(), waiting));
        }
        assert!(
            run.len() as u64 == commit.0 - self.sent_to_apply.0,
            "{} entries for apply from {first} to {commit}",
            run.len()
        );
        self.sent_to_apply = commit;
        let snapshot_meta = self.snapshot_meta_if_due(&run, commit);
        self.apply.push(ApplyJob::Entries { run, snapshot_meta });
        self.is_view_stale = true;
    }

    /// Has `apply` replace the state by a received one, unless the log does not contain all entries from there to what
    /// is applied. The log and its promises stay as they are.
    pub(super) fn replace_state(
        &mut self,
        meta: SnapshotMeta,
        data: Receiver<SnapshotReader>,
        done: Sender<Result<(), String>>,
    ) -> Result<(), String> {
        if meta.index > self.sent_to_apply {
            return Err(format!("the state is of index {}, and this node is at {}", meta.index, self.sent_to_apply));
        }
        if meta.index < self.raft.view().snapshot_index {
            return Err(format!("the state is of index {}, and this node's log begins later", meta.index));
        }
        let own = self.raft.snapshot_meta(meta.index);
        if own.as_ref() != Some(&meta) {
            return Err(format!("the state is of {meta:?}, and this node's log has {own:?} there"));
        }
        let run = self.raft.entries(meta.index.next(), self.sent_to_apply).to_vec();
        assert!(run.len() as u64 == self.sent_to_apply.0 - meta.index.0, "{} entries after {}", run.len(), meta.index);
        self.apply.push(ApplyJob::Replace { meta, data, run, done });
        Ok(())
    }

    /// If the next snapshot is due, what it must contain beside the state.
    pub(super) fn snapshot_meta_if_due(
        &mut self,
        run: &[(Entry, Vec<ReplyTo>)],
        commit: Index,
    ) -> Option<SnapshotMeta> {
        self.snapshot_schedule.count(run.len() as u64, run.iter().map(|(entry, _)| entry_bytes(&entry.payload)).sum());
        if !self.snapshot_schedule.is_due() {
            return None;
        }
        let meta = self.raft.snapshot_meta(commit)?;
        self.snapshot_schedule.reset();
        if self.shared.integrity.checkpoint_age() >= CHECKPOINT_GAP && !self.leads_only_to_pass_on() {
            // The state that is about to be saved is compared between the nodes, too.
            self.requests.hold_own(checkpoint_command());
        }
        Some(meta)
    }

    pub(super) fn send(&mut self, message: Message) {
        if self.shared.hosted.contains(&message.to) {
            return self.shared.inboxes.to_hosted(message);
        }
        if let Some(link) = self.links.get(&message.to.id).filter(|link| link.who == message.to) {
            self.round_trips.on_sent(&message);
            link.queue(&Frame::Raft(message));
        }
    }

    pub(super) fn send_snapshot(&mut self, to: Identity) {
        if self.streaming.contains(&to.id) {
            // The end of the present transfer will be reported, and answers this request too.
            return;
        }
        // A witness has no data to send. A leader that does not know yet that `to` is one sends it the data of a full
        // node, of which it keeps its part: to wait until this leader has applied the entry that says so would be to
        // wait forever where no entry is committed without `to`.
        let can_send = !self.is_corrupt && !self.leads_only_to_pass_on();
        let can_receive = can_send && !self.shared.hosted.contains(&to);
        let link = self.links.get(&to.id).filter(|_| can_receive);
        let Some(link) = link else {
            return self.step(Input::SnapshotSent { to: to.id, ok: false });
        };
        let (shared, snapshots, address) = (Arc::clone(&self.shared), self.shared.snapshots(), link.address.clone());
        let term = self.raft.term();
        let started = spawn::spawn(&format!("snap-{}", to.id.0), move || match shared.is_witness(to) {
            true => witness::stream(&shared, to, &address, term),
            false => transfer::stream(&shared, &snapshots, to, &address, term),
        });
        match started {
            Ok(_) => {
                self.streaming.insert(to.id);
            }
            Err(e) => {
                warn!("cannot start a thread for a snapshot err={e}");
                self.step(Input::SnapshotSent { to: to.id, ok: false });
            }
        }
    }

    /// Sends the messages of this turn, those of one peer in one write.
    pub(super) fn flush_links(&mut self) {
        self.is_link_waiting = false;
        for link in self.links.values() {
            self.is_link_waiting |= link.flush();
        }
    }
}

fn entry_bytes(payload: &Payload) -> u64 {
    match payload {
        Payload::Command(bytes) => bytes.len() as u64 + 32,
        Payload::Noop | Payload::Membership(_) => 64,
    }
}
