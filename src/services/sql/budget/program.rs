//! The program that SQLite compiled from a statement, read from `EXPLAIN`.
//!
//! It has its instructions with their prices, where each may continue, and the search terms that it passes to full-text
//! indexes.
//! Not here: what a step costs on average (`step_cost.rs`), the prices (`prices.rs`).

use super::fulltext::terms::{Registers, SearchTerms};
use super::prices::{
    COLLATION, Keys, KnownInstruction, LARGEST_OF_MANY, MATCH_SEARCH, MATCH_SEARCH_BYTE, PLAIN, Price, comparison,
    folds, function, is_largest_of_many, known_instructions, of_words, price,
};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result, Row};
use std::collections::BTreeMap;
use std::ops::Range;

/// Largest number of return edges for each instruction: a program with more is too complex to be searched.
const WAYS_PER_INSTRUCTION_MAX: usize = 8;

/// An instruction of a program.
#[derive(Debug)]
pub(super) struct Instruction {
    pub(super) price: Price,
    /// Instructions that may follow, except the next one.
    pub(super) jumps: Vec<usize>,
    /// The next instruction never follows.
    pub(super) is_end: bool,
}

/// The program that SQLite compiled from a statement, including its triggers.
#[derive(Debug, Default)]
pub struct Program {
    pub(super) instructions: Vec<Instruction>,
    /// All search terms for full-text indexes.
    pub asked: Option<SearchTerms>,
    /// All marks that it puts around matched words.
    pub marks: Option<SearchTerms>,
    /// It names the function that ranks the matches of a full-text index, by `rank MATCH` or in another way.
    pub names_rank: bool,
    /// Instructions that concatenate values.
    pub(super) joined: usize,
    /// It has more control-flow edges than can be followed.
    pub(super) is_tangled: bool,
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
        let mut reader = ProgramReader::default();
        while let Some(row) = rows.next()? {
            if reader.program.len() >= most {
                return Ok(None);
            }
            reader.read(row)?;
        }
        reader.end_part();
        Ok(Some(reader.program))
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

    pub(super) fn len(&self) -> usize {
        self.instructions.len()
    }
}

/// A program while it is read, one instruction after another.
#[derive(Debug, Default)]
struct ProgramReader {
    program: Program,
    /// The first instruction of the present part, from which its jumps count. A trigger's program is a part of its own,
    /// which follows, numbered from 0 again, and returns when it has ended.
    start: usize,
    returns: Returns,
    registers: Registers,
    /// Keys of what the part's cursors are open on.
    cursors: BTreeMap<i64, Keys>,
    /// The last instruction went to the end of an index.
    is_at_end: bool,
    /// The last instruction sets a collation that folds texts.
    compares: bool,
}

/// An instruction as `EXPLAIN` shows it.
struct Explained<'a> {
    name: &'a str,
    known: KnownInstruction,
    p1: i64,
    p2: i64,
    p3: i64,
    p5: i64,
    /// The fourth operand.
    text: &'a [u8],
}

impl ProgramReader {
    /// Reads the next instruction.
    fn read(&mut self, row: &Row<'_>) -> Result<()> {
        let at = self.program.len();
        let [address, p1, p2, p3, p5] = [0, 2, 3, 4, 6].map(|column| row.get::<_, i64>(column).unwrap_or(0));
        if address == 0 && at > 0 {
            self.end_part();
            self.start = at;
        }
        let ValueRef::Text(name) = row.get_ref(1)? else { return Ok(()) };
        let name = std::str::from_utf8(name).unwrap_or_default();
        let known = known_instructions().get(name).copied();
        let known = known.unwrap_or(KnownInstruction { price: PLAIN, may_jump: false });
        let text = row.get_ref(5)?.as_bytes_or_null().unwrap_or(None).unwrap_or_default();
        let one = Explained { name, known, p1, p2, p3, p5, text };
        let jumps = self.jumps(&one, at);
        let asked = self.note_words(&one);
        self.program.joined += usize::from(name == "Concat");
        let is_end = matches!(name, "Goto" | "Jump" | "EndCoroutine" | "Gosub" | "Halt");
        let price = self.price(&one);
        if name.starts_with("Open") || matches!(name, "ReopenIdx" | "SorterOpen") {
            self.cursors.insert(p1, Keys::of(text));
        }
        self.is_at_end = name == "SeekEnd";
        self.compares = name == "CollSeq" && folds(text);
        let price = price + asked.map_or(Price::default(), |asked| of_words(asked, MATCH_SEARCH, MATCH_SEARCH_BYTE));
        self.program.instructions.push(Instruction { price, jumps, is_end });
        Ok(())
    }

    /// The part is complete: its return edges and its marks are known.
    fn end_part(&mut self) {
        self.program.close(&std::mem::take(&mut self.returns));
        let marks = std::mem::take(&mut self.registers).marks();
        self.program.marks = self.program.marks.into_iter().chain(marks).reduce(SearchTerms::and);
        self.cursors.clear();
    }

    /// Where the instruction may jump to; what returns later is recorded.
    fn jumps(&mut self, one: &Explained<'_>, at: usize) -> Vec<usize> {
        let Explained { name, p1, p2, p3, .. } = *one;
        let to = |p: i64| self.start + usize::try_from(p).unwrap_or(0);
        let mut jumps = Vec::new();
        if one.known.may_jump {
            jumps.push(to(p2));
        }
        match name {
            "Jump" => jumps.extend([to(p1), to(p3)]),
            "InitCoroutine" => {
                jumps.push(to(p3));
                self.returns.bodies.insert(p1, to(p3)..to(p2));
            }
            "Gosub" => self.returns.calls.entry(p1).or_default().push(at + 1),
            "Yield" => self.returns.yields.push((at, p1, to(p2))),
            "EndCoroutine" => self.returns.ends.push((at, p1)),
            "Return" => self.returns.returns.push((at, p1)),
            "Halt" if self.start > 0 => jumps.push(self.start),
            _ => {}
        }
        jumps
    }

    /// Records the registers that the instruction writes, marks and the ranking function; returns the search terms that
    /// it passes to a full-text index.
    fn note_words(&mut self, one: &Explained<'_>) -> Option<SearchTerms> {
        let Explained { name, p1, p2, p3, text, .. } = *one;
        self.registers.write(name, [p1, p2, p3], text, one.known.may_jump);
        if matches!(name, "Function" | "PureFunc") && (text.starts_with(b"highlight(") || text.starts_with(b"snippet("))
        {
            self.registers.call(std::str::from_utf8(text).unwrap_or_default(), p2);
        }
        if name != "VFilter" {
            return None;
        }
        self.program.names_rank |= text.contains(&b'r');
        let asked = self.registers.asked(p3, text);
        self.program.asked = self.program.asked.into_iter().chain(asked).reduce(SearchTerms::and);
        asked
    }

    /// The price of the instruction without that of search terms.
    fn price(&self, one: &Explained<'_>) -> Price {
        let Explained { name, p1, p2, p3, p5, text, .. } = *one;
        let many = |count: i64| u64::try_from(count).unwrap_or(0);
        match name {
            "Function" | "PureFunc" | "AggStep" | "AggInverse" | "AggValue" | "AggFinal" | "AggStep1" => {
                let called = std::str::from_utf8(text).unwrap_or_default();
                let folded = if self.compares { COLLATION } else { Price::default() };
                let compared = if is_largest_of_many(called) { LARGEST_OF_MANY } else { 1 };
                function(called) + folded + (price(0, 0).long(10) + folded) * (compared - 1)
            }
            // Appends to an index that is built in order.
            "IdxInsert" if self.is_at_end => price(50, 15).long(20),
            "Column" => price(2 + many(p2) / 4, 2).far(40),
            "MakeRecord" => price(4 + many(p2), 4).long(20),
            "Null" | "Copy" | "Move" => price(1 + many(p3) / 4, 1).long(20),
            "Eq" | "Ne" | "Lt" | "Le" | "Gt" | "Ge" => one.known.price + comparison(folds(text), p5),
            "Compare" if folds(text) => one.known.price + COLLATION,
            _ => one.known.price + self.cursors.get(&p1).map_or(Price::default(), |keys| keys.more(name)),
        }
    }
}
