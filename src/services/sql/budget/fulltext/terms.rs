//! The search terms that a program passes to full-text indexes: the words of `MATCH`, and of `LIKE` and `GLOB` if a
//! table indexes trigrams.
//!
//! For each word, an index searches all of its segments, in steps that are not those of the program. So words are
//! charged by the byte, and their length must be known beforehand: they must be literals in the statement or
//! parameters. The same applies to the marks that functions put around words.
//!
//! Not here: the cost of search terms (`services/sql/budget/step_cost.rs`).

use std::collections::BTreeMap;

/// Search terms of a full-text index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchTerms {
    /// Total length of the literals in bytes.
    pub bytes: usize,
    /// Number of parameters that are search terms.
    pub parameters: usize,
    /// Whether other search terms are computed or read from a table.
    pub are_computed: bool,
}

impl SearchTerms {
    /// Combines two sets of search terms.
    pub fn and(self, other: SearchTerms) -> SearchTerms {
        SearchTerms {
            bytes: self.bytes + other.bytes,
            parameters: self.parameters + other.parameters,
            are_computed: self.are_computed || other.are_computed,
        }
    }
}

/// Instructions that may write to the register of their third operand, and never to that of their second.
const WRITE_THIRD: &str = "Column VColumn Function PureFunc MakeRecord Concat Add Subtract Multiply Divide Remainder And Or BitAnd BitOr \
ShiftLeft ShiftRight";
/// Instructions that write to neither register, in addition to those that may jump.
const WRITE_NONE: &str = "VOpen VFilter Halt Transaction ResultRow OpenRead OpenDup OpenEphemeral OpenPseudo OpenAutoindex SorterOpen Close \
Noop Explain Return EndCoroutine TableLock SorterInsert IdxInsert Insert AggStep AggStep1 AggInverse CollSeq Affinity";

/// The content of a register, as far as it follows from the order of the instructions.
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

/// The registers of a program. SQLite writes constants into the registers of a virtual table just before it queries the
/// table.
#[derive(Debug, Default)]
pub struct Registers {
    /// The value written last.
    now: BTreeMap<i64, Text>,
    /// Covers all values that are ever written.
    ever: BTreeMap<i64, Text>,
    /// Registers with marks. Constants are written at the end of a program, so their values are known only there.
    marks: Vec<i64>,
}

impl Registers {
    /// Records an instruction with its operands and its text.
    pub fn write(&mut self, name: &str, [p1, p2, p3]: [i64; 3], text: &[u8], may_jump: bool) {
        let written = match name {
            // It changes the value in its register.
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

    /// Records a call of `highlight` or `snippet` with its first argument in register `first`.
    pub fn call(&mut self, name: &str, first: i64) {
        let marks = if name.starts_with("highlight(") { 2..4 } else { 2..5 };
        self.marks.extend(marks.map(|place| first + place));
    }

    /// All marks of a program whose instructions have all been recorded.
    pub fn marks(&self) -> Option<SearchTerms> {
        let found = |register| self.ever.get(register).copied().unwrap_or(Text::Computed);
        self.marks.iter().map(|register| found(register).asked()).reduce(SearchTerms::and)
    }

    /// The search terms of a query of a virtual table; `None` if it has none. `first`: the register with the number of
    /// values, which are in the registers after it; `how`: the purpose of each value, a letter, followed by a column
    /// number where it concerns words.
    pub fn asked(&self, first: i64, how: &[u8]) -> Option<SearchTerms> {
        let letters = how.iter().filter(|letter| !letter.is_ascii_digit());
        let words = letters.zip(first + 2..).filter(|(letter, _)| matches!(letter, b'M' | b'L' | b'G'));
        words.map(|(_, register)| self.get(register).asked()).reduce(SearchTerms::and)
    }

    fn get(&self, register: i64) -> Text {
        self.now.get(&register).copied().unwrap_or(Text::Computed)
    }
}
