//! Connections to SQLite as statements of clients need them.
//!
//! The tour: `configure.rs` puts limits, hooks and functions in place; `limits.rs` are SQLite's own bounds; `authorizer.rs`
//! decides what a statement may do, by the lists of `catalogue.rs`; `functions.rs`, `result_lengths.rs` and `dates.rs` are
//! functions that replace SQLite's, `function_calls.rs` is what they share; `hook_state.rs` is what hooks and functions share
//! with the code that runs statements; `files.rs` is what the database asks of the node's folder.

pub(crate) mod authorizer;
pub(crate) mod catalogue;
mod configure;
pub(crate) mod dates;
pub(crate) mod files;
mod function_calls;
pub(crate) mod functions;
pub(crate) mod hook_state;
pub(crate) mod limits;
pub(crate) mod result_lengths;

pub use self::configure::{configure, count_steps};
