//! `/db`: the database in the shape that rqlite's clients know, on any node.
//!
//! The tour: `statements.rs` runs statements, in the spelling of `rqlite_json.rs`; `files.rs` takes whole databases out and in;
//! `rqlite_status.rs` shows the cluster as rqlite's clients look for it.
//! A request that was understood is answered with 200, and a statement that failed with an `error` in its place, as rqlite
//! does.
//! Not here: what SQL does (`services/sql/`).

pub(crate) mod files;
pub(crate) mod rqlite_json;
pub(crate) mod rqlite_status;
pub(crate) mod statements;
