//! The virtual world of one seed: an event queue in virtual time, the nodes, the network between them, and the Raft
//! checker.
//!
//! Events happen in the order of (time, sequence); random numbers come from one seed; nothing iterates in hash order or
//! reads a real clock. So a seed determines a run.
//!
//! Not here: the events (`events.rs`), one node's duties (`sim/steps/effects.rs`), faults (`sim/steps/faults.rs`),
//! clients (`sim/steps/clients.rs`), the end (`sim/steps/liveness.rs`).

use super::checks::client_checker::ClientChecker;
use super::checks::raft_checker::RaftChecker;
use super::coverage::Coverage;
use super::environment::disk::CrashKind;
use super::environment::net::Network;
use super::environment::plan::{JobsPlan, Plan, TICK_US, pick};
use super::events::{Packet, SimEvent};
use super::model::host::{Bugs, Host, Process};
use super::model::hosting::AllHosted;
use super::model::liveness::LivenessPhase;
use super::model::log_reports::LogReport;
use super::model::operations::Client;
use super::model::snapshot_transfers::Transfers;
use super::recording::{NodeState, Recording};
use super::violation::{CheckResult, Hash, Violation, violation};
use crate::raft::{Durable, Entry, HardState, Input, Membership, Payload, Persist};
use crate::store::error::StoreError;
use crate::types::{Identity, Index, NodeId, Term, Ticks};
use fastrand::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

/// Time between two heartbeats of a node, in ticks.
const HEARTBEAT_EVERY_TICKS: u64 = 8;
/// Old packets kept for replay.
const OLD_PACKETS_MAX: usize = 400;

pub struct World {
    pub plan: Plan,
    pub bugs: Bugs,
    /// The source of random numbers.
    pub rng: Rng,
    /// Random numbers for older copies of disks only.
    pub stale_disk_rng: Rng,
    /// Virtual time in microseconds.
    pub now: u64,
    /// How far ahead of virtual time log time was when it was begun from a wall clock: the least and the most, in
    /// milliseconds.
    pub log_time_offsets: Option<(u64, u64)>,
    /// What happens, by time and sequence.
    queue: BTreeMap<(u64, u64), SimEvent>,
    next_sequence: u64,
    /// Nodes; node `i` has the number `i + 1`.
    pub hosts: Vec<Host>,
    pub net: Network,
    pub old_packets: VecDeque<(usize, usize, Packet)>,
    /// Snapshots on their way.
    pub transfers: Transfers,
    /// The checker of consensus.
    pub raft_checker: RaftChecker,
    /// The checker of what clients see.
    pub client_checker: ClientChecker,
    pub clients: Vec<Client>,
    /// How often things happened.
    pub coverage: Coverage,
    pub in_liveness_phase: bool,
    /// State of the liveness phase.
    pub liveness: LivenessPhase,
    pub is_over: bool,
    /// Number of commands of workers and leaders so far.
    pub words: u64,
    /// Events of paused nodes.
    pub asleep: BTreeMap<usize, Vec<SimEvent>>,
    /// The last report of each node about its log, if there are witnesses.
    pub log_reports: BTreeMap<Identity, LogReport>,
    /// Voters of dead processes, and who hosts them.
    pub hosted: AllHosted,
    /// Random numbers for takeovers only.
    pub takeover_rng: Rng,
    /// Fingerprint of all that happened.
    pub hash: Hash,
    trace: Option<VecDeque<String>>,
    /// Lines of the trace that are kept.
    trace_lines: usize,
    /// The run ends before the first event after this time, without the checks of its end.
    pub until_us: Option<u64>,
    /// What happened, for a picture, if anybody asked for one.
    pub recording: Option<Recording>,
    /// Operations that clients have begun.
    pub operations_begun: u64,
}

impl World {
    /// The world of a seed, before its first event.
    pub fn new(seed: u64, bugs: Bugs, trace_lines: usize, tune: impl Fn(&mut Plan, &mut Rng)) -> CheckResult<World> {
        let (plan, rng) = draw_plan(seed, tune);
        let nodes = plan.nodes();
        let mut world = World {
            net: Network::new(nodes, plan.net.clone()),
            bugs,
            now: 0,
            log_time_offsets: None,
            queue: BTreeMap::new(),
            next_sequence: 0,
            hosts: Vec::new(),
            old_packets: VecDeque::new(),
            transfers: Transfers::default(),
            raft_checker: RaftChecker::default(),
            client_checker: ClientChecker::default(),
            clients: Vec::new(),
            coverage: Coverage::default(),
            in_liveness_phase: false,
            liveness: LivenessPhase::default(),
            is_over: false,
            words: 0,
            asleep: BTreeMap::new(),
            log_reports: BTreeMap::new(),
            hosted: AllHosted::default(),
            takeover_rng: Rng::with_seed(seed.rotate_left(8)),
            hash: Hash::new(seed),
            trace: (trace_lines > 0).then(VecDeque::new),
            trace_lines,
            until_us: None,
            recording: None,
            operations_begun: 0,
            plan,
            rng,
            stale_disk_rng: Rng::with_seed(seed.rotate_left(48)),
        };
        world.note(|w| format!("plan: {:?}", w.plan));
        for node in 0..nodes {
            let identity = world.fresh_identity(node);
            let tick_us = (TICK_US as f64 / world.plan.drift[node]) as u64;
            let seed = world.rng.u64(..);
            let is_witness = world.plan.witnesses.contains(&node);
            world.hosts.push(Host { is_witness, ..Host::new(identity, seed, tick_us) });
        }
        world.set_clocks(seed);
        world.bootstrap()?;
        for node in 0..nodes {
            let at = world.rng.u64(0..20_000);
            world.start_at(node, at);
        }
        for client in 0..world.plan.clients {
            world.clients.push(Client::new(client as u64));
            let at = world.rng.u64(0..100_000);
            world.at(at, SimEvent::Wake { client });
        }
        for at in 0..world.plan.faults.len() {
            let delay = world.fault_delay(at);
            world.at(delay, SimEvent::Fault { at });
        }
        if world.plan.hostile > 0.0 {
            world.at(TICK_US, SimEvent::Hostile);
        }
        if let Some(takeover) = &world.plan.takeover {
            let at = takeover.strike_us;
            world.at(at, SimEvent::LastStanding);
        }
        world.at(TICK_US * 40, SimEvent::Driver);
        if world.plan.departures_us.is_some() {
            world.at(TICK_US * 60, SimEvent::Departures);
        }
        world.at(world.plan.fault_us, SimEvent::LivenessPhase);
        if let Some(at) = world.plan.alter_us {
            world.at(at, SimEvent::Alter);
            world.at(at, SimEvent::Checkpoint);
        }
        Ok(world)
    }

    /// A new identity for a node number.
    pub fn fresh_identity(&mut self, node: usize) -> Identity {
        let uuid = Uuid::from_u128(self.rng.u128(..));
        Identity { id: NodeId(node as u64 + 1), uuid }
    }

    /// The first voters start with the same first entry, committed by definition; spares start with nothing.
    fn bootstrap(&mut self) -> CheckResult {
        let voters = (0..self.plan.voters).map(|node| (self.hosts[node].identity.id, self.hosts[node].identity.uuid));
        let membership = Arc::new(Membership { voters: voters.collect(), learners: BTreeMap::new() });
        let first = self.hosts[0].identity;
        let entry = Entry { index: Index(1), term: Term(1), payload: Payload::Membership(membership) };
        for node in 0..self.plan.voters {
            let hard_state = HardState { term: Term(1), vote: Some(first) };
            let entries = vec![entry.clone()];
            let durable = Durable { hard_state, snapshot: None, entries: entries.clone() };
            let host = &self.hosts[node];
            self.raft_checker.on_bootstrap(host.identity, &durable, node == 0)?;
            let persist = Persist { hard_state: Some(hard_state), entries, ..Persist::default() };
            let (mut store, _) = host.open(&self.plan, &Bugs::default()).or_else(failed_to_open)?;
            store.write(&persist).and_then(|()| store.sync()).or_else(failed_to_open)?;
        }
        Ok(())
    }

    /// Adds a line to the trace, if one is kept.
    pub fn note(&mut self, line: impl FnOnce(&World) -> String) {
        if self.trace.is_some() {
            let text = format!("{:>9} {}", self.now, line(self));
            if let Some(trace) = &mut self.trace {
                if trace.len() >= self.trace_lines {
                    trace.pop_front();
                }
                trace.push_back(text);
            }
        }
    }

    /// Adds to the record of the run, if one is kept.
    pub fn record(&mut self, add: impl FnOnce(&mut Recording, u64)) {
        if let Some(recording) = &mut self.recording {
            add(recording, self.now);
        }
    }

    fn record_states(&mut self) {
        let Some(recording) = &mut self.recording else { return };
        for (node, host) in self.hosts.iter().enumerate() {
            let state = host.process.as_ref().map_or(NodeState::Down, |process| {
                let view = process.raft.view();
                NodeState::Runs { term: view.term.0, role: view.role, is_paused: host.paused_until > self.now }
            });
            recording.on_state(self.now, node, state);
        }
    }

    /// The last lines of the trace.
    pub fn trace(&self) -> Vec<String> {
        self.trace.iter().flatten().cloned().collect()
    }

    /// Schedules an event.
    pub fn at(&mut self, at: u64, what: SimEvent) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.queue.insert((at.max(self.now), sequence), what);
    }

    /// Schedules an event some time from now.
    pub fn after(&mut self, delay: u64, what: SimEvent) {
        self.at(self.now + delay, what);
    }

    /// Virtual ticks since the start, for messages.
    pub fn tick(&self) -> u64 {
        self.now / TICK_US
    }

    /// Runs to the end.
    pub fn run(&mut self) -> CheckResult {
        while !self.is_over {
            let Some(((at, _), what)) = self.queue.pop_first() else {
                return violation!("Progress", "nothing happens");
            };
            if self.until_us.is_some_and(|until_us| at > until_us) {
                return Ok(());
            }
            self.now = at;
            self.coverage.events += 1;
            let result = self.dispatch(what);
            self.record_states();
            result?;
        }
        self.coverage += self.client_checker.jobs_checker.seen;
        self.client_checker.check_client_history()
    }

    /// The paused node that an event belongs to: then the event waits.
    fn is_asleep(&mut self, what: &SimEvent) -> Option<usize> {
        let node = match what {
            SimEvent::Tick { node, .. }
            | SimEvent::Apply { node, .. }
            | SimEvent::Work { node, .. }
            | SimEvent::Ended { node, .. }
            | SimEvent::Save { node, .. }
            | SimEvent::Sent { node, .. }
            | SimEvent::Received { node, .. }
            | SimEvent::DiskDone { node, .. }
            | SimEvent::Link { node, .. }
            | SimEvent::Takeover { node, .. }
            | SimEvent::HostedTick { node, .. }
            | SimEvent::ToHosted { node, .. }
            | SimEvent::FromHosted { node, .. }
            | SimEvent::Request { node, .. } => *node,
            SimEvent::Packet { to, .. } => *to,
            _ => return None,
        };
        (self.hosts[node].paused_until > self.now && self.hosts[node].process.is_some()).then_some(node)
    }

    fn dispatch(&mut self, what: SimEvent) -> CheckResult {
        if let Some(node) = self.is_asleep(&what) {
            if let SimEvent::Tick { node, life } = what {
                // Ticks do not pile up: a thawed process reads its clock once.
                let at = self.hosts[node].paused_until + self.hosts[node].tick_us;
                self.at(at, SimEvent::Tick { node, life });
            } else {
                self.asleep.entry(node).or_default().push(what);
            }
            return Ok(());
        }
        self.hash.add(self.now);
        match what {
            SimEvent::Tick { node, life } => {
                if self.is_alive(node, life) {
                    let delay = self.hosts[node].tick_us;
                    self.after(delay, SimEvent::Tick { node, life });
                    self.send_promise(node);
                    self.send_log_time(node);
                    self.step(node, Input::Tick)?;
                    self.on_witness_tick(node)?;
                    self.maybe_check_workers(node)?;
                }
                Ok(())
            }
            SimEvent::Packet { from, to, packet } => self.on_packet(from, to, *packet),
            SimEvent::DiskDone { node, life } => self.if_alive(node, life, |w| w.on_disk_done(node)),
            SimEvent::Apply { node, life } => self.if_alive(node, life, |w| w.on_apply(node)),
            SimEvent::Work { node, life } => self.if_alive(node, life, |w| w.on_work(node)),
            SimEvent::Ended { node, life, job, attempt } => {
                self.if_alive(node, life, |w| w.on_ended(node, (job, attempt)))
            }
            SimEvent::Save { node, life, meta, bytes } => self.if_alive(node, life, |w| w.on_save(node, *meta, bytes)),
            SimEvent::Chunk { transfer } => self.on_chunk(transfer),
            SimEvent::Sent { node, life, to, ok } => self.if_alive(node, life, |w| {
                w.note(|_| format!("n{} streamed a snapshot to {to}: {ok}", node + 1));
                w.step(node, Input::SnapshotSent { to, ok })
            }),
            SimEvent::Received { node, life, transfer } => {
                if self.is_alive(node, life) {
                    self.on_snapshot_received(node, transfer)
                } else {
                    self.break_transfer(transfer);
                    Ok(())
                }
            }
            SimEvent::Start { node } => self.on_start(node),
            SimEvent::Thaw { node } => {
                let waiting = self.asleep.remove(&node).unwrap_or_default();
                for what in waiting {
                    self.after(0, what);
                }
                Ok(())
            }
            SimEvent::Link { node, life, about, is_up } => self.if_alive(node, life, |w| {
                let id = NodeId(about as u64 + 1);
                let (least, most) = w.plan.net.delay_us;
                let round_trip = Ticks(w.rng.u64(2 * least..=2 * most) / TICK_US);
                let up = Input::LinkUp { peer: id, round_trip };
                w.step(node, if is_up { up } else { Input::LinkLost(id) })?;
                if is_up && w.plan.departures_us.is_some() {
                    w.on_return(node, about)?;
                }
                w.note_link(node, about, is_up)
            }),
            SimEvent::Fault { at } => self.on_fault(at),
            SimEvent::Mend => {
                if !self.in_liveness_phase {
                    self.net.whole();
                    self.note(|_| "network whole".into());
                    self.record(|recording, now| recording.on_mark(now, None, "network whole".into()));
                }
                Ok(())
            }
            SimEvent::DiskWell { node } => self.on_disk_well(node),
            SimEvent::Doom { node, life } => self.if_alive(node, life, |w| {
                let down_us = w.rng.u64(1_000..50_000);
                w.crash(node, CrashKind::Killed, down_us);
                Ok(())
            }),
            SimEvent::Departures => match self.plan.departures_us {
                Some(mean_us) => self.on_departures(mean_us),
                None => Ok(()),
            },
            SimEvent::Goodbye { node, life } => self.if_alive(node, life, |w| w.on_goodbye(node)),
            SimEvent::Depart { node, life } => self.if_alive(node, life, |w| w.on_depart(node)),
            SimEvent::Wake { client } => self.on_wake(client),
            SimEvent::Request { client, attempt, node } => self.on_request(client, attempt, node),
            SimEvent::Reply { client, attempt, result } => self.on_reply(client, attempt, result),
            SimEvent::Deadline { client, attempt } => self.on_deadline(client, attempt),
            SimEvent::Driver => self.on_driver(),
            SimEvent::Gossip { node, life } => {
                self.hosts[node].is_gossip_due = false;
                self.if_alive(node, life, |w| w.on_gossip(node))
            }
            SimEvent::LastStanding => self.on_last_standing(),
            SimEvent::Kill { node, down_us } => self.on_kill(node, down_us),
            SimEvent::Takeover { node, life } => self.if_alive(node, life, |w| w.on_takeover(node)),
            SimEvent::HostedTick { node, life } => self.if_alive(node, life, |w| w.on_hosted_tick(node)),
            SimEvent::ToHosted { node, life, message } => self.if_alive(node, life, |w| w.on_to_hosted(node, *message)),
            SimEvent::FromHosted { node, life, message } => {
                self.if_alive(node, life, |w| w.step(node, Input::Message(*message)))
            }
            SimEvent::Hostile => self.on_hostile(),
            SimEvent::Alter => self.on_alter(),
            SimEvent::Checkpoint => self.on_checkpoint(),
            SimEvent::LivenessPhase => {
                self.record(|recording, now| recording.on_mark(now, None, "faults stop".into()));
                self.on_liveness_phase()
            }
            SimEvent::Look => self.on_progress_check(),
        }
    }

    /// Whether this life of a node still runs.
    pub fn is_alive(&self, node: usize, life: u64) -> bool {
        self.hosts[node].life == life && self.hosts[node].process.is_some()
    }

    fn if_alive(&mut self, node: usize, life: u64, then: impl FnOnce(&mut World) -> CheckResult) -> CheckResult {
        if self.is_alive(node, life) { then(self) } else { Ok(()) }
    }

    /// Whether a node sends heartbeats in this tick. What they carry arrives at once.
    pub fn is_heartbeat_due(&self, node: usize) -> bool {
        (self.now / self.hosts[node].tick_us).is_multiple_of(HEARTBEAT_EVERY_TICKS)
    }

    /// The processes of the other nodes that a message of this node can reach now.
    pub fn processes_reached_from(&mut self, node: usize) -> impl Iterator<Item = &mut Process> {
        let World { net, hosts, .. } = self;
        let others = hosts.iter_mut().enumerate().filter(move |(other, _)| *other != node && !net.is_cut(node, *other));
        others.filter_map(|(_, host)| host.process.as_mut())
    }

    /// Sends a packet through the network.
    pub fn send(&mut self, from: usize, to: usize, packet: Packet) {
        if to >= self.hosts.len() || to == from {
            return;
        }
        let arrivals = self.net.send(self.now, from, to, &mut self.rng);
        if let (Some(recording), Packet::Raft(message)) = (&mut self.recording, &packet) {
            recording.on_message(self.now, (from, to), message, arrivals[0]);
        }
        // Connections between hosts do not duplicate or replay; raft must tolerate both.
        let copies = if matches!(packet, Packet::Raft(_)) { 2 } else { 1 };
        for at in arrivals.into_iter().take(copies).flatten() {
            self.at(at, SimEvent::Packet { from, to, packet: Box::new(packet.clone()) });
        }
    }

    fn on_packet(&mut self, from: usize, to: usize, packet: Packet) -> CheckResult {
        if self.net.is_cut(from, to) {
            return Ok(());
        }
        let is_kept = self.plan.net.replay > 0.0 || self.plan.hostile > 0.0;
        if !self.in_liveness_phase && is_kept && matches!(packet, Packet::Raft(_)) {
            if self.old_packets.len() >= OLD_PACKETS_MAX {
                let at = self.rng.usize(0..self.old_packets.len());
                self.old_packets.remove(at);
            }
            self.old_packets.push_back((from, to, packet.clone()));
            if self.plan.net.replay > 0.0 && self.rng.f64() < self.plan.net.replay {
                let at = self.rng.usize(0..self.old_packets.len());
                let (from, to, packet) = self.old_packets[at].clone();
                let delay = self.rng.u64(1..20_000);
                self.coverage.replays += 1;
                self.after(delay, SimEvent::Packet { from, to, packet: Box::new(packet) });
            }
        }
        if self.hosts[to].process.is_none() {
            return Ok(());
        }
        match packet {
            Packet::Raft(message) => {
                self.note(|_| format!("n{} <- n{} t{} {:?}", to + 1, from + 1, message.term, message.body));
                self.maybe_introduce(from, to, message.from);
                self.step(to, Input::Message(message))
            }
            Packet::Forward { life, token, command } => self.on_forward(to, (from, life, token), command),
            Packet::Forwarded { life, token, result } => {
                if self.hosts[to].life == life {
                    let process = self.hosts[to].process.as_mut().expect("checked above");
                    if let Some(ask) = process.asks.remove(&token) {
                        return self.deliver_result(to, ask, result);
                    }
                }
                Ok(())
            }
        }
    }
}

/// The plan of a seed, and the source of random numbers after it.
pub fn draw_plan(seed: u64, tune: impl Fn(&mut Plan, &mut Rng)) -> (Plan, Rng) {
    let mut rng = Rng::with_seed(seed);
    let mut plan = Plan::draw(&mut rng);
    // From a separate source: seeds without jobs are what they were before there were any.
    let mut services_rng = Rng::with_seed(!seed);
    plan.jobs = services_rng.bool().then(|| JobsPlan::draw(&mut services_rng, &plan));
    plan.sql = [0.0, 0.0, 0.1, 0.4][services_rng.usize(0..4)];
    // Likewise for chat.
    plan.talk = *pick(&mut Rng::with_seed(seed.rotate_left(32)), &[0.0, 0.0, 0.4]);
    // Likewise for older copies of disks, and hostile processes.
    plan.restores = *pick(&mut Rng::with_seed(seed.rotate_left(16)), &[0.0, 0.0, 0.0, 0.3]);
    let mut hostile = Rng::with_seed(seed.rotate_left(48));
    plan.hostile = *pick(&mut hostile, &[0.0, 0.0, 0.5, 2.0]);
    plan.has_secret = hostile.bool();
    // Likewise for nodes that stop in order.
    let mut departing = Rng::with_seed(seed.rotate_left(24));
    let often = departing.u64(6..=20) * plan.election_us();
    plan.departures_us = (departing.u8(0..5) == 0).then_some(often);
    tune(&mut plan, &mut rng);
    (plan, rng)
}

fn failed_to_open<T>(error: StoreError) -> Result<T, Violation> {
    violation!("NoGhostLog", "a fresh store fails: {error}")
}
