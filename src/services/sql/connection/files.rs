//! What the database asks of the system beside SQLite's own work on its file; the database itself touches no files.
//!
//! Not here: who carries it out (`node/process/sql_folder.rs`).

use crate::services::sql::budget::long_rows::LongRows;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The folder of a node's database.
pub trait Files: Debug + Send + Sync {
    /// The database itself: another file when one that was loaded has taken its place.
    fn path(&self) -> PathBuf;
    /// Whose it is: the same for no other node and no other cluster.
    fn owner(&self) -> String;
    /// A name in the same folder that nothing has: removed by [`Files::remove`], at the latest when the node starts next.
    fn temporary(&self) -> PathBuf;
    /// Makes a file.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Write>>;
    /// Reads a file, and says how long it is.
    fn open(&self, path: &Path) -> io::Result<(Box<dyn Read>, u64)>;
    /// Removes a file, if it is there, and what SQLite keeps beside it.
    fn remove(&self, path: &Path);
    /// A name in the same folder for a database that may take the place of the present one.
    fn successor(&self) -> PathBuf;
    /// Makes what was written to a file last.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// From here on, and after a restart, this file is the database.
    fn adopt(&self, path: &Path);
    /// Runs something that takes long on a thread of its own.
    fn in_background(&self, work: Box<dyn FnOnce() + Send>);
    /// The database file of that load is prepared on this node, or was found to be of no use.
    fn prepared(&self, load: u64);
    /// Puts the database out of the way and keeps it for people to look at; tells why.
    fn set_aside(&self, why: &str);
    /// The database cannot go on: the node ends. `is_damaged`: its file shall be set aside at the next start.
    fn give_up(&self, why: &str, is_damaged: bool) -> !;
    /// A statement is writing: without room for much more the node ends, since what SQLite says of a full disk would differ
    /// from node to node. Asked often: looks now and then, or `is_certain`ly.
    fn look_at_room(&self, is_certain: bool);
    /// Whether the disk has room for the files that reads sort with.
    fn has_room_for_reads(&self) -> bool;
    /// A piece of a long copy is done: others may have the disk for a while.
    fn breathe(&self);
    /// The command with this seed begins, or a statement of it is over: for people who ask what took how long, on this node.
    fn on_statement(&self, seed: u64);
    /// What is known of the long rows of the database.
    fn long_rows(&self) -> &LongRows;
    /// Bytes up to which a file is checked page by page when it is opened.
    fn check_bytes_max(&self) -> u64;
}
