//! Virtual clients: one operation at a time, sent to any node, and to another one when no answer comes.
//!
//! A client numbers its writes under an origin of its own, as a node's process does, so that asking twice is safe. Its
//! patience per attempt is drawn by the seed; when it runs out the outcome is unknown, and the client asks another node
//! with the same number, or gives up, which leaves the write open in the history. What it gave up it names as
//! done a little later, so that late copies find all that a session can know of them. Reads are asked as new reads.
//!
//! Some operations submit or cancel jobs. Some are chat commands (`chat.rs`).
//!
//! Not here: what nodes do with a request (`effects.rs`), who runs jobs (`workers.rs`), the checks of answers
//! (`sim/checks/client_checker.rs`).

use crate::raft::{Input, Role};
use crate::services::jobs::commands::LIMITS_USUAL;
use crate::services::jobs::{self, Answer, Request};
use crate::sim::environment::plan::LANGUAGES;
use crate::sim::events::{Packet, SimEvent};
use crate::sim::model::host::Ask;
use crate::sim::model::operations::{BLOCK, ClientResult, Operation, OperationKind};
use crate::sim::model::services::{self, Body, COUNTER, Command};
use crate::sim::violation::{CheckResult, violation};
use crate::sim::world::World;
use std::sync::Arc;
use uuid::Uuid;

impl World {
    /// A client starts an operation, or sends it again.
    pub fn on_wake(&mut self, client: usize) -> CheckResult {
        if self.clients[client].operation.as_ref().is_some_and(|operation| operation.current.is_some()) {
            return Ok(());
        }
        if self.clients[client].operation.is_none() {
            if self.in_liveness_phase && self.liveness.clients_stopped {
                return Ok(());
            }
            if self.plan.operations_max.is_some_and(|most| self.operations_begun >= most) {
                return Ok(());
            }
            self.operations_begun += 1;
            let call_us = self.now;
            let reads = self.plan.reads;
            let key = self.rng.u8(0..self.plan.keys);
            let floor = self.client_checker.acknowledged();
            let is_read = self.rng.f64() < reads;
            let (kind, lag) = (self.rng.u8(0..10), self.rng.u64(0..3));
            let rider = services::rider(&mut self.rng);
            let origin = (self.rng.u64(0..self.plan.origin_writes) == 0).then(|| Uuid::from_u128(self.rng.u128(..)));
            let job = self.maybe_job(client);
            let talk = if job.is_none() { self.maybe_chat(client) } else { None };
            // Drawn only where there is a database: seeds without one are as they were before there was any.
            let sql = (self.plan.sql > 0.0 && job.is_none() && talk.is_none() && self.rng.f64() < self.plan.sql)
                .then(|| services::sql_run(&mut self.rng));
            let is_read = is_read && job.is_none() && talk.is_none() && sql.is_none();
            let it = &mut self.clients[client];
            let operation_kind = match kind {
                _ if let Some((operation_kind, _)) = job => operation_kind,
                _ if let Some((operation_kind, _)) = talk => operation_kind,
                _ if sql.is_some() => OperationKind::Sql,
                0..=2 if is_read => OperationKind::Read { key: COUNTER },
                _ if is_read => OperationKind::Read { key },
                0..=2 => OperationKind::Count,
                3..=4 => {
                    it.values += 1;
                    OperationKind::Swap { key, from: it.seen.get(&key).copied(), to: it.id * BLOCK + it.values }
                }
                _ => {
                    it.values += 1;
                    OperationKind::Set { key, value: it.id * BLOCK + it.values }
                }
            };
            let body = match (job, talk, sql) {
                (Some((_, command)), _, _) => Body::Jobs(command),
                (None, Some((_, command)), _) => Body::Chat(command),
                (None, None, Some(command)) => Body::Sql(command),
                (None, None, None) => Body::Store(operation_kind.op().into_iter().chain(rider).collect()),
            };
            let tag = (!is_read).then(|| {
                if let Some(origin) = origin {
                    (it.origin, it.number, it.done_below) = (origin, 0, 0);
                }
                it.tag(lag)
            });
            it.operation = Some(Operation {
                operation_kind,
                tag,
                body,
                call_us,
                floor,
                open: Vec::new(),
                current: None,
                is_ambiguous: false,
                tries: 0,
            });
        }
        self.attempt(client);
        Ok(())
    }

    /// Whether a client's next operation is about jobs, and what it asks then.
    fn maybe_job(&mut self, client: usize) -> Option<(OperationKind, jobs::Command)> {
        let plan = self.plan.jobs.as_ref()?;
        if self.rng.f64() >= plan.share {
            return None;
        }
        let own = &self.clients[client].jobs;
        if !own.is_empty() && self.rng.f64() < plan.cancels {
            let job = own[self.rng.usize(own.len().saturating_sub(5)..own.len())];
            return Some((OperationKind::Cancel { job }, jobs::Command::Cancel { job }));
        }
        if self.client_checker.jobs_checker.open() >= plan.open_max {
            return None;
        }
        let request = Request {
            language: LANGUAGES[self.rng.usize(0..LANGUAGES.len())].to_string(),
            files: vec![("main".to_string(), Default::default())],
            stdin: Default::default(),
            args: Vec::new(),
            limits: LIMITS_USUAL,
            keep_ms: plan.keep_ms,
        };
        Some((OperationKind::Submit, jobs::Command::Submit(request)))
    }

    /// Sends the present operation to some node.
    fn attempt(&mut self, client: usize) {
        let drawn = self.rng.usize(0..self.hosts.len());
        let delay = self.rng.u64(50..1_000);
        let deadline_us = self.plan.deadline_us;
        let (now, acknowledged) = (self.now, self.client_checker.acknowledged());
        let it = &mut self.clients[client];
        it.attempts += 1;
        let attempt = client as u64 * BLOCK + it.attempts;
        let Some(operation) = &mut it.operation else { return };
        // Some nodes accept a request and never answer: in the liveness phase, another one is always asked.
        let is_turn = self.in_liveness_phase && operation.tries > 0;
        let node = if is_turn { (client + operation.tries as usize) % self.hosts.len() } else { drawn };
        if matches!(operation.operation_kind, OperationKind::Read { .. }) && operation.open.is_empty() {
            // Asked again, a read is a new read.
            (operation.call_us, operation.floor) = (now, acknowledged);
        }
        operation.tries += 1;
        operation.open.push(attempt);
        operation.current = Some(attempt);
        self.after(delay, SimEvent::Request { client, attempt, node });
        self.after(deadline_us, SimEvent::Deadline { client, attempt });
    }

    /// A request arrives at a node.
    pub fn on_request(&mut self, client: usize, attempt: u64, node: usize) -> CheckResult {
        let refuse = ClientResult::Refused;
        self.note(|_| format!("client {client} asks n{} (attempt {})", node + 1, attempt % BLOCK));
        let Some(operation) = self.clients[client].operation.clone().filter(|it| it.open.contains(&attempt)) else {
            return Ok(());
        };
        if self.hosts[node].process.is_none() || self.hosts[node].is_witness {
            self.after(200, SimEvent::Reply { client, attempt, result: refuse });
            return Ok(());
        }
        if let OperationKind::Read { key } = operation.operation_kind {
            let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
            let token = process.token(Ask::Read { attempt, key });
            return self.step(node, Input::Read { token });
        }
        let tag = operation.tag.expect("a write has a name");
        let command = Command { attempt, at_ms: 0, tag, body: operation.body };
        self.hand_in(node, Ask::Command(attempt), command)
    }

    /// A host proposes a command if it leads, else it sends it to the leader that it knows.
    pub fn hand_in(&mut self, node: usize, ask: Ask, command: Command) -> CheckResult {
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let view = process.raft.view();
        if view.role == Role::Leader {
            return self.propose(node, ask, command);
        }
        let Some(leader) = view.leader else {
            return self.deliver_result(node, ask, ClientResult::Refused);
        };
        let token = process.token(ask).0;
        let life = self.hosts[node].life;
        let packet = Packet::Forward { life, token, command: Arc::from(command.encode()) };
        self.send(node, leader.0 as usize - 1, packet);
        Ok(())
    }

    /// The leader's host stamps a command with log time and proposes it.
    fn propose(&mut self, node: usize, ask: Ask, mut command: Command) -> CheckResult {
        command.at_ms = self.stamp_ms(node)?;
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let token = process.token(ask);
        self.coverage.proposals += 1;
        self.step(node, Input::Propose { token, command: Arc::from(command.encode()) })
    }

    /// A command that another node's host sent on.
    pub fn on_forward(&mut self, node: usize, origin: (usize, u64, u64), command: Arc<[u8]>) -> CheckResult {
        let command = Command::decode(&command).expect("hosts forward what they encoded");
        let ask = Ask::Forwarded { node: origin.0, life: origin.1, token: origin.2 };
        if self.hosts[node].leads().is_none() {
            return self.deliver_result(node, ask, ClientResult::Refused);
        }
        self.propose(node, ask, command)
    }

    /// An attempt took too long.
    pub fn on_deadline(&mut self, client: usize, attempt: u64) -> CheckResult {
        self.on_reply(client, attempt, ClientResult::Unknown)
    }

    pub fn on_reply(&mut self, client: usize, attempt: u64, result: ClientResult) -> CheckResult {
        self.note(|_| format!("client {client} gets {result:?} (attempt {})", attempt % BLOCK));
        let in_liveness_phase = self.in_liveness_phase;
        let (again, gives_up) = (self.rng.u64(500..20_000), !in_liveness_phase && self.rng.u8(0..6) == 0);
        let think = self.rng.u64(0..=self.plan.think_us);
        let it = &mut self.clients[client];
        let Some(operation) = it.operation.as_mut() else { return Ok(()) };
        let Some(at) = operation.open.iter().position(|open| *open == attempt) else { return Ok(()) };
        let is_current = operation.current == Some(attempt);
        match result {
            ClientResult::Refused => {
                operation.open.remove(at);
                if is_current {
                    operation.current = None;
                    self.after(again, SimEvent::Wake { client });
                }
                return Ok(());
            }
            ClientResult::Unknown => {
                // The attempt stays open: a late answer still counts.
                operation.is_ambiguous = true;
                if !is_current {
                    return Ok(());
                }
                operation.current = None;
                let is_idle_read = matches!(operation.operation_kind, OperationKind::Read { .. });
                if is_idle_read {
                    operation.open.clear();
                }
                if !gives_up {
                    self.after(again, SimEvent::Wake { client });
                    return Ok(());
                }
            }
            ClientResult::Failed(ref why) => {
                return violation!("ExactlyOnce", "client {client} waits for {operation:?} and gets: {why}");
            }
            ClientResult::Done(ref reply) => {
                self.client_checker.on_acknowledged(operation, reply)?;
                if let OperationKind::Set { key, value } = operation.operation_kind {
                    it.seen.insert(key, value);
                }
                if let (OperationKind::Submit, Some(Answer::Submitted(job))) =
                    (operation.operation_kind, Answer::decode(reply))
                {
                    it.jobs.push(job);
                }
            }
            ClientResult::Value { index, value } => {
                self.client_checker.on_read(operation.floor, index, value)?;
                if let (OperationKind::Read { key }, Some(value)) = (operation.operation_kind, value) {
                    it.seen.insert(key, value);
                }
                self.coverage.reads += 1;
            }
        }
        let operation = it.operation.take().expect("checked above");
        self.coverage.operations += 1;
        let is_certain = match result {
            ClientResult::Done(_) | ClientResult::Value { .. } => Some(self.now),
            _ => None,
        };
        self.client_checker.record(client as u64, &operation, is_certain, &result);
        self.after(think + 1, SimEvent::Wake { client });
        Ok(())
    }
}
