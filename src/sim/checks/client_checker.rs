//! The client checker: compares the answers that clients received with what the services did.
//!
//! Rules: those of jobs (`jobs_checker.rs`), `ApplyOnceInOrder` and `StateDigest` (equal index, equal state), `KvModel`
//! (each answer is the right one), `AckedDurable`, `ExactlyOnce`, `ReadFresh`, `RefusedNotApplied`, and at the end
//! `Linearizable` for the whole history, key by key.
//!
//! Not here: rules of consensus (`raft_checker.rs`).

use super::delivery_checker::DeliveryChecker;
use super::jobs_checker::JobsChecker;
use super::kv_model::KvModel;
use crate::check::{self, Action, Verdict};
use crate::services::jobs::{Answer, JobTable};
use crate::services::kv::{BatchReply, Op, Value};
use crate::services::{Reply, chat, sql};
use crate::sim::model::operations::{ClientResult, Operation, OperationKind};
use crate::sim::model::services::{Applied, Body, COUNTER, Command, first};
use crate::sim::violation::{CheckResult, Name, Violation, name, violation};
use std::collections::{BTreeMap, BTreeSet};

/// What a tagged command did.
#[derive(Clone, Debug)]
struct Effect {
    index: u64,
    reply: Vec<u8>,
}

#[derive(Default)]
pub struct ClientChecker {
    /// Digest of the service by applied index; the first node to apply writes it.
    digests: BTreeMap<u64, u64>,
    /// The same of the database alone.
    sql_digests: BTreeMap<u64, u64>,
    /// Newest index that any node has applied.
    applied: u64,
    effects: BTreeMap<Name, Effect>,
    kv_model: KvModel,
    pub jobs_checker: JobsChecker,
    /// The checker of chat messages.
    delivery_checker: DeliveryChecker,
    /// Attempts that were applied, and where.
    attempts: BTreeMap<u64, u64>,
    refused: BTreeSet<u64>,
    /// Newest index that was acknowledged to a client.
    acknowledged: u64,
    history: Vec<check::Operation>,
}

impl ClientChecker {
    /// Newest index that was acknowledged to any client.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether a node that has just applied this index computes its digest. That takes long, and states that
    /// differ stay different, so every third is enough, and those that some node's snapshot holds.
    pub fn wants_digest(&self, index: u64) -> bool {
        index.is_multiple_of(3) || self.digests.contains_key(&index)
    }

    fn check_digest(&mut self, index: u64, (digest, sql): (u64, Option<u64>)) -> CheckResult {
        if let Some(sql) = sql
            && self.sql_digests.insert(index, sql).is_some_and(|known| known != sql)
        {
            return violation!("StateDigest", "two nodes that have applied {index} hold different databases");
        }
        match self.digests.insert(index, digest) {
            Some(known) if known != digest => {
                violation!("StateDigest", "two nodes that have applied {index} hold different states")
            }
            _ => Ok(()),
        }
    }

    /// A node restored its services, or saves them: at this index they must be what others have there.
    pub fn on_restart(&mut self, applied: u64, digest: (u64, Option<u64>)) -> CheckResult {
        if applied == 0 { Ok(()) } else { self.check_digest(applied, digest) }
    }

    /// A node applied an entry.
    pub fn on_apply(
        &mut self,
        index: u64,
        applied: Option<&(Command, Applied)>,
        digest: Option<(u64, Option<u64>)>,
        table: Option<&JobTable>,
    ) -> CheckResult {
        if index > self.applied + 1 {
            return violation!("ApplyOnceInOrder", "{index} is applied first, before {}", self.applied + 1);
        }
        digest.map_or(Ok(()), |digest| self.check_digest(index, digest))?;
        if index <= self.applied {
            return table.map_or(Ok(()), |table| self.jobs_checker.on_applied_again(index, table));
        }
        self.applied = index;
        if let Some(table) = table {
            self.jobs_checker.on_applied(index, applied, table)?;
        }
        let Some((command, outcome)) = applied else { return Ok(()) };
        self.attempts.insert(command.attempt, index);
        if self.refused.contains(&command.attempt) {
            return violation!(
                "RefusedNotApplied",
                "attempt {} was refused and is applied at {index}",
                command.attempt
            );
        }
        self.kv_model.entry(command.at_ms);
        self.check_effect(index, command, outcome)
    }

    /// A command takes effect once, and has the same answer each time.
    fn check_effect(&mut self, index: u64, command: &Command, outcome: &Applied) -> CheckResult {
        let known = self.effects.get(&name(&command.tag));
        let (tag, at) = (&command.tag, outcome.effect_at.0);
        let Reply::Ok(reply) = &outcome.reply else {
            // Forgotten, as its sender had given it up: so it has no effect.
            return if at == index { Ok(()) } else { violation!("ExactlyOnce", "{tag:?} failed at {at}") };
        };
        if let Some(known) = known {
            if (known.index, &known.reply) != (at, reply) {
                let (first, again) = (&known.reply, reply);
                return violation!(
                    "ExactlyOnce",
                    "{tag:?} took effect at {} and at {at}, answering {first:?} and {again:?}",
                    known.index
                );
            }
            return Ok(());
        }
        if at != index {
            return violation!("ExactlyOnce", "{tag:?} is said to have taken effect at {at}, it never did");
        }
        self.effects.insert(name(tag), Effect { index, reply: reply.clone() });
        let is_answer = match &command.body {
            Body::Checkpoint => true,
            Body::Chat(_) => chat::Answer::decode(reply).is_some(),
            Body::Store(ops) => return self.check_batch(index, ops, reply),
            Body::Jobs(_) => Answer::decode(reply).is_some(),
            Body::Sql(_) => sql::Answer::decode(reply).is_some(),
        };
        if is_answer { Ok(()) } else { violation!("KvModel", "{reply:?} is not an answer to {:?}", command.body) }
    }

    fn check_batch(&mut self, index: u64, ops: &[Op], reply: &[u8]) -> CheckResult {
        let Some(ran) = BatchReply::decode(reply) else {
            return violation!("KvModel", "{reply:?} is not an answer of the store");
        };
        let run = self.kv_model.run(ops, &ran);
        run.map_err(|why| Violation { rule: "KvModel", what: format!("at {index}: {why}") })
    }

    /// A client received the answer that an attempt has no effect.
    pub fn on_refused(&mut self, attempt: u64) -> CheckResult {
        if let Some(index) = self.attempts.get(&attempt) {
            return violation!("RefusedNotApplied", "attempt {attempt} is refused and was applied at {index}");
        }
        self.refused.insert(attempt);
        Ok(())
    }

    /// A client received the answer that its write is done.
    pub fn on_acknowledged(&mut self, operation: &Operation, reply: &[u8]) -> CheckResult {
        let Some(tag) = &operation.tag else { return Ok(()) };
        let Some(effect) = self.effects.get(&name(tag)) else {
            return violation!("AckedDurable", "{tag:?} is acknowledged and has no effect");
        };
        if effect.reply != reply {
            return violation!("ExactlyOnce", "{tag:?} is answered {:?} and {reply:?}", effect.reply);
        }
        self.acknowledged = self.acknowledged.max(effect.index);
        match operation.operation_kind {
            OperationKind::Submit => self.jobs_checker.on_acknowledged(tag, reply),
            OperationKind::Say { who, id } => self.delivery_checker.on_send_acknowledged(who, id, reply),
            _ => Ok(()),
        }
    }

    /// A linearizable read was served at an index.
    pub fn on_read(&mut self, floor: u64, index: u64, value: Option<u64>) -> CheckResult {
        if index < floor {
            return violation!(
                "ReadFresh",
                "a read sees {value:?} at {index}, but {floor} was acknowledged before it was asked"
            );
        }
        Ok(())
    }

    /// Puts a finished (or abandoned) operation into the history.
    pub fn record(&mut self, client: u64, operation: &Operation, return_us: Option<u64>, result: &ClientResult) {
        let answer = match result {
            ClientResult::Done(reply) => first(reply),
            _ => None,
        };
        let (key, action) = match (operation.operation_kind, result) {
            (OperationKind::Set { key, value }, _) => (key, Action::Write(value.to_string())),
            (OperationKind::Swap { key, from, to }, _) => {
                let done = answer.map(|answer| answer == Value::Ok);
                (key, Action::Swap { from: from.map(|from| from.to_string()), to: to.to_string(), done })
            }
            (OperationKind::Count, _) => {
                let sum = answer.and_then(|answer| if let Value::Int(sum) = answer { Some(sum) } else { None });
                (COUNTER, Action::Add { by: 1, sum })
            }
            (OperationKind::Read { key }, ClientResult::Value { value, .. }) => {
                (key, Action::Read(value.map(|value| value.to_string())))
            }
            _ => return,
        };
        let call_us = operation.call_us;
        self.history.push(check::Operation { client, key: key.to_string(), call_us, return_us, action });
    }

    /// Whether the history is linearizable.
    pub fn check_client_history(&self) -> CheckResult {
        let judgement = check::check_history(&self.history, 200_000);
        match judgement.verdict {
            Verdict::Violation => violation!("Linearizable", "{}", judgement.why.unwrap_or_default()),
            Verdict::Ok | Verdict::Undecided => Ok(()),
        }
    }
}
