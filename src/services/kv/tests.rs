//! Tests of the store: golden scripts, a model for random operations, and measurements with a million keys.
//!
//! The scripts look like a session of redis-cli. Replies to commands that Redis has were compared with redis-server.
//! One behaviour per file in `scripts/`, named after it. `UPDATE_GOLDENFILES=1 cargo test --lib services::kv` records
//! them again; review the difference before you commit it.
//! Not here: the language of the scripts (`tests/script_runner.rs`), the model (`tests/model.rs`), measurements
//! (`tests/big.rs`).

mod big;
mod model;
mod script_runner;

use super::{Batch, BatchReply, Bytes, Op, OpError, Store, Value};
use crate::services::service_contract::{self, restored, saved, stamp};
use crate::services::{Reply, Service};
use script_runner::Session;

#[test]
fn scripts() {
    service_contract::scripts("kv", Session::default);
}

fn encode(run: &Batch) -> Vec<u8> {
    postcard::to_stdvec(run).unwrap()
}

fn one(op: Op) -> Batch {
    Batch { watched: Vec::new(), ops: vec![op] }
}

fn ran(reply: Reply) -> BatchReply {
    let Reply::Ok(bytes) = reply else { panic!("no answer: {reply:?}") };
    BatchReply::decode(&bytes).unwrap()
}

#[test]
fn writes_are_refused_as_queries_and_garbage_everywhere() {
    let mut store = Store::default();
    let set = Op::Set {
        key: b"k".to_vec().into(),
        value: b"v".to_vec().into(),
        condition: super::Condition::Always,
        expiry: super::Expiry::Never,
        get: false,
    };
    let get = Op::Get(b"k".to_vec().into());
    let both = Batch { watched: Vec::new(), ops: vec![get.clone(), set.clone()] };
    assert!(matches!(store.query(stamp(0, 0), &encode(&both)), Reply::Failed(_)));
    assert_eq!(ran(store.apply(stamp(1, 0), &encode(&both))), BatchReply::Values(vec![Value::Nil, Value::Ok]));
    let v = Value::Bytes(b"v".to_vec().into());
    assert_eq!(ran(store.query(stamp(1, 0), &encode(&one(get)))), BatchReply::Values(vec![v]));
    service_contract::garbage_changes_nothing(&mut store, &encode(&both));
}

#[test]
fn a_damaged_snapshot_is_an_error_and_no_allocation() {
    let mut store = Store::default();
    store.run(stamp(1, 0), one(Op::MSet(vec![(b"k".to_vec().into(), b"v".to_vec().into())])));
    store.run(stamp(2, 0), one(Op::LockAcquire { name: b"l".to_vec().into(), ttl_ms: 5 }));
    service_contract::damage_costs_nothing(&store);
}

#[test]
fn a_restored_store_knows_how_large_its_values_may_be() {
    let mut store = Store::default();
    for (key, size) in [(b"a", 70_000), (b"b", 10)] {
        store.run(stamp(1, 0), one(Op::MSet(vec![(key.to_vec().into(), vec![b'x'; size].into())])));
    }
    assert_eq!(restored::<Store>(&saved(&store)).largest_value(), 70_000);
    store.run(stamp(2, 0), one(Op::Del(vec![b"a".to_vec().into()])));
    let small = restored::<Store>(&saved(&store));
    assert_eq!(
        (small.largest_value(), store.largest_value()),
        (10, 70_000),
        "a bound, and equal states may differ in it"
    );
    assert_eq!(small, store);
}

#[test]
fn a_batch_cannot_answer_more_than_the_log_can_carry() {
    let mut store = Store::default();
    let value = vec![b'x'; super::commands::VALUE_BYTES_MAX];
    store.run(stamp(1, 0), one(Op::MSet(vec![(b"k".to_vec().into(), value.into())])));
    let many = Op::MGet(vec![b"k".to_vec().into(); 1_000]);
    let too_large = Value::Error(OpError::ReplyTooLarge);
    assert_eq!(store.read_batch(stamp(1, 0), &one(many.clone())), Some(BatchReply::Values(vec![too_large.clone()])));
    let get = Op::Get(b"k".to_vec().into());
    let del = Op::GetDel(b"k".to_vec().into());
    let run = Batch { watched: Vec::new(), ops: vec![get.clone(), get, del, Op::Exists(vec![b"k".to_vec().into()])] };
    let BatchReply::Values(values) = store.run(stamp(2, 0), run) else { panic!("nothing is watched") };
    assert!(matches!(values[0], Value::Bytes(_)));
    assert_eq!(values[1..], [too_large.clone(), too_large, Value::Int(1)], "what is refused changes nothing");
}

#[test]
fn a_page_of_a_range_ends_before_it_is_large() {
    let mut store = Store::default();
    for (n, size) in [(0, 600 << 10), (1, 400 << 10), (2, 400 << 10), (3, 3 << 20), (4, 1)] {
        let pair = (format!("k{n}").into_bytes().into(), vec![b'x'; size].into());
        store.run(stamp(n + 1, 0), one(Op::MSet(vec![pair])));
    }
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let op = Op::Range { prefix: b"k".to_vec().into(), after: after.clone(), limit: 9 };
        let Some(BatchReply::Values(values)) = store.read_batch(stamp(9, 0), &one(op)) else {
            panic!("a range needs no log")
        };
        let [Value::List(rows)] = &values[..] else { panic!("a range is a list") };
        let (rows, is_cut) = match rows.split_last() {
            Some((Value::Nil, rows)) => (rows, true),
            _ => (&rows[..], false),
        };
        let Some(Value::List(last)) = rows.last() else { panic!("a page without a row") };
        let Value::Bytes(key) = &last[0] else { panic!("a row begins with its key") };
        after = Some(key.clone());
        pages.push(rows.len());
        if !is_cut {
            break;
        }
    }
    assert_eq!(pages, [2, 1, 1, 1]);
}

#[test]
fn a_reply_that_was_certain_beforehand_is_the_reply() {
    let mut store = Store::default();
    let set = |key: usize, value: usize| Op::Set {
        key: vec![b'k'; key].into(),
        value: vec![b'v'; value].into(),
        condition: super::Condition::Always,
        expiry: super::Expiry::Never,
        get: false,
    };
    for (op, is_certain) in [
        (set(1, 1), true),
        (set(super::commands::KEY_BYTES_MAX, super::commands::VALUE_BYTES_MAX), true),
        (set(super::commands::KEY_BYTES_MAX + 1, 1), false),
        (set(1, super::commands::VALUE_BYTES_MAX + 1), false),
        (Op::FlushAll, true),
        (Op::MSet(vec![(vec![b'k'; super::commands::KEY_BYTES_MAX + 1].into(), vec![].into())]), false),
    ] {
        let certain = op.certain_reply();
        assert_eq!(certain.is_some(), is_certain);
        let BatchReply::Values(values) = store.run(stamp(1, 0), one(op)) else { panic!("nothing is watched") };
        assert!(certain.is_none_or(|certain| certain == values[0]));
    }
}

fn bytes(text: &[u8]) -> Bytes {
    Bytes::from(text.to_vec())
}

fn set(key: &[u8], expiry: super::Expiry) -> Op {
    let (key, value, condition) = (bytes(key), bytes(b"v"), super::Condition::Always);
    Op::Set { key, value, condition, expiry, get: false }
}

fn run(store: &mut Store, index: u64, at_ms: u64, ops: Vec<Op>) -> Vec<Value> {
    let BatchReply::Values(values) = store.run(stamp(index, at_ms), Batch { watched: Vec::new(), ops }) else {
        panic!("nothing is watched")
    };
    values
}

/// A search passes over them, also if it returns one key.
#[test]
fn expired_keys_that_are_not_removed_yet_count_in_the_cost_of_a_search() {
    let mut store = Store::default();
    let ops = (0..2000_u32).map(|n| set(&n.to_be_bytes(), super::Expiry::In(100))).collect();
    run(&mut store, 1, 1_000, ops);
    let searches = || {
        let scan = Op::Scan { after: None, glob: None, count: 1 };
        [Op::RandomKey(7), scan, Op::Range { prefix: bytes(b""), after: None, limit: 1 }]
    };
    let costs =
        |store: &Store| searches().map(|op| store.read_cost(&postcard::to_stdvec(&one(op)).unwrap(), usize::MAX));
    let before = costs(&store);
    store.expire(stamp(2, 1_100));
    for (before, after) in before.into_iter().zip(costs(&store)) {
        assert!(before < 5_000 && after > 100_000, "{before} before, {after} after");
    }
}

#[test]
fn expired_keys_are_hidden_and_removed_in_batches() {
    let mut store = Store::default();
    let names: Vec<Vec<u8>> = (0..9).map(|n| format!("k{n}").into_bytes()).collect();
    let mut ops: Vec<Op> = names.iter().map(|name| set(name, super::Expiry::In(100))).collect();
    ops.push(set(b"stays", super::Expiry::Never));
    ops.extend((0..3).map(|n| Op::LockAcquire { name: bytes(&[b'l', n]), ttl_ms: 100 }));
    run(&mut store, 1, 1_000, ops);
    let full = store.bytes();
    let mark = Op::Marks(vec![bytes(b"k8")]);
    let Some(BatchReply::Values(marks)) = store.read_batch(stamp(1, 1_000), &one(mark)) else {
        panic!("a mark needs no log")
    };
    let [Value::List(marks)] = &marks[..] else { panic!("a list of marks") };
    let Value::Int(mark) = marks[0] else { panic!("a mark is a number") };

    let at = stamp(2, 1_100);
    store.expire(at);
    store.check(at);
    assert_eq!(store.next_expiry_ms(), Some(1_100), "there is more to be removed");
    assert!(store.bytes() > full / 2, "one entry does not remove all");
    let mut copy: Store = restored(&saved(&store));
    copy.resume(at);
    for store in [&mut store, &mut copy] {
        store.check(at);
        let range = Op::Range { prefix: bytes(b""), after: None, limit: 100 };
        let scan = Op::Scan { after: None, glob: None, count: 1 };
        let lock = Op::LockInfo(bytes(b"l\x02"));
        let k8 = || bytes(b"k8");
        let ops = vec![
            Op::Get(k8()),
            Op::Exists(vec![k8()]),
            Op::Count,
            Op::Keys(bytes(b"*")),
            lock,
            Op::Revisions(vec![k8()]),
            Op::StrLen(k8()),
        ];
        let Some(BatchReply::Values(values)) = store.read_batch(at, &Batch { watched: Vec::new(), ops }) else {
            panic!("only reads")
        };
        let keys = Value::List(vec![Value::Bytes(bytes(b"stays"))]);
        let zeros = Value::List(vec![Value::Int(0)]);
        let absent = [Value::Nil, Value::Int(0), Value::Int(1), keys.clone(), Value::Nil, zeros, Value::Int(0)];
        assert_eq!(values, absent);
        let Some(BatchReply::Values(page)) = store.read_batch(at, &one(scan)) else { panic!("only reads") };
        assert_eq!(page, [Value::List(vec![Value::Nil, keys])]);
        let Some(BatchReply::Values(rows)) = store.read_batch(at, &one(range)) else { panic!("only reads") };
        assert!(matches!(&rows[..], [Value::List(rows)] if rows.len() == 1), "{rows:?}");
        // A transaction that watched the key is aborted, also one that watched it before it was created.
        let watched = |mark: u64| Batch { watched: vec![(bytes(b"k8"), mark)], ops: vec![Op::Persist(bytes(b"k8"))] };
        assert_eq!(store.clone().run(at, watched(mark as u64)), BatchReply::Aborted);
        assert_eq!(store.clone().run(at, watched(super::commands::ABSENT)), BatchReply::Aborted);
        let now_absent = super::commands::ABSENT | store.revision();
        assert_eq!(store.clone().run(at, watched(now_absent)), BatchReply::Values(vec![Value::Int(0)]));
    }
    assert_eq!(saved(&copy), saved(&store));

    // Writes treat an expired key as missing, and a key that is written again survives the later removals.
    let lock = bytes(b"l\x02");
    let ops = vec![
        Op::Del(vec![bytes(b"k8")]),
        Op::Append { key: bytes(b"k7"), value: bytes(b"new") },
        Op::IncrBy { key: bytes(b"k6"), by: 2 },
        Op::Expire { key: bytes(b"k5"), expiry: super::Expiry::Never, condition: super::ExpireIf::Always },
        Op::LockAcquire { name: lock.clone(), ttl_ms: 1_000_000 },
    ];
    for store in [&mut store, &mut copy] {
        let values = run(store, 2, 1_100, ops.clone());
        assert_eq!(values[..4], [Value::Int(0), Value::Int(3), Value::Int(2), Value::Int(0)]);
        assert!(matches!(values[4], Value::Int(_)), "a lock that has expired is free");
        let mut index = 3;
        while store.next_expiry_ms() == Some(1_100) {
            store.expire(stamp(index, 1_100));
            store.check(stamp(index, 1_100));
            index += 1;
        }
        assert!((5..=9).contains(&index), "{index} entries, two removals each");
        let keys = store.read_batch(at, &one(Op::Keys(bytes(b"*"))));
        let names = ["k6", "k7", "stays"].map(|name| Value::Bytes(bytes(name.as_bytes())));
        assert_eq!(keys, Some(BatchReply::Values(vec![Value::List(names.to_vec())])));
        assert!(
            matches!(store.read_batch(at, &one(Op::LockInfo(lock.clone()))), Some(BatchReply::Values(v)) if v[0] != Value::Nil)
        );
    }
    assert_eq!(saved(&copy), saved(&store));
}

#[test]
fn looking_through_keys_takes_no_more_steps_than_an_entry_or_a_read_has() {
    let mut store = Store::default();
    let names: Vec<Vec<u8>> =
        (0..40).map(|n| [&b"a".repeat(20_000)[..], format!("{n:02}").as_bytes()].concat()).collect();
    let sets = names.iter().map(|name| set(name, super::Expiry::Never)).collect();
    run(&mut store, 1, 0, sets);
    let (entry, read) = (Value::Error(OpError::EntrySteps), Value::Error(OpError::ReadSteps));
    let slow = bytes(&[&b"*"[..], &b"a".repeat(40), b"b"].concat());
    let (keys, few) = (Op::Keys(slow.clone()), Op::Keys(bytes(b"*none")));

    // All batches of a log entry share one budget; operations that name their keys are executed without it.
    let x = || set(b"x", super::Expiry::Never);
    store.expire(stamp(2, 0));
    assert_eq!(
        run(&mut store, 2, 0, vec![x(), keys.clone(), x(), few.clone()]),
        [Value::Ok, entry.clone(), Value::Ok, entry.clone()]
    );
    let scan = Op::Scan { after: None, glob: Some(slow.clone()), count: 40 };
    let range = Op::Range { prefix: bytes(b""), after: None, limit: 5 };
    assert_eq!(
        run(&mut store, 2, 0, vec![few.clone(), scan.clone(), range, Op::Count]),
        [entry.clone(), entry.clone(), entry.clone(), Value::Int(41)]
    );
    store.expire(stamp(3, 0));
    assert_eq!(run(&mut store, 3, 0, vec![x(), Op::Keys(bytes(b"b*"))]), [Value::Ok, Value::List(Vec::new())]);

    // A read without the log has a larger budget; beyond it KEYS fails, and a page of SCAN ends.
    let ask = |op: Op| match store.read_batch(stamp(3, 0), &one(op)) {
        Some(BatchReply::Values(mut values)) => values.pop().unwrap(),
        other => panic!("no answer: {other:?}"),
    };
    assert_eq!(ask(keys), read);
    assert_eq!(ask(few), Value::List(Vec::new()));
    let (mut after, mut pages) = (None, 0);
    loop {
        let page = ask(Op::Scan { after: after.clone(), glob: Some(slow.clone()), count: 100 });
        let Value::List(parts) = page else { panic!("a page is a list: {page:?}") };
        assert_eq!(parts[1], Value::List(Vec::new()));
        pages += 1;
        let Value::Bytes(last) = &parts[0] else { break };
        assert!(after.as_ref().is_none_or(|before| before < last), "a page that goes back");
        after = Some(last.clone());
    }
    assert!((5..=10).contains(&pages), "{pages} pages of 6 million steps for 40 keys of 800,000");
    let hopeless = bytes(&[&b"*"[..], &b"a".repeat(400), b"b"].concat());
    assert_eq!(ask(Op::Scan { after: None, glob: Some(hopeless), count: 1 }), read);
}
