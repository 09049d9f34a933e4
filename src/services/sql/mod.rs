//! A SQL database in every node: SQLite, changed by the log alone, the same content everywhere.
//!
//! The tour: `words.rs` holds what can be asked and answered; `database.rs` is the service, in memory or in a node's file;
//! `machine.rs` runs commands and keeps each atomic, `statement.rs` runs one statement, `gears.rs`, `price.rs` and `definitions.rs` bound what it can move and how long it takes, `freed.rs` what it frees, `matches.rs` reads that mark words, `allowance.rs` what all of them do together; `load.rs` takes over dumps and files,
//! `prepare.rs` makes a database of a file beside the log, and `loading.rs` puts it in place.
//! `connection.rs` makes a connection fit, with `authorizer.rs` and `catalogue.rs` for what is allowed, `functions.rs`, `lengths.rs` and `dates.rs` for what SQLite computes
//! differently here, and `watch.rs` for what they share. `journal.rs` is the table of our own, which says how far the file is;
//! `image.rs` the whole file for snapshots; `schema.rs`, `digest.rs` and `dump.rs` walk over all tables; `reader.rs` reads beside
//! the log, `reads.rs` tells what may; `checkpoint.rs` moves SQLite's log into its file; `files.rs` is what the room asks of the system, since it touches no file but through SQLite.
//! Not here: rqlite's spelling of it (`http/`), the threads that read (`node/sql.rs`).

mod allowance;
mod asked;
mod authorizer;
mod catalogue;
mod checkpoint;
mod connection;
mod database;
mod dates;
mod definitions;
mod digest;
mod dump;
pub mod files;
#[cfg(test)]
mod flaws;
mod freed;
mod fulltext;
mod functions;
mod gears;
mod growth;
mod image;
mod journal;
mod lengths;
mod load;
mod loading;
mod machine;
mod matches;
mod prepare;
mod price;
mod reader;
mod reads;
mod schema;
mod statement;
#[cfg(test)]
mod tests;
mod watch;
pub mod words;

pub use checkpoint::Checkpointer;
pub use database::Database;
pub use files::Files;
#[cfg(test)]
pub use flaws::Flaws;
pub use freed::may_free;
pub use growth::growth;
pub use image::bare_image;
pub use reader::Reader;
pub use reads::all_read;
pub use words::{Answer, Command, Digest, Kind, Outcome, Params, Query, ReadLevel, Run, Statement, Value};

/// Has SQLite put the files that it sorts with into this folder, for the whole process: only there are they looked after.
///
/// # Errors
/// SQLite cannot write there.
pub fn sort_in(folder: &std::path::Path) -> rusqlite::Result<()> {
    let conn = rusqlite::Connection::open_in_memory()?;
    conn.pragma_update(None, "temp_store_directory", folder.display().to_string())
}
