//! What a program asks full-text indexes for: the words of `MATCH`, and of `LIKE` and `GLOB` where a table indexes trigrams.
//!
//! An index goes through all of its parts for each word, in steps that are not the program's. So words are paid by the byte, and it
//! has to be known beforehand how many there are: they stand in the statement or are its parameters.
//! Not here: what that costs (`price.rs`).

use std::collections::BTreeMap;

/// Words that an index is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Bytes of those that stand in the statement.
    pub bytes: usize,
    /// How many parameters are words.
    pub parameters: usize,
    /// Others are computed, or come out of a table.
    pub are_computed: bool,
}

impl Asked {
    /// Both.
    pub fn and(self, other: Asked) -> Asked {
        Asked {
            bytes: self.bytes + other.bytes,
            parameters: self.parameters + other.parameters,
            are_computed: self.are_computed || other.are_computed,
        }
    }
}

/// What is in a register, for all that the program's order tells.
#[derive(Clone, Copy, Debug)]
enum Text {
    Literal(usize),
    Parameter,
    Computed,
}

/// The registers of a program. SQLite writes constants into those of a virtual table just before it asks the table.
#[derive(Debug, Default)]
pub struct Registers(BTreeMap<i64, Text>);

impl Registers {
    /// An instruction with its numbers and its text.
    pub fn write(&mut self, name: &str, [p1, p2, p3]: [i64; 3], text: &[u8]) {
        let written = match name {
            // It changes what is there, in its place.
            "Cast" => return,
            "Integer" | "Int64" | "Real" | "Null" if p3 <= p2 => Text::Literal(0),
            "String" | "String8" | "Blob" => Text::Literal(text.len()),
            "Variable" => Text::Parameter,
            "Copy" | "SCopy" if p3 == 0 => self.get(p1),
            _ => {
                self.0.insert(p3, Text::Computed);
                Text::Computed
            }
        };
        self.0.insert(p2, written);
    }

    /// What a virtual table is asked for. `first`: the register that says by how many values, which are behind it; `how`: what each of
    /// them is for, a letter with the number of the column where it is about words. `None`: for no words.
    pub fn asked(&self, first: i64, how: &[u8]) -> Option<Asked> {
        let letters = how.iter().filter(|letter| !letter.is_ascii_digit());
        let words = letters.zip(first + 2..).filter(|(letter, _)| matches!(letter, b'M' | b'L' | b'G'));
        let one = |register| match self.get(register) {
            Text::Literal(bytes) => Asked { bytes, ..Asked::default() },
            Text::Parameter => Asked { parameters: 1, ..Asked::default() },
            Text::Computed => Asked { are_computed: true, ..Asked::default() },
        };
        words.map(|(_, register)| one(register)).reduce(Asked::and)
    }

    fn get(&self, register: i64) -> Text {
        self.0.get(&register).copied().unwrap_or(Text::Computed)
    }
}
