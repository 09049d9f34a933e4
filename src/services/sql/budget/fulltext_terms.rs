//! What a program asks full-text indexes for: the words of `MATCH`, and of `LIKE` and `GLOB` where a table indexes trigrams.
//!
//! An index goes through all of its parts for each word, in steps that are not the program's. So words are paid by the byte, and it
//! has to be known beforehand how many there are: they stand in the statement or are its parameters.
//! The same is told of the marks that functions put around words.
//! Not here: what that costs (`step_cost.rs`).

use std::collections::BTreeMap;

/// Words that an index is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchTerms {
    /// Bytes of those that stand in the statement.
    pub bytes: usize,
    /// How many parameters are words.
    pub parameters: usize,
    /// Others are computed, or come out of a table.
    pub are_computed: bool,
}

impl SearchTerms {
    /// Both.
    pub fn and(self, other: SearchTerms) -> SearchTerms {
        SearchTerms {
            bytes: self.bytes + other.bytes,
            parameters: self.parameters + other.parameters,
            are_computed: self.are_computed || other.are_computed,
        }
    }
}

/// Instructions that write the register of their third number, if any, and none of their second.
const WRITE_THIRD: &str = "Column VColumn Function PureFunc MakeRecord Concat Add Subtract Multiply Divide Remainder And Or BitAnd BitOr \
ShiftLeft ShiftRight";
/// Instructions that write none, beside those that may jump.
const WRITE_NONE: &str = "VOpen VFilter Halt Transaction ResultRow OpenRead OpenDup OpenEphemeral OpenPseudo OpenAutoindex SorterOpen Close \
Noop Explain Return EndCoroutine TableLock SorterInsert IdxInsert Insert AggStep AggStep1 AggInverse CollSeq Affinity";

/// What is in a register, for all that the program's order tells.
#[derive(Clone, Copy, Debug)]
enum Text {
    Literal(usize),
    Parameter,
    Computed,
}

impl Text {
    fn asked(self) -> SearchTerms {
        match self {
            Text::Literal(bytes) => SearchTerms { bytes, ..SearchTerms::default() },
            Text::Parameter => SearchTerms { parameters: 1, ..SearchTerms::default() },
            Text::Computed => SearchTerms { are_computed: true, ..SearchTerms::default() },
        }
    }
}

/// The registers of a program. SQLite writes constants into those of a virtual table just before it asks the table.
#[derive(Debug, Default)]
pub struct Registers {
    /// What was written last.
    now: BTreeMap<i64, Text>,
    /// What is ever written.
    ever: BTreeMap<i64, Text>,
    /// Those with marks: constants are written at the end of a program, which begins there.
    marks: Vec<i64>,
}

impl Registers {
    /// An instruction with its numbers and its text.
    pub fn write(&mut self, name: &str, [p1, p2, p3]: [i64; 3], text: &[u8], may_jump: bool) {
        let written = match name {
            // It changes what is there, in its place.
            "Cast" => return,
            "Integer" | "Int64" | "Real" | "Null" if p3 <= p2 => Text::Literal(0),
            "String" | "String8" | "Blob" => Text::Literal(text.len()),
            "Variable" => Text::Parameter,
            "Copy" | "SCopy" if p3 == 0 => self.get(p1),
            _ => {
                self.now.extend([(p2, Text::Computed), (p3, Text::Computed)]);
                let is_known = |names: &str| names.split(' ').any(|known| known == name);
                if !may_jump && !is_known(WRITE_NONE) {
                    self.put(p3, Text::Computed);
                    if !is_known(WRITE_THIRD) {
                        self.put(p2, Text::Computed);
                    }
                }
                return;
            }
        };
        self.now.insert(p2, written);
        self.put(p2, written);
    }

    fn put(&mut self, register: i64, text: Text) {
        let both = match (self.ever.get(&register).copied().unwrap_or(text), text) {
            (Text::Literal(one), Text::Literal(other)) => Text::Literal(one.max(other)),
            (Text::Parameter, Text::Parameter) => Text::Parameter,
            _ => Text::Computed,
        };
        self.ever.insert(register, both);
    }

    /// A function is called with arguments from this register on.
    pub fn call(&mut self, name: &str, first: i64) {
        let marks = if name.starts_with("highlight(") { 2..4 } else { 2..5 };
        self.marks.extend(marks.map(|place| first + place));
    }

    /// All marks of a program that has been gone through.
    pub fn marks(&self) -> Option<SearchTerms> {
        let found = |register| self.ever.get(register).copied().unwrap_or(Text::Computed);
        self.marks.iter().map(|register| found(register).asked()).reduce(SearchTerms::and)
    }

    /// What a virtual table is asked for. `first`: the register that says by how many values, which are behind it; `how`: what
    /// each of them is for, a letter with the number of the column where it is about words. `None`: for no words.
    pub fn asked(&self, first: i64, how: &[u8]) -> Option<SearchTerms> {
        let letters = how.iter().filter(|letter| !letter.is_ascii_digit());
        let words = letters.zip(first + 2..).filter(|(letter, _)| matches!(letter, b'M' | b'L' | b'G'));
        words.map(|(_, register)| self.get(register).asked()).reduce(SearchTerms::and)
    }

    fn get(&self, register: i64) -> Text {
        self.now.get(&register).copied().unwrap_or(Text::Computed)
    }
}
