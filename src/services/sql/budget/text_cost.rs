//! The cost of reading and preparing the text of a statement, and texts that SQLite would take too long to prepare.
//!
//! Not here: what the statement's program costs (`step_cost.rs`).

use crate::services::sql::tokens::{is_word, tokens, words};

/// Largest number of SELECT and VALUES in a statement.
const SELECTS_MAX: usize = 1_000;
/// Largest number of ON CONFLICT in an INSERT.
const CONFLICTS_MAX: usize = 4;
/// Steps for reading a byte of a statement, and for reading a token.
const STEPS_PER_BYTE: u64 = 10;
const STEPS_PER_TOKEN: u64 = 350;
/// Steps for comparing two constants that are operands.
const STEPS_PER_PAIR: u64 = 10;
/// Operators that are words, and other words that precede a constant in an expression.
const OPERATORS: [&str; 13] =
    ["when", "then", "else", "and", "or", "not", "is", "like", "glob", "match", "regexp", "between", "collate"];
/// Steps for any statement: reading, preparing and isolating it.
pub const STATEMENT_STEPS: u64 = 6_000;

/// The cost of preparing the statements of a text, in steps. SQLite compares each constant operand with all those
/// before it in its statement.
pub fn text_steps(sql: &str) -> u64 {
    let mut before: &[u8] = b"(";
    let (mut count, mut operators, mut pairs) = (0, 0_u64, 0_u64);
    for token in tokens(sql) {
        count += 1;
        if token == b";" {
            pairs += operators * operators;
            operators = 0;
        }
        let is_sign = matches!(token, b"-" | b"+") && matches!(before, b"(" | b",");
        let is_operator = match token {
            [byte] if !is_word(*byte) => b"=<>+-*/%|&~".contains(byte) && !is_sign,
            word => OPERATORS.iter().any(|one| word.eq_ignore_ascii_case(one.as_bytes())),
        };
        operators += u64::from(is_operator);
        before = token;
    }
    pairs += operators * operators;
    sql.len() as u64 * STEPS_PER_BYTE + count * STEPS_PER_TOKEN + pairs * STEPS_PER_PAIR
}

/// The reason if SQLite would take too long to prepare a statement: its work grows with the square of the number of
/// selects, and no limit is checked meanwhile. The rows of one VALUES count as one.
pub fn too_many_selects(sql: &str) -> Option<String> {
    let is_select = |word: &&[u8]| ["select", "values"].iter().any(|it| word.eq_ignore_ascii_case(it.as_bytes()));
    let count = words(sql).filter(is_select).take(SELECTS_MAX + 1).count();
    (count > SELECTS_MAX)
        .then(|| format!("a statement may have at most {SELECTS_MAX} SELECT and VALUES: send several statements"))
}

/// The reason if SQLite would take too long to prepare an INSERT: it compares the columns of each ON CONFLICT with
/// those of every unique index, and with all clauses before it.
pub fn too_many_conflicts(sql: &str) -> Option<String> {
    let (mut count, mut inserts) = (0, false);
    let has_too_many = tokens(sql).any(|token| {
        if token == b";" {
            (count, inserts) = (0, false);
        }
        inserts |= token.eq_ignore_ascii_case(b"into");
        count += usize::from(inserts && token.eq_ignore_ascii_case(b"conflict"));
        count > CONFLICTS_MAX
    });
    has_too_many
        .then(|| format!("an INSERT may have at most {CONFLICTS_MAX} ON CONFLICT clauses: send several statements"))
}
