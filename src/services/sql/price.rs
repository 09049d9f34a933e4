//! What a step of a statement's program costs, from the program that SQLite made of it.
//!
//! A step of SQLite's machine takes ten nanoseconds or ten microseconds, by what it does. So each instruction has a price: a part
//! for the work itself and a part for each 256 bytes that a value may have in the present gear. A program that only goes
//! forward pays it once. One that goes round pays by the step: for each dear instruction there is a shortest way round, and in so
//! many steps it runs once at most; the sum over all of them is what a step costs on average, at most.
//!
//! Invariant: P1 a price follows from the statement, the schema and the gear alone: it is the same on every node.
//! Not here: who counts (`watch.rs`), how long values may be (`gears.rs`).

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};

/// Steps of the budget: some of them take a nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Whatever the length.
    pub step: u64,
    /// For each 256 bytes that a value may have.
    pub bytes: u64,
}

/// What a step costs of which nothing is known: it goes forward, once.
pub const PLAIN: Price = Price { step: 5, bytes: 1 };
/// The same where a virtual table does its own work behind the program, with statements of its own.
pub const VIRTUAL: Price = Price { step: 20, bytes: 40 };
/// A function of which nothing is known.
const UNKNOWN_FUNCTION: Price = Price { step: 50, bytes: 300 };
/// Dear instructions times all of them: beyond it nobody searches, and each is thought to be next to itself.
const SEARCHED_MAX: usize = 2_000_000;
/// What it costs to read an instruction, and to look for one on the way from another.
const STEPS_PER_INSTRUCTION: usize = 200;
const STEPS_PER_PAIR: usize = 4;
/// Shortest way round that a program can have.
const SHORTEST_ROUND: u64 = 3;

/// Instructions with their prices.
const INSTRUCTIONS: &[(&str, Price)] = &[
    ("Insert Delete", price(100, 60)),
    ("IdxInsert", price(1300, 140)),
    ("IdxDelete", price(600, 20)),
    ("SeekRowid NotExists SeekGE SeekGT SeekLE SeekLT SeekScan FinishSeek DeferredSeek", price(30, 4)),
    ("NotFound Found NoConflict Last Rewind Sort", price(30, 4)),
    ("Next Prev", price(8, 1)),
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
    ("VFilter VOpen", price(1500, 4)),
    ("VUpdate", price(500, 3000)),
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
    ("date time datetime julianday unixepoch strftime timediff current_*", price(600, 5000)),
    ("json_group_*", price(400, 600)),
    ("json_patch jsonb_patch", price(700, 600)),
    ("json* ->*", price(100, 600)),
    ("percentile* median", price(100, 20)),
    ("snippet highlight bm25 rtreecheck", price(2000, 2000)),
    ("sqlite_*", price(600, 500)),
];

const fn price(step: u64, bytes: u64) -> Price {
    Price { step, bytes }
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
const JUMPS: &str = " VFilter Init Goto Gosub InitCoroutine Yield EndCoroutine MustBeInt Jump Once If IfNot IsType IfNullRow SeekLT SeekLE \
SeekGE SeekGT SeekScan IfNoHope NoConflict NotFound Found SeekRowid NotExists Last IfSizeBetween SorterSort Sort Rewind IfEmpty SorterNext \
Prev Next IdxLE IdxGT IdxLT IdxGE IFindKey RowSetRead RowSetTest Program FkIfZero IsNull NotNull Ne Eq Gt Le Lt Ge ElseEq IfPos \
IfNotZero DecrJumpZero VNext Filter HaltIfNull ";

/// What a program costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
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
}

impl Program {
    /// Has SQLite explain a statement, which is the first and only one of `sql`.
    ///
    /// # Errors
    /// It cannot be prepared.
    pub fn of(conn: &Connection, sql: &str) -> Result<Program> {
        let mut explain = conn.prepare(&format!("EXPLAIN {sql}"))?;
        let mut rows = explain.raw_query();
        let mut program = Program::default();
        // A trigger's program stands behind, and counts from 0 again. It comes back when it has ended.
        let mut start = 0;
        let mut returns: Vec<(usize, i64, bool)> = Vec::new();
        let mut ways: Vec<(i64, usize)> = Vec::new();
        let mut before = String::new();
        while let Some(row) = rows.next()? {
            let at = program.instructions.len();
            let [address, p1, p2, p3] = [0, 2, 3, 4].map(|column| row.get::<_, i64>(column).unwrap_or(0));
            if address == 0 && at > 0 {
                program.close(&returns, &ways);
                (returns, ways, start) = (Vec::new(), Vec::new(), at);
            }
            let ValueRef::Text(name) = row.get_ref(1)? else { continue };
            let name = String::from_utf8_lossy(name).into_owned();
            let p4 = match row.get_ref(5)? {
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                _ => String::new(),
            };
            let to = |p: i64| start + usize::try_from(p).unwrap_or(0);
            let mut jumps = Vec::new();
            if JUMPS.contains(&format!(" {name} ")) {
                jumps.push(to(p2));
            }
            match name.as_str() {
                "Jump" => jumps.extend([to(p1), to(p3)]),
                "InitCoroutine" => ways.push((p1, to(p3))),
                "Gosub" => ways.push((p1, at + 1)),
                "Yield" => {
                    ways.push((p1, at + 1));
                    returns.push((at, p1, true));
                }
                "Return" | "EndCoroutine" => returns.push((at, p1, false)),
                _ => {}
            }
            let is_end = matches!(name.as_str(), "Goto" | "Jump" | "Yield" | "EndCoroutine" | "Gosub" | "Halt");
            if name == "Halt" && start > 0 {
                jumps.push(start);
            }
            let price = price_of(&name, &before, [p1, p2, p3], &p4);
            program.instructions.push(Instruction { price, jumps, is_end });
            before = name;
        }
        program.close(&returns, &ways);
        Ok(program)
    }

    /// Ways back from subroutines and between coroutines.
    fn close(&mut self, returns: &[(usize, i64, bool)], ways: &[(i64, usize)]) {
        for (at, register, is_yield) in returns {
            let back = ways.iter().filter(|(other, to)| other == register && !(*is_yield && *to == at + 1));
            self.instructions[*at].jumps.extend(back.map(|(_, to)| *to));
        }
    }

    /// What it costs.
    pub fn cost(&self) -> Cost {
        Cost { per_step: self.per_step(), once: self.once(), search: self.cost_of_search(), instructions: self.len() }
    }

    fn len(&self) -> usize {
        self.instructions.len()
    }

    fn once(&self) -> Price {
        let all = self.instructions.iter().map(|one| one.price);
        all.fold(Price::default(), |sum, one| Price { step: sum.step + one.step, bytes: sum.bytes + one.bytes })
    }

    /// Instructions that cost more than others.
    fn dear(&self) -> Vec<usize> {
        let is_dear = |one: &Instruction| one.price.step > 2 || one.price.bytes > 2;
        (0..self.len()).filter(|at| is_dear(&self.instructions[*at])).collect()
    }

    fn cost_of_search(&self) -> u64 {
        let pairs = self.dear().len() * self.len();
        (self.len() * STEPS_PER_INSTRUCTION + if pairs <= SEARCHED_MAX { pairs * STEPS_PER_PAIR } else { 0 }) as u64
    }

    fn per_step(&self) -> Price {
        let dear = self.dear();
        let is_searched = dear.len() * self.len() <= SEARCHED_MAX;
        // In thousandths.
        let (mut step, mut bytes) = (0, 0);
        let mut seen = vec![0; self.len()];
        for (number, at) in dear.iter().enumerate() {
            let round = if is_searched { self.round(*at, number + 1, &mut seen) } else { Some(SHORTEST_ROUND) };
            if let Some(round) = round {
                let price = self.instructions[*at].price;
                step += price.step * 1000 / round.max(SHORTEST_ROUND);
                bytes += price.bytes * 1000 / round.max(SHORTEST_ROUND);
            }
        }
        Price { step: PLAIN.step + step.div_ceil(1000), bytes: PLAIN.bytes + bytes.div_ceil(1000) }
    }

    /// Steps of the shortest way from an instruction back to itself. `mark`: another for each search.
    fn round(&self, from: usize, mark: usize, seen: &mut [usize]) -> Option<u64> {
        let mut front = vec![from];
        for steps in 1.. {
            let mut next = Vec::new();
            for at in front {
                let one = &self.instructions[at];
                let following = (!one.is_end).then_some(at + 1);
                for to in one.jumps.iter().copied().chain(following).filter(|to| *to < self.len()) {
                    if to == from {
                        return Some(steps);
                    }
                    if seen[to] != mark {
                        seen[to] = mark;
                        next.push(to);
                    }
                }
            }
            if next.is_empty() {
                return None;
            }
            front = next;
        }
        None
    }
}

fn price_of(name: &str, before: &str, [_, p2, p3]: [i64; 3], p4: &str) -> Price {
    let many = |count: i64| u64::try_from(count).unwrap_or(0);
    match name {
        "Function" | "PureFunc" | "AggStep" | "AggInverse" | "AggValue" | "AggFinal" | "AggStep1" => function(p4),
        // The end of an index that is built in order.
        "IdxInsert" if before == "SeekEnd" => price(50, 15),
        "Column" => price(2 + many(p2) / 4, 2),
        "MakeRecord" => price(4 + many(p2), 4),
        "Null" | "Copy" | "Move" => price(1 + many(p3) / 4, 1),
        _ => {
            let known = INSTRUCTIONS.iter().find(|(names, _)| names.split(' ').any(|known| known == name));
            known.map_or(PLAIN, |(_, price)| *price)
        }
    }
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
        Program::of(&conn, sql).unwrap().per_step()
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
