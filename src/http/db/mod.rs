//! `/db`: the database over the API of rqlite, on any node.
//!
//! The tour: `statements.rs` runs statements, in the JSON of `rqlite_json.rs`; `files.rs` is backup and load of whole
//! databases; `settings.rs` is what all nodes agree on, `rqlite_status.rs` the cluster as rqlite's clients look for it. A valid request is answered with 200,
//! and a statement that has failed with an `error` as its result, as in rqlite.
//! Not here: what SQL does (`services/sql/`).

pub(crate) mod files;
pub(crate) mod rqlite_json;
pub(crate) mod rqlite_status;
pub(crate) mod settings;
pub(crate) mod statements;
