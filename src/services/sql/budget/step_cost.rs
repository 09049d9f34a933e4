//! What a step of a statement's program costs, computed from the program that SQLite compiled.
//!
//! A step of SQLite's virtual machine takes ten nanoseconds or ten microseconds, depending on the instruction. So each
//! instruction has a price: a part for the work itself and a part for each 256 bytes that a value may have in the
//! present tier. A program without loops is charged once. A program with loops is charged by the step: for each
//! expensive instruction there is a shortest cycle through it, and in so many steps it runs once at most; the sum over
//! all of them is an upper bound of a step's average cost.
//!
//! Invariant: P1 a price follows from the statement, the schema and the tier alone: it is the same on every node.
//! Not here: counting steps (`services/sql/connection/hook_state.rs`), the length of values (`length_tiers.rs`).

use super::fulltext_terms::{Registers, SearchTerms};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;
use std::ops::{Add, Div, Mul, Range};
use std::sync::OnceLock;

/// A price in steps of the budget, each of which stands for a nanosecond or a few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Independent of the length of values.
    pub step: u64,
    /// For each 256 bytes that a value may have.
    pub bytes: u64,
    /// Additionally for each 256 bytes in tiers with longer values: few short values have the tier's full length, and
    /// most long ones do.
    pub long: u64,
    /// Additionally for each 256 bytes where a value takes pages of its own, which are assembled to read it.
    pub far: u64,
    /// For each byte of the parameters, where they are search terms of a full-text index.
    pub words: u64,
}

impl Price {
    /// The price for a statement with so many bytes of parameters.
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

/// Price of a step of an instruction without a price in [`INSTRUCTIONS`].
pub const PLAIN: Price = price(5, 1);
/// A step while a statement is prepared, in which SQLite examines one way to join tables. It does so twice: once for
/// EXPLAIN.
pub const PLANNED: Price = price(3_000, 0);
/// Price of a step where a virtual table works outside of the program, with statements of its own.
pub const VIRTUAL: Price = price(15, 30);
/// A step of a program that searches a full-text index, which reads its own pages meanwhile.
const MATCH_STEP: u64 = 600;
/// Steps that each byte of the search terms adds to it: each row is searched for each word.
const MATCH_STEP_BYTE: u64 = 5;
/// The cost of a search in the index, and what each byte of the search terms adds.
const MATCH_SEARCH: u64 = 20_000;
const MATCH_SEARCH_BYTE: u64 = 14_000;
/// Price of a call in addition to what is charged when it is made.
const PAID_WHEN_CALLED: Price = price(0, 8);
/// Price of a function that is not in [`FUNCTIONS`].
const UNKNOWN_FUNCTION: Price = price(50, 300);
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

/// Functions with their prices; a star matches the rest of a name.
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
    // ALTER TABLE makes them parse definitions: see `schema_changes.rs`.
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

/// The cost of search terms: a fixed part, and a part for each byte.
fn of_words(asked: SearchTerms, step: u64, byte: u64) -> Price {
    Price { words: asked.parameters as u64 * byte, ..price(step + asked.bytes as u64 * byte, 0) }
}

/// The cost of a call, by a name that may be followed by the number of its arguments.
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

/// Whether a call is charged by the bytes of its arguments: our replacements of SQLite functions, whose names carry no
/// number of arguments (`services/sql/connection/result_lengths.rs`).
fn is_paid_when_called(called: &str) -> bool {
    let (name, args) = called.trim_end_matches(')').split_once('(').unwrap_or((called, ""));
    let is_of_ours = ["json", "concat", "printf", "format", "char"].iter().any(|start| name.starts_with(start));
    name == "json_pretty" || (is_of_ours && args.parse().is_ok_and(|args: u32| args > 2))
}

/// The cost of a comparison that is not a `memcmp`.
const COLLATION: Price = price(2, 80).long(40);
/// Arguments of `max` and `min` over one row, whose number the program does not contain.
const LARGEST_OF_MANY: u64 = 127;
/// Number of index entries that a search is assumed to compare with; more than there are on its path if keys are long.
const COMPARED: u64 = 16;
/// Bits of an instruction's fifth operand: those that state how values are converted before a comparison, and those
/// that convert text to numbers.
const AFFINITY_BITS: i64 = 0x47;
const AFFINITY_NUMERIC: i64 = 0x43;

/// Whether texts are compared otherwise than byte by byte: by a collation, or by one of several collations of a key.
fn folds(collations: &[u8]) -> bool {
    ["NOCASE", "RTRIM"].iter().any(|name| memchr::memmem::find(collations, name.as_bytes()).is_some())
}

/// The additional cost of comparing two values. `how`: the fifth operand of the instruction.
fn comparison(folds: bool, how: i64) -> Price {
    let folded = if folds { COLLATION } else { Price::default() };
    let parsed = if how & AFFINITY_BITS >= AFFINITY_NUMERIC { price(0, 0).long(130) } else { Price::default() };
    folded + parsed
}

fn is_largest_of_many(called: &str) -> bool {
    called.starts_with("max(-") || called.starts_with("min(-")
}

/// The keys by which a cursor finds entries.
#[derive(Clone, Copy, Debug)]
struct Keys {
    /// The key consists of values, not of a row number alone.
    are_values: bool,
    folds: bool,
}

impl Keys {
    /// Derived from the instruction that opens the cursor.
    fn of(text: &[u8]) -> Keys {
        Keys { are_values: text.starts_with(b"k("), folds: folds(text) }
    }

    /// The additional cost of an instruction.
    fn more(self, name: &str) -> Price {
        if !self.are_values {
            return Price::default();
        }
        let folded = if self.folds { COLLATION } else { Price::default() };
        match name {
            "SeekGE" | "SeekGT" | "SeekLE" | "SeekLT" | "NotFound" | "Found" | "NoConflict" => {
                (folded + LONG_KEY) * COMPARED
            }
            // Writing costs more than a bytewise search.
            "IdxInsert" | "SorterInsert" => folded * COMPARED,
            "IdxDelete" => folded * COMPARED + LONG_KEY * 4,
            "IdxGE" | "IdxGT" | "IdxLE" | "IdxLT" => folded + LONG_KEY,
            "SorterCompare" | "SorterNext" => folded,
            _ => Price::default(),
        }
    }
}

/// The additional price of a long key, which is assembled from several pages.
const LONG_KEY: Price = price(0, 0).long(4).far(40);

#[derive(Debug)]
struct Instruction {
    price: Price,
    /// Instructions that may follow, except the next one.
    jumps: Vec<usize>,
    /// The next instruction never follows.
    is_end: bool,
}

/// Instructions that may jump to their second operand.
pub(super) const JUMPS: &str = "VFilter Init Goto Gosub InitCoroutine MustBeInt Jump Once If IfNot IsType IfNullRow SeekLT SeekLE \
SeekGE SeekGT SeekScan IfNoHope NoConflict NotFound Found SeekRowid NotExists Last IfSizeBetween SorterSort Sort Rewind IfEmpty SorterNext \
Prev Next IdxLE IdxGT IdxLT IdxGE IFindKey RowSetRead RowSetTest Program FkIfZero IsNull NotNull Ne Eq Gt Le Lt Ge ElseEq IfPos \
IfNotZero DecrJumpZero VNext Filter HaltIfNull";

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

/// What an instruction's name says about it.
#[derive(Clone, Copy, Debug)]
struct KnownInstruction {
    price: Price,
    /// It may jump to its second operand.
    may_jump: bool,
}

fn known_instructions() -> &'static BTreeMap<&'static str, KnownInstruction> {
    static KNOWN: OnceLock<BTreeMap<&str, KnownInstruction>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known: BTreeMap<&str, KnownInstruction> = BTreeMap::new();
        let of = |price| KnownInstruction { price, may_jump: false };
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
