//! The duties of raft's host: carries out each step's effects in order, reports what the disk has done, applies
//! entries.
//!
//! A crash may come between any two effects, and between any two operations of the disk. Every step is followed by the
//! Raft checker.
//!
//! Not here: snapshots on their way (`snapshot_transfers.rs`), clients (`clients.rs`), workers (`workers.rs`).

use crate::raft::{Answer, Effects, Event, Input, Message, Payload, SnapshotMeta, Token};
use crate::services::Replicated;
use crate::services::Reply;
use crate::services::jobs::JobTable;
use crate::sim::environment::disk::CrashKind;
use crate::sim::events::{Packet, SimEvent};
use crate::sim::model::host::{Ask, DiskJob, Process, Running};
use crate::sim::model::operations::{ClientResult, client_of};
use crate::sim::model::services::Command;
use crate::sim::violation::{CheckResult, violation};
use crate::sim::world::World;
use crate::store::error::StoreError;
use crate::types::Index;

impl World {
    /// Feeds one input to a node's raft and carries out what it asks.
    pub fn step(&mut self, node: usize, input: Input) -> CheckResult {
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let led = process.led;
        let mut fx = Effects::default();
        process.raft.step(input, &mut process.rng, &mut fx);
        process.raft.check();
        let view = process.raft.view();
        let leads = process.leads();
        process.led = leads;
        self.coverage.steps += 1;
        self.coverage.refused_messages += u64::from(fx.refused.is_some());
        self.hash.add(view.term.0);
        self.hash.add(view.commit_index.0 ^ (view.last_index.0 << 32));

        if view.leader.is_some() {
            process.leader_seen = Some(self.now);
        }
        let who = self.hosts[node].identity;
        for event in &fx.events {
            self.note(|_| format!("n{} t{} {event:?}", node + 1, view.term));
            match event {
                Event::BecameLeader { .. } => self.coverage.elections += 1,
                Event::TransferStarted { .. } => self.coverage.transfers += 1,
                Event::Membership { .. } => self.coverage.memberships += 1,
                Event::FollowerForgot { who, matched } => {
                    return violation!("MatchTruth", "n{} says that {who:?} forgot up to {matched}", node + 1);
                }
                Event::LeaderForgot { leader, index } => {
                    return violation!(
                        "NoTruncateCommitted",
                        "n{} has committed another entry {index} than its leader {leader}",
                        node + 1
                    );
                }
                _ => {}
            }
        }
        if let Some(persist) = &fx.persist {
            self.raft_checker.on_persist(who, persist, leads.or(led))?;
        }
        if leads.is_some() && leads != led {
            self.raft_checker.on_leader(who, &view)?;
        }
        if let Some(commit) = fx.commit {
            self.raft_checker.on_commit(who, leads.or(led), commit)?;
        }
        self.raft_checker.on_view(who, &view)?;
        self.execute(node, fx)
    }

    /// Carries out a step's effects, in order; the process may die at each boundary.
    fn execute(&mut self, node: usize, fx: Effects) -> CheckResult {
        let is_fatal = !self.in_liveness_phase && self.rng.f64() < self.plan.boundary_crash;
        let mut boundaries = if is_fatal { self.rng.u32(0..3) } else { u32::MAX };
        let life = self.hosts[node].life;
        for message in fx.send_now {
            self.leave(node, message)?;
        }
        if self.boundary(node, &mut boundaries) {
            return Ok(());
        }
        if let Some(persist) = fx.persist {
            if let Some(process) = self.hosts[node].process.as_mut() {
                process.held.push_back((persist.seq, fx.after_sync));
                process.jobs.push_back(DiskJob::Persist(persist));
            }
            self.kick_disk(node)?;
        } else if !fx.after_sync.is_empty() {
            return violation!("PersistBeforeSend", "n{} holds messages back without a persist", node + 1);
        }
        if !self.is_alive(node, life) || self.boundary(node, &mut boundaries) {
            return Ok(());
        }
        if let Some(meta) = fx.install {
            self.install(node, &meta)?;
        }
        if let Some(commit) = fx.commit {
            let delay = if self.in_liveness_phase { 0 } else { self.rng.u64(0..=self.plan.apply_us) };
            let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
            process.commit = commit.0;
            if delay == 0 {
                self.on_apply(node)?;
            } else if !process.is_apply_due {
                process.is_apply_due = true;
                self.after(delay, SimEvent::Apply { node, life });
            }
        }
        if !self.is_alive(node, life) || self.boundary(node, &mut boundaries) {
            return Ok(());
        }
        for (token, answer) in fx.answers {
            self.on_answer(node, token, answer)?;
        }
        for to in fx.send_snapshot {
            self.stream_snapshot(node, to)?;
        }
        Ok(())
    }

    /// A place where the process may die.
    fn boundary(&mut self, node: usize, left: &mut u32) -> bool {
        if *left == u32::MAX {
            return false;
        }
        if *left > 0 {
            *left -= 1;
            return false;
        }
        let death = if self.rng.bool() { CrashKind::PowerCut } else { CrashKind::Killed };
        let down_us = self.rng.u64(1_000..200_000);
        self.coverage.boundary_crashes += 1;
        self.crash(node, death, down_us);
        true
    }

    /// A message leaves the node.
    fn leave(&mut self, node: usize, message: Message) -> CheckResult {
        self.raft_checker.on_send(&message)?;
        let to = message.to.id.0 as usize - 1;
        if self.hosts_voter(node, to, &message.to) {
            self.send_to_hosted(node, message);
            return Ok(());
        }
        self.send(node, to, Packet::Raft(message));
        Ok(())
    }

    /// The disk failed: the node stops (exit code 3), or was about to die anyway.
    pub fn on_disk_failed(&mut self, node: usize, error: StoreError) -> CheckResult {
        self.note(|_| format!("n{} disk: {error}", node + 1));
        let was_dead = self.hosts[node].disk().is_dead;
        let is_expected = was_dead || {
            let disk = self.hosts[node].disk();
            disk.has_failed || disk.faults.write_error || disk.faults.is_full || disk.faults.read_error
        };
        if !is_expected && !self.hosts[node].is_damaged {
            return violation!("NoGhostLog", "n{} fails on a healthy disk: {error}", node + 1);
        }
        self.coverage.disk_errors += u64::from(!was_dead);
        let death = if was_dead && self.rng.bool() { CrashKind::PowerCut } else { CrashKind::Killed };
        let down_us = self.rng.u64(10_000..300_000);
        self.crash(node, death, down_us);
        Ok(())
    }

    /// Begins the next job of an idle disk.
    pub fn kick_disk(&mut self, node: usize) -> CheckResult {
        let life = self.hosts[node].life;
        if !self.in_liveness_phase && self.plan.boundary_crash > 0.0 && self.rng.f64() < self.plan.boundary_crash {
            let operations = self.rng.u32(0..10);
            self.hosts[node].disk().faults.die_after.get_or_insert(operations);
        }
        let batch = self.rng.usize(1..8);
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        if process.running.is_some() {
            return Ok(());
        }
        let mut written = Ok(());
        match process.jobs.front() {
            None => return Ok(()),
            Some(DiskJob::Compact(_)) => {
                if let Some(DiskJob::Compact(index)) = process.jobs.pop_front() {
                    process.running = Some(Running::Compact(index));
                }
            }
            Some(DiskJob::Persist(_)) => {
                let mut last = 0;
                for _ in 0..batch {
                    let Some(DiskJob::Persist(persist)) = process.jobs.front() else { break };
                    written = process.store.write(persist);
                    last = persist.seq;
                    process.jobs.pop_front();
                    if written.is_err() {
                        break;
                    }
                }
                process.running = Some(Running::Sync { seq: last });
                if self.bugs.host.synced_before_sync && written.is_ok() {
                    let delay = self.disk_delay(node);
                    self.after(delay, SimEvent::DiskDone { node, life });
                    return self.report_synced(node, last);
                }
            }
        }
        if let Err(error) = written {
            return self.on_disk_failed(node, error);
        }
        let delay = self.disk_delay(node);
        self.after(delay, SimEvent::DiskDone { node, life });
        Ok(())
    }

    /// How long the disk takes.
    pub fn disk_delay(&mut self, node: usize) -> u64 {
        let (least, most) = if self.in_liveness_phase { (50, 300) } else { self.plan.sync_us };
        let mut delay = self.rng.u64(least..=most);
        let host = &self.hosts[node];
        if host.slow_until > self.now {
            delay *= 20;
        }
        delay.max(host.hung_until.saturating_sub(self.now))
    }

    /// The disk has done its job.
    pub fn on_disk_done(&mut self, node: usize) -> CheckResult {
        let life = self.hosts[node].life;
        if self.hosts[node].hung_until > self.now {
            let at = self.hosts[node].hung_until;
            self.at(at, SimEvent::DiskDone { node, life });
            return Ok(());
        }
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let done = match process.running.take() {
            Some(Running::Sync { seq }) => process.store.sync().map(|()| Some(seq)),
            Some(Running::Compact(index)) => process.store.compact(index).map(|()| None),
            None => Ok(None),
        };
        match done {
            Err(error) => return self.on_disk_failed(node, error),
            Ok(Some(seq)) if !self.bugs.host.synced_before_sync => self.report_synced(node, seq)?,
            Ok(_) => {}
        }
        if self.is_alive(node, life) { self.kick_disk(node) } else { Ok(()) }
    }

    /// Everything up to `seq` is durable: promises are sent, raft is notified.
    fn report_synced(&mut self, node: usize, seq: u64) -> CheckResult {
        let (who, life) = (self.hosts[node].identity, self.hosts[node].life);
        if !self.bugs.host.synced_before_sync {
            self.raft_checker.on_synced(who, seq)?;
        }
        loop {
            let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
            if process.held.front().is_none_or(|(held, _)| *held > seq) {
                break;
            }
            let (_, messages) = process.held.pop_front().expect("there is a front");
            for message in messages {
                self.leave(node, message)?;
            }
        }
        if self.is_alive(node, life) { self.step(node, Input::Synced { seq }) } else { Ok(()) }
    }

    /// A received snapshot takes the place of the service's state.
    fn install(&mut self, node: usize, meta: &SnapshotMeta) -> CheckResult {
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let Some((received, bytes)) = process.received.take().filter(|(received, _)| received == meta) else {
            return violation!("NoGhostLog", "n{} installs a snapshot that it never received: {meta:?}", node + 1);
        };
        if meta.index.0 < process.applied {
            return violation!(
                "ApplyOnceInOrder",
                "n{} installs a snapshot at {} after applying {}",
                node + 1,
                meta.index,
                process.applied
            );
        }
        process.service.restore(&mut bytes.as_slice()).expect("its checksum was right");
        process.service.check();
        process.applied = meta.index.0;
        process.commit = process.commit.max(meta.index.0);
        process.applied_membership = std::sync::Arc::new(received.membership);
        process.since_snapshot = 0;
        let applied = process.applied;
        let digest = process.service.digest();
        self.coverage.snapshots_installed += 1;
        self.note(|_| format!("n{} installs the snapshot at {applied}", node + 1));
        if !self.hosts[node].is_witness {
            self.client_checker.on_restart(applied, digest)?;
        }
        self.observe_applied_time(node);
        self.maybe_wake_worker(node);
        // What waited below it may or may not have happened.
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let later = process.waiting.split_off(&(applied + 1));
        let lost = std::mem::replace(&mut process.waiting, later);
        for (_, ask) in lost.into_values().flatten() {
            self.deliver_result(node, ask, ClientResult::Unknown)?;
        }
        self.serve_reads(node)
    }

    /// Applies what is committed.
    pub fn on_apply(&mut self, node: usize) -> CheckResult {
        if let Some(process) = self.hosts[node].process.as_mut() {
            process.is_apply_due = false;
        }
        loop {
            let clock_ms = self.clock_ms(node);
            let (altered, is_witness) = (self.hosts[node].altered, self.hosts[node].is_witness);
            let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
            if process.applied >= process.commit {
                break;
            }
            let index = process.applied + 1;
            let Some(entry) = process.raft.entries(Index(index), Index(index)).first().cloned() else {
                return violation!("ApplyOnceInOrder", "n{} cannot apply {index}: raft no longer holds it", node + 1);
            };
            process.applied = index;
            process.since_snapshot += 1;
            process.service.local_ms = clock_ms;
            let mut applied = None;
            match &entry.payload {
                Payload::Noop => process.service.registry.skip(entry.index),
                Payload::Membership(membership) => {
                    process.service.registry.skip(entry.index);
                    process.applied_membership = membership.clone();
                }
                Payload::Command(bytes) => {
                    let command = Command::decode(bytes).expect("the log holds what was proposed");
                    let outcome = process.service.apply(entry.index, &command);
                    applied = Some((command, outcome));
                }
            }
            if is_witness {
                // It holds no state to compare, and answers nobody.
                let waiting = process.waiting.remove(&index).unwrap_or_default();
                for (term, ask) in waiting {
                    let is_same = term == entry.term;
                    let result = if is_same { ClientResult::Done(Vec::new()) } else { ClientResult::Refused };
                    self.deliver_result(node, ask, result)?;
                }
                continue;
            }
            // A node that is known to be altered proves nothing here: `sim/differences.rs` sees to it that it is found.
            let wants_digest = altered.is_none() && self.client_checker.wants_digest(index);
            let digest = wants_digest.then(|| process.service.digest());
            let waiting = process.waiting.remove(&index).unwrap_or_default();
            let is_checkpoint = process.service.registry.take_checkpoint();
            let table = (altered != Some(JobTable::ID)).then(|| process.service.jobs());
            self.client_checker.on_apply(index, applied.as_ref(), digest, table)?;
            if digest.is_some() {
                process.service.check();
            }
            for (term, ask) in waiting {
                let result = if term == entry.term {
                    match applied.as_ref().map(|(_, outcome)| &outcome.reply) {
                        Some(Reply::Ok(bytes)) => ClientResult::Done(bytes.clone()),
                        Some(Reply::Failed(why)) => ClientResult::Failed(why.clone()),
                        None => ClientResult::Done(Vec::new()),
                    }
                } else {
                    ClientResult::Refused
                };
                self.deliver_result(node, ask, result)?;
            }
            if is_checkpoint {
                self.report_digest(node)?;
            }
        }
        self.observe_applied_time(node);
        self.maybe_wake_worker(node);
        self.serve_reads(node)?;
        self.maybe_snapshot(node, false)
    }

    /// Answers reads whose index is applied.
    fn serve_reads(&mut self, node: usize) -> CheckResult {
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let applied = process.applied;
        let (ready, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut process.reads).into_iter().partition(|(index, _)| *index <= applied);
        process.reads = later;
        for (_, ask) in ready {
            self.serve_read(node, ask)?;
        }
        Ok(())
    }

    fn serve_read(&mut self, node: usize, ask: Ask) -> CheckResult {
        let Some(process) = self.hosts[node].process.as_ref() else { return Ok(()) };
        if matches!(ask, Ask::Join) {
            return self.join(node);
        }
        let Ask::Read { key, .. } = ask else { return Ok(()) };
        let result = ClientResult::Value { index: process.applied, value: process.service.value(key) };
        self.deliver_result(node, ask, result)
    }

    /// Begins a snapshot of the service if enough has been applied since the last, or if asked to.
    pub fn maybe_snapshot(&mut self, node: usize, is_asked: bool) -> CheckResult {
        let every = self.plan.snapshot_every.unwrap_or(u64::MAX);
        let life = self.hosts[node].life;
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let is_due = process.since_snapshot >= every || (is_asked && process.since_snapshot > 0);
        if !is_due || process.is_saving {
            return Ok(());
        }
        let index = Index(process.applied);
        let Some(mut meta) = process.raft.snapshot_meta(index) else {
            return violation!("NoGhostLog", "n{} has applied {index} and cannot describe it", node + 1);
        };
        if meta.membership != *process.applied_membership {
            return violation!(
                "ConfigFromLog",
                "n{} gives {:?} for {index}, applied was {:?}",
                node + 1,
                meta,
                process.applied_membership
            );
        }
        if self.bugs.host.snapshot_without_membership {
            meta.membership = Default::default();
        }
        let mut bytes = Vec::new();
        process.service.snapshot(&mut bytes).expect("a vector takes every byte");
        process.is_saving = true;
        process.since_snapshot = 0;
        let digest = process.service.digest();
        if !self.hosts[node].is_witness {
            self.client_checker.on_restart(index.0, digest)?;
        }
        let delay = self.disk_delay(node);
        self.after(delay, SimEvent::Save { node, life, meta: Box::new(meta), bytes });
        Ok(())
    }

    /// The snapshot is written: raft may forget what it covers, the store may drop it.
    pub fn on_save(&mut self, node: usize, meta: SnapshotMeta, mut bytes: Vec<u8>) -> CheckResult {
        if !self.may_save(node, &meta, &bytes) {
            return Ok(());
        }
        let life = self.hosts[node].life;
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        process.is_saving = false;
        if process.raft.view().snapshot_index >= meta.index {
            // A newer one was received meanwhile.
            return Ok(());
        }
        if self.bugs.host.apply_twice_after_restart {
            bytes.clear();
            process.service.snapshot(&mut bytes).expect("a vector takes every byte");
        }
        if let Err(error) = process.store.snapshots().save(&meta, &bytes) {
            return self.on_disk_failed(node, error);
        }
        self.coverage.snapshots_saved += 1;
        process.jobs.push_back(DiskJob::Compact(meta.index));
        self.step(node, Input::SnapshotSaved { index: meta.index })?;
        if self.is_alive(node, life) { self.kick_disk(node) } else { Ok(()) }
    }

    /// Raft answered a request.
    fn on_answer(&mut self, node: usize, token: Token, answer: Answer) -> CheckResult {
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let Some(ask) = process.asks.remove(&token.0) else {
            return violation!("ExactlyOnce", "n{} answers a request twice: {answer:?}", node + 1);
        };
        match answer {
            Answer::Appended { index, term } => {
                assert!(index.0 > process.applied, "appended {index} is above the applied {}", process.applied);
                process.waiting.entry(index.0).or_default().push((term, ask));
                Ok(())
            }
            Answer::ReadAt(index) => {
                if index.0 <= process.applied {
                    return self.serve_read(node, ask);
                }
                process.reads.push((index.0, ask));
                Ok(())
            }
            Answer::TransferStarted { .. } => Ok(()),
            Answer::Refused(why) => {
                self.coverage.refusals += 1;
                if matches!(ask, Ask::Driver) {
                    self.note(|_| format!("n{} refuses: {why}", node + 1));
                }
                self.deliver_result(node, ask, ClientResult::Refused)
            }
        }
    }

    /// Gives an answer to the part of the simulation that sent the request.
    pub fn deliver_result(&mut self, node: usize, ask: Ask, result: ClientResult) -> CheckResult {
        self.check_witness_answer(node, &ask, &result)?;
        match ask {
            Ask::Command(attempt) | Ask::Read { attempt, .. } => {
                if matches!(result, ClientResult::Refused) {
                    self.client_checker.on_refused(attempt)?;
                }
                let client = client_of(attempt);
                let delay = self.rng.u64(50..1_000);
                self.after(delay, SimEvent::Reply { client, attempt, result });
            }
            Ask::Forwarded { node: origin, life, token } => {
                self.send(node, origin, Packet::Forwarded { life, token, result });
            }
            Ask::Work { attempt, about } => {
                if matches!(result, ClientResult::Refused) {
                    self.client_checker.on_refused(attempt)?;
                }
                if let Some(about) = about {
                    self.on_end_reported(node, about, matches!(result, ClientResult::Done(_)));
                }
            }
            Ask::Driver | Ask::Join => {}
        }
        Ok(())
    }

    /// Requests of a dead process: its clients see their connections break.
    pub fn forget_asks(&mut self, process: Process) {
        let waiting = process.waiting.into_values().flatten().map(|(_, ask)| ask);
        let reads = process.reads.into_iter().map(|(_, ask)| ask);
        for ask in process.asks.into_values().chain(waiting).chain(reads) {
            if let Ask::Command(attempt) | Ask::Read { attempt, .. } = ask {
                let client = client_of(attempt);
                let delay = self.rng.u64(100..2_000);
                self.after(delay, SimEvent::Reply { client, attempt, result: ClientResult::Unknown });
            }
        }
    }
}
