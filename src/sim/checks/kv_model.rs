//! A simple model of the key-value store, updated entry by entry.
//!
//! The first node to apply an entry applies it to the model, which knows the operations that virtual clients send and
//! the right answer to each. A command that counted twice, a swap that should have failed, a key that did not expire, a
//! token given twice: each differs from the model.
//!
//! Not here: whether all nodes hold the same (`client_checker.rs`, by their digests).

use crate::services::kv::{BatchReply, Condition, Expiry, Op, OpError, Value};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    value: Vec<u8>,
    until_ms: u64,
}

#[derive(Default)]
pub struct KvModel {
    rows: BTreeMap<Vec<u8>, Row>,
    /// Names of locks that are held, and until when.
    locks: BTreeMap<Vec<u8>, u64>,
    /// The newest fencing token that was given.
    token: i64,
    now_ms: u64,
}

impl KvModel {
    /// An entry brings the time, before its commands.
    pub fn entry(&mut self, at_ms: u64) {
        let now_ms = self.now_ms.max(at_ms);
        self.now_ms = now_ms;
        self.rows.retain(|_, row| row.until_ms > now_ms);
        self.locks.retain(|_, until_ms| *until_ms > now_ms);
    }

    /// Runs a command; the error says what is wrong with its answer.
    pub fn run(&mut self, ops: &[Op], answered: &BatchReply) -> Result<(), String> {
        let BatchReply::Values(values) = answered else {
            return Err("no key was watched, but the batch was aborted".into());
        };
        if values.len() != ops.len() {
            return Err(format!("{} operations have {} answers", ops.len(), values.len()));
        }
        for (op, value) in ops.iter().zip(values) {
            let right = self.answer(op, value);
            if right != *value {
                return Err(format!("{op:?} answers {value:?}, {right:?} is right"));
            }
        }
        Ok(())
    }

    fn answer(&mut self, op: &Op, given: &Value) -> Value {
        match op {
            Op::Set { key, value, condition, expiry, get: false } => {
                let row = self.rows.get(key.as_slice());
                let is_met = match condition {
                    Condition::Always => true,
                    Condition::Absent => row.is_none(),
                    Condition::Equals(old) => row.is_some_and(|row| row.value == old.as_slice()),
                    other => panic!("no virtual client asks for {other:?}"),
                };
                let until_ms = match expiry {
                    Expiry::In(ms) => self.now_ms + ms,
                    _ => u64::MAX,
                };
                if is_met {
                    self.rows.insert(key.to_vec(), Row { value: value.to_vec(), until_ms });
                }
                if is_met { Value::Ok } else { Value::Nil }
            }
            Op::IncrBy { key, by } => {
                let row = self.rows.entry(key.to_vec()).or_insert(Row { value: b"0".to_vec(), until_ms: u64::MAX });
                let now: i64 = String::from_utf8_lossy(&row.value).parse().expect("a counter is only counted");
                row.value = (now + by).to_string().into_bytes();
                Value::Int(now + by)
            }
            Op::IncrByFloat { key, by } => {
                let row = self.rows.entry(key.to_vec()).or_insert(Row { value: b"0".to_vec(), until_ms: u64::MAX });
                // Exact: the numbers are multiples of a half.
                let number =
                    |text: &[u8]| String::from_utf8_lossy(text).parse::<f64>().expect("a number is only added to");
                row.value = (number(&row.value) + number(by)).to_string().into_bytes();
                Value::Bytes(row.value.clone().into())
            }
            Op::Rename { from, to, if_absent: false } => match self.rows.remove(from.as_slice()) {
                Some(row) => {
                    self.rows.insert(to.to_vec(), row);
                    Value::Ok
                }
                None => Value::Error(OpError::NoSuchKey),
            },
            Op::SetRange { key, offset, value } => {
                let row = self.rows.entry(key.to_vec()).or_insert(Row { value: Vec::new(), until_ms: u64::MAX });
                let (from, to) = (*offset as usize, *offset as usize + value.len());
                row.value.resize(row.value.len().max(to), 0);
                row.value[from..to].copy_from_slice(value);
                Value::Int(row.value.len() as i64)
            }
            Op::LockAcquire { name, ttl_ms } => {
                if self.locks.contains_key(name.as_slice()) {
                    return Value::Nil;
                }
                self.locks.insert(name.to_vec(), self.now_ms + ttl_ms);
                // Which token it is does not matter, only that it is larger than every one before.
                self.token = match given {
                    Value::Int(token) if *token > self.token => *token,
                    _ => self.token + 1,
                };
                Value::Int(self.token)
            }
            other => panic!("no virtual client asks for {other:?}"),
        }
    }
}
