//! What the database needs from the system besides SQLite's own access to its file; the database itself opens no files.
//!
//! Not here: the implementation (`node/process/sql_folder.rs`).

use crate::services::sql::budget::long_rows::LongRows;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The folder of a node's database.
pub trait Files: Debug + Send + Sync {
    /// Path of the present database file. It changes when another file becomes the database ([`Files::adopt`]).
    fn path(&self) -> PathBuf;
    /// Text that identifies this node and its cluster, different for every other node.
    fn owner(&self) -> String;
    /// A path in the same folder where no file exists. The file is removed by [`Files::remove`], or at the next start.
    fn temporary(&self) -> PathBuf;
    fn create(&self, path: &Path) -> io::Result<Box<dyn Write>>;
    /// Opens a file for reading; returns its length in bytes as well.
    fn open(&self, path: &Path) -> io::Result<(Box<dyn Read>, u64)>;
    /// Removes a file, if it exists, and the WAL and shared-memory files next to it.
    fn remove(&self, path: &Path);
    /// A path in the same folder for a database that may replace the present one.
    fn successor(&self) -> PathBuf;
    /// Makes the content of a file durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Records durably that this file is the database from now on.
    fn adopt(&self, path: &Path);
    /// Runs `work`, which may take long, on a thread of its own.
    fn in_background(&self, work: Box<dyn FnOnce() + Send>);
    /// Preparing the database file of that load has ended on this node, whether the file is usable or not.
    fn prepared(&self, load: u64);
    /// Moves the database file away, so that it can be examined, and logs the reason.
    fn set_aside(&self, why: &str);
    /// Ends the node, because the database cannot continue. `is_damaged`: its file is set aside at the next start.
    fn give_up(&self, why: &str, is_damaged: bool) -> !;
    /// Ends the node if the disk is nearly full, because SQLite's errors on a full disk would differ between nodes. It
    /// is called often while a statement writes, and reads the free space only now and then, or always if `is_certain`.
    fn check_free_space(&self, is_certain: bool);
    /// Whether the disk has room for the temporary files of reads that sort.
    fn has_room_for_reads(&self) -> bool;
    /// Pauses between two steps of a long copy, so that other threads can use the disk.
    fn pause_copy(&self);
    /// Called when the command with this seed begins and after each of its statements, to measure how long each takes
    /// on this node.
    fn on_statement(&self, seed: u64);
    /// Known sizes of the long rows of the database.
    fn long_rows(&self) -> &LongRows;
    /// Size in bytes up to which a file is checked page by page when it is opened.
    fn check_bytes_max(&self) -> u64;
}
