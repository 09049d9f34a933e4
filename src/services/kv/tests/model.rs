//! Compares the store with a simple model, a plain map, under random operations.
//!
//! All replies and the whole content must be equal. Copies of the store are kept and must not change by later writes.

use super::super::{Batch, BatchReply, Bytes, Condition, ExpireIf, Expiry, Op, Store, Value};
use super::{restored, saved, stamp};
use crate::services::Service;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Row {
    value: Vec<u8>,
    revision: u64,
    /// Log time at which it expires; `u64::MAX`: never.
    until: u64,
}

#[derive(Clone, Debug, Default)]
struct Model {
    rows: BTreeMap<Vec<u8>, Row>,
    locks: BTreeMap<Vec<u8>, (u64, u64)>,
    drawn: u64,
    now: u64,
}

const NEVER: u64 = u64::MAX;

fn bytes(value: &[u8]) -> Value {
    Value::Bytes(value.to_vec().into())
}

fn error(text: &str) -> Value {
    Value::Error(text.to_string().into())
}

impl Model {
    fn entry(&mut self, now: u64) {
        self.now = now;
        self.rows.retain(|_, row| row.until > now);
        self.locks.retain(|_, (_, until)| *until > now);
    }

    fn until(&self, key: &[u8], expiry: Expiry) -> u64 {
        match expiry {
            Expiry::Never => NEVER,
            Expiry::Keep => self.rows.get(key).map_or(NEVER, |row| row.until),
            Expiry::In(ms) => self.now + ms,
            Expiry::At(ms) => ms,
        }
    }

    fn write(&mut self, key: &[u8], value: Vec<u8>, expiry: Expiry) -> u64 {
        let until = self.until(key, expiry);
        self.drawn += 1;
        self.rows.insert(key.to_vec(), Row { value, revision: self.drawn, until });
        self.rows.retain(|_, row| row.until > self.now);
        self.drawn
    }

    fn holds(&self, key: &[u8], condition: &Condition) -> bool {
        let row = self.rows.get(key);
        match condition {
            Condition::Always => true,
            Condition::Absent => row.is_none(),
            Condition::Present => row.is_some(),
            Condition::Equals(value) => row.map(|row| &row.value[..]) == Some(value),
            Condition::Revision(number) => row.map_or(0, |row| row.revision) == *number,
        }
    }

    fn value(&self, key: &[u8]) -> Value {
        self.rows.get(key).map_or(Value::Nil, |row| bytes(&row.value))
    }

    fn expire(&mut self, key: &[u8], expiry: Expiry, condition: ExpireIf) -> Value {
        let until = self.until(key, expiry);
        let Some(row) = self.rows.get_mut(key) else { return Value::Int(0) };
        let is_met = match condition {
            ExpireIf::Always => true,
            ExpireIf::HasNone => row.until == NEVER,
            ExpireIf::HasOne => row.until != NEVER,
            ExpireIf::Later => until > row.until,
            ExpireIf::Earlier => until < row.until,
            ExpireIf::EarlierThanOne => row.until != NEVER && until < row.until,
        };
        if is_met {
            if until > self.now {
                self.drawn += 1;
                row.revision = self.drawn;
            }
            row.until = until;
            self.rows.retain(|_, row| row.until > self.now);
        }
        Value::Int(i64::from(is_met))
    }

    fn has(&self, key: &[u8], token: &[u8]) -> bool {
        self.rows.get(key).is_some_and(|row| row.value == token)
    }

    fn answer(&mut self, op: &Op) -> Value {
        match op {
            Op::Get(key) => self.value(key),
            Op::Read(key) => self.rows.get(&key[..]).map_or(Value::Nil, |row| {
                let ttl = if row.until == NEVER { -1 } else { (row.until - self.now) as i64 };
                Value::List(vec![bytes(&row.value), Value::Int(row.revision as i64), Value::Int(ttl)])
            }),
            Op::Keys(_) => Value::List(self.rows.keys().map(|key| bytes(key)).collect()),
            Op::Count => Value::Int(self.rows.len() as i64),
            Op::Ttl(key) => Value::Int(
                self.rows
                    .get(&key[..])
                    .map_or(-2, |row| if row.until == NEVER { -1 } else { (row.until - self.now) as i64 }),
            ),
            Op::Set { key, value, condition, expiry, get } => {
                let old = self.value(key);
                let is_met = self.holds(key, condition);
                if is_met {
                    self.write(key, value.to_vec(), *expiry);
                }
                match (get, is_met) {
                    (true, _) => old,
                    (_, true) => Value::Ok,
                    _ => Value::Nil,
                }
            }
            Op::Put { key, value, condition, expiry } => match self.holds(key, condition) {
                true => Value::Int(self.write(key, value.to_vec(), *expiry) as i64),
                false => Value::Nil,
            },
            Op::Del(keys) => Value::Int(keys.iter().filter(|key| self.rows.remove(&key[..]).is_some()).count() as i64),
            Op::DelIf { key, condition } => match self.holds(key, condition) {
                true => Value::Int(i64::from(self.rows.remove(&key[..]).is_some())),
                false => Value::Nil,
            },
            Op::GetDel(key) => {
                let value = self.value(key);
                self.rows.remove(&key[..]);
                value
            }
            Op::IncrBy { key, by } => {
                let text =
                    self.rows.get(&key[..]).map_or("0".into(), |row| String::from_utf8_lossy(&row.value).into_owned());
                let is_plain = text == "0"
                    || text.strip_prefix('-').unwrap_or(&text).starts_with(|c: char| ('1'..='9').contains(&c));
                let Some(number) = text.parse::<i64>().ok().filter(|_| is_plain) else {
                    return error("ERR value is not an integer or out of range");
                };
                let Some(sum) = number.checked_add(*by) else {
                    return error("ERR increment or decrement would overflow");
                };
                self.write(key, sum.to_string().into_bytes(), Expiry::Keep);
                Value::Int(sum)
            }
            Op::Append { key, value } => {
                let mut long = self.rows.get(&key[..]).map_or(Vec::new(), |row| row.value.clone());
                long.extend_from_slice(value);
                let len = long.len() as i64;
                self.write(key, long, Expiry::Keep);
                Value::Int(len)
            }
            Op::GetEx { key, expiry } => {
                let value = self.value(key);
                let condition = if *expiry == Expiry::Never { ExpireIf::HasOne } else { ExpireIf::Always };
                self.expire(key, *expiry, condition);
                value
            }
            Op::GetRange { key, start, end } => {
                let value = self.rows.get(&key[..]).map_or(Vec::new(), |row| row.value.clone());
                let len = value.len() as i64;
                let place = |at: i64| if at < 0 { (at + len).max(0) } else { at };
                let is_inverted = *start < 0 && *end < 0 && start > end;
                let wanted = (place(*start)..=place(*end)).filter(|at| !is_inverted && *at < len);
                bytes(&wanted.map(|at| value[at as usize]).collect::<Vec<u8>>())
            }
            Op::SetRange { key, offset, value } => {
                let mut long = self.rows.get(&key[..]).map_or(Vec::new(), |row| row.value.clone());
                if value.is_empty() {
                    return Value::Int(long.len() as i64);
                }
                let end = *offset as usize + value.len();
                long.resize(long.len().max(end), 0);
                long[*offset as usize..end].copy_from_slice(value);
                let len = long.len() as i64;
                self.write(key, long, Expiry::Keep);
                Value::Int(len)
            }
            Op::MSetNx(pairs) => {
                let is_met = pairs.iter().all(|(key, _)| !self.rows.contains_key(&key[..]));
                for (key, value) in pairs.iter().filter(|_| is_met) {
                    self.write(key, value.to_vec(), Expiry::Never);
                }
                Value::Int(i64::from(is_met))
            }
            Op::IncrByFloat { key, by } => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let now = self.rows.get(&key[..]).map_or("0".to_string(), |row| text(&row.value));
                let (Ok(now), Ok(by)) = (now.parse::<f64>(), text(by).parse::<f64>()) else {
                    return error("ERR value is not a valid float");
                };
                let sum = (now + by).to_string();
                self.write(key, sum.clone().into_bytes(), Expiry::Keep);
                bytes(sum.as_bytes())
            }
            Op::Rename { from, to, if_absent } => {
                let Some(row) = self.rows.get(&from[..]).cloned() else { return error("ERR no such key") };
                let is_done = from != to && !(*if_absent && self.rows.contains_key(&to[..]));
                if is_done {
                    self.rows.remove(&from[..]);
                    self.drawn += 1;
                    self.rows.insert(to.to_vec(), Row { revision: self.drawn, ..row });
                }
                if *if_absent { Value::Int(i64::from(is_done)) } else { Value::Ok }
            }
            Op::Copy { from, to, replace } => {
                let Some(row) = self.rows.get(&from[..]).cloned() else { return Value::Int(0) };
                let is_done = *replace || !self.rows.contains_key(&to[..]);
                if is_done {
                    self.drawn += 1;
                    self.rows.insert(to.to_vec(), Row { revision: self.drawn, ..row });
                }
                Value::Int(i64::from(is_done))
            }
            Op::ExpireTime(key) => Value::Int(
                self.rows.get(&key[..]).map_or(-2, |row| if row.until == NEVER { -1 } else { row.until as i64 }),
            ),
            Op::CountExpiring => Value::Int(self.rows.values().filter(|row| row.until != NEVER).count() as i64),
            Op::Encoding(key) => match self.rows.get(&key[..]) {
                None => Value::Nil,
                Some(row) => {
                    let text = String::from_utf8_lossy(&row.value);
                    let is_int = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
                    bytes(if is_int { b"int" } else { b"embstr" })
                }
            },
            Op::Expire { key, expiry, condition } => self.expire(key, *expiry, *condition),
            Op::Persist(key) => self.expire(key, Expiry::Never, ExpireIf::HasOne),
            Op::FlushAll => {
                self.rows.clear();
                Value::Ok
            }
            Op::LockAcquire { name, ttl_ms } => {
                if self.locks.contains_key(&name[..]) {
                    return Value::Nil;
                }
                self.drawn += 1;
                self.locks.insert(name.to_vec(), (self.drawn, self.now + ttl_ms));
                Value::Int(self.drawn as i64)
            }
            Op::LockRenew { name, token, ttl_ms } => match self.locks.get_mut(&name[..]) {
                Some((held, until)) if held == token => {
                    *until = self.now + ttl_ms;
                    Value::Int(1)
                }
                _ => Value::Int(0),
            },
            Op::LockRelease { name, token } => {
                let is_held = self.locks.get(&name[..]).is_some_and(|(held, _)| held == token);
                if is_held {
                    self.locks.remove(&name[..]);
                }
                Value::Int(i64::from(is_held))
            }
            Op::LockInfo(name) => self.locks.get(&name[..]).map_or(Value::Nil, |(token, until)| {
                Value::List(vec![Value::Int(*token as i64), Value::Int((until - self.now) as i64)])
            }),
            Op::ReleaseIf { key, token } => {
                let is_meant = self.has(key, token);
                if is_meant {
                    self.rows.remove(&key[..]);
                }
                Value::Int(i64::from(is_meant))
            }
            Op::ExtendIf { key, token, ms, replace } => {
                let left = self.rows.get(&key[..]).map_or(NEVER, |row| row.until);
                if !self.has(key, token) || left == NEVER {
                    return Value::Int(0);
                }
                let ms = if *replace { *ms } else { ms + left - self.now };
                self.expire(key, Expiry::In(ms), ExpireIf::Always)
            }
            Op::ReacquireIf { key, token, ms } => match self.has(key, token) {
                true => self.expire(key, Expiry::In(*ms), ExpireIf::Always),
                false => Value::Int(0),
            },
            other => panic!("the model does not know {other:?}"),
        }
    }
}

fn some_op(rng: &mut fastrand::Rng, model: &Model) -> Op {
    let key = Bytes::from(vec![b'a' + rng.u8(0..12)]);
    let value = match rng.u8(0..6) {
        0 => b"9223372036854775800".to_vec(),
        1 => b"007".to_vec(),
        2 => b"-0".to_vec(),
        _ => rng.i64(-3..10).to_string().into_bytes(),
    };
    let value = Bytes::from(value);
    let ms = rng.u64(1..40);
    let expiry =
        [Expiry::Never, Expiry::Never, Expiry::Keep, Expiry::In(ms), Expiry::In(0), Expiry::At(model.now + ms - 8)]
            [rng.usize(0..6)];
    let revision = model.rows.get(&key[..]).map_or(0, |row| row.revision);
    let condition = match rng.u8(0..6) {
        0 => Condition::Absent,
        1 => Condition::Present,
        2 => Condition::Equals(value.clone()),
        3 => Condition::Revision(if rng.bool() { revision } else { 1 }),
        _ => Condition::Always,
    };
    let expire_if = [
        ExpireIf::Always,
        ExpireIf::HasNone,
        ExpireIf::HasOne,
        ExpireIf::Later,
        ExpireIf::Earlier,
        ExpireIf::EarlierThanOne,
    ][rng.usize(0..6)];
    let token = model.locks.get(&key[..]).map_or(7, |(token, _)| *token) - u64::from(rng.u8(0..4) == 0);
    let other = Bytes::from(vec![b'a' + rng.u8(0..12)]);
    match rng.u8(0..34) {
        0 => Op::Get(key),
        1 => Op::Read(key),
        2 => Op::Ttl(key),
        3..=6 => Op::Set { key, value, condition, expiry, get: rng.bool() },
        7 => Op::Put { key, value, condition, expiry },
        8 => Op::Del(vec![key.clone(), Bytes::from(b"b".to_vec()), key]),
        9 => Op::DelIf { key, condition },
        10 => Op::GetDel(key),
        11 | 12 => Op::IncrBy { key, by: if rng.u8(0..9) == 0 { i64::MIN } else { rng.i64(-2..9) } },
        13 => Op::Append { key, value },
        14 => Op::Expire { key, expiry, condition: expire_if },
        15 => Op::Persist(key),
        16 => Op::LockAcquire { name: key, ttl_ms: ms },
        17 => Op::LockRenew { name: key, token, ttl_ms: ms },
        18 => Op::LockRelease { name: key, token },
        19 => Op::ReleaseIf { key, token: value },
        20 => Op::ExtendIf { key, token: value, ms, replace: rng.bool() },
        21 if rng.u8(0..9) == 0 => Op::FlushAll,
        22 => Op::GetEx { key, expiry },
        23 => Op::GetRange { key, start: rng.i64(-9..9), end: rng.i64(-9..9) },
        24 => Op::SetRange { key, offset: rng.u64(0..4), value },
        25 => Op::MSetNx(vec![(key, value.clone()), (other, value)]),
        // Of a key that only these write, so that the model's numbers are short and exact.
        26 => Op::IncrByFloat { key: Bytes::from(b"float".to_vec()), by: Bytes::from(b"0.5".to_vec()) },
        27 => {
            let value = [&b"1.5"[..], b"x", b"-0.25", b"1e3"][rng.usize(0..4)];
            Op::Set { key: Bytes::from(b"float".to_vec()), value: Bytes::from(value), condition, expiry, get: false }
        }
        28 | 29 => Op::Rename { from: key, to: other, if_absent: rng.bool() },
        30 => Op::Copy { from: key, to: other, replace: rng.bool() },
        31 => Op::ExpireTime(key),
        32 => Op::CountExpiring,
        33 => Op::Encoding(key),
        _ => Op::ReacquireIf { key, token: value, ms },
    }
}

#[test]
fn random_operations_answer_as_a_plain_map_would() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut store, mut model) = (Store::default(), Model { now: 1_000, ..Model::default() });
        let mut copies: Vec<(Store, Vec<u8>)> = Vec::new();
        for index in 1..600 {
            let now = model.now + [0, 0, 0, 1, 5, 20][rng.usize(0..6)];
            model.entry(now);
            let at = stamp(index, now);
            store.expire(at);
            store.check(at);
            let mut ops: Vec<Op> = (0..rng.usize(1..4)).map(|_| some_op(&mut rng, &model)).collect();
            ops.push(Op::Keys(Bytes::from(b"*".to_vec())));
            ops.push(Op::Count);
            let expected = ops.iter().map(|op| model.answer(op)).collect();
            let answered = store.run(at, Batch { watched: Vec::new(), ops: ops.clone() });
            assert_eq!(answered, BatchReply::Values(expected), "seed {seed}, entry {index}: {ops:?}");
            store.check(at);
            if rng.u8(0..30) == 0 {
                copies.push((store.clone(), saved(&store)));
            }
            if rng.u8(0..30) == 0 {
                let mut back: Store = restored(&saved(&store));
                back.resume(at);
                assert_eq!(back, store, "seed {seed}, entry {index}");
                store = back;
            }
        }
        assert_eq!(store.revision(), model.drawn);
        for (copy, bytes) in copies {
            assert!(saved(&copy) == bytes, "seed {seed}: a copy has changed");
        }
    }
}
