//! A SQL database on every node: SQLite, changed only by entries of the Raft log, with the same content everywhere.
//!
//! From the top: `database.rs` is the service, in memory or in a node's file. `apply.rs` runs the commands of an entry,
//! `load_commands.rs` those that load a database; both use the connection and the transactions of `writer.rs`. `reader.rs`
//! reads outside of the log, and `read_only.rs` decides which statements may. `dump_rewrite/` turns virtual tables in
//! dumps of sqlite3 into statements, before the log. `statement.rs` runs one statement, `effect_checks.rs` checks its
//! effects. `budget/` computes what a statement may cost, `connection/` configures a connection, `storage/` handles the
//! database as a whole: its file, images, dumps, digests. At the bottom, `errors.rs` classifies failures,
//! `answer_limit.rs` limits the size of an answer, `tokens.rs` splits SQL into tokens, and `commands.rs` holds the
//! commands, queries and answers. All file access goes through SQLite and `services/sql/connection/files.rs`.
//!
//! Not here: rqlite's syntax (`http/`), the threads that read (`node/sql/handle.rs`).

mod answer_limit;
mod apply;
pub(crate) mod budget;
pub mod commands;
pub(crate) mod connection;
mod database;
mod dump_rewrite;
mod effect_checks;
mod errors;
mod load_commands;
mod read_only;
mod reader;
mod statement;
pub(crate) mod storage;
#[cfg(test)]
mod tests;
mod tokens;
mod writer;

pub use self::budget::freed_space::{FREED_BYTES_MAX, may_free};
pub use self::budget::growth::{COMMAND_GROWTH, Growth, growth};
pub use self::budget::long_rows::LongRows;
pub use self::commands::{Answer, Command, Digest, Outcome, Params, Query, ReadLevel, Run, RunKind, Statement, Value};
pub use self::connection::check_build;
pub use self::connection::files::Files;
pub use self::dump_rewrite::rewritten as rewritten_dump;
pub use self::read_only::all_read;
pub use self::storage::checkpoint::Checkpointer;
pub use self::storage::image::bare_image;
pub use self::tokens::parts as script_parts;
pub use database::Database;
pub use reader::Reader;

/// Makes SQLite put its temporary files for sorting into this folder, for the whole process: the free space that reads
/// leave is checked for the disk of this folder.
///
/// # Errors
/// SQLite cannot write there.
pub fn sort_in(folder: &std::path::Path) -> rusqlite::Result<()> {
    let conn = rusqlite::Connection::open_in_memory()?;
    conn.pragma_update(None, "temp_store_directory", folder.display().to_string())
}
