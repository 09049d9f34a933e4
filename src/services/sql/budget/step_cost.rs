//! What a step of a statement's program costs, computed from the program that SQLite compiled.
//!
//! Each instruction has a price (`program.rs`). A program without loops is charged once. A program with loops is
//! charged by the step: for each expensive instruction there is a shortest cycle through it, and in so many steps it
//! runs once at most; the sum over all of them is an upper bound of a step's average cost.
//!
//! Invariant: P1 a price follows from the statement, the schema and the tier alone: it is the same on every node.
//! Not here: the prices (`prices.rs`), counting steps (`services/sql/connection/hook_state.rs`), the length of values
//! (`length_tiers.rs`).

use super::prices::{MATCH_STEP, MATCH_STEP_BYTE, PLAIN, Price, of_words};
use super::program::Program;
use std::collections::BTreeMap;

/// Largest number of expensive instructions of a cycle times its instructions: above it no search is made, and each
/// step is charged as much as the most expensive one.
const SEARCHED_MAX: usize = 2_000_000;
/// The cost of reading an instruction, and of visiting one while searching for a path from another.
pub const STEPS_PER_INSTRUCTION: usize = 1_000;
const STEPS_PER_PAIR: usize = 4;
/// Shortest cycle that a program can have.
const SHORTEST_ROUND: u64 = 3;

/// The cost of a program.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// It searches a full-text index for words that are neither in the statement nor in its parameters.
    pub computes_words: bool,
    /// Upper bound of the average cost of a step, however often the program loops.
    pub per_step: Price,
    /// The cost of running every instruction once.
    pub once: Price,
    /// The cost of this computation.
    pub search: u64,
    pub instructions: usize,
    /// It names the function that ranks matches: any function, past the authorizer.
    pub names_rank: bool,
    /// Number of concatenated values, each of which may be as long as the tier allows.
    pub joined: usize,
}

impl Program {
    /// The cost of the program.
    pub fn cost(&self) -> Cost {
        let (per_step, search) = self.per_step();
        let words = self.asked.map_or(Price::default(), |asked| of_words(asked, MATCH_STEP, MATCH_STEP_BYTE));
        let once = self.instructions.iter().fold(Price::default(), |sum, one| sum + one.price);
        Cost {
            names_rank: self.names_rank,
            computes_words: self.asked.is_some_and(|asked| asked.are_computed),
            per_step: per_step + words,
            once,
            search,
            instructions: self.len(),
            joined: self.joined,
        }
    }

    /// The cost of a step, and the cost of computing it.
    fn per_step(&self) -> (Price, u64) {
        let mut search = self.len() * STEPS_PER_INSTRUCTION;
        let mut thousandths = Price::default();
        let mut seen = vec![0; self.len()];
        let cycles = self.cycles();
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, circle) in cycles.iter().enumerate().filter(|(_, circle)| **circle > 0) {
            members.entry(*circle).or_default().push(at);
        }
        for members in members.into_values() {
            let price = |at: &usize| self.instructions[*at].price;
            let dear: Vec<usize> = members
                .iter()
                .copied()
                .filter(|at| {
                    let one = price(at);
                    one.step > 2 || one.bytes > 2 || one.long > 0 || one.far > 0 || one.words > 0
                })
                .collect();
            let pairs = dear.len() * members.len();
            if self.is_tangled || pairs > SEARCHED_MAX {
                // No step costs more than the most expensive one.
                let most = |part: fn(&Price) -> u64| dear.iter().map(|at| part(&price(at))).max().unwrap_or(0);
                let dearest = Price {
                    step: most(|one| one.step),
                    bytes: most(|one| one.bytes),
                    long: most(|one| one.long),
                    far: most(|one| one.far),
                    words: most(|one| one.words),
                };
                thousandths = thousandths + dearest * 1000;
                continue;
            }
            search += pairs * STEPS_PER_PAIR;
            for at in dear {
                // A separate mark for each search.
                let round = self.round(at, &cycles, at + 1, &mut seen).max(SHORTEST_ROUND);
                thousandths = thousandths + price(&at) * 1000 / round;
            }
        }
        // Rounded up.
        let part = Price { step: 999, bytes: 999, long: 999, far: 999, words: 999 };
        (PLAIN + (thousandths + part) / 1000, search as u64)
    }

    /// The instructions that may follow an instruction.
    fn following(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let one = &self.instructions[at];
        let next = (!one.is_end).then_some(at + 1);
        one.jumps.iter().copied().chain(next).filter(|to| *to < self.len())
    }

    /// For each instruction the number of its cycle: instructions that can reach each other have the same. 0: the
    /// instruction runs once at most. (Tarjan's strongly connected components.)
    fn cycles(&self) -> Vec<usize> {
        let (mut order, mut lowest) = (vec![0; self.len()], vec![0; self.len()]);
        let (mut cycles, mut count, mut visited) = (vec![None; self.len()], 0, 0);
        let mut open = Vec::new();
        for first in 0..self.len() {
            if order[first] > 0 {
                continue;
            }
            let mut path = vec![(first, self.following(first))];
            while let Some((at, following)) = path.last_mut() {
                let at = *at;
                if order[at] == 0 {
                    visited += 1;
                    (order[at], lowest[at]) = (visited, visited);
                    open.push(at);
                }
                if let Some(to) = following.next() {
                    if order[to] == 0 {
                        path.push((to, self.following(to)));
                    } else if cycles[to].is_none() {
                        lowest[at] = lowest[at].min(order[to]);
                    }
                    continue;
                }
                path.pop();
                if let Some((before, _)) = path.last() {
                    lowest[*before] = lowest[*before].min(lowest[at]);
                }
                if lowest[at] == order[at] {
                    let from = open.iter().rposition(|one| *one == at).unwrap_or(0);
                    let is_circle = open.len() - from > 1 || self.following(at).any(|to| to == at);
                    count += usize::from(is_circle);
                    for one in open.drain(from..) {
                        cycles[one] = Some(if is_circle { count } else { 0 });
                    }
                }
            }
        }
        cycles.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Length in steps of the shortest path from an instruction of a cycle back to itself. `mark`: distinct for each
    /// search.
    fn round(&self, from: usize, cycles: &[usize], mark: usize, seen: &mut [usize]) -> u64 {
        let mut front = vec![from];
        for steps in 1.. {
            let mut next = Vec::new();
            for at in front {
                for to in self.following(at).filter(|to| cycles[*to] == cycles[from]) {
                    if to == from {
                        return steps;
                    }
                    if seen[to] != mark {
                        seen[to] = mark;
                        next.push(to);
                    }
                }
            }
            if next.is_empty() {
                break;
            }
            front = next;
        }
        SHORTEST_ROUND
    }
}

#[cfg(test)]
mod tests {
    use crate::services::sql::budget::prices::function;
    use crate::services::sql::budget::step_cost::*;
    use rusqlite::Connection;

    fn per_step(sql: &str) -> Price {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE t (a, b); CREATE TABLE u (a); CREATE TABLE v (a); CREATE INDEX i ON u(a); \
             CREATE TRIGGER r AFTER INSERT ON v BEGIN UPDATE u SET a = strftime('%J', new.a); END",
        )
        .unwrap();
        Program::of(&conn, sql, usize::MAX).unwrap().unwrap().per_step().0
    }

    #[test]
    fn loops_pay_for_the_instructions_inside() {
        assert_eq!(per_step("INSERT INTO t VALUES(1, strftime('%J', 5))"), PLAIN, "it only goes forward");
        let cheap = per_step("DELETE FROM t WHERE a > 1");
        let index = per_step("UPDATE u SET a = 5");
        let date = per_step("UPDATE u SET a = strftime('%J', a)");
        assert!(cheap.step < index.step && index.bytes < date.bytes, "{cheap:?} {index:?} {date:?}");
        // A coroutine, a subquery for each row, and a trigger.
        let date = function("strftime(-1)").bytes;
        for sql in [
            "INSERT INTO t SELECT a, strftime('%J', a) FROM u UNION ALL SELECT 1, 2",
            "INSERT INTO t SELECT 1, (SELECT max(strftime('%J', u.a)) FROM u WHERE u.a > t.a) FROM t",
            "INSERT INTO v SELECT a FROM t",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + strftime('%J', x) FROM c) INSERT INTO t SELECT x, 1 FROM c",
        ] {
            let price = per_step(sql);
            assert!(price.bytes > date / 60, "{sql}: {price:?}");
        }
    }

    #[test]
    fn collations_and_overflow_pages_are_priced_by_the_byte() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE n (a TEXT COLLATE NOCASE); CREATE INDEX ni ON n(a); CREATE TABLE b (a TEXT); CREATE INDEX bi ON b(a)",
        )
        .unwrap();
        let long = |sql: &str| {
            let price = Program::of(&conn, sql, usize::MAX).unwrap().unwrap().per_step().0;
            (price.bytes + price.long, price.far)
        };
        let of = |sql: &str| (long(&sql.replace('@', "n")), long(&sql.replace('@', "b")));
        for sql in [
            "SELECT count(*) FROM @ x CROSS JOIN @ y INDEXED BY @i ON x.a = y.a",
            "SELECT count(*) FROM @ x CROSS JOIN @ y ON +x.a = +y.a",
            "SELECT count(*) FROM (SELECT a FROM @ NOT INDEXED ORDER BY a)",
            "SELECT count(DISTINCT +a) FROM @ NOT INDEXED",
            "SELECT max(a, 'b', 'c') FROM @ NOT INDEXED",
            "INSERT INTO @ SELECT a FROM @",
        ] {
            let (folded, plain) = of(sql);
            assert!(folded.0 > plain.0 + 10, "{sql}: {folded:?} {plain:?}");
            assert!(plain.1 > 0, "{sql}: {plain:?}");
        }
        let (_, plain) = of("SELECT count(*) FROM @ x CROSS JOIN @ y INDEXED BY @i ON x.a = y.a");
        assert!(plain.1 > 50, "{plain:?}");
    }
}
