//! The checks of `order.rs`: what each rule forbids is found, also if no thread ever waits, and nothing else is.

use super::{Mutex, Permit, lock, wait, wait_timeout, wait_while};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// What a piece of code panics with.
fn panic_of(run: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(run)).err().map(|why| *why.downcast::<String>().expect("a formatted message"))
}

#[test]
fn the_reverse_order_is_found_with_both_places() {
    let (accounts, journal) = (Mutex::new([1; 3]), Mutex::new("entries"));
    for _ in 0..2 {
        drop(lock(&accounts));
        drop((lock(&accounts), lock(&journal)));
        drop(lock(&journal));
    }
    let line = line!();
    let why = panic_of(|| drop((lock(&journal), lock(&accounts)))).expect("the reverse order");
    assert!(why.starts_with("L1: Mutex<[i32; 3]> of src/lock/tests.rs:"), "{why}");
    assert!(why.contains("holds Mutex<&str> of src/lock/tests.rs:"), "{why}");
    for (at, places) in [(line - 6, 4), (line - 3, 2), (line + 1, 2)] {
        assert_eq!(why.matches(&format!("src/lock/tests.rs:{at}:")).count(), places, "line {at}: {why}");
    }
    drop((lock(&accounts), lock(&journal)));
    assert!(panic_of(|| drop((lock(&journal), lock(&accounts)))).is_some(), "again, and nothing stayed held");
}

#[test]
fn a_circle_of_three_is_found() {
    let (a, b, c) = (Mutex::new('a'), Mutex::new('b'), Mutex::new('c'));
    drop((lock(&a), lock(&b)));
    drop((lock(&b), lock(&c)));
    let why = panic_of(|| drop((lock(&c), lock(&a)))).expect("c would come before a");
    assert_eq!(why.matches(", and ").count(), 1, "a before b, and b before c: {why}");
}

#[test]
fn a_second_lock_of_a_class_is_found() {
    let [one, two] = [1, 2].map(|id| Mutex::new(id));
    drop(lock(&one));
    drop(lock(&two));
    let why = panic_of(|| drop((lock(&one), lock(&two)))).expect("another thread may do it the other way round");
    assert!(why.starts_with("L2: a second Mutex<i32> of src/lock/tests.rs:"), "{why}");
}

#[test]
fn locks_may_be_released_in_any_order() {
    let (a, b, c) = (Mutex::new('a'), Mutex::new('b'), Mutex::new('c'));
    let (first, second) = (lock(&a), lock(&b));
    drop(first);
    let third = lock(&c);
    drop(second);
    drop(third);
    drop((lock(&a), lock(&c)));
    assert!(panic_of(|| drop((lock(&c), lock(&b)))).is_some(), "b was held when c was taken");
}

#[test]
fn a_permit_is_refused_while_it_is_taken() {
    let permit = Permit::new();
    let taken = permit.try_take();
    assert!(taken.is_some() && permit.try_take().is_none() && permit.try_take().is_none());
    drop(taken);
    assert!(permit.try_take().is_some());
}

#[test]
fn a_thread_that_waits_on_a_condition_holds_no_other_mutex() {
    let (state, other, changed) = (Mutex::new(false), Mutex::new('x'), Condvar::new());
    drop(wait_timeout(&changed, lock(&state), Duration::from_millis(1)));
    drop(wait_while(&changed, lock(&state), Instant::now(), |is_set| !*is_set));
    let held = lock(&other);
    let why = panic_of(|| drop(wait(&changed, lock(&state)))).expect("two are held");
    assert!(why.starts_with("L3: ") && why.contains("holds Mutex<char>"), "{why}");
    drop(held);
    drop(lock(&state));
}

#[test]
fn a_derived_default_makes_one_class_for_each_type() {
    #[derive(Debug, Default)]
    struct Pair {
        one: Mutex<u8>,
        two: Mutex<u16>,
    }
    let pair = Pair::default();
    drop((lock(&pair.one), lock(&pair.two)));
    let why = panic_of(|| drop((lock(&pair.two), lock(&pair.one)))).expect("the reverse order");
    assert!(why.starts_with("L1: "), "{why}");
    let why = panic_of(|| drop(Arc::<Mutex<u8>>::default())).expect("its class would be that of all such");
    assert!(why.contains("is created by a container"), "{why}");
}

#[test]
fn whoever_has_a_permit_knows_that_another_was_refused() {
    let permit = Permit::new();
    let first = permit.try_take().unwrap();
    assert!(!first.is_wanted());
    assert!(permit.try_take().is_none() && first.is_wanted());
    drop(first);
    assert!(!permit.try_take().unwrap().is_wanted());
}
