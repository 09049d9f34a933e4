//! Shrinking: the smallest run of a seed, found greedily, that still breaks the same rule.
//!
//! Every candidate restricts the plan of the last run that failed by one more part; it is kept if the same rule breaks
//! again. What a smaller run breaks need not have the same cause, which holds for every such search. Time is an input:
//! the caller says when it is enough. Not here: what can be left out (`restriction.rs`).

use super::restriction::{PARTS, Restriction};
use super::run::{Failure, Options, plan, run};
use crate::sim::environment::plan::{Plan, TICK_US};

/// Rounds over all candidates, at most: the second finds what became possible by the first.
const ROUNDS_MAX: usize = 3;

/// The search for a smaller run.
struct Search<'a> {
    seed: u64,
    /// As the smallest run so far.
    options: Options,
    failure: Failure,
    is_enough: &'a mut dyn FnMut() -> bool,
}

/// A smaller run that breaks the same rule as `failure` did under `options`, and its restriction; the run itself if
/// nothing can be left out before `is_enough` says so.
pub fn shrink(failure: &Failure, options: &Options, is_enough: &mut dyn FnMut() -> bool) -> (Failure, Restriction) {
    let options = Options { trace_lines: 0, ..*options };
    let mut search = Search { seed: failure.seed, options, failure: failure.clone(), is_enough };
    for _ in 0..ROUNDS_MAX {
        let before = search.options.restriction;
        search.cut_after_failure();
        search.nodes();
        search.clients();
        search.parts();
        search.operations();
        search.fault_phase();
        if search.options.restriction == before {
            break;
        }
    }
    search.cut_after_failure();
    (search.failure, search.options.restriction)
}

impl Search<'_> {
    /// Whether the same rule breaks with this restriction; then it is kept.
    fn holds(&mut self, change: impl FnOnce(&mut Restriction)) -> bool {
        let mut restriction = self.options.restriction;
        change(&mut restriction);
        if restriction == self.options.restriction || (self.is_enough)() {
            return false;
        }
        let options = Options { restriction, ..self.options };
        match run(self.seed, &options) {
            Err(failure) if failure.violation.rule == self.failure.violation.rule => {
                (self.options, self.failure) = (options, *failure);
                true
            }
            _ => false,
        }
    }

    /// What is broken at the end of a run has no earlier tick: then nothing is cut.
    fn cut_after_failure(&mut self) {
        let tick = self.failure.tick;
        self.holds(|restriction| restriction.until = Some(tick));
    }

    /// The end of the last run that failed would hide a later failure.
    fn holds_without_end(&mut self, change: impl FnOnce(&mut Restriction)) -> bool {
        self.holds(|restriction| {
            change(restriction);
            restriction.until = None;
        })
    }

    fn nodes(&mut self) {
        let most = self.options.restriction.nodes.unwrap_or_else(|| self.plan().nodes() + 1);
        for nodes in 1..most {
            if self.holds_without_end(|restriction| restriction.nodes = Some(nodes)) {
                break;
            }
        }
    }

    fn clients(&mut self) {
        for clients in 0..self.plan().clients {
            if self.holds_without_end(|restriction| restriction.clients = Some(clients)) {
                break;
            }
        }
    }

    fn parts(&mut self) {
        for at in 0..PARTS.len() {
            // What the plan does not have needs no mention.
            if !self.options.restriction.lacks(at) && self.changes_plan(at) {
                self.holds_without_end(|restriction| restriction.without |= 1 << at);
            }
        }
    }

    fn operations(&mut self) {
        let mut most = self.options.restriction.operations.unwrap_or(256);
        while most > 0 && self.holds_without_end(|restriction| restriction.operations = Some(most / 2)) {
            most /= 2;
        }
    }

    fn fault_phase(&mut self) {
        let mut most = self.failure.tick.min(self.plan().fault_us / TICK_US);
        while most > 1 && self.holds_without_end(|restriction| restriction.fault_ticks = Some(most / 2)) {
            most /= 2;
        }
    }

    /// The plan of the smallest run so far.
    fn plan(&self) -> Plan {
        plan(self.seed, &self.options)
    }

    fn changes_plan(&self, at: usize) -> bool {
        let mut options = self.options;
        options.restriction.without |= 1 << at;
        format!("{:?}", plan(self.seed, &options)) != format!("{:?}", self.plan())
    }
}
