//! Connections to SQLite as statements of clients need them.
//!
//! From the top: `configure.rs` sets limits, hooks and functions; `limits.rs` holds SQLite's own limits;
//! `authorizer.rs` decides what a statement may do, by the lists of `catalogue.rs`; `functions.rs`, `result_lengths.rs`
//! and `dates.rs` are functions that replace SQLite's, with shared code in `function_calls.rs`; `hook_state.rs` is the
//! state that hooks and functions share with the code that runs statements; `foreign_keys.rs` is a setting of the
//! database that connections follow; `files.rs` is the interface to the node's folder.

pub(crate) mod authorizer;
pub(crate) mod catalogue;
mod configure;
pub(crate) mod dates;
pub(crate) mod files;
pub(crate) mod foreign_keys;
mod function_calls;
pub(crate) mod functions;
pub(crate) mod hook_state;
pub(crate) mod limits;
pub(crate) mod result_lengths;

pub use self::configure::{check_build, configure, count_steps};
