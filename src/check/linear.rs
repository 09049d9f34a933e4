//! Decides whether a history is linearizable: the algorithm of Wing and Gong with the cache of Lowe (WGL), per
//! register.
//!
//! A history is linearizable if each key's is (Herlihy and Wing), so each key is searched alone. The search walks the
//! calls and returns in time order, tries each operation that may come next, and goes back when an operation returns
//! that could not be placed. A configuration (which operations are placed, what the register holds) that failed once
//! is never entered again. The search is exponential at worst, so it is bounded: beyond `steps_max` the verdict is
//! [`Verdict::Undecided`], which does not prove the history correct.
//!
//! Not here: the format of histories (`history.rs`).

use super::history::{Action, Operation};
use std::collections::{BTreeMap, BTreeSet};

/// The result of checking a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every key has an order that explains all answers.
    Ok,
    /// Some key has none: a proof that the system broke its promise.
    Violation,
    /// The bound was reached before an order was found or excluded.
    Undecided,
}

/// A verdict with its reasons.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The verdict over all keys: a violation outweighs an undecided key.
    pub verdict: Verdict,
    /// For a violation or an undecided key: the key, and the operation that has no place in the order.
    pub why: Option<String>,
}

/// Checks a history of registers that start empty. `steps_max` bounds the search of each key.
pub fn check_history(operations: &[Operation], steps_max: u64) -> Judgement {
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        let says_nothing = matches!(operation.action, Action::Read(_)) && operation.return_us.is_none();
        if !says_nothing {
            by_key.entry(&operation.key).or_default().push(operation);
        }
    }
    let mut judgement = Judgement { verdict: Verdict::Ok, why: None };
    for (key, operations) in by_key {
        let mut search = Search::new(&operations);
        match search.run(steps_max) {
            Verdict::Ok => {}
            Verdict::Undecided if judgement.verdict == Verdict::Ok => {
                judgement.verdict = Verdict::Undecided;
                judgement.why = Some(format!("key {key}: no order found within {steps_max} steps"));
            }
            Verdict::Undecided => {}
            Verdict::Violation => {
                let stuck = operations[search.stuck];
                judgement.verdict = Verdict::Violation;
                judgement.why = Some(format!(
                    "key {key}: no order explains {:?} of client {}, called at {} and returned at {}",
                    stuck.action,
                    stuck.client,
                    stuck.call_us,
                    stuck.return_us.map_or("never".into(), |at| at.to_string()),
                ));
                return judgement;
            }
        }
    }
    judgement
}

/// What an operation does to the register; values are numbered, 0 is an empty register.
#[derive(Clone, Copy)]
enum Step {
    Write(u32),
    Read(u32),
    Swap { from: u32, to: u32, done: Option<bool> },
    Add { by: i64, sum: Option<i64> },
}

/// The values of one register by number. A sum that no client saw is numbered when the search first reaches it.
#[derive(Default)]
struct Values {
    numbers: BTreeMap<String, u32>,
    /// By number, from 1 on: the value as a number, if it is one.
    integers: Vec<Option<i64>>,
}

impl Values {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        self.integers.push(text.parse().ok());
        let number = self.integers.len() as u32;
        self.numbers.insert(text.to_string(), number);
        number
    }

    fn integer(&self, number: u32) -> Option<i64> {
        if number == 0 { Some(0) } else { self.integers[number as usize - 1] }
    }
}

impl Step {
    fn of(action: &Action, values: &mut Values) -> Step {
        let mut maybe = |text: &Option<String>| text.as_ref().map_or(0, |text| values.number(text));
        match action {
            Action::Write(value) => Step::Write(values.number(value)),
            Action::Read(value) => Step::Read(maybe(value)),
            Action::Swap { from, to, done } => {
                let from = maybe(from);
                Step::Swap { from, to: values.number(to), done: *done }
            }
            Action::Add { by, sum } => Step::Add { by: *by, sum: *sum },
        }
    }

    /// What the register holds if this operation comes next; `None`: its recorded result excludes that.
    fn after(self, value: u32, values: &mut Values) -> Option<u32> {
        match self {
            Step::Write(new) => Some(new),
            Step::Read(seen) => (seen == value).then_some(value),
            Step::Swap { from, to, done } => {
                let is_done = from == value;
                let is_explained = done.is_none_or(|done| done == is_done);
                is_explained.then_some(if is_done { to } else { value })
            }
            Step::Add { by, sum } => {
                let now = values.integer(value)?.checked_add(by)?;
                sum.is_none_or(|sum| sum == now).then(|| values.number(&now.to_string()))
            }
        }
    }
}

/// A call or a return in the time line, a doubly linked list: a placed operation is lifted out of it.
#[derive(Clone, Copy)]
struct TimelineEvent {
    operation: usize,
    is_call: bool,
    prev: usize,
    next: usize,
}

/// Head of the list; also its end.
const HEAD: usize = 0;

struct Search {
    steps: Vec<Step>,
    values: Values,
    marks: Vec<TimelineEvent>,
    /// Where each operation's call and return stand in `marks`; a return that never came has none.
    places: Vec<(usize, Option<usize>)>,
    /// Completed operations not yet placed.
    open: usize,
    /// The operation whose return stopped the longest attempt, for the report to a person.
    stuck: usize,
}

impl Search {
    fn new(operations: &[&Operation]) -> Search {
        let mut values = Values::default();
        let steps: Vec<Step> = operations.iter().map(|operation| Step::of(&operation.action, &mut values)).collect();

        // At equal times calls come first: two operations that touch count as concurrent, which accepts more histories
        // and reports no false violation.
        let mut line: Vec<(u64, bool, usize)> = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            line.push((operation.call_us, false, at));
            if let Some(back) = operation.return_us {
                line.push((back, true, at));
            }
        }
        line.sort();
        let mut marks = vec![TimelineEvent { operation: usize::MAX, is_call: false, prev: HEAD, next: HEAD }];
        let mut places = vec![(HEAD, None); operations.len()];
        for (_, is_return, operation) in line {
            let here = marks.len();
            marks.push(TimelineEvent { operation, is_call: !is_return, prev: here - 1, next: HEAD });
            marks[here - 1].next = here;
            if is_return {
                places[operation].1 = Some(here);
            } else {
                places[operation].0 = here;
            }
        }
        let last = marks.len() - 1;
        marks[HEAD].prev = last;
        let open = operations.iter().filter(|operation| operation.return_us.is_some()).count();
        Search { steps, values, marks, places, open, stuck: 0 }
    }

    fn unlink(&mut self, at: usize) {
        let TimelineEvent { prev, next, .. } = self.marks[at];
        self.marks[prev].next = next;
        self.marks[next].prev = prev;
    }

    fn relink(&mut self, at: usize) {
        let TimelineEvent { prev, next, .. } = self.marks[at];
        self.marks[prev].next = at;
        self.marks[next].prev = at;
    }

    fn lift(&mut self, operation: usize) {
        let (call, back) = self.places[operation];
        self.unlink(call);
        if let Some(back) = back {
            self.unlink(back);
            self.open -= 1;
        }
    }

    /// Undoes `lift`, in exactly the opposite order.
    fn unlift(&mut self, operation: usize) {
        let (call, back) = self.places[operation];
        if let Some(back) = back {
            self.relink(back);
            self.open += 1;
        }
        self.relink(call);
    }

    fn run(&mut self, steps_max: u64) -> Verdict {
        let mut placed = vec![0u64; self.steps.len().div_ceil(64)];
        let mut value = 0u32;
        let mut failed: BTreeSet<(Vec<u64>, u32)> = BTreeSet::new();
        let mut path: Vec<(usize, u32)> = Vec::new();
        let mut longest = 0;
        let mut at = self.marks[HEAD].next;
        for _ in 0..steps_max {
            if self.open == 0 {
                return Verdict::Ok;
            }
            let mark = self.marks[at];
            if at != HEAD && mark.is_call {
                let operation = mark.operation;
                let after = self.steps[operation].after(value, &mut self.values);
                let (word, bit) = (operation / 64, 1u64 << (operation % 64));
                if let Some(after) = after {
                    placed[word] |= bit;
                    if failed.insert((placed.clone(), after)) {
                        path.push((operation, value));
                        value = after;
                        self.lift(operation);
                        at = self.marks[HEAD].next;
                        continue;
                    }
                    placed[word] &= !bit;
                }
                at = mark.next;
                continue;
            }
            // A return that could not be placed (or the end of the line): the last placement was wrong.
            if at != HEAD && path.len() >= longest {
                longest = path.len();
                self.stuck = mark.operation;
            }
            let Some((operation, before)) = path.pop() else { return Verdict::Violation };
            placed[operation / 64] &= !(1u64 << (operation % 64));
            value = before;
            self.unlift(operation);
            at = self.marks[self.places[operation].0].next;
        }
        Verdict::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps per key that suffice for these histories.
    const STEPS_MAX: u64 = 5_000_000;

    fn write(client: u64, value: &str, call_us: u64, return_us: impl Into<Option<u64>>) -> Operation {
        let action = Action::Write(value.into());
        Operation { client, key: "k".into(), call_us, return_us: return_us.into(), action }
    }

    fn read(client: u64, value: impl Into<Option<&'static str>>, call_us: u64, return_us: u64) -> Operation {
        let action = Action::Read(value.into().map(str::to_string));
        Operation { client, key: "k".into(), call_us, return_us: Some(return_us), action }
    }

    fn verdict(history: &[Operation]) -> Verdict {
        check_history(history, STEPS_MAX).verdict
    }

    fn add(client: u64, sum: impl Into<Option<i64>>, call_us: u64, return_us: impl Into<Option<u64>>) -> Operation {
        let action = Action::Add { by: 1, sum: sum.into() };
        Operation { client, key: "k".into(), call_us, return_us: return_us.into(), action }
    }

    fn swap(client: u64, from: &str, to: &str, done: impl Into<Option<bool>>, call_us: u64) -> Operation {
        let (done, from) = (done.into(), Some(from.to_string()));
        let return_us = done.map(|_| call_us + 1);
        let action = Action::Swap { from, to: to.into(), done };
        Operation { client, key: "k".into(), call_us, return_us, action }
    }

    #[test]
    fn an_increment_counts_once() {
        assert_eq!(verdict(&[add(1, 1, 0, 9), add(2, 2, 0, 9), add(3, 3, 10, 11)]), Verdict::Ok);
        assert_eq!(verdict(&[add(1, 1, 0, 1), add(1, 3, 2, 3)]), Verdict::Violation, "it was counted twice");
        assert_eq!(verdict(&[add(1, 1, 0, 9), add(2, 1, 0, 9)]), Verdict::Violation, "one of them was lost");
        assert_eq!(verdict(&[add(1, None, 0, None), add(2, 2, 5, 6), read(3, "2", 7, 8)]), Verdict::Ok);
        assert_eq!(verdict(&[add(1, None, 5, None), add(2, 2, 0, 4)]), Verdict::Violation, "it came before its call");
        assert_eq!(verdict(&[write(1, "x", 0, 1), add(2, 1, 2, 3)]), Verdict::Violation, "no number to add to");
    }

    #[test]
    fn a_swap_is_done_if_and_only_if_the_value_was_there() {
        let a = write(1, "a", 0, 1);
        assert_eq!(verdict(&[a.clone(), swap(1, "a", "b", true, 2), read(1, "b", 4, 5)]), Verdict::Ok);
        assert_eq!(verdict(&[a.clone(), swap(1, "a", "b", false, 2)]), Verdict::Violation);
        assert_eq!(verdict(&[a.clone(), swap(1, "x", "b", true, 2)]), Verdict::Violation);
        assert_eq!(verdict(&[a.clone(), swap(1, "x", "b", false, 2), read(1, "a", 4, 5)]), Verdict::Ok);
        assert_eq!(
            verdict(&[a.clone(), swap(1, "a", "b", None, 2), read(1, "a", 4, 5), read(1, "b", 6, 7)]),
            Verdict::Ok
        );
        assert_eq!(
            verdict(&[a, swap(1, "a", "b", None, 2), read(1, "b", 4, 5), read(1, "a", 6, 7)]),
            Verdict::Violation
        );
    }

    #[test]
    fn one_after_the_other_is_fine() {
        assert_eq!(verdict(&[]), Verdict::Ok);
        assert_eq!(
            verdict(&[read(1, None, 0, 1), write(1, "a", 2, 3), read(2, "a", 4, 5), write(2, "b", 6, 7)]),
            Verdict::Ok
        );
    }

    #[test]
    fn a_stale_read_is_a_violation() {
        let judgement = check_history(
            &[write(1, "a", 0, 1), write(1, "b", 2, 3), read(2, "a", 4, 5), read(3, "b", 6, 7)],
            STEPS_MAX,
        );
        assert_eq!(judgement.verdict, Verdict::Violation);
        assert!(judgement.why.unwrap().contains("client 2"));
    }

    #[test]
    fn a_read_may_see_either_side_of_a_concurrent_write_but_not_go_back() {
        let concurrent = [write(1, "a", 0, 1), write(1, "b", 2, 10), read(2, "a", 3, 4), read(2, "b", 5, 6)];
        assert_eq!(verdict(&concurrent), Verdict::Ok);
        let back = [write(1, "a", 0, 1), write(1, "b", 2, 10), read(2, "b", 3, 4), read(2, "a", 5, 6)];
        assert_eq!(verdict(&back), Verdict::Violation);
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never() {
        let late = [write(1, "a", 0, 1), write(2, "b", 2, None), read(3, "a", 4, 5), read(3, "b", 600, 700)];
        assert_eq!(verdict(&late), Verdict::Ok);
        let never = [write(1, "a", 0, 1), write(2, "b", 2, None), read(3, "a", 600, 700)];
        assert_eq!(verdict(&never), Verdict::Ok);
        let twice =
            [write(1, "a", 0, 1), write(2, "b", 2, None), read(3, "b", 4, 5), write(1, "c", 6, 7), read(3, "b", 8, 9)];
        assert_eq!(verdict(&twice), Verdict::Violation);
    }

    #[test]
    fn a_value_that_nobody_wrote_is_a_violation() {
        assert_eq!(verdict(&[write(1, "a", 0, 1), read(2, "x", 0, 9)]), Verdict::Violation);
        assert_eq!(verdict(&[write(1, "a", 0, 1), read(2, None, 2, 9)]), Verdict::Violation);
    }

    #[test]
    fn keys_are_checked_separately() {
        let mut other = read(2, None, 2, 3);
        other.key = "other".into();
        let judgement = check_history(&[write(1, "a", 0, 1), other, read(2, "a", 4, 5)], STEPS_MAX);
        assert_eq!(judgement.verdict, Verdict::Ok);
    }

    #[test]
    fn a_bounded_search_can_be_undecided() {
        let many: Vec<Operation> = (0..12).map(|n| write(n, &n.to_string(), 0, 100)).collect();
        let mut history = many.clone();
        history.push(read(99, "nobody's", 200, 300));
        assert_eq!(check_history(&history, 100).verdict, Verdict::Undecided);
        assert_eq!(check_history(&history, STEPS_MAX).verdict, Verdict::Violation);
    }

    /// Random histories made by a real register are accepted; with one answer falsified most are not.
    #[test]
    fn random_histories_of_a_real_register() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut caught = 0;
        for round in 0..200 {
            let mut history = Vec::new();
            let mut value: Option<String> = None;
            let mut now = 0;
            for n in 0..40 {
                // Each operation takes effect at `now`; its call and return spread around it.
                now += rng.u64(1..20);
                let (call, back) = (now - rng.u64(0..now.min(15)), now + rng.u64(0..15));
                let client = n;
                let action = if rng.bool() {
                    value = Some(format!("{round}.{n}"));
                    Action::Write(format!("{round}.{n}"))
                } else {
                    Action::Read(value.clone())
                };
                history.push(Operation { client, key: "k".into(), call_us: call, return_us: Some(back), action });
            }
            assert_eq!(verdict(&history), Verdict::Ok, "round {round}");
            let reads: Vec<usize> = (20..40).filter(|&at| matches!(history[at].action, Action::Read(_))).collect();
            if let Some(&at) = reads.last() {
                history[at].action = Action::Read(None);
                caught += usize::from(verdict(&history) == Verdict::Violation);
            }
        }
        assert!(caught > 150, "only {caught} falsified histories were caught");
    }
}
