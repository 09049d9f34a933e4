//! Full-text search (FTS5): what its tokens, pages and search terms cost, and what statements may not do with it.
//!
//! `writes.rs` has the definitions of full-text tables and charges the pages that FTS5 writes, above `tokens.rs`, which
//! charges the tokens of a text. `terms.rs` finds the search terms of a program; above it, `matches.rs` limits reads
//! that mark matched words. `settings.rs` refuses settings, and tokenizers whose tokens are not seen.
//! Not here: the cost of a program's steps (`services/sql/budget/step_cost.rs`), how tokens are seen
//! (crates/sqlite-ffi).

pub(crate) mod matches;
pub(crate) mod settings;
pub(crate) mod terms;
pub(crate) mod tokens;
pub(crate) mod writes;
