//! Voter takeover: nodes whose folders share one host, killed until one is left, and the voters that a survivor hosts.
//!
//! The hosted voters, the rules and the store are the real ones (`cluster/takeover/`). Modelled here: the lock of a
//! folder, which its process holds as long as it is alive (also while it is paused), or the node that hosts its voter;
//! and the ways of messages, which reach a hosted voter from its host alone. If the host dies, what it hosts dies with
//! it. All random numbers are from a source of their own: other runs stay what they were.
//!
//! A folder with an older copy of itself is not taken over: what its voter has promised since cannot be known by one
//! survivor (`sim/stale_disks.rs` has that case for starts).
//! Not here: when the faults of this file are on (`sim/tuning.rs`).

use crate::cluster::autopilot;
use crate::cluster::takeover::{HostedError, HostedVoter, Observed, rule};
use crate::raft::{Change, Config, Event, Input, Message, Promise, Role};
use crate::sim::checks::raft_checker::RaftChecker;
use crate::sim::environment::disk::CrashKind;
use crate::sim::environment::plan::TICK_US;
use crate::sim::events::SimEvent;
use crate::sim::model::host::Ask;
use crate::sim::model::hosting::Hosting;
use crate::sim::violation::{CheckResult, violation};
use crate::sim::world::World;
use crate::types::{Identity, NodeId, Term, Ticks};
use std::collections::BTreeSet;
use std::time::Duration;

impl World {
    /// The nodes whose voters a node hosts.
    fn hosted_by(&self, host: usize) -> Vec<usize> {
        self.hosted.range((host, 0)..(host + 1, 0)).map(|((_, node), _)| *node).collect()
    }

    /// Whether messages from one node to an identity go to a voter that it hosts.
    pub fn hosts_voter(&self, host: usize, node: usize, who: &Identity) -> bool {
        self.hosted.get(&(host, node)).is_some_and(|hosting| hosting.voter.who == *who)
    }

    /// Whether another node than `by` holds the lock of a folder.
    pub fn is_folder_locked(&self, node: usize, by: Option<usize>) -> bool {
        if self.bugs.host.folder_locks_are_shared {
            return false;
        }
        let is_hosted =
            |(key, hosting): (&(usize, usize), &Hosting)| key.1 == node && hosting.has_lock && Some(key.0) != by;
        self.hosts[node].process.is_some() || self.hosted.iter().any(is_hosted)
    }

    /// Whether any node hosts this voter.
    pub fn is_hosted(&self, node: usize) -> bool {
        self.hosted.keys().any(|(_, hosted)| *hosted == node)
    }

    /// All nodes but one die, at once or one by one, and come back later.
    pub fn on_last_standing(&mut self) -> CheckResult {
        let Some(takeover) = self.plan.takeover.clone() else { return Ok(()) };
        if self.in_liveness_phase {
            return Ok(());
        }
        let election_us = self.plan.election_us();
        let delay = self.takeover_rng.u64(takeover.strike_us / 2..takeover.strike_us * 2);
        self.after(delay, SimEvent::LastStanding);
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        self.takeover_rng.shuffle(&mut order);
        let gap_us = [0, election_us / 4, election_us * 2][self.takeover_rng.usize(0..3)];
        // Sometimes the last one dies as well, in the middle of what it does.
        let spared = usize::from(self.takeover_rng.u8(0..3) > 0);
        for (at, node) in order.into_iter().skip(spared).enumerate() {
            let after_us = gap_us * at as u64 + self.takeover_rng.u64(0..1_000);
            let down_us = self.takeover_rng.u64(election_us..election_us * 8);
            self.after(after_us, SimEvent::Kill { node, down_us });
        }
        Ok(())
    }

    /// A process is killed, or the power of its host fails.
    pub fn on_kill(&mut self, node: usize, down_us: u64) -> CheckResult {
        if !self.in_liveness_phase {
            let death = if self.takeover_rng.u8(0..4) == 0 { CrashKind::PowerCut } else { CrashKind::Killed };
            self.crash(node, death, down_us);
        }
        Ok(())
    }

    /// A node considers a takeover.
    pub fn on_takeover(&mut self, node: usize) -> CheckResult {
        let Some(takeover) = self.plan.takeover.clone() else { return Ok(()) };
        if self.in_liveness_phase {
            return Ok(());
        }
        let (delay, life) = (self.takeover_rng.u64(TICK_US..self.plan.election_us()), self.hosts[node].life);
        self.after(delay, SimEvent::Takeover { node, life });
        let me = self.hosts[node].identity;
        let Some(process) = &self.hosts[node].process else { return Ok(()) };
        let view = process.raft.view();
        let situation = rule::TakeoverSituation {
            me,
            view: &view,
            leader_age: process.leader_seen.map(|at| Duration::from_micros(self.now - at)),
            after: Some(Duration::from_micros(takeover.after_us)),
            is_unfit: self.hosts[node].is_low || self.hosts[node].is_witness,
        };
        if !self.hosted_by(node).is_empty() || !rule::is_due(&situation) {
            return Ok(());
        }
        let voters = view.membership.voters.iter().map(|(&id, &uuid)| Identity { id, uuid });
        let others = voters.filter(|who| *who != me && self.hosts[who.id.0 as usize - 1].identity == *who);
        let is_free = |who: &Identity| {
            let other = who.id.0 as usize - 1;
            !self.is_folder_locked(other, Some(node)) && self.hosts[other].replaced_disk.is_none()
        };
        let free: BTreeSet<Identity> = others.filter(is_free).collect();
        self.coverage.takeovers_tried += 1;
        if !rule::is_majority(&view.membership.voters, me, &free) {
            return Ok(());
        }
        let mut held = BTreeSet::new();
        for who in free {
            if self.open_hosted(node, who)? {
                held.insert(who);
            }
            if !self.is_alive(node, life) {
                return Ok(());
            }
        }
        if !rule::is_majority(&view.membership.voters, me, &held) {
            self.release_hosted(node, held.iter().map(|who| who.id.0 as usize - 1).collect());
            return Ok(());
        }
        self.note(|_| format!("n{} hosts {held:?}", node + 1));
        self.coverage.takeovers += 1;
        if self.takeover_rng.u8(0..6) == 0 {
            let soon = self.takeover_rng.u64(0..self.plan.election_us());
            let down_us = self.takeover_rng.u64(1_000..self.plan.election_us() * 2);
            self.after(soon, SimEvent::Kill { node, down_us });
        }
        self.after(TICK_US, SimEvent::HostedTick { node, life });
        let known: Vec<Identity> = std::iter::once(me).chain(view.membership.members()).collect();
        for who in held {
            let inputs = known.iter().map(|who| Input::Introduce(*who)).collect();
            self.run_hosted(node, who.id.0 as usize - 1, inputs)?;
            if self.is_alive(node, life) {
                self.step(node, Input::LinkUp { peer: who.id, round_trip: Ticks(0) })?;
            }
        }
        Ok(())
    }

    /// Opens the folder of a dead voter, as its start would; `false`: it cannot be used.
    fn open_hosted(&mut self, host: usize, who: Identity) -> CheckResult<bool> {
        let node = who.id.0 as usize - 1;
        let opened = self.hosts[node].open(&self.plan, &self.bugs);
        if self.hosts[node].disk().is_dead {
            self.host_dies(host);
            return Ok(false);
        }
        let (store, durable) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.note(|_| format!("n{} cannot host n{}: {error}", host + 1, node + 1));
                self.hosts[node].disk().end_process(CrashKind::Killed);
                return Ok(false);
            }
        };
        self.raft_checker.on_recovery(who, &durable)?;
        let process = self.hosts[host].process.as_ref().expect("it considers a takeover");
        let (kept, mut known) = (Promise::from(&durable), process.raft.view().remembered(&who));
        known.merge(&process.memory.get(&who).copied().unwrap_or_default());
        if kept.falls_short_of(&known) {
            return violation!("IdentityOnce", "n{} holds {kept:?}, its host remembers {known:?}", node + 1);
        }
        // Recovery has read every byte that matters.
        self.hosts[node].is_damaged = false;
        #[cfg_attr(
            not(any(test, feature = "planted-bugs")),
            expect(unused_mut, reason = "planted bugs exist in tests alone")
        )]
        let mut config = Config { me: who, ..self.hosts[node].config(&self.plan, &self.bugs) };
        #[cfg(any(test, feature = "planted-bugs"))]
        if self.bugs.host.hosted_vote_for_older_logs {
            config.bugs.skip_log_freshness = true;
        }
        let voter = HostedVoter::new(config, store, durable);
        self.hosted.insert((host, node), Hosting { voter, has_lock: true, led: None, since: self.now });
        Ok(true)
    }

    /// A message reaches a voter that a node hosts.
    pub fn on_to_hosted(&mut self, host: usize, message: Message) -> CheckResult {
        let node = message.to.id.0 as usize - 1;
        match self.hosts_voter(host, node, &message.to) {
            true => self.run_hosted(host, node, vec![Input::Message(message)]),
            false => Ok(()),
        }
    }

    /// Sends a message to a voter on the same host.
    pub fn send_to_hosted(&mut self, host: usize, message: Message) {
        let (delay, life) = (self.takeover_rng.u64(10..500), self.hosts[host].life);
        self.after(delay, SimEvent::ToHosted { node: host, life, message: Box::new(message) });
    }

    /// A turn of a hosted voter, with every rule checked.
    fn run_hosted(&mut self, host: usize, node: usize, inputs: Vec<Input>) -> CheckResult {
        let Some(mut hosting) = self.hosted.remove(&(host, node)) else { return Ok(()) };
        let Hosting { voter, led, .. } = &mut hosting;
        let who = voter.who;
        let (checker, mut checked) = (&mut self.raft_checker, Ok(()));
        let result = voter.turn(inputs, &mut self.takeover_rng, &mut |seen| {
            if checked.is_ok() {
                checked = observe(checker, who, led, seen);
            }
        });
        let leads = *led;
        self.hosted.insert((host, node), hosting);
        checked?;
        self.coverage.hosted_turns += 1;
        self.coverage.hosted_led += u64::from(leads.is_some());
        let leaving = match result {
            Ok(leaving) => leaving,
            Err(HostedError::LeaderForgot { leader, index }) => {
                return violation!("NoTruncateCommitted", "hosted {who:?}: another entry {index} than {leader}'s");
            }
            Err(HostedError::Store(error)) => return self.on_hosted_disk_failed(host, node, &error.to_string()),
        };
        let life = self.hosts[host].life;
        for message in leaving {
            if message.to == self.hosts[host].identity {
                let delay = self.takeover_rng.u64(10..500);
                self.after(delay, SimEvent::FromHosted { node: host, life, message: Box::new(message) });
            } else if self.hosts_voter(host, message.to.id.0 as usize - 1, &message.to) {
                self.send_to_hosted(host, message);
            }
        }
        Ok(())
    }

    fn on_hosted_disk_failed(&mut self, host: usize, node: usize, error: &str) -> CheckResult {
        self.note(|_| format!("n{} hosted by n{}: {error}", node + 1, host + 1));
        let (was_dead, is_expected) = {
            let disk = self.hosts[node].disk();
            let faults = &disk.faults;
            (disk.is_dead, disk.has_failed || faults.write_error || faults.is_full || faults.read_error)
        };
        if was_dead {
            self.host_dies(host);
        } else if is_expected || self.hosts[node].is_damaged {
            self.release_hosted(host, vec![node]);
        } else {
            return violation!("NoGhostLog", "hosted n{} fails on a healthy disk: {error}", node + 1);
        }
        Ok(())
    }

    /// The process that hosts a voter dies in the middle of a write to its folder.
    fn host_dies(&mut self, host: usize) {
        let death = if self.takeover_rng.bool() { CrashKind::PowerCut } else { CrashKind::Killed };
        let down_us = self.takeover_rng.u64(10_000..300_000);
        self.crash(host, death, down_us);
        // The folder that was being opened is not hosted yet.
        for node in 0..self.hosts.len() {
            let mut disk = self.hosts[node].disk();
            if disk.is_dead && self.hosts[node].process.is_none() {
                disk.end_process(death);
            }
        }
    }

    /// Time passes for the voters that a node hosts; those that are no longer needed are released.
    pub fn on_hosted_tick(&mut self, host: usize) -> CheckResult {
        let life = self.hosts[host].life;
        let me = self.hosts[host].identity;
        for node in self.hosted_by(host) {
            let Some(hosting) = self.hosted.get_mut(&(host, node)) else { continue };
            let inputs = std::iter::once(Input::Tick).chain(hosting.voter.transfer_to(me.id)).collect();
            self.run_hosted(host, node, inputs)?;
            if !self.is_alive(host, life) {
                return Ok(());
            }
        }
        let hosted = self.hosted_by(host);
        if hosted.is_empty() {
            return Ok(());
        }
        self.after(TICK_US, SimEvent::HostedTick { node: host, life });
        self.maybe_demote_hosted(host, &hosted)?;
        let Some(process) = &self.hosts[host].process else { return Ok(()) };
        let all: BTreeSet<Identity> = hosted.iter().map(|node| self.hosted[&(host, *node)].voter.who).collect();
        let leads = hosted.iter().any(|node| self.hosted[&(host, *node)].voter.raft().role() == Role::Leader);
        let begun = hosted.iter().map(|node| self.hosted[&(host, *node)].since).min().unwrap_or(self.now);
        let is_overdue = self.now - begun > self.plan.longest_election_us() * 2;
        let released = match self.hosts[host].is_low {
            true => all,
            false => rule::released(&process.raft.view(), &all, leads, is_overdue),
        };
        self.release_hosted(host, released.iter().map(|who| who.id.0 as usize - 1).collect());
        Ok(())
    }

    /// The leader makes the voters that it hosts learners, as the real autopilot decides.
    fn maybe_demote_hosted(&mut self, host: usize, hosted: &[usize]) -> CheckResult {
        let rules = self.autopilot_rules();
        let Some(process) = self.hosts[host].process.as_mut() else { return Ok(()) };
        let view = process.raft.view();
        let hosted = hosted.iter().map(|node| NodeId(*node as u64 + 1)).collect();
        let rules = autopilot::Rules { hosted, ..rules };
        match autopilot::decide(&view, &rules) {
            Some(change @ Change::Demote(_)) if self.leaves_healthy_majority(&view.membership, &change) => {
                let Some(process) = self.hosts[host].process.as_mut() else { return Ok(()) };
                let token = process.token(Ask::Driver);
                self.step(host, Input::Change { token, change })
            }
            _ => Ok(()),
        }
    }

    /// A node gives folders back.
    pub fn release_hosted(&mut self, host: usize, nodes: Vec<usize>) {
        for node in nodes {
            self.note(|_| format!("n{} releases n{}", host + 1, node + 1));
            self.coverage.hosted_released += 1;
            if self.bugs.host.released_voters_go_on && !self.in_liveness_phase {
                if let Some(hosting) = self.hosted.get_mut(&(host, node)) {
                    hosting.has_lock = false;
                }
                continue;
            }
            if self.hosted.remove(&(host, node)).is_some() {
                self.hosts[node].disk().end_process(CrashKind::Killed);
                let life = self.hosts[host].life;
                self.after(0, SimEvent::Link { node: host, life, about: node, is_up: false });
            }
        }
    }

    /// A process has died, and with it all that it hosts.
    pub fn end_hosted_by(&mut self, host: usize, death: CrashKind) {
        for node in self.hosted_by(host) {
            let hosting = self.hosted.remove(&(host, node));
            if hosting.is_some_and(|hosting| hosting.has_lock) {
                self.hosts[node].disk().end_process(death);
            }
        }
    }

    /// Faults stop: all folders are given back.
    pub fn release_all_hosted(&mut self) {
        let all: Vec<(usize, usize)> = self.hosted.keys().copied().collect();
        for (host, node) in all {
            self.release_hosted(host, vec![node]);
        }
    }
}

/// The rules of consensus, for a step, a sync or a message of a hosted voter.
fn observe(checker: &mut RaftChecker, who: Identity, led: &mut Option<Term>, seen: Observed<'_>) -> CheckResult {
    let (raft, effects) = match seen {
        Observed::Synced(seq) => return checker.on_synced(who, seq),
        Observed::Sent(message) => return checker.on_send(message),
        Observed::Step(raft, effects) => (raft, effects),
    };
    raft.check();
    let view = raft.view();
    let before = std::mem::replace(led, (view.role == Role::Leader).then_some(view.term));
    let leads = led.or(before);
    if let Some(Event::FollowerForgot { who, matched }) =
        effects.events.iter().find(|event| matches!(event, Event::FollowerForgot { .. }))
    {
        return violation!("MatchTruth", "a hosted voter says that {who:?} forgot up to {matched}");
    }
    if let Some(persist) = &effects.persist {
        checker.on_persist(who, persist, leads)?;
    }
    if led.is_some() && *led != before {
        checker.on_leader(who, &view)?;
    }
    if let Some(commit) = effects.commit {
        checker.on_commit(who, leads, commit)?;
    }
    checker.on_view(who, &view)
}
