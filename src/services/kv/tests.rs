//! Tests of the store: golden scripts, a model that random operations are compared with, and how it copes with a million keys.
//!
//! The scripts read like a session of redis-cli, and where Redis has the command, its answers are Redis' own: they were
//! compared with redis-server by hand. One behaviour per file in `scripts/`, named after it.
//! `UPDATE_GOLDENFILES=1 cargo test --lib services::kv` records them anew; read the difference before you commit it.
//! Not here: the language of the scripts (`tests/door.rs`), the model (`tests/model.rs`), figures (`tests/big.rs`).

mod big;
mod door;
mod model;

use super::{Op, Ran, Run, Store, Value};
use crate::services::trials::{self, restored, saved, stamp};
use crate::services::{Reply, Service};
use door::Session;

#[test]
fn scripts() {
    trials::scripts("kv", Session::default);
}

fn encode(run: &Run) -> Vec<u8> {
    postcard::to_stdvec(run).unwrap()
}

fn one(op: Op) -> Run {
    Run { watched: Vec::new(), ops: vec![op] }
}

fn ran(reply: Reply) -> Ran {
    let Reply::Ok(bytes) = reply else { panic!("no answer: {reply:?}") };
    Ran::decode(&bytes).unwrap()
}

#[test]
fn what_needs_the_log_is_refused_beside_it_and_garbage_everywhere() {
    let mut store = Store::default();
    let set = Op::Set {
        key: b"k".to_vec().into(),
        value: b"v".to_vec().into(),
        condition: super::Condition::Always,
        expiry: super::Expiry::Never,
        get: false,
    };
    let get = Op::Get(b"k".to_vec().into());
    let both = Run { watched: Vec::new(), ops: vec![get.clone(), set.clone()] };
    assert!(matches!(store.query(stamp(0, 0), &encode(&both)), Reply::Failed(_)));
    assert_eq!(ran(store.apply(stamp(1, 0), &encode(&both))), Ran::Values(vec![Value::Nil, Value::Ok]));
    let v = Value::Bytes(b"v".to_vec().into());
    assert_eq!(ran(store.query(stamp(1, 0), &encode(&one(get)))), Ran::Values(vec![v]));
    trials::garbage_changes_nothing(&mut store, &encode(&both));
}

#[test]
fn a_damaged_snapshot_is_an_error_and_no_allocation() {
    let mut store = Store::default();
    store.run(stamp(1, 0), one(Op::MSet(vec![(b"k".to_vec().into(), b"v".to_vec().into())])));
    store.run(stamp(2, 0), one(Op::LockAcquire { name: b"l".to_vec().into(), ttl_ms: 5 }));
    trials::damage_costs_nothing(&store);
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
fn a_run_cannot_answer_more_than_the_log_can_carry() {
    let mut store = Store::default();
    let value = vec![b'x'; super::op::VALUE_BYTES_MAX];
    store.run(stamp(1, 0), one(Op::MSet(vec![(b"k".to_vec().into(), value.into())])));
    let many = Op::MGet(vec![b"k".to_vec().into(); 1_000]);
    let too_large = Value::Error(super::op::TOO_LARGE_A_REPLY.to_string());
    assert_eq!(store.ask(stamp(1, 0), &one(many.clone())), Some(Ran::Values(vec![too_large.clone()])));
    let get = Op::Get(b"k".to_vec().into());
    let del = Op::GetDel(b"k".to_vec().into());
    let run = Run { watched: Vec::new(), ops: vec![get.clone(), get, del, Op::Exists(vec![b"k".to_vec().into()])] };
    let Ran::Values(values) = store.run(stamp(2, 0), run) else { panic!("nothing is watched") };
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
        let Some(Ran::Values(values)) = store.ask(stamp(9, 0), &one(op)) else { panic!("a range needs no log") };
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
        (set(super::op::KEY_BYTES_MAX, super::op::VALUE_BYTES_MAX), true),
        (set(super::op::KEY_BYTES_MAX + 1, 1), false),
        (set(1, super::op::VALUE_BYTES_MAX + 1), false),
        (Op::FlushAll, true),
        (Op::MSet(vec![(vec![b'k'; super::op::KEY_BYTES_MAX + 1].into(), vec![].into())]), false),
    ] {
        let certain = op.certain_reply();
        assert_eq!(certain.is_some(), is_certain);
        let Ran::Values(values) = store.run(stamp(1, 0), one(op)) else { panic!("nothing is watched") };
        assert!(certain.is_none_or(|certain| certain == values[0]));
    }
}
