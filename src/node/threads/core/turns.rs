//! The turns of the `core` thread: inputs, ticks, then requests as one batch.
//!
//! Not here: inputs about peers and their links (`peers.rs`), what follows from a step of raft (`effects.rs`).

use super::state::Core;
use crate::node::shared::inbox;
use crate::node::shared::messages::{ApplyJob, CoreInput};
use crate::node::shared::request::{Level, Operation, Request};
use crate::node::ticks::TickClock;
use crate::raft::{Body, Input, Message, Role, Token};
use crate::types::{Index, Ticks};
use crate::warn_seldom;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Inputs handled in one turn before requests are proposed: bounds how long the oldest waits for its batch.
const INPUTS_PER_TURN: usize = 1024;
/// How often `core` lets others run first before it begins a batch or a round of reads.
const GATHER_YIELDS: u32 = 4;
/// The most ticks that a quiet node sleeps at a time: the interval of heartbeats at the default settings.
const QUIET_TICKS_MAX: u64 = 10;
/// Time between two checks of the autopilot and two publications of an otherwise unchanged view.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// Shortest time between two publications when only indexes have moved: under load they move thousands of times a
/// second.
const PUBLISH_GAP: Duration = Duration::from_millis(20);

impl Core {
    /// Body of the thread.
    pub fn run(mut self, inbox: &Receiver<CoreInput>) {
        let mut clock = TickClock::new(Instant::now());
        loop {
            let skip = self.ticks_to_skip();
            let wait = if skip > 0 { inbox::park } else { Receiver::recv_deadline };
            let first = match wait(inbox, clock.wake_at(skip)) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for _ in 0..clock.due_before_inputs(skip, Instant::now()) {
                self.step(Input::Tick);
            }
            if self.take_all(first.into_iter().chain(inbox.try_iter())).is_break() || self.gather(inbox).is_break() {
                return self.flush_links();
            }
            let now = Instant::now();
            for _ in 0..clock.due_after_inputs(now) {
                self.step(Input::Tick);
            }
            self.pass_leadership_on();
            self.propose_or_forward(now);
            if now.duration_since(self.last_housekeeping) >= HOUSEKEEPING {
                self.last_housekeeping = now;
                self.update_links();
                self.update_leaving();
                self.update_witnesses();
                self.consult_autopilot();
                self.declare_lost_workers();
                self.remind_peers_of_lost_promises();
                self.is_view_stale = true;
            }
            self.watch_links(now);
            self.flush_links();
            if self.is_view_stale && now.duration_since(self.last_publish) >= PUBLISH_GAP {
                self.publish();
            }
            self.disk.flush();
            self.apply.flush();
        }
    }

    /// Handles inputs, as many as fit into one turn; `Break`: the thread is to end.
    pub(super) fn take_all(&mut self, inputs: impl Iterator<Item = CoreInput>) -> ControlFlow<()> {
        for input in inputs.take(INPUTS_PER_TURN) {
            if matches!(input, CoreInput::Stop) {
                return ControlFlow::Break(());
            }
            self.on(input);
        }
        ControlFlow::Continue(())
    }

    /// Lets threads that are about to send a request do so first, so that the next batch, or round of reads, includes
    /// it: each costs three nodes a dozen wake-ups, regardless of its size. On an idle machine no other thread is ready and
    /// no time is lost.
    pub(super) fn gather(&mut self, inbox: &Receiver<CoreInput>) -> ControlFlow<()> {
        for _ in 0..GATHER_YIELDS {
            if !self.requests.has_ready() {
                break;
            }
            std::thread::yield_now();
            if inbox.is_empty() {
                break;
            }
            self.take_all(inbox.try_iter())?;
        }
        ControlFlow::Continue(())
    }

    /// In a quiet cluster nothing is due before raft's next timer: the ticks until then are given to raft together, and
    /// the thread sleeps. While there is no leader, a client waits or a datagram was not acknowledged, it wakes for every
    /// tick.
    pub(super) fn ticks_to_skip(&self) -> u32 {
        match self.raft.leader().is_some() && self.requests.is_idle() && !self.is_link_waiting {
            true => (self.raft.ticks_to_timer().0.min(QUIET_TICKS_MAX) - 1) as u32,
            false => 0,
        }
    }

    pub(super) fn on(&mut self, input: CoreInput) {
        match input {
            CoreInput::Raft(message) => self.on_message(message),
            CoreInput::LinkUp { peer, round_trip } => self.on_link_up(peer, round_trip),
            CoreInput::LinkLost(id) => self.on_link_lost(id),
            CoreInput::Rerouted(id) => self.requests.on_link_up(id),
            CoreInput::PeerClosed(who) => self.on_peer_closed(who),
            CoreInput::Hosting(who) => {
                self.shared.hosted.set(who, true);
                self.step(Input::LinkUp { peer: who.id, round_trip: Ticks(0) });
            }
            CoreInput::Released(who) => {
                self.step(Input::LinkLost(who.id));
                self.shared.hosted.set(who, false);
            }
            CoreInput::Met { who, addresses, is_proved } => {
                self.on_return(who.id);
                if is_proved {
                    self.introduce(who);
                }
                self.learn_address(who, addresses, is_proved);
            }
            CoreInput::Vouched(who) => self.on_vouched(who),
            CoreInput::Answers(who) => {
                self.answering.insert(who.id, who);
                self.on_vouched(who);
                self.update_links();
            }
            CoreInput::Remembered { by, promise, compared } => self.on_remembered(by, &promise, compared),
            CoreInput::Found { who, addresses } => self.on_found(who, addresses),
            CoreInput::Directory(nodes) => self.on_directory(&nodes),
            CoreInput::Applied => self.is_notified = false,
            CoreInput::Synced(seq) => self.step(Input::Synced { seq }),
            CoreInput::SnapshotSaved(index) => self.step(Input::SnapshotSaved { index }),
            CoreInput::SnapshotReceived { from, term, meta, done } => {
                let index = meta.index;
                self.step(Input::SnapshotReceived { from, term, meta });
                // It was installed, or not needed because the log contained as much.
                let _ = done.try_send(self.raft.commit_index() >= index);
            }
            CoreInput::SnapshotSent { to, ok } => {
                self.streaming.remove(&to);
                self.step(Input::SnapshotSent { to, ok });
            }
            CoreInput::Request(request) => self.on_request(request),
            CoreInput::Forward { from, asks } => match self.links.get(&from.id) {
                Some(link) => self.requests.hold_forwarded(link, asks),
                None => warn_seldom!("forwarded request without a way back peer={}", from.id),
            },
            CoreInput::Forwarded(answers) => self.requests.on_forwarded(answers),
            CoreInput::Goodbye(who) => self.on_goodbye(who),
            CoreInput::Lead => self.step(Input::Lead),
            CoreInput::CopyState { reply } => {
                if let Some(meta) = self.raft.snapshot_meta(self.sent_to_apply) {
                    self.apply.push(ApplyJob::Copy { meta, reply });
                }
            }
            CoreInput::ReplaceState { meta, data, reply, done } => {
                let _ = reply.try_send(self.replace_state(meta, data, done));
            }
            CoreInput::DiskLow(is_low) => {
                self.is_disk_low = is_low;
                self.update_disk_low();
            }
            CoreInput::Corrupt(is_corrupt) => {
                self.is_corrupt = is_corrupt;
                self.update_disk_low();
            }
            CoreInput::Stop => {}
        }
    }

    /// A message of Raft from a peer.
    fn on_message(&mut self, message: Message) {
        self.hints.on_message(&message, self.raft.leader());
        self.round_trips.on_received(&message, &self.shared.counters.round_trips);
        let from = message.from.id;
        let committed = if let Body::Append { commit, .. } = message.body { Some(commit) } else { None };
        let silence = committed.and_then(|_| self.shared.leader_age());
        if self.raft.leader() == Some(from) {
            self.shared.set_leader_heard();
        }
        self.step(Input::Message(message));
        if let Some(committed) = committed.filter(|_| self.raft.leader() == Some(from)) {
            self.shared.catch_up.on_commit(committed, self.shared.applied(), silence);
        }
    }

    /// A client's request. An eventual read needs neither the leader nor its place in a batch.
    fn on_request(&mut self, request: Request) {
        match request {
            Request { operation: Operation::Query { query, level: Level::Eventual }, reply, .. } => {
                self.apply.push(ApplyJob::Queries { at_least: Index(0), queries: vec![(query, reply)] });
            }
            request => self.requests.hold(request),
        }
    }

    /// A node whose state is corrupt must not lead, as if its disk were full.
    fn update_disk_low(&mut self) {
        self.step(Input::DiskLow(self.is_disk_low || self.is_corrupt));
    }

    /// Proposes or forwards the requests that wait, after every input of this turn.
    pub(super) fn propose_or_forward(&mut self, now: Instant) {
        let view = (self.raft.role(), self.raft.leader());
        self.requests.on_log_end(self.raft.last_index());
        self.requests.expire(now);
        if view.1.is_some() {
            self.requests.on_some_leader();
        }
        match view {
            (Role::Leader, _) => {
                while let Some(input) = self.requests.next_input(&mut self.next_token) {
                    self.step(input);
                    if self.raft.role() != Role::Leader {
                        break;
                    }
                }
                if self.requests.has_postponed() && !self.is_notified && self.shared.applied() < self.sent_to_apply {
                    self.is_notified = true;
                    self.apply.push(ApplyJob::Notify);
                }
            }
            (_, Some(leader)) => {
                self.requests.return_forwarded();
                if let Some(link) = self.links.get(&leader) {
                    self.requests.forward_all(link);
                }
                self.next_token += 1;
                if let Some(input) = self.requests.next_read(Token(self.next_token)) {
                    self.step(input);
                }
            }
            (_, None) => {
                self.requests.return_forwarded();
                self.requests.on_no_leader(now);
            }
        }
    }
}
