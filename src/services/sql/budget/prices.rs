//! Prices of SQLite's instructions, functions and comparisons.
//!
//! They were measured: a step of the virtual machine takes ten nanoseconds or ten microseconds, depending on the
//! instruction. Each price has a part for the work itself and a part for each 256 bytes that a value may have in the
//! present tier.
//! Not here: what a whole program costs (`step_cost.rs`), the length of values (`length_tiers.rs`).

use super::fulltext::terms::SearchTerms;
use std::collections::BTreeMap;
use std::ops::{Add, Div, Mul};
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
pub(super) const MATCH_STEP: u64 = 600;
/// Steps that each byte of the search terms adds to it: each row is searched for each word.
pub(super) const MATCH_STEP_BYTE: u64 = 5;
/// The cost of a search in the index, and what each byte of the search terms adds.
pub(super) const MATCH_SEARCH: u64 = 20_000;
pub(super) const MATCH_SEARCH_BYTE: u64 = 14_000;
/// Price of a call in addition to what is charged when it is made.
const PAID_WHEN_CALLED: Price = price(0, 8);
/// Price of a function that is not in [`FUNCTIONS`].
const UNKNOWN_FUNCTION: Price = price(50, 300);

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

pub(super) const fn price(step: u64, bytes: u64) -> Price {
    Price { step, bytes, long: 0, far: 0, words: 0 }
}

impl Price {
    pub(super) const fn long(self, long: u64) -> Price {
        Price { long, ..self }
    }

    pub(super) const fn far(self, far: u64) -> Price {
        Price { far, ..self }
    }
}

/// The cost of search terms: a fixed part, and a part for each byte.
pub(super) fn of_words(asked: SearchTerms, step: u64, byte: u64) -> Price {
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
pub(super) const COLLATION: Price = price(2, 80).long(40);
/// Arguments of `max` and `min` over one row, whose number the program does not contain.
pub(super) const LARGEST_OF_MANY: u64 = 127;
/// Number of index entries that a search is assumed to compare with; more than there are on its path if keys are long.
const COMPARED: u64 = 16;
/// Bits of an instruction's fifth operand: those that state how values are converted before a comparison, and those
/// that convert text to numbers.
const AFFINITY_BITS: i64 = 0x47;
const AFFINITY_NUMERIC: i64 = 0x43;

/// Whether texts are compared otherwise than byte by byte: by a collation, or by one of several collations of a key.
pub(super) fn folds(collations: &[u8]) -> bool {
    ["NOCASE", "RTRIM"].iter().any(|name| memchr::memmem::find(collations, name.as_bytes()).is_some())
}

/// The additional cost of comparing two values. `how`: the fifth operand of the instruction.
pub(super) fn comparison(folds: bool, how: i64) -> Price {
    let folded = if folds { COLLATION } else { Price::default() };
    let parsed = if how & AFFINITY_BITS >= AFFINITY_NUMERIC { price(0, 0).long(130) } else { Price::default() };
    folded + parsed
}

pub(super) fn is_largest_of_many(called: &str) -> bool {
    called.starts_with("max(-") || called.starts_with("min(-")
}

/// The keys by which a cursor finds entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    /// The key consists of values, not of a row number alone.
    are_values: bool,
    folds: bool,
}

impl Keys {
    /// Derived from the instruction that opens the cursor.
    pub(super) fn of(text: &[u8]) -> Keys {
        Keys { are_values: text.starts_with(b"k("), folds: folds(text) }
    }

    /// The additional cost of an instruction.
    pub(super) fn more(self, name: &str) -> Price {
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

/// Instructions that may jump to their second operand.
pub(super) const JUMPS: &str = "VFilter Init Goto Gosub InitCoroutine MustBeInt Jump Once If IfNot IsType IfNullRow SeekLT SeekLE \
SeekGE SeekGT SeekScan IfNoHope NoConflict NotFound Found SeekRowid NotExists Last IfSizeBetween SorterSort Sort Rewind IfEmpty SorterNext \
Prev Next IdxLE IdxGT IdxLT IdxGE IFindKey RowSetRead RowSetTest Program FkIfZero IsNull NotNull Ne Eq Gt Le Lt Ge ElseEq IfPos \
IfNotZero DecrJumpZero VNext Filter HaltIfNull";

/// What an instruction's name says about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownInstruction {
    pub(super) price: Price,
    /// It may jump to its second operand.
    pub(super) may_jump: bool,
}

pub(super) fn known_instructions() -> &'static BTreeMap<&'static str, KnownInstruction> {
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
