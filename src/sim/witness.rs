//! The witness: knows what clients were told and what the services did, and asserts that the two agree.
//!
//! Rules: `ApplyOnceInOrder` and `StateDigest` (equal index, equal state), `AckedDurable`, `ExactlyOnce`, `ReadFresh`,
//! `RefusedNotApplied`, and at the end `Linearizable` for the whole history, key by key.
//!
//! Not here: rules of consensus (`ghost.rs`).

use super::client::{Operation, Told, Wish};
use super::ghost::{Judged, violation};
use super::registers::{Command, What, number};
use crate::check::{self, Action, Verdict};
use crate::services::Reply;
use std::collections::{BTreeMap, BTreeSet};

/// What a (session, sequence) did.
#[derive(Clone, Debug)]
struct Effect {
    index: u64,
    reply: Vec<u8>,
}

/// See the module.
#[derive(Default)]
pub struct Witness {
    /// Digest of the service by applied index; the first node to apply writes it.
    digests: BTreeMap<u64, u64>,
    /// Newest index that any node has applied.
    applied: u64,
    effects: BTreeMap<(u64, u64), Effect>,
    /// Attempts that were applied, and where.
    attempts: BTreeMap<u64, u64>,
    refused: BTreeSet<u64>,
    /// Newest index whose effect a client was told of.
    acknowledged: u64,
    history: Vec<check::Operation>,
}

impl Witness {
    /// Newest index whose effect any client was told of.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    fn check_digest(&mut self, index: u64, digest: u64) -> Judged {
        match self.digests.insert(index, digest) {
            Some(known) if known != digest => {
                violation("StateDigest", format!("two nodes that have applied {index} hold different states"))
            }
            _ => Ok(()),
        }
    }

    /// A node restored its service: at this index it must be what others have there.
    pub fn on_restart(&mut self, applied: u64, digest: u64) -> Judged {
        if applied == 0 { Ok(()) } else { self.check_digest(applied, digest) }
    }

    /// A node applied an entry.
    pub fn on_apply(
        &mut self,
        index: u64,
        command: Option<&Command>,
        effect: Option<(u64, u64)>,
        reply: &Reply,
        digest: u64,
    ) -> Judged {
        if index > self.applied + 1 {
            return violation("ApplyOnceInOrder", format!("{index} is applied first, before {}", self.applied + 1));
        }
        self.check_digest(index, digest)?;
        if index <= self.applied {
            return Ok(());
        }
        self.applied = index;
        let Some(command) = command else { return Ok(()) };
        self.attempts.insert(command.attempt, index);
        if self.refused.contains(&command.attempt) {
            return violation(
                "RefusedNotApplied",
                format!("attempt {} was refused and is applied at {index}", command.attempt),
            );
        }
        if let Some(number) = effect {
            let Reply::Ok(reply) = reply else {
                return violation("ExactlyOnce", format!("{number:?} failed and had an effect at {index}"));
            };
            if let Some(known) = self.effects.insert(number, Effect { index, reply: reply.clone() }) {
                return violation(
                    "ExactlyOnce",
                    format!("sequence {} of session {} took effect at {} and {index}", number.1, number.0, known.index),
                );
            }
        } else if let (What::Write { session, sequence, .. }, Reply::Ok(reply)) = (&command.what, reply) {
            let known = self.effects.get(&(*session, *sequence)).map(|effect| &effect.reply);
            if known != Some(reply) {
                return violation(
                    "ExactlyOnce",
                    format!("sequence {sequence} of session {session} is answered {reply:?}, before {known:?}"),
                );
            }
        }
        Ok(())
    }

    /// A client was told that an attempt certainly has no effect.
    pub fn on_refused(&mut self, attempt: u64) -> Judged {
        if let Some(index) = self.attempts.get(&attempt) {
            return violation("RefusedNotApplied", format!("attempt {attempt} is refused and was applied at {index}"));
        }
        self.refused.insert(attempt);
        Ok(())
    }

    /// A client was told that its write is done.
    pub fn on_acknowledged(&mut self, operation: &Operation, reply: &[u8]) -> Judged {
        let Some(key) = operation.number else { return Ok(()) };
        let Some(effect) = self.effects.get(&key) else {
            return violation("AckedDurable", format!("{key:?} is acknowledged and has no effect"));
        };
        if effect.reply != reply {
            return violation("ExactlyOnce", format!("{key:?} is answered {:?} and {:?}", effect.reply, number(reply)));
        }
        self.acknowledged = self.acknowledged.max(effect.index);
        Ok(())
    }

    /// A linearizable read was served at an index.
    pub fn on_read(&mut self, floor: u64, index: u64, value: Option<u64>) -> Judged {
        if index < floor {
            return violation(
                "ReadFresh",
                format!("a read sees {value:?} at {index}, but {floor} was acknowledged before it was asked"),
            );
        }
        Ok(())
    }

    /// Puts a finished (or abandoned) operation into the history.
    pub fn record(&mut self, client: u64, operation: &Operation, return_us: Option<u64>, told: &Told) {
        let (key, action) = match (operation.wish, told) {
            (Wish::Write { key, value }, _) => (key, Action::Write(value.to_string())),
            (Wish::Read { key }, Told::Value { value, .. }) => {
                (key, Action::Read(value.map(|value| value.to_string())))
            }
            _ => return,
        };
        let call_us = operation.call_us;
        self.history.push(check::Operation { client, key: key.to_string(), call_us, return_us, action });
    }

    /// Whether the history that clients saw is linearizable.
    pub fn judge_history(&self) -> Judged {
        let judgement = check::judge(&self.history, 200_000);
        match judgement.verdict {
            Verdict::Violation => violation("Linearizable", judgement.why.unwrap_or_default()),
            Verdict::Ok | Verdict::Undecided => Ok(()),
        }
    }
}
