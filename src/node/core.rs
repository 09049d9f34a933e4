//! The `core` thread: owner of Raft. Takes inputs one by one, carries out each step's effects in order.
//!
//! Everything that may block is elsewhere: `disk` syncs, `apply` runs services, each `send-m` waits for its socket.
//! `core` hands them work without waiting; what a full inbox does not take stays in an [`Outbox`], which raft's flow
//! control bounds. Its messages to peers it writes itself, once a turn, as far as the sockets take them at once. Others
//! may wait on `core`; since it waits on nobody, there is no cycle.
//!
//! Invariants: C1 a step's promises leave from `disk`, after the sync of its persist: they travel in the same job.
//! C2 `apply` receives every index once, in order, with the requests that wait for it.
//! Not here: who waits for what (`requests.rs`), the links' threads (`links.rs`), what events say (`events.rs`).

use super::apply::ApplyJob;
use super::disk::DiskJob;
use super::events::{self, LossHints};
use super::handle::{Ack, Level};
use super::inbox;
use super::links::{self, Link};
use super::requests::{Asked, ReplyTo, Request, Requests};
use super::shared::{CoreView, Shared};
use super::snapshot_pace::SnapshotPace;
use super::snapshots;
use crate::cluster::autopilot;
use crate::cluster::roll_call::{Patience, RollCall};
use crate::limits::TICK_MS;
use crate::raft::{
    Answer, Body, Change, Effects, Entry, Event, Input, Message, Payload, Promise, Raft, Refused, Role, SnapshotMeta,
    Token,
};
use crate::services::directory::Nodes;
use crate::services::jobs;
use crate::services::registry::{Registry, checkpoint_command, jobs_command};
use crate::settings::to_ticks;
use crate::store::{SnapshotReader, Snapshots};
use crate::types::{Addresses, Identity, Index, NodeId, Term};
use crate::warn_seldom;
use crate::wire::{Ask, Forwarded, Frame};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use log::{error, info, warn};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Inputs taken in one go before requests are pumped: bounds how long the oldest waits for its batch.
const INPUTS_PER_TURN: usize = 1024;
/// How often `core` lets others run first before it begins a batch or a round of reads.
const GATHER_YIELDS: u32 = 4;
/// A snapshot calls for a checkpoint, unless the last one was within this time.
const CHECKPOINT_GAP: Duration = Duration::from_secs(10);
/// A process that was frozen for longer than this does not make up for the ticks it missed.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);
/// Most ticks that a quiet node sleeps through at a time: a heartbeat's interval at the default settings.
const QUIET_TICKS_MAX: u64 = 10;
/// Between two looks of the autopilot and two publications of an otherwise unchanged view.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// A worker that was declared gone and still counts as there is declared gone again after so long.
const DECLARE_AGAIN_MS: u64 = 1000;
/// Shortest time between two publications when only indexes have moved: under load they move thousands of times a second.
const PUBLISH_GAP: Duration = Duration::from_millis(20);

/// Everything that `core` can be told.
#[derive(Debug)]
pub enum CoreInput {
    /// A message from a peer, its sender verified.
    Raft(Message),
    /// The outgoing connection to a peer stands.
    LinkUp(NodeId),
    /// The peer's process is gone: its connection broke and dialing again was refused.
    LinkLost(NodeId),
    /// The peer's connection to us ended.
    PeerClosed(Identity),
    /// What a peer remembers of this node's promises.
    Remembered { by: Identity, promise: Promise, compared: Option<Sender<()>> },
    /// A member answers at this address, which is not the one that is known.
    Found { who: Identity, addresses: Addresses },
    /// A node said who and where it is; `is_proved`: and that it knows the cluster's secret.
    Met { who: Identity, addresses: Addresses, is_proved: bool },
    /// Somebody whom this node believes names a node of this cluster (`raft/guard.rs`).
    Vouched(Identity),
    /// This identity answered at the address of the member whose number it has, where another was expected.
    Answers(Identity),
    /// The directory changed.
    Directory(Arc<Nodes>),
    /// The disk has everything up to this job; the promises that rest on it have left.
    Synced(u64),
    /// The services' snapshot at this index is on disk.
    SnapshotSaved(Index),
    /// A leader's snapshot arrived whole and is on disk beside the log.
    SnapshotReceived { from: Identity, term: Term, meta: SnapshotMeta, done: Sender<bool> },
    /// Streaming a snapshot to a follower ended.
    SnapshotSent { to: NodeId, ok: bool },
    /// A client of this node asks.
    Request(Request),
    /// Clients of another node ask, through it.
    Forward { from: Identity, asks: Vec<(u64, Ask)> },
    /// The leader answers what this node forwarded.
    Forwarded(Vec<(u64, Forwarded)>),
    /// Another node asks for this node's state.
    CopyState { reply: Sender<(SnapshotMeta, Registry)> },
    /// A state that another node gave is on disk beside the log, to replace this node's, which is wrong. `reply`: whether the log
    /// holds what comes after it; then `apply` waits for the bytes in `data`, and says `done`.
    ReplaceState {
        meta: SnapshotMeta,
        data: Receiver<SnapshotReader>,
        reply: Sender<Result<(), String>>,
        done: Sender<Result<(), String>>,
    },
    /// This node's state is, or is no longer, known to be wrong.
    Corrupt(bool),
    /// Console `L`.
    Lead,
    /// The disk is, or is no longer, below its reserve.
    DiskLow(bool),
    /// End the thread.
    Stop,
}

/// An ordered queue to another thread that never makes its owner wait.
#[derive(Debug)]
pub struct Outbox<T> {
    to: Sender<T>,
    backlog: VecDeque<T>,
}

impl<T> Outbox<T> {
    fn new(to: Sender<T>) -> Outbox<T> {
        Outbox { to, backlog: VecDeque::new() }
    }

    fn push(&mut self, job: T) {
        self.backlog.push_back(job);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(job) = self.backlog.pop_front() {
            match self.to.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.backlog.push_front(job);
                    return;
                }
                // The other thread ended: the node is stopping.
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}

/// The thread's state.
pub struct Core {
    shared: Arc<Shared>,
    raft: Raft,
    rng: fastrand::Rng,
    disk: Outbox<DiskJob>,
    apply: Outbox<ApplyJob>,
    snapshots: Snapshots,
    links: BTreeMap<NodeId, Link>,
    book: BTreeMap<NodeId, Addresses>,
    /// Who holds a connection to us, as its own handshake said.
    met: BTreeMap<NodeId, Identity>,
    /// Who answered last under a number where another was expected.
    answering: BTreeMap<NodeId, Identity>,
    /// The same of strangers, and where they say they are: it counts when they are vouched for.
    strangers: BTreeMap<Identity, Addresses>,
    /// Where members to which a link stands say that they are, if elsewhere: it counts when the link is lost.
    claimed: BTreeMap<NodeId, Addresses>,
    requests: Requests,
    /// Highest index handed to `apply`.
    handed_to_apply: Index,
    next_token: u64,
    autopilot_token: Option<Token>,
    autopilot_said: Option<Change>,
    last_housekeeping: Instant,
    is_view_stale: bool,
    last_publish: Instant,
    /// Followers to which a snapshot is on its way.
    streaming: BTreeSet<NodeId>,
    hints: LossHints,
    /// No entry behind it has changed the membership.
    membership_index: Index,
    roll_call: RollCall,
    /// The data folder is older than what peers remember of it: this node says nothing more.
    is_outdated: bool,
    /// Reasons to leave the lead to others.
    is_disk_low: bool,
    is_corrupt: bool,
    /// Bytes of entries handed to `apply` since the last snapshot was begun.
    snapshot_pace: SnapshotPace,
}

impl Core {
    /// A core around a recovered raft; `book` says where peers were last seen, `applied` what the services hold.
    pub fn new(
        shared: Arc<Shared>,
        raft: Raft,
        disk: Sender<DiskJob>,
        apply: Sender<ApplyJob>,
        snapshots: Snapshots,
        book: BTreeMap<NodeId, Addresses>,
        applied: Index,
    ) -> Core {
        let snapshot_pace = SnapshotPace::new(&shared.settings, shared.me.id);
        let mut core = Core {
            requests: Requests::new(Arc::clone(&shared)),
            shared,
            raft,
            rng: fastrand::Rng::new(),
            disk: Outbox::new(disk),
            apply: Outbox::new(apply),
            snapshots,
            links: BTreeMap::new(),
            book,
            met: BTreeMap::new(),
            answering: BTreeMap::new(),
            strangers: BTreeMap::new(),
            claimed: BTreeMap::new(),
            handed_to_apply: applied,
            next_token: 0,
            autopilot_token: None,
            autopilot_said: None,
            last_housekeeping: Instant::now(),
            is_view_stale: true,
            last_publish: Instant::now(),
            streaming: BTreeSet::new(),
            hints: LossHints::default(),
            membership_index: Index(0),
            roll_call: RollCall::default(),
            is_outdated: false,
            is_disk_low: false,
            is_corrupt: false,
            snapshot_pace,
        };
        if core.shared.integrity.is_corrupt() {
            core.on(CoreInput::Corrupt(true));
        }
        core.tend_links();
        core.publish();
        core
    }

    /// Body of the thread.
    pub fn run(mut self, inbox: &Receiver<CoreInput>) {
        let tick = Duration::from_millis(TICK_MS);
        let mut next_tick = Instant::now() + tick;
        loop {
            let skip = self.ticks_to_skip();
            let wait = if skip > 0 { inbox::park } else { Receiver::recv_deadline };
            let first = match wait(inbox, next_tick + tick * skip) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.take_all(first.into_iter().chain(inbox.try_iter())).is_break() || self.gather(inbox).is_break() {
                return self.flush_links();
            }
            let now = Instant::now();
            if now > next_tick + CATCH_UP_MAX {
                next_tick = now;
            }
            while next_tick <= now {
                self.step(Input::Tick);
                next_tick += tick;
            }
            self.pump(now);
            if now.duration_since(self.last_housekeeping) >= HOUSEKEEPING {
                self.last_housekeeping = now;
                self.tend_links();
                self.consult_autopilot();
                self.call_the_roll();
                self.tell_the_forgetful();
                self.is_view_stale = true;
            }
            self.flush_links();
            if self.is_view_stale && now.duration_since(self.last_publish) >= PUBLISH_GAP {
                self.publish();
            }
            self.disk.flush();
            self.apply.flush();
        }
    }

    /// Takes inputs, as many as fit into one turn; `Break`: the thread is to end.
    fn take_all(&mut self, inputs: impl Iterator<Item = CoreInput>) -> ControlFlow<()> {
        for input in inputs.take(INPUTS_PER_TURN) {
            if matches!(input, CoreInput::Stop) {
                return ControlFlow::Break(());
            }
            self.on(input);
        }
        ControlFlow::Continue(())
    }

    /// Lets those who are about to ask do so first, so that the next batch, or round of reads, serves them too: each costs
    /// three nodes a dozen wake-ups, whatever it holds. On an idle machine nobody else is ready and nothing is lost.
    fn gather(&mut self, inbox: &Receiver<CoreInput>) -> ControlFlow<()> {
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

    /// In a quiet cluster nothing is due before raft's next timer: the ticks until then are fed together, and the processor
    /// sleeps. While there is no leader, or a client waits, every tick counts.
    fn ticks_to_skip(&self) -> u32 {
        match self.raft.leader().is_some() && self.requests.is_idle() {
            true => (self.raft.ticks_to_timer().0.min(QUIET_TICKS_MAX) - 1) as u32,
            false => 0,
        }
    }

    fn on(&mut self, input: CoreInput) {
        match input {
            CoreInput::Raft(message) => {
                self.hints.look(&message, self.raft.leader());
                let from = message.from.id;
                let committed = if let Body::Append { commit, .. } = message.body { Some(commit) } else { None };
                let silence = committed.and_then(|_| self.shared.leader_age());
                if self.raft.leader() == Some(from) {
                    self.shared.set_leader_heard();
                }
                self.step(Input::Message(message));
                if let Some(committed) = committed.filter(|_| self.raft.leader() == Some(from)) {
                    self.shared.recovery.heard(committed, self.shared.applied(), silence);
                }
            }
            CoreInput::LinkUp(id) => {
                self.roll_call.find(id);
                self.step(Input::LinkUp(id));
                self.requests.on_link_up(id);
            }
            CoreInput::LinkLost(id) => {
                self.roll_call.lose(id);
                if let Some(addresses) = self.claimed.remove(&id) {
                    self.book.insert(id, addresses);
                    self.tend_links();
                }
                self.step(Input::LinkLost(id));
                self.call_the_roll();
            }
            CoreInput::PeerClosed(who) => {
                self.strangers.remove(&who);
                if self.met.get(&who.id) == Some(&who) {
                    self.met.remove(&who.id);
                }
                // A stranger that borrowed the number says nothing about whoever has it.
                if let Some(link) = self.links.get(&who.id).filter(|link| link.who == who) {
                    link.check();
                }
            }
            CoreInput::Met { who, addresses, is_proved } => {
                if is_proved {
                    self.introduce(who);
                }
                self.meet(who, addresses, is_proved);
            }
            CoreInput::Vouched(who) => self.on_vouched(who),
            CoreInput::Answers(who) => {
                self.answering.insert(who.id, who);
                self.on_vouched(who);
                self.tend_links();
            }
            CoreInput::Remembered { by, promise, compared } => {
                let is_possible = self.on_remembered(by, &promise);
                // Not told when outdated, or to one who remembers what cannot be: the link must not stand.
                if let (false, true, Some(compared)) = (self.is_outdated, is_possible, compared) {
                    let _ = compared.try_send(());
                }
            }
            CoreInput::Found { who, addresses } => {
                if self.raft.view().membership.is_member(&who) && self.book.get(&who.id) != Some(&addresses) {
                    info!("node {} answers at {} now", who.id.0, addresses.peer);
                    self.book.insert(who.id, addresses);
                    self.tend_links();
                }
            }
            CoreInput::Directory(nodes) => self.on_directory(&nodes),
            CoreInput::Synced(seq) => self.step(Input::Synced { seq }),
            CoreInput::SnapshotSaved(index) => self.step(Input::SnapshotSaved { index }),
            CoreInput::SnapshotReceived { from, term, meta, done } => {
                let index = meta.index;
                self.step(Input::SnapshotReceived { from, term, meta });
                // Installed, or not needed because the log held as much: either way this node is that far.
                let _ = done.try_send(self.raft.commit_index() >= index);
            }
            CoreInput::SnapshotSent { to, ok } => {
                self.streaming.remove(&to);
                self.step(Input::SnapshotSent { to, ok });
            }
            CoreInput::Request(Request { asked: Asked::Query { query, level: Level::Eventual }, reply, .. }) => {
                self.apply.push(ApplyJob::Queries { at_least: Index(0), queries: vec![(query, reply)] });
            }
            CoreInput::Request(request) => self.requests.hold(request),
            CoreInput::Forward { from, asks } => match self.links.get(&from.id) {
                Some(link) => self.requests.hold_forwarded(link, asks),
                None => warn_seldom!("forwarded request without a way back peer={}", from.id),
            },
            CoreInput::Forwarded(answers) => self.requests.on_forwarded(answers),
            CoreInput::Lead => self.step(Input::Lead),
            CoreInput::CopyState { reply } => {
                if let Some(meta) = self.raft.snapshot_meta(self.handed_to_apply) {
                    self.apply.push(ApplyJob::Copy { meta, reply });
                }
            }
            CoreInput::ReplaceState { meta, data, reply, done } => {
                let _ = reply.try_send(self.replace_state(meta, data, done));
            }
            CoreInput::DiskLow(is_low) => {
                self.is_disk_low = is_low;
                self.step(Input::DiskLow(self.is_disk_low || self.is_corrupt));
            }
            CoreInput::Corrupt(is_corrupt) => {
                self.is_corrupt = is_corrupt;
                self.step(Input::DiskLow(self.is_disk_low || self.is_corrupt));
            }
            CoreInput::Stop => {}
        }
    }

    /// A node of this cluster, by the word of somebody who must know.
    fn on_vouched(&mut self, who: Identity) {
        self.introduce(who);
        if let Some(addresses) = self.strangers.remove(&who) {
            self.meet(who, addresses, false);
        }
    }

    fn introduce(&mut self, who: Identity) {
        if !self.raft.knows(&who) {
            self.step(Input::Introduce(who));
            self.tend_links();
            self.publish();
        }
    }

    /// A node holds a connection to us. Where a stranger says it is counts for nothing if its number is taken: it could lead us
    /// away from a member. Under a free number it gets a link, over which it hears gossip and nothing else: so a node that
    /// was removed while it was away learns that the cluster goes on without it.
    ///
    /// Without a secret the name of a member is soon said. It moves no address while a link to that very member stands.
    fn meet(&mut self, who: Identity, addresses: Addresses, is_proved: bool) {
        let is_free = self.raft.view().membership.uuid_of(who.id).is_none()
            && self.raft.introduced().all(|known| known.id != who.id)
            && (1..=NodeId::MAX).contains(&who.id.0);
        if self.raft.knows(&who) || is_free {
            self.met.insert(who.id, who);
            let link = self.links.get(&who.id).filter(|link| link.who == who && link.is_up());
            let is_elsewhere = self.book.get(&who.id) != Some(&addresses);
            if link.is_some() && is_elsewhere && !is_proved {
                self.claimed.insert(who.id, addresses);
            } else {
                self.claimed.remove(&who.id);
                self.book.insert(who.id, addresses);
            }
            self.tend_links();
        } else {
            // Bounded by the connections that there may be at once.
            self.strangers.insert(who, addresses);
        }
    }

    /// One step of raft and all that follows from it.
    fn step(&mut self, input: Input) {
        if self.is_outdated {
            return;
        }
        let mut effects = Effects::default();
        self.raft.step(input, &mut self.rng, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        if let Some(why) = effects.refused {
            self.shared.refuse_frame(why);
        }
        for message in effects.send_now {
            self.send(message);
        }
        if let Some(meta) = &effects.install {
            // `apply` waits for the disk to hand it the snapshot's bytes: entries after it queue up behind.
            let (data, ready) = crossbeam_channel::bounded(1);
            let persist = effects.persist.expect("an installed snapshot is persisted in the same step");
            self.disk.push(DiskJob::Install { persist, promises: effects.after_sync, data });
            self.requests.on_install(meta.index);
            self.apply.push(ApplyJob::Install { meta: meta.clone(), data: ready });
            self.handed_to_apply = meta.index;
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
            self.hand_to_apply(commit);
        }
        for to in effects.send_snapshot {
            self.send_snapshot(to);
        }
        for event in effects.events {
            self.on_event(event);
        }
    }

    fn on_answer(&mut self, token: Token, answer: Answer) {
        if self.autopilot_token == Some(token) {
            self.autopilot_token = None;
            if let Answer::Refused(why) = answer {
                log::debug!("autopilot's change was refused err={why}");
            }
            return;
        }
        if let Some((at_least, queries)) = self.requests.on_answer(token, answer) {
            self.apply.push(ApplyJob::Queries { at_least, queries });
        }
    }

    fn on_event(&mut self, event: Event) {
        self.is_view_stale = true;
        match &event {
            Event::Membership { index, .. } => {
                self.membership_index = *index;
                self.tend_links();
            }
            Event::Following { leader, .. } => self.requests.on_leader(*leader),
            Event::BecameLeader { .. } => {
                self.membership_index = self.raft.last_index();
                self.requests.on_leader(self.shared.me.id);
                self.call_the_roll();
            }
            Event::TransferAborted { to } => self.requests.on_transfer_aborted(*to),
            Event::LeaderForgot { leader, index } => super::renew::refuse_leader(&self.shared, *leader, *index),
            _ => {}
        }
        // The line's prefix must already tell the new role.
        self.publish();
        events::tell(&self.shared, &event, &mut self.hints);
    }

    fn hand_to_apply(&mut self, commit: Index) {
        if commit <= self.handed_to_apply {
            return;
        }
        let first = self.handed_to_apply.next();
        let mut run = Vec::new();
        for entry in self.raft.entries(first, commit).iter() {
            let waiting = self.requests.take_waiting(entry.index, entry.term);
            run.push((entry.clone(), waiting));
        }
        assert!(
            run.len() as u64 == commit.0 - self.handed_to_apply.0,
            "{} entries for apply from {first} to {commit}",
            run.len()
        );
        self.handed_to_apply = commit;
        let snapshot_meta = self.snapshot_meta_if_due(&run, commit);
        self.apply.push(ApplyJob::Entries { run, snapshot_meta });
        self.is_view_stale = true;
    }

    /// Has `apply` take a given state, unless the log does not reach from there to what is applied. Nothing is promised anew:
    /// what the log holds stays.
    fn replace_state(
        &mut self,
        meta: SnapshotMeta,
        data: Receiver<SnapshotReader>,
        done: Sender<Result<(), String>>,
    ) -> Result<(), String> {
        if meta.index > self.handed_to_apply {
            return Err(format!("the state is of index {}, and this node is at {}", meta.index, self.handed_to_apply));
        }
        if meta.index < self.raft.view().snapshot_index {
            return Err(format!("the state is of index {}, and this node's log begins later", meta.index));
        }
        let own = self.raft.snapshot_meta(meta.index);
        if own.as_ref() != Some(&meta) {
            return Err(format!("the state is of {meta:?}, and this node's log has {own:?} there"));
        }
        let run = self.raft.entries(meta.index.next(), self.handed_to_apply).to_vec();
        assert!(
            run.len() as u64 == self.handed_to_apply.0 - meta.index.0,
            "{} entries after {}",
            run.len(),
            meta.index
        );
        self.apply.push(ApplyJob::Replace { meta, data, run, done });
        Ok(())
    }

    /// When enough went by since the last snapshot, what the next one must carry.
    fn snapshot_meta_if_due(&mut self, run: &[(Entry, Vec<ReplyTo>)], commit: Index) -> Option<SnapshotMeta> {
        self.snapshot_pace.count(run.len() as u64, run.iter().map(|(entry, _)| entry_bytes(&entry.payload)).sum());
        if !self.snapshot_pace.is_due() {
            return None;
        }
        let meta = self.raft.snapshot_meta(commit)?;
        self.snapshot_pace.begin_anew();
        if self.shared.integrity.checkpoint_age() >= CHECKPOINT_GAP {
            // What is about to be kept is compared, too.
            let asked = Asked::Command { tag: None, command: checkpoint_command(), ack: Ack::Applied };
            let deadline = Instant::now() + Duration::from_millis(self.shared.settings.request_timeout_ms);
            self.requests.hold(Request { asked, deadline, reply: ReplyTo::Nobody });
        }
        Some(meta)
    }

    /// Proposes or forwards what waits, now that every input of this turn is in.
    fn pump(&mut self, now: Instant) {
        let view = (self.raft.role(), self.raft.leader());
        self.requests.on_log_end(self.raft.last_index());
        self.requests.expire(now);
        match view {
            (Role::Leader, _) => {
                while let Some(input) = self.requests.next_input(&mut self.next_token) {
                    self.step(input);
                    if self.raft.role() != Role::Leader {
                        break;
                    }
                }
            }
            (_, Some(leader)) => {
                self.requests.bounce_forwarded();
                if let Some(link) = self.links.get(&leader) {
                    self.requests.forward_all(link);
                }
                self.next_token += 1;
                if let Some(input) = self.requests.next_read(Token(self.next_token)) {
                    self.step(input);
                }
            }
            (_, None) => self.requests.bounce_forwarded(),
        }
    }

    fn send(&self, message: Message) {
        if let Some(link) = self.links.get(&message.to.id).filter(|link| link.who == message.to) {
            link.queue(&Frame::Raft(message));
        }
    }

    /// What this turn has for a peer goes out in one write.
    fn flush_links(&self) {
        for link in self.links.values() {
            link.flush();
        }
    }

    fn send_snapshot(&mut self, to: Identity) {
        if self.streaming.contains(&to.id) {
            // Its end will be reported, and answers this request too.
            return;
        }
        let link = self.links.get(&to.id).filter(|_| !self.is_corrupt);
        let Some(link) = link else {
            return self.step(Input::SnapshotSent { to: to.id, ok: false });
        };
        let (shared, snapshots, address) = (Arc::clone(&self.shared), self.snapshots.clone(), link.address.clone());
        let term = self.raft.term();
        let started = super::threads::spawn(&format!("snap-{}", to.id.0), move || {
            snapshots::stream(&shared, &snapshots, to, &address, term);
        });
        match started {
            Ok(_) => {
                self.streaming.insert(to.id);
            }
            Err(e) => {
                warn!("no thread for a snapshot err={e}");
                self.step(Input::SnapshotSent { to: to.id, ok: false });
            }
        }
    }

    /// A disk that falls short of what it once promised must not vote or acknowledge again under this identity. Returns whether
    /// that can have been promised at all.
    ///
    /// Nothing is given up here: the node stops, and starts itself again, and then more than one must say so (`discovery.rs`).
    fn on_remembered(&mut self, by: Identity, promise: &Promise) -> bool {
        let kept = self.raft.kept();
        if !promise.is_possible_after(&kept) {
            self.shared.refuse_frame(Refused::TermJump(by, promise.term));
            return false;
        }
        if self.is_outdated || !kept.falls_short_of(promise) {
            return true;
        }
        self.is_outdated = true;
        let text = super::renew::in_words(self.shared.me.id, by.id, &kept, promise);
        error!("{text}");
        self.shared.event("disk", Some(self.shared.me.id), text);
        self.shared.stopper.stop(super::renew::OUTDATED);
        true
    }

    fn on_directory(&mut self, nodes: &Nodes) {
        let membership = Arc::clone(&self.raft.view().membership);
        for (id, (uuid, addresses)) in &nodes.nodes {
            // An address told by the member itself is newer than what the log says of an earlier life.
            let is_current = membership.uuid_of(*id).is_none_or(|member| member == *uuid);
            if is_current && self.met.get(id).is_none_or(|met| met.uuid != *uuid) {
                self.book.insert(*id, addresses.clone());
            }
        }
        self.tend_links();
        self.is_view_stale = true;
    }

    /// One link to each other member, and to whoever has one to us: a newcomer's log does not name its leader yet.
    fn tend_links(&mut self) {
        let view = self.raft.view();
        let mut others = self.met.clone();
        others.extend(view.membership.members().map(|who| (who.id, who)));
        // Newer than what the membership says of the number: this node is behind.
        others.extend(self.raft.introduced().map(|who| (who.id, who)));
        // Whoever answers is there. Another may have answered in its place for a while, and was introduced then.
        let answering = self.answering.values().filter(|who| self.raft.knows(who)).map(|who| (who.id, *who));
        others.extend(answering.filter(|(id, _)| others.contains_key(id)).collect::<Vec<_>>());
        others.remove(&self.shared.me.id);
        let mut wanted = BTreeMap::new();
        for (id, who) in &others {
            let address = match self.book.get(id) {
                Some(addresses) => addresses.peer.clone(),
                // Never heard of it: the port that its number stands for, on this host.
                None => self.shared.settings.addresses(*id).peer,
            };
            wanted.insert(*id, (*who, address));
        }
        let is_same = |link: &Link, want: &(Identity, String)| link.who == want.0 && link.address == want.1;
        let before = self.links.len();
        self.links.retain(|id, link| wanted.get(id).is_some_and(|want| is_same(link, want)));
        let mut has_changed = self.links.len() != before;
        for (id, (who, address)) in wanted {
            if !self.links.contains_key(&id) {
                match links::start(Arc::clone(&self.shared), who, address) {
                    Ok(link) => {
                        self.links.insert(id, link);
                        has_changed = true;
                    }
                    Err(e) => warn!("no thread for the link to {id} err={e}"),
                }
            }
        }
        if has_changed {
            self.shared.set_links(&self.links);
        }
        self.shared.set_book(&self.book);
    }

    fn consult_autopilot(&mut self) {
        if self.raft.role() != Role::Leader || self.autopilot_token.is_some() {
            return;
        }
        // A gateway is registered before it becomes a learner: who has applied that much knows all of them.
        if self.shared.applied() < self.membership_index {
            return;
        }
        let view = self.raft.view();
        let gateways = self.shared.directory().gateways.clone();
        let rules = autopilot::Rules { gateways, ..autopilot::Rules::from(&self.shared.settings) };
        let overdue = || super::newcomers::overdue(&self.shared, &view).map(Change::Remove);
        let decision = autopilot::decide(&view, &rules).or_else(overdue);
        if decision.is_none() {
            self.autopilot_said = None;
        }
        if let Some(change) = decision {
            self.next_token += 1;
            let token = Token(self.next_token);
            self.autopilot_token = Some(token);
            // A learner that is not up to date yet is proposed again and again: that is told once.
            if self.autopilot_said.as_ref() != Some(&change) {
                info!("autopilot: {change:?}");
                self.autopilot_said = Some(change.clone());
            }
            self.step(Input::Change { token, change });
            self.autopilot_token = None;
        }
    }

    /// On the leader: those whose log lacks what they acknowledged are told so until they come back as somebody else.
    fn tell_the_forgetful(&self) {
        if self.raft.role() != Role::Leader {
            return;
        }
        let view = self.raft.view();
        for peer in view.peers.iter().filter(|peer| peer.has_forgotten) {
            if let Some(link) = self.links.get(&peer.who.id) {
                link.send(&Frame::Remembered(view.remembered(&peer.who)));
            }
        }
    }

    /// On the leader: workers that are gone lose their jobs to others.
    fn call_the_roll(&mut self) {
        let fail_after = to_ticks(self.shared.settings.fail_after_ms);
        let patience = Patience { silent_max: fail_after, still_max: fail_after, again: to_ticks(DECLARE_AGAIN_MS) };
        let now = to_ticks(self.shared.uptime_ms());
        let jobs = self.shared.jobs();
        for worker in self.roll_call.due(&self.raft.view(), now, patience, &jobs.here) {
            let row = jobs.status.workers.iter().find(|row| row.id == worker.id);
            if let Some(row) = row.filter(|row| !row.running.is_empty()) {
                let text = format!("node {} is gone: its {} jobs are begun elsewhere", worker.id.0, row.running.len());
                info!("{text}");
                self.shared.event("failure", Some(worker.id), text);
            }
            let command = jobs_command(&jobs::Command::Leave { worker, is_lost: true });
            let asked = Asked::Command { tag: None, command, ack: Ack::Applied };
            let deadline = Instant::now() + Duration::from_millis(self.shared.settings.request_timeout_ms);
            self.requests.hold(Request { asked, deadline, reply: ReplyTo::Nobody });
        }
    }

    fn publish(&mut self) {
        self.is_view_stale = false;
        self.last_publish = Instant::now();
        self.shared.set_view(CoreView { raft: self.raft.view(), known: self.raft.known() });
    }
}

fn entry_bytes(payload: &Payload) -> u64 {
    match payload {
        Payload::Command(bytes) => bytes.len() as u64 + 32,
        Payload::Noop | Payload::Membership(_) => 64,
    }
}
