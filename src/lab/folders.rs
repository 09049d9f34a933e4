//! Temporary folders of demos, benches and tests, and their removal when a signal ends this program.
//!
//! Invariants: F1 a folder has a name that cannot be guessed, and only this user can access it unless its rights are
//! widened afterwards. F2 a program that is ended by a signal leaves no folder and no process behind: after the signal
//! it creates neither.
//! Not here: whether a folder is kept after a failure (`cluster.rs`).

use super::{LabError, Result, poll, process};
use crate::lock::{Mutex, lock};
use crate::node::process::signals::{self, Signal};
use crate::work::leftovers;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folders that this program has now. Locked while one is made, and permanently once a signal ends this program.
static FOLDERS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Time for which killed processes may continue to write.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A temporary folder, removed when this is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    is_kept: bool,
}

impl Folder {
    /// Makes it.
    ///
    /// # Errors
    /// The system's.
    pub fn make(prefix: &str) -> Result<Folder> {
        let mut folders = lock(&FOLDERS);
        let own = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let made = tempfile::Builder::new().prefix(prefix).permissions(own).tempdir();
        let path = made.map_err(LabError::io("create a temporary folder"))?.keep();
        folders.insert(path.clone());
        Ok(Folder { path, is_kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It stays when this is dropped.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        lock(&FOLDERS).remove(&self.path);
        leftovers::unmount_below(&self.path);
        if !self.is_kept {
            // What cannot be removed stays in the temporary folder.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// From now on Ctrl+C, SIGTERM and SIGHUP end this program without leaving nodes or folders behind.
pub fn clean_up_on_signals() {
    // If this fails, the folders stay.
    let _ = signals::listen(|signal| {
        // Both locks are held until the process ends: a thread that creates a folder or a process waits until then.
        let _running = process::kill_all();
        let folders = lock(&FOLDERS);
        for folder in folders.iter() {
            // A process that was killed may still be creating a file.
            let _ = poll::wait_until("the folder is gone", GONE_WITHIN, || {
                leftovers::unmount_below(folder);
                let _ = std::fs::remove_dir_all(folder);
                (!folder.exists()).then_some(())
            });
        }
        leftovers::remove_abandoned();
        std::process::exit(match signal {
            Signal::HangUp => 129,
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        });
    });
}
