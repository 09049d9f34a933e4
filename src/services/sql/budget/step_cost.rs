//! What a step of a statement's program costs, from the program that SQLite made of it.
//!
//! A step of SQLite's machine takes ten nanoseconds or ten microseconds, by what it does. So each instruction has a price: a part
//! for the work itself and a part for each 256 bytes that a value may have in the present tier. A program that only goes
//! forward pays it once. One that goes round pays by the step: for each dear instruction there is a shortest way round, and in so
//! many steps it runs once at most; the sum over all of them is what a step costs on average, at most.
//!
//! Invariant: P1 a price follows from the statement, the schema and the tier alone: it is the same on every node.
//! Not here: who counts (`services/sql/connection/hook_state.rs`), how long values may be (`length_tiers.rs`).

use super::fulltext_terms::{Registers, SearchTerms};
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
    /// The same on top where values may have more: few of the short ones are as long as they may be, and most of the long ones are.
    pub long: u64,
    /// The same on top where a value takes pages of its own, which are put together to read it.
    pub far: u64,
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
            long: self.long.saturating_add(other.long),
            far: self.far.saturating_add(other.far),
            words: self.words.saturating_add(other.words),
        }
    }
}

impl Mul<u64> for Price {
    type Output = Price;

    fn mul(self, factor: u64) -> Price {
        let times = |part: u64| part.saturating_mul(factor);
        Price {
            step: times(self.step),
            bytes: times(self.bytes),
            long: times(self.long),
            far: times(self.far),
            words: times(self.words),
        }
    }
}

impl Div<u64> for Price {
    type Output = Price;

    fn div(self, divisor: u64) -> Price {
        Price {
            step: self.step / divisor,
            bytes: self.bytes / divisor,
            long: self.long / divisor,
            far: self.far / divisor,
            words: self.words / divisor,
        }
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
/// What a call costs beside what it is charged for when it is made.
const PAID_WHEN_CALLED: Price = price(0, 8);
/// A function of which nothing is known.
const UNKNOWN_FUNCTION: Price = price(50, 300);
/// Dear instructions of a circle times all of it: beyond it nobody searches, and each step is thought to cost as much as the
/// dearest.
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
    ("IdxGE IdxGT IdxLE IdxLT", price(5, 1).far(40)),
    ("Concat", price(4, 8).long(30)),
    ("Cast Affinity MustBeInt RealAffinity", price(4, 20).long(130)),
    ("Add Subtract Multiply Divide Remainder", price(2, 14).long(260)),
    ("BitAnd BitOr ShiftLeft ShiftRight And Or", price(5, 1).long(260)),
    ("BitNot Not IsTrue", price(5, 1).long(130)),
    ("If IfNot", price(5, 1).long(30)),
    ("Eq Ne Lt Le Gt Ge Compare ElseEq", price(1, 10)),
    ("VFilter VOpen", price(1100, 4)),
    ("VUpdate", price(350, 1700)),
    ("VNext VColumn VCreate VDestroy", price(50, 20)),
    ("ResultRow", price(10, 4).long(20)),
];

/// Functions with their prices; a star stands for the rest of a name.
const FUNCTIONS: &[(&str, Price)] = &[
    ("octet_length typeof coalesce ifnull iif if zeroblob random", price(10, 4)),
    ("last_insert_rowid changes likely unlikely likelihood", price(10, 4)),
    ("length unicode", price(10, 4).long(70)),
    ("abs sign nullif", price(10, 4).long(150)),
    ("count max min row_number rank dense_rank ntile percent_rank cume_dist", price(10, 14).long(60)),
    ("sum total avg", price(10, 14).long(150)),
    ("lag lead first_value last_value nth_value", price(15, 20).long(20)),
    ("substr substring concat concat_ws group_concat string_agg", price(30, 12).long(80)),
    ("hex", price(30, 12).long(90)),
    ("upper lower unhex", price(30, 12).long(140)),
    ("char", price(30, 12).long(300)),
    ("randomblob soundex", price(30, 50).long(200)),
    ("quote unistr_quote unistr", price(30, 30).long(400)),
    (
        "round ceil ceiling floor trunc pow power exp ln log log2 log10 mod sqrt pi radians degrees",
        price(60, 20).long(150),
    ),
    ("sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh", price(60, 20).long(150)),
    ("replace", price(40, 200)),
    ("instr", price(40, 1600)),
    ("like glob trim ltrim rtrim", price(1500, 60)),
    ("printf format", price(600, 600)),
    ("date time datetime julianday unixepoch strftime timediff current_*", price(600, 6000)),
    ("json_group_*", price(400, 600).long(900)),
    ("json_patch jsonb_patch", price(700, 600).long(900)),
    ("json_extract jsonb_extract json_type json_array_length json_error_position jsonb ->*", price(100, 600)),
    ("json json_valid", price(100, 600).long(300)),
    ("json*", price(100, 600).long(900)),
    ("percentile* median", price(100, 20).long(150)),
    ("snippet highlight bm25 rtreecheck", price(2000, 2000)),
    // ALTER TABLE has them parse definitions: see `schema_changes.rs`.
    ("sqlite_*", price(100, 4)),
];

const fn price(step: u64, bytes: u64) -> Price {
    Price { step, bytes, long: 0, far: 0, words: 0 }
}

impl Price {
    const fn long(self, long: u64) -> Price {
        Price { long, ..self }
    }

    const fn far(self, far: u64) -> Price {
        Price { far, ..self }
    }
}

/// What words cost: so much, and so much for each byte.
fn of_words(asked: SearchTerms, step: u64, byte: u64) -> Price {
    Price { words: asked.parameters as u64 * byte, ..price(step + asked.bytes as u64 * byte, 0) }
}

/// What a call costs, of a name that may have the number of its arguments behind it.
pub fn function(called: &str) -> Price {
    let name = called.split('(').next().unwrap_or_default().to_ascii_lowercase();
    let is = |known: &str| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == known,
    };
    let found = FUNCTIONS.iter().find(|(names, _)| names.split(' ').any(is));
    let found = found.map_or(UNKNOWN_FUNCTION, |(_, price)| *price);
    if is_paid_when_called(called) { Price { step: found.step, ..PAID_WHEN_CALLED } } else { found }
}

/// Whether a call is charged for by the bytes that it is given: functions of ours in the place of those of SQLite that have no
/// number of arguments (`services/sql/connection/result_lengths.rs`).
fn is_paid_when_called(called: &str) -> bool {
    let (name, args) = called.trim_end_matches(')').split_once('(').unwrap_or((called, ""));
    let is_of_ours = ["json", "concat", "printf", "format", "char"].iter().any(|start| name.starts_with(start));
    name == "json_pretty" || (is_of_ours && args.parse().is_ok_and(|args: u32| args > 2))
}

/// What a comparison costs that is no `memcmp`.
const FOLDED: Price = price(2, 80).long(40);
/// Arguments of `max` and `min` of one row, which the program does not tell.
const LARGEST_OF_MANY: u64 = 127;
/// Entries of an index that a search compares with, and more than are on its way where keys are long.
const COMPARED: u64 = 16;
/// Bits of the fifth number of a comparison that say how values are made alike, and those that make numbers of text.
const AFFINITY_BITS: i64 = 0x47;
const AFFINITY_NUMERIC: i64 = 0x43;

/// Whether texts are compared in another way than byte for byte: by a collation, or by one of some for a key.
fn folds(collations: &[u8]) -> bool {
    ["NOCASE", "RTRIM"].iter().any(|name| memchr::memmem::find(collations, name.as_bytes()).is_some())
}

/// What it costs on top to compare two values. `how`: the fifth number of the instruction.
fn comparison(folds: bool, how: i64) -> Price {
    let folded = if folds { FOLDED } else { Price::default() };
    let parsed = if how & AFFINITY_BITS >= AFFINITY_NUMERIC { price(0, 0).long(130) } else { Price::default() };
    folded + parsed
}

fn is_largest_of_many(called: &str) -> bool {
    called.starts_with("max(-") || called.starts_with("min(-")
}

/// What a cursor looks for entries by.
#[derive(Clone, Copy, Debug)]
struct Keys {
    /// By more than a number.
    are_values: bool,
    folds: bool,
}

impl Keys {
    /// From what opens it.
    fn of(text: &[u8]) -> Keys {
        Keys { are_values: text.starts_with(b"k("), folds: folds(text) }
    }

    /// What an instruction costs on top.
    fn more(self, name: &str) -> Price {
        if !self.are_values {
            return Price::default();
        }
        let folded = if self.folds { FOLDED } else { Price::default() };
        match name {
            "SeekGE" | "SeekGT" | "SeekLE" | "SeekLT" | "NotFound" | "Found" | "NoConflict" => {
                (folded + FAR) * COMPARED
            }
            // What they write costs more than the search among bytes.
            "IdxInsert" | "SorterInsert" => folded * COMPARED,
            "IdxDelete" => folded * COMPARED + FAR * 4,
            "IdxGE" | "IdxGT" | "IdxLE" | "IdxLT" => folded + FAR,
            "SorterCompare" | "SorterNext" => folded,
            _ => Price::default(),
        }
    }
}

/// What it costs to put a long key together.
const FAR: Price = price(0, 0).long(4).far(40);

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
pub(super) const JUMPS: &str = "VFilter Init Goto Gosub InitCoroutine MustBeInt Jump Once If IfNot IsType IfNullRow SeekLT SeekLE \
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
    /// How many values it joins of others, each of which may be as long as its tier allows.
    pub joined: usize,
}

/// What SQLite made of a statement, with its triggers.
#[derive(Debug, Default)]
pub struct Program {
    instructions: Vec<Instruction>,
    /// All words that it asks full-text indexes for.
    pub asked: Option<SearchTerms>,
    /// All marks that it puts around words.
    pub marks: Option<SearchTerms>,
    /// Instructions that join values.
    joined: usize,
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
            registers.write(name, [p1, p2, p3], text, known.may_jump);
            if matches!(name, "Function" | "PureFunc")
                && (text.starts_with(b"highlight(") || text.starts_with(b"snippet("))
            {
                registers.call(std::str::from_utf8(text).unwrap_or_default(), p2);
            }
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
                    let folded = if compares { FOLDED } else { Price::default() };
                    let compared = if is_largest_of_many(called) { LARGEST_OF_MANY } else { 1 };
                    function(called) + folded + (price(0, 0).long(10) + folded) * (compared - 1)
                }
                // The end of an index that is built in order.
                "IdxInsert" if is_at_end => price(50, 15).long(20),
                "Column" => price(2 + many(p2) / 4, 2).far(40),
                "MakeRecord" => price(4 + many(p2), 4).long(20),
                "Null" | "Copy" | "Move" => price(1 + many(p3) / 4, 1).long(20),
                "Eq" | "Ne" | "Lt" | "Le" | "Gt" | "Ge" => known.price + comparison(folds(text), p5),
                "Compare" if folds(text) => known.price + FOLDED,
                _ => known.price + cursors.get(&p1).map_or(Price::default(), |keys| keys.more(name)),
            };
            if name.starts_with("Open") || matches!(name, "ReopenIdx" | "SorterOpen") {
                cursors.insert(p1, Keys::of(text));
            }
            is_at_end = name == "SeekEnd";
            compares = name == "CollSeq" && folds(text);
            let price = price + asked.map_or(Price::default(), |asked| of_words(asked, ASKED, ASKED_BYTE));
            program.instructions.push(Instruction { price, jumps, is_end });
        }
        program.close(&returns);
        program.marks = program.marks.into_iter().chain(registers.marks()).reduce(SearchTerms::and);
        Ok(Some(program))
    }

    /// Adds the ways back from subroutines and between coroutines.
    ///
    /// A coroutine and whoever asks it for rows take turns, and each goes on where it was: a `Yield` goes on behind itself, in no
    /// more steps than it really takes. From a coroutine it goes behind the question as well, since nobody may ask again.
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
            joined: self.joined,
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
                .filter(|at| {
                    let one = price(at);
                    one.step > 2 || one.bytes > 2 || one.long > 0 || one.far > 0 || one.words > 0
                })
                .collect();
            let pairs = dear.len() * members.len();
            if self.is_tangled || pairs > SEARCHED_MAX {
                // No step costs more than the dearest.
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
                // A mark of its own for each search.
                let round = self.round(at, &circles, at + 1, &mut seen).max(SHORTEST_ROUND);
                thousandths = thousandths + price(&at) * 1000 / round;
            }
        }
        // Rounded up.
        let part = Price { step: 999, bytes: 999, long: 999, far: 999, words: 999 };
        (PLAIN + (thousandths + part) / 1000, search as u64)
    }

    /// Where an instruction may go on.
    fn following(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let one = &self.instructions[at];
        let next = (!one.is_end).then_some(at + 1);
        one.jumps.iter().copied().chain(next).filter(|to| *to < self.len())
    }

    /// For each instruction the number of the circle that it stands in: those that can be reached from each other have the same.
    /// 0: it runs once at most. (Tarjan's strongly connected components.)
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

    #[test]
    fn what_is_no_memcmp_and_what_lies_in_pages_of_its_own_is_paid_by_the_byte() {
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
