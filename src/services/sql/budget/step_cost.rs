//! What a step of a statement's program costs, computed from the program that SQLite compiled.
//!
//! Each instruction has a price. A program without loops is charged once. A program with loops is charged by the step:
//! for each expensive instruction there is a shortest cycle through it, and in so many steps it runs once at most; the
//! sum over all of them is an upper bound of a step's average cost.
//!
//! Invariant: P1 a price follows from the statement, the schema and the tier alone: it is the same on every node.
//! Not here: the prices (`prices.rs`), counting steps (`services/sql/connection/hook_state.rs`), the length of values
//! (`length_tiers.rs`).

use super::fulltext::terms::{Registers, SearchTerms};
use super::prices::{
    COLLATION, Keys, KnownInstruction, LARGEST_OF_MANY, MATCH_SEARCH, MATCH_SEARCH_BYTE, MATCH_STEP, MATCH_STEP_BYTE,
    PLAIN, Price, comparison, folds, function, is_largest_of_many, known_instructions, of_words, price,
};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// Largest number of expensive instructions of a cycle times its instructions: above it no search is made, and each
/// step is charged as much as the most expensive one.
const SEARCHED_MAX: usize = 2_000_000;
/// The cost of reading an instruction, and of visiting one while searching for a path from another.
pub const STEPS_PER_INSTRUCTION: usize = 1_000;
const STEPS_PER_PAIR: usize = 4;
/// Largest number of return edges for each instruction: a program with more is too complex to be searched.
const WAYS_PER_INSTRUCTION_MAX: usize = 8;
/// Shortest cycle that a program can have.
const SHORTEST_ROUND: u64 = 3;

#[derive(Debug)]
struct Instruction {
    price: Price,
    /// Instructions that may follow, except the next one.
    jumps: Vec<usize>,
    /// The next instruction never follows.
    is_end: bool,
}

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

/// The program that SQLite compiled from a statement, including its triggers.
#[derive(Debug, Default)]
pub struct Program {
    instructions: Vec<Instruction>,
    /// All search terms for full-text indexes.
    pub asked: Option<SearchTerms>,
    /// All marks that it puts around matched words.
    pub marks: Option<SearchTerms>,
    /// It names the function that ranks the matches of a full-text index, by `rank MATCH` or in another way.
    pub names_rank: bool,
    /// Instructions that concatenate values.
    joined: usize,
    /// It has more control-flow edges than can be followed.
    is_tangled: bool,
}

/// Jump targets that are not in the instruction itself: subroutines and coroutines keep them in a register.
#[derive(Debug, Default)]
struct Returns {
    /// Body of the coroutine of each register.
    bodies: BTreeMap<i64, Range<usize>>,
    /// Each `Yield`, its register, and where the program continues when the coroutine has ended.
    yields: Vec<(usize, i64, usize)>,
    /// Each `EndCoroutine` and its register.
    ends: Vec<(usize, i64)>,
    /// The instruction after each `Gosub` of a register.
    calls: BTreeMap<i64, Vec<usize>>,
    /// Each `Return` and its register.
    returns: Vec<(usize, i64)>,
}

impl Program {
    /// Makes SQLite explain a statement, which is the first and only one of `sql`. `None`: it has more than `most`
    /// instructions.
    ///
    /// # Errors
    /// The statement cannot be prepared.
    pub fn of(conn: &Connection, sql: &str, most: usize) -> Result<Option<Program>> {
        let mut explain = conn.prepare(&format!("EXPLAIN {sql}"))?;
        let mut rows = explain.raw_query();
        let mut program = Program::default();
        // A trigger's program follows, numbered from 0 again. It returns when it has ended.
        let mut start = 0;
        let (mut returns, mut registers) = (Returns::default(), Registers::default());
        let (mut is_at_end, mut compares) = (false, false);
        let mut cursors: BTreeMap<i64, Keys> = BTreeMap::new();
        let known = known_instructions();
        while let Some(row) = rows.next()? {
            let at = program.instructions.len();
            if at >= most {
                return Ok(None);
            }
            let [address, p1, p2, p3, p5] = [0, 2, 3, 4, 6].map(|column| row.get::<_, i64>(column).unwrap_or(0));
            if address == 0 && at > 0 {
                program.close(&std::mem::take(&mut returns));
                program.marks = program.marks.into_iter().chain(registers.marks()).reduce(SearchTerms::and);
                registers = Registers::default();
                cursors.clear();
                start = at;
            }
            let ValueRef::Text(name) = row.get_ref(1)? else { continue };
            let name = std::str::from_utf8(name).unwrap_or_default();
            let known = known.get(name).copied().unwrap_or(KnownInstruction { price: PLAIN, may_jump: false });
            let to = |p: i64| start + usize::try_from(p).unwrap_or(0);
            let mut jumps = Vec::new();
            if known.may_jump {
                jumps.push(to(p2));
            }
            match name {
                "Jump" => jumps.extend([to(p1), to(p3)]),
                "InitCoroutine" => {
                    jumps.push(to(p3));
                    returns.bodies.insert(p1, to(p3)..to(p2));
                }
                "Gosub" => returns.calls.entry(p1).or_default().push(at + 1),
                "Yield" => returns.yields.push((at, p1, to(p2))),
                "EndCoroutine" => returns.ends.push((at, p1)),
                "Return" => returns.returns.push((at, p1)),
                _ => {}
            }
            let text = row.get_ref(5)?.as_bytes_or_null().unwrap_or(None).unwrap_or_default();
            registers.write(name, [p1, p2, p3], text, known.may_jump);
            if matches!(name, "Function" | "PureFunc")
                && (text.starts_with(b"highlight(") || text.starts_with(b"snippet("))
            {
                registers.call(std::str::from_utf8(text).unwrap_or_default(), p2);
            }
            program.names_rank |= name == "VFilter" && text.contains(&b'r');
            let asked = registers.asked(p3, text).filter(|_| name == "VFilter");
            program.asked = program.asked.into_iter().chain(asked).reduce(SearchTerms::and);
            program.joined += usize::from(name == "Concat");
            let is_end = matches!(name, "Goto" | "Jump" | "EndCoroutine" | "Gosub" | "Halt");
            if name == "Halt" && start > 0 {
                jumps.push(start);
            }
            let many = |count: i64| u64::try_from(count).unwrap_or(0);
            let price = match name {
                "Function" | "PureFunc" | "AggStep" | "AggInverse" | "AggValue" | "AggFinal" | "AggStep1" => {
                    let called = std::str::from_utf8(text).unwrap_or_default();
                    let folded = if compares { COLLATION } else { Price::default() };
                    let compared = if is_largest_of_many(called) { LARGEST_OF_MANY } else { 1 };
                    function(called) + folded + (price(0, 0).long(10) + folded) * (compared - 1)
                }
                // Appends to an index that is built in order.
                "IdxInsert" if is_at_end => price(50, 15).long(20),
                "Column" => price(2 + many(p2) / 4, 2).far(40),
                "MakeRecord" => price(4 + many(p2), 4).long(20),
                "Null" | "Copy" | "Move" => price(1 + many(p3) / 4, 1).long(20),
                "Eq" | "Ne" | "Lt" | "Le" | "Gt" | "Ge" => known.price + comparison(folds(text), p5),
                "Compare" if folds(text) => known.price + COLLATION,
                _ => known.price + cursors.get(&p1).map_or(Price::default(), |keys| keys.more(name)),
            };
            if name.starts_with("Open") || matches!(name, "ReopenIdx" | "SorterOpen") {
                cursors.insert(p1, Keys::of(text));
            }
            is_at_end = name == "SeekEnd";
            compares = name == "CollSeq" && folds(text);
            let price =
                price + asked.map_or(Price::default(), |asked| of_words(asked, MATCH_SEARCH, MATCH_SEARCH_BYTE));
            program.instructions.push(Instruction { price, jumps, is_end });
        }
        program.close(&returns);
        program.marks = program.marks.into_iter().chain(registers.marks()).reduce(SearchTerms::and);
        Ok(Some(program))
    }

    /// Adds the return edges of subroutines and coroutines.
    ///
    /// A coroutine and its caller alternate, and each continues where it stopped: a `Yield` of the caller is treated as
    /// continuing with the next instruction, which is never more steps than it really takes. A `Yield` of the coroutine
    /// also continues after the caller's `Yield`, since the caller may not ask for another row.
    fn close(&mut self, returns: &Returns) {
        let is_within = |at: &usize, register: &i64| returns.bodies.get(register).is_some_and(|body| body.contains(at));
        let mut asked: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
        let mut ways: Vec<(usize, usize)> = Vec::new();
        for (at, register, ended) in returns.yields.iter().filter(|(at, register, _)| !is_within(at, register)) {
            asked.entry(*register).or_default().push((at + 1, *ended));
            ways.push((*at, *ended));
        }
        let most = ways.len() + WAYS_PER_INSTRUCTION_MAX * self.len();
        let asked = |register: &i64| asked.get(register).into_iter().flatten();
        let from_yields = returns.yields.iter().filter(|(at, register, _)| is_within(at, register));
        let from_yields = from_yields.flat_map(|(at, register, _)| asked(register).map(|(behind, _)| (*at, *behind)));
        let from_ends = returns.ends.iter().flat_map(|(at, register)| asked(register).map(|(_, ended)| (*at, *ended)));
        let called = |register: &i64| returns.calls.get(register).into_iter().flatten();
        let from_calls =
            returns.returns.iter().flat_map(|(at, register)| called(register).map(|behind| (*at, *behind)));
        ways.extend(from_yields.chain(from_ends).chain(from_calls).take(most + 1 - ways.len()));
        self.is_tangled |= ways.len() > most;
        for (at, to) in ways {
            self.instructions[at].jumps.push(to);
        }
    }

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

    fn len(&self) -> usize {
        self.instructions.len()
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
    use crate::services::sql::budget::step_cost::*;

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
