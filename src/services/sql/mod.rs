//! A SQL database in every node: SQLite, changed by the log alone, the same bytes everywhere.
//!
//! The tour: `words.rs` holds what can be asked and answered; `database.rs` the service.
//! Not here: rqlite's spelling of it (`http/`), the threads that read (`node/sql.rs`).

mod database;
pub mod words;

pub use database::Database;
pub use words::{Answer, Command, Digest, Kind, Outcome, Params, Query, ReadLevel, Run, Statement, Value};
