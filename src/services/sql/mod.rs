//! A SQL database in every node: SQLite, changed by the log alone, the same content everywhere.
//!
//! The tour, from the top: `database.rs` is the service, in memory or in a node's file; `apply.rs` runs the commands of an
//! entry, `loading.rs` those that load, both on the connection and in the transactions of `writer.rs`; `reader.rs` reads
//! beside the log, and `read_only.rs` tells which statements may. `statement.rs` runs one statement, `integrity.rs` looks at
//! what it did. `budget/` bounds what a statement may do, `connection/` makes a connection fit for it, `storage/` is the
//! database as a whole: its file, images, dumps, digests. At the bottom, `errors.rs` says why something failed,
//! `answer_limit.rs` how much may be answered, `tokens.rs` cuts SQL into words, and `commands.rs` holds what can be asked and
//! answered. None of them touches a file but through SQLite and `services/sql/connection/files.rs`.
//! Not here: rqlite's spelling of it (`http/`), the threads that read (`node/sql/handle.rs`).

mod answer_limit;
mod apply;
pub(crate) mod budget;
pub mod commands;
pub(crate) mod connection;
mod database;
mod errors;
mod integrity;
mod loading;
mod read_only;
mod reader;
mod statement;
pub(crate) mod storage;
#[cfg(test)]
mod tests;
mod tokens;
mod writer;

pub use self::budget::freed_space::{FREED_BYTES_MAX, may_free};
pub use self::budget::growth::growth;
pub use self::budget::long_rows::LongRows;
pub use self::commands::{Answer, Command, Digest, Kind, Outcome, Params, Query, ReadLevel, Run, Statement, Value};
pub use self::connection::files::Files;
pub use self::read_only::all_read;
pub use self::storage::checkpoint::Checkpointer;
pub use self::storage::image::bare_image;
pub use self::tokens::parts as script_parts;
pub use database::Database;
pub use reader::Reader;

/// Has SQLite put the files that it sorts with into this folder, for the whole process: only there are they looked after.
///
/// # Errors
/// SQLite cannot write there.
pub fn sort_in(folder: &std::path::Path) -> rusqlite::Result<()> {
    let conn = rusqlite::Connection::open_in_memory()?;
    conn.pragma_update(None, "temp_store_directory", folder.display().to_string())
}
