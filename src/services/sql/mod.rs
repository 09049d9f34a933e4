//! A SQL database in every node: SQLite, changed by the log alone, the same content everywhere.
//!
//! The tour: `commands.rs` holds what can be asked and answered; `database.rs` is the service, in memory or in a node's file;
//! `writer.rs` runs commands and keeps each atomic, `statement.rs` runs one statement, `services/sql/budget/length_tiers.rs`, `services/sql/budget/step_cost.rs` and `services/sql/budget/schema_changes.rs` bound what it can move and how long it takes, `services/sql/budget/freed_space.rs` what it frees, `services/sql/budget/fulltext_matches.rs` reads that mark words, `services/sql/budget/allowance.rs` what all of them do together; `services/sql/storage/load.rs` takes over dumps and files,
//! `services/sql/storage/prepare.rs` makes a database of a file beside the log, and `loading.rs` puts it in place.
//! `services/sql/connection/mod.rs` makes a connection fit, with `services/sql/connection/authorizer.rs` and `services/sql/connection/catalogue.rs` for what is allowed, `services/sql/connection/functions.rs`, `services/sql/connection/result_lengths.rs` and `services/sql/connection/dates.rs` for what SQLite computes
//! differently here, and `services/sql/connection/hook_state.rs` for what they share. `services/sql/storage/own_table.rs` is the table of our own, which says how far the file is;
//! `services/sql/storage/image.rs` the whole file for snapshots; `services/sql/storage/schema.rs`, `services/sql/storage/digest.rs` and `services/sql/storage/dump.rs` walk over all tables; `reader.rs` reads beside
//! the log, `read_only.rs` tells what may; `services/sql/storage/checkpoint.rs` moves SQLite's log into its file; `services/sql/connection/files.rs` is what the room asks of the system, since it touches no file but through SQLite.
//! Not here: rqlite's spelling of it (`http/`), the threads that read (`node/sql/handle.rs`).

pub mod budget;
pub mod commands;
pub mod connection;
mod database;
#[cfg(test)]
mod flaws;
mod loading;
mod read_only;
mod reader;
mod statement;
pub mod storage;
#[cfg(test)]
mod tests;
mod writer;

pub use self::budget::freed_space::may_free;
pub use self::budget::growth::growth;
pub use self::commands::{Answer, Command, Digest, Kind, Outcome, Params, Query, ReadLevel, Run, Statement, Value};
pub use self::connection::files::Files;
pub use self::read_only::all_read;
pub use self::storage::checkpoint::Checkpointer;
pub use self::storage::image::bare_image;
pub use database::Database;
#[cfg(test)]
pub use flaws::Flaws;
pub use reader::Reader;

/// Has SQLite put the files that it sorts with into this folder, for the whole process: only there are they looked after.
///
/// # Errors
/// SQLite cannot write there.
pub fn sort_in(folder: &std::path::Path) -> rusqlite::Result<()> {
    let conn = rusqlite::Connection::open_in_memory()?;
    conn.pragma_update(None, "temp_store_directory", folder.display().to_string())
}
