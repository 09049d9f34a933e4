//! What a step of a statement's program costs, from the program that SQLite made of it.
//!
//! A step of SQLite's machine takes ten nanoseconds or ten microseconds, by what it does. So each instruction has a price: a part
//! for the work itself and a part for each 256 bytes that a value may have in the present gear. A program that only goes
//! forward pays it once. One that goes round pays by the step: for each dear instruction there is a shortest way round, and in so
//! many steps it runs once at most; the sum over all of them is what a step costs on average, at most.
//!
//! Invariant: P1 a price follows from the statement, the schema and the gear alone: it is the same on every node.
//! Not here: who counts (`watch.rs`), how long values may be (`gears.rs`).

use super::asked::{Asked, Registers};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;
use std::ops::{Add, Div, Mul, Range};
use std::sync::OnceLock;

/// Steps of the budget: some of them take a nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Whatever the length.
    pub step: u64,
    /// For each 256 bytes that a value may have.
    pub bytes: u64,
    /// For each byte of the parameters, where a full-text index is asked for them.
    pub words: u64,
}

impl Price {
    /// The same for a statement with so many bytes of parameters.
    pub fn with_parameters(self, bytes: usize) -> Price {
        Price { step: self.step.saturating_add(self.words.saturating_mul(bytes as u64)), words: 0, ..self }
    }
}

impl Add for Price {
    type Output = Price;

    fn add(self, other: Price) -> Price {
        Price {
            step: self.step.saturating_add(other.step),
            bytes: self.bytes.saturating_add(other.bytes),
            words: self.words.saturating_add(other.words),
        }
    }
}

impl Mul<u64> for Price {
    type Output = Price;

    fn mul(self, factor: u64) -> Price {
        let times = |part: u64| part.saturating_mul(factor);
        Price { step: times(self.step), bytes: times(self.bytes), words: times(self.words) }
    }
}

impl Div<u64> for Price {
    type Output = Price;

    fn div(self, divisor: u64) -> Price {
        Price { step: self.step / divisor, bytes: self.bytes / divisor, words: self.words / divisor }
    }
}

/// What a step costs of which nothing is known: it goes forward, once.
pub const PLAIN: Price = price(5, 1);
/// A step while a statement is prepared, in which SQLite looks at one way to join tables. It does so twice: once to be explained.
pub const PLANNED: Price = price(3_000, 0);
/// The same where a virtual table does its own work behind the program, with statements of its own.
pub const VIRTUAL: Price = price(15, 30);
/// A step of a program that asks a full-text index for words, which goes through pages of its own meanwhile.
const ASKED_STEP: u64 = 600;
/// What a byte of the words adds to it: each row is looked for by each word.
const ASKED_STEP_BYTE: u64 = 5;
/// What it costs to ask the index, and what each byte of the words adds.
const ASKED: u64 = 20_000;
const ASKED_BYTE: u64 = 14_000;
/// A function of which nothing is known.
const UNKNOWN_FUNCTION: Price = price(50, 300);
/// Dear instructions of a circle times all of it: beyond it nobody searches, and each step is thought to cost as much as the dearest.
const SEARCHED_MAX: usize = 2_000_000;
/// What it costs to read an instruction, and to look for one on the way from another.
pub const STEPS_PER_INSTRUCTION: usize = 1_000;
const STEPS_PER_PAIR: usize = 4;
/// Ways back from subroutines and coroutines: with more of them a program is too tangled to be searched.
const WAYS_PER_INSTRUCTION_MAX: usize = 8;
/// Shortest way round that a program can have.
const SHORTEST_ROUND: u64 = 3;

/// Instructions with their prices.
const INSTRUCTIONS: &[(&str, Price)] = &[
    ("Insert Delete", price(100, 110)),
    ("IdxInsert", price(2500, 300)),
    ("IdxDelete", price(3500, 40)),
    ("SeekRowid NotExists SeekGE SeekGT SeekLE SeekLT SeekScan FinishSeek DeferredSeek", price(30, 4)),
    ("NotFound Found NoConflict Last Rewind Sort", price(30, 4)),
    ("Next Prev", price(8, 1)),
    ("CreateBtree", price(4000, 0)),
    ("SorterInsert", price(60, 300)),
    ("SorterNext SorterCompare", price(25, 80)),
    ("SorterData RowData RowCell", price(3, 6)),
    ("RowSetAdd RowSetTest RowSetRead", price(30, 0)),
    ("OpenEphemeral OpenAutoindex SorterOpen ResetSorter Clear", price(300, 0)),
    ("OpenRead OpenWrite OpenDup ReopenIdx Program", price(40, 1)),
    ("Concat", price(4, 8)),
    ("Cast Affinity MustBeInt RealAffinity", price(4, 20)),
    ("Add Subtract Multiply Divide Remainder", price(2, 14)),
    ("Eq Ne Lt Le Gt Ge Compare ElseEq", price(1, 10)),
    ("VFilter VOpen", price(1100, 4)),
    ("VUpdate", price(350, 1700)),
    ("VNext VColumn VCreate VDestroy", price(50, 20)),
    ("ResultRow", price(10, 4)),
];

/// Functions with their prices; a star stands for the rest of a name.
const FUNCTIONS: &[(&str, Price)] = &[
    ("length octet_length typeof unicode abs sign coalesce ifnull nullif iif if zeroblob random", price(10, 4)),
    ("last_insert_rowid changes likely unlikely likelihood", price(10, 4)),
    ("count sum total avg min max row_number rank dense_rank ntile percent_rank cume_dist", price(10, 14)),
    ("lag lead first_value last_value nth_value", price(15, 20)),
    ("substr substring hex upper lower unhex char concat concat_ws group_concat string_agg", price(30, 12)),
    ("randomblob soundex", price(30, 50)),
    ("quote unistr_quote unistr", price(30, 30)),
    ("round ceil ceiling floor trunc pow power exp ln log log2 log10 mod sqrt pi radians degrees", price(60, 20)),
    ("sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh", price(60, 20)),
    ("replace", price(40, 200)),
    ("instr", price(40, 1600)),
    ("like glob trim ltrim rtrim", price(1500, 60)),
    ("printf format", price(600, 600)),
    ("date time datetime julianday unixepoch strftime timediff current_*", price(600, 6000)),
    ("json_group_*", price(400, 600)),
    ("json_patch jsonb_patch", price(700, 600)),
    ("json* ->*", price(100, 600)),
    ("percentile* median", price(100, 20)),
    ("snippet highlight bm25 rtreecheck", price(2000, 2000)),
    // ALTER TABLE has them parse definitions: see `definitions.rs`.
    ("sqlite_*", price(100, 4)),
];

const fn price(step: u64, bytes: u64) -> Price {
    Price { step, bytes, words: 0 }
}

/// What words cost: so much, and so much for each byte.
fn of_words(asked: Asked, step: u64, byte: u64) -> Price {
    Price { step: step + asked.bytes as u64 * byte, bytes: 0, words: asked.parameters as u64 * byte }
}

/// What a call costs, of a name that may have the number of its arguments behind it.
pub fn function(called: &str) -> Price {
    let name = called.split('(').next().unwrap_or_default().to_ascii_lowercase();
    let is = |known: &str| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == known,
    };
    let found = FUNCTIONS.iter().find(|(names, _)| names.split(' ').any(is));
    found.map_or(UNKNOWN_FUNCTION, |(_, price)| *price)
}

/// One instruction.
#[derive(Debug)]
struct Instruction {
    price: Price,
    /// Where it may go on but with the next.
    jumps: Vec<usize>,
    /// It never goes on with the next.
    is_end: bool,
}

/// Instructions that may go on at their second number.
const JUMPS: &str = "VFilter Init Goto Gosub InitCoroutine MustBeInt Jump Once If IfNot IsType IfNullRow SeekLT SeekLE \
SeekGE SeekGT SeekScan IfNoHope NoConflict NotFound Found SeekRowid NotExists Last IfSizeBetween SorterSort Sort Rewind IfEmpty SorterNext \
Prev Next IdxLE IdxGT IdxLT IdxGE IFindKey RowSetRead RowSetTest Program FkIfZero IsNull NotNull Ne Eq Gt Le Lt Ge ElseEq IfPos \
IfNotZero DecrJumpZero VNext Filter HaltIfNull";

/// What a program costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// It asks a full-text index for words that stand neither in it nor in its parameters.
    pub computes_words: bool,
    /// A step of it, on average at most, as often as it may go round.
    pub per_step: Price,
    /// All of it, once.
    pub once: Price,
    /// To find that out.
    pub search: u64,
    /// How long it is.
    pub instructions: usize,
}

/// What SQLite made of a statement, with its triggers.
#[derive(Debug, Default)]
pub struct Program {
    instructions: Vec<Instruction>,
    /// All words that it asks full-text indexes for.
    asked: Option<Asked>,
    /// It goes on in more ways than anybody would follow.
    is_tangled: bool,
}

/// Where a program goes on whose instruction does not say so itself: subroutines and coroutines keep it in a register.
#[derive(Debug, Default)]
struct Returns {
    /// Body of the coroutine of each register.
    bodies: BTreeMap<i64, Range<usize>>,
    /// Each `Yield`, its register, and where it goes on when its coroutine has ended.
    yields: Vec<(usize, i64, usize)>,
    /// Each `EndCoroutine` and its register.
    ends: Vec<(usize, i64)>,
    /// Instructions behind each `Gosub` of a register.
    calls: BTreeMap<i64, Vec<usize>>,
    /// Each `Return` and its register.
    returns: Vec<(usize, i64)>,
}

impl Program {
    /// Has SQLite explain a statement, which is the first and only one of `sql`. `None`: it has more than `most` instructions.
    ///
    /// # Errors
    /// It cannot be prepared.
    pub fn of(conn: &Connection, sql: &str, most: usize) -> Result<Option<Program>> {
        let mut explain = conn.prepare(&format!("EXPLAIN {sql}"))?;
        let mut rows = explain.raw_query();
        let mut program = Program::default();
        // A trigger's program stands behind, and counts from 0 again. It comes back when it has ended.
        let mut start = 0;
        let (mut returns, mut registers) = (Returns::default(), Registers::default());
        let mut is_at_end = false;
        let known = known_instructions();
        while let Some(row) = rows.next()? {
            let at = program.instructions.len();
            if at >= most {
                return Ok(None);
            }
            let [address, p1, p2, p3] = [0, 2, 3, 4].map(|column| row.get::<_, i64>(column).unwrap_or(0));
            if address == 0 && at > 0 {
                program.close(&std::mem::take(&mut returns));
                registers = Registers::default();
                start = at;
            }
            let ValueRef::Text(name) = row.get_ref(1)? else { continue };
            let name = std::str::from_utf8(name).unwrap_or_default();
            let known = known.get(name).copied().unwrap_or(Known { price: PLAIN, may_jump: false });
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
            registers.write(name, [p1, p2, p3], text);
            let asked = registers.asked(p3, text).filter(|_| name == "VFilter");
            program.asked = program.asked.into_iter().chain(asked).reduce(Asked::and);
            let is_end = matches!(name, "Goto" | "Jump" | "EndCoroutine" | "Gosub" | "Halt");
            if name == "Halt" && start > 0 {
                jumps.push(start);
            }
            let many = |count: i64| u64::try_from(count).unwrap_or(0);
            let price = match name {
                "Function" | "PureFunc" | "AggStep" | "AggInverse" | "AggValue" | "AggFinal" | "AggStep1" => {
                    function(row.get_ref(5)?.as_str().unwrap_or_default())
                }
                // The end of an index that is built in order.
                "IdxInsert" if is_at_end => price(50, 15),
                "Column" => price(2 + many(p2) / 4, 2),
                "MakeRecord" => price(4 + many(p2), 4),
                "Null" | "Copy" | "Move" => price(1 + many(p3) / 4, 1),
                _ => known.price,
            };
            is_at_end = name == "SeekEnd";
            let price = price + asked.map_or(Price::default(), |asked| of_words(asked, ASKED, ASKED_BYTE));
            program.instructions.push(Instruction { price, jumps, is_end });
        }
        program.close(&returns);
        Ok(Some(program))
    }

    /// Adds the ways back from subroutines and between coroutines.
    ///
    /// A coroutine and whoever asks it for rows take turns, and each goes on where it was: a `Yield` goes on behind itself, in no more
    /// steps than it really takes. From a coroutine it goes behind the question as well, since nobody may ask again.
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

    /// What it costs.
    pub fn cost(&self) -> Cost {
        let (per_step, search) = self.per_step();
        let words = self.asked.map_or(Price::default(), |asked| of_words(asked, ASKED_STEP, ASKED_STEP_BYTE));
        let once = self.instructions.iter().fold(Price::default(), |sum, one| sum + one.price);
        Cost {
            computes_words: self.asked.is_some_and(|asked| asked.are_computed),
            per_step: per_step + words,
            once,
            search,
            instructions: self.len(),
        }
    }

    fn len(&self) -> usize {
        self.instructions.len()
    }

    /// What a step costs, and what it costs to find that out.
    fn per_step(&self) -> (Price, u64) {
        let mut search = self.len() * STEPS_PER_INSTRUCTION;
        let mut thousandths = Price::default();
        let mut seen = vec![0; self.len()];
        let circles = self.circles();
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, circle) in circles.iter().enumerate().filter(|(_, circle)| **circle > 0) {
            members.entry(*circle).or_default().push(at);
        }
        for members in members.into_values() {
            let price = |at: &usize| self.instructions[*at].price;
            let dear: Vec<usize> = members
                .iter()
                .copied()
                .filter(|at| price(at).step > 2 || price(at).bytes > 2 || price(at).words > 0)
                .collect();
            let pairs = dear.len() * members.len();
            if self.is_tangled || pairs > SEARCHED_MAX {
                // No step costs more than the dearest.
                let most = |part: fn(&Price) -> u64| dear.iter().map(|at| part(&price(at))).max().unwrap_or(0);
                let dearest =
                    Price { step: most(|one| one.step), bytes: most(|one| one.bytes), words: most(|one| one.words) };
                thousandths = thousandths + dearest * 1000;
                continue;
            }
            search += pairs * STEPS_PER_PAIR;
            for at in dear {
                // A mark of its own for each search.
                let round = self.round(at, &circles, at + 1, &mut seen).max(SHORTEST_ROUND);
                thousandths = thousandths + price(&at) * 1000 / round;
            }
        }
        // Rounded up.
        let part = Price { step: 999, bytes: 999, words: 999 };
        (PLAIN + (thousandths + part) / 1000, search as u64)
    }

    /// Where an instruction may go on.
    fn following(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let one = &self.instructions[at];
        let next = (!one.is_end).then_some(at + 1);
        one.jumps.iter().copied().chain(next).filter(|to| *to < self.len())
    }

    /// For each instruction the number of the circle that it stands in: those that can be reached from each other have the same. 0: it runs
    /// once at most. (Tarjan's strongly connected components.)
    fn circles(&self) -> Vec<usize> {
        let (mut order, mut lowest) = (vec![0; self.len()], vec![0; self.len()]);
        let (mut circles, mut count, mut visited) = (vec![None; self.len()], 0, 0);
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
                    } else if circles[to].is_none() {
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
                        circles[one] = Some(if is_circle { count } else { 0 });
                    }
                }
            }
        }
        circles.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Steps of the shortest way from an instruction of a circle back to itself. `mark`: another for each search.
    fn round(&self, from: usize, circles: &[usize], mark: usize, seen: &mut [usize]) -> u64 {
        let mut front = vec![from];
        for steps in 1.. {
            let mut next = Vec::new();
            for at in front {
                for to in self.following(at).filter(|to| circles[*to] == circles[from]) {
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

/// What is known of an instruction by its name.
#[derive(Clone, Copy, Debug)]
struct Known {
    price: Price,
    /// It may go on at its second number.
    may_jump: bool,
}

fn known_instructions() -> &'static BTreeMap<&'static str, Known> {
    static KNOWN: OnceLock<BTreeMap<&str, Known>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known: BTreeMap<&str, Known> = BTreeMap::new();
        let of = |price| Known { price, may_jump: false };
        known.extend(
            INSTRUCTIONS.iter().flat_map(|(names, price)| names.split(' ').map(move |name| (name, of(*price)))),
        );
        for name in JUMPS.split(' ') {
            known.entry(name).or_insert(of(PLAIN)).may_jump = true;
        }
        known
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_goes_round_pays_for_what_is_on_its_way() {
        assert_eq!(per_step("INSERT INTO t VALUES(1, strftime('%J', 5))"), PLAIN, "it only goes forward");
        let cheap = per_step("DELETE FROM t WHERE a > 1");
        let index = per_step("UPDATE u SET a = 5");
        let date = per_step("UPDATE u SET a = strftime('%J', a)");
        assert!(cheap.step < index.step && index.bytes < date.bytes, "{cheap:?} {index:?} {date:?}");
        // A coroutine, a subquery for each row, a trigger.
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
}
