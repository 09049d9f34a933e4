//! Who writes `config.json`, and when. The leader is the author: it gives each change a version and sends it to all
//! nodes. Every node keeps the file that it uses at the newest version that it knows, so the files of all hosts have
//! the same content. Of nodes that share a file, the first that takes its lock writes a version; the others find it
//! written.
//!
//! A node that is not in contact with a leader cannot know whether the content is out of date. Nodes in contact share a
//! lock on `config.json.contact.lock`; one that is not, and gets that lock for itself alone, marks the file with the
//! time since which no node here knows better (`stale_since`). The first node in contact again writes it anew.
//! Not here: format and lock of the file (`file.rs`), thread and frames (`node/threads/config_writer.rs`).

use super::file::{self, ClusterInfo, ConfigFileError, Lock, Projection, WriteOutcome, beside, read, target};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Minimum time between two versions of one author, and before a failed write is tried again.
const WRITE_EVERY_MS: u64 = 1000;
/// Time between two checks for a change: each collects the state of all nodes.
const CHECK_EVERY_MS: u64 = 200;
/// A node that has been out of contact for so long marks the file: a change of leader takes less.
const STALE_AFTER_MS: u64 = 500;

/// The leader's record of its last version.
#[derive(Debug, Default)]
pub struct VersionAuthor {
    last: Option<Arc<Projection>>,
    made_ms: u64,
    checked_ms: u64,
}

impl VersionAuthor {
    /// Whether to find out now if there is a change.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let has_passed = |since_ms, at_least_ms| now_ms.saturating_sub(since_ms) >= at_least_ms;
        self.last.is_none() || has_passed(self.made_ms, WRITE_EVERY_MS) && has_passed(self.checked_ms, CHECK_EVERY_MS)
    }

    /// The present state, of which the version is filled in here, as a new version; `None` if nothing has changed. A
    /// file of the same term that was edited to a higher version is a change.
    pub fn revise(
        &mut self,
        now_ms: u64,
        mut present: Projection,
        on_disk: Option<&ClusterInfo>,
    ) -> Option<Arc<Projection>> {
        self.checked_ms = now_ms;
        let term = present.cluster_info.term;
        let known = self.last.as_ref().map_or(0, |last| last.cluster_info.last_version);
        let there = on_disk.filter(|there| there.term == term).map_or(0, |there| there.last_version);
        if there <= known && self.last.as_ref().is_some_and(|last| last.has_same_content(&present)) {
            return None;
        }
        present.cluster_info.last_version = known.max(there) + 1;
        let new = Arc::new(present);
        (self.last, self.made_ms) = (Some(Arc::clone(&new)), now_ms);
        Some(new)
    }
}

/// Inode, length and modification time of a file, to detect that it was replaced or changed.
type FileStamp = (u64, u64, i64, i64);

fn stamp_of(path: &Path) -> Option<FileStamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// Keeps one file at the newest version.
#[derive(Debug, Default)]
pub struct Keeper {
    /// The version that the file was last found to have, and its stamp then.
    intact: Option<(Arc<Projection>, Option<FileStamp>)>,
    failed_ms: Option<u64>,
}

impl Keeper {
    /// To be called several times a second. Writes the file unless it has this version or a newer one; so it also
    /// repairs a file that was changed or removed. Returns `None` while a failed write is not tried again.
    ///
    /// # Errors
    /// Returns the errors of [`file::write`]; a call after at least a second tries again.
    pub fn keep(
        &mut self,
        now_ms: u64,
        path: &Path,
        newest: &Arc<Projection>,
        wait: &dyn Fn(Duration) -> bool,
    ) -> Option<Result<WriteOutcome, ConfigFileError>> {
        let stamp = stamp_of(path);
        let is_known =
            |(kept, seen): &(Arc<Projection>, _)| Arc::ptr_eq(kept, newest) && stamp.is_some() && *seen == stamp;
        if self.intact.as_ref().is_some_and(is_known) {
            return Some(Ok(WriteOutcome::Yes));
        }
        let found = read(path).ok().flatten();
        if found.as_ref() == Some(&**newest) {
            self.intact = Some((Arc::clone(newest), stamp));
            return Some(Ok(WriteOutcome::Yes));
        }
        if let Some(newer) = found.filter(|found| found.is_newer_than(newest)) {
            return Some(Ok(WriteOutcome::not(&newer)));
        }
        if self.failed_ms.is_some_and(|at| now_ms.saturating_sub(at) < WRITE_EVERY_MS) {
            return None;
        }
        let result = file::write(path, newest, wait);
        self.failed_ms = result.is_err().then_some(now_ms);
        Some(result)
    }
}

/// Whether this node, and the others that use the same file, are in contact with a leader.
#[derive(Debug, Default)]
pub struct Contact {
    /// The shared lock, while this node is in contact.
    held: Option<File>,
    lost_ms: Option<u64>,
    marked_ms: Option<u64>,
}

impl Contact {
    /// To be called several times a second. Returns since when this node has been out of contact, once it has been for
    /// long enough.
    pub fn observe(&mut self, now_ms: u64, path: &Path, is_in_contact: bool) -> Option<u64> {
        if is_in_contact {
            (self.lost_ms, self.marked_ms) = (None, None);
            if self.held.is_none() {
                // While another node marks the file, the next call tries again.
                self.held = contact_lock(path).filter(|file| fs2::FileExt::try_lock_shared(file).is_ok());
            }
            return None;
        }
        self.held = None;
        let since_ms = *self.lost_ms.get_or_insert(now_ms);
        (now_ms.saturating_sub(since_ms) >= STALE_AFTER_MS).then_some(since_ms)
    }

    /// Marks the file, about once a second, unless another node that uses it is in contact. `newest`: the newest version
    /// that this node knows. `since`: for readers.
    ///
    /// # Errors
    /// Returns the errors of [`Lock::take`] and [`Lock::write`].
    pub fn mark_stale(
        &mut self,
        now_ms: u64,
        path: &Path,
        (cluster, newest): (Uuid, Option<&Projection>),
        since: &str,
        wait: &dyn Fn(Duration) -> bool,
    ) -> Result<(), ConfigFileError> {
        if self.marked_ms.is_some_and(|at| now_ms.saturating_sub(at) < WRITE_EVERY_MS) {
            return Ok(());
        }
        self.marked_ms = Some(now_ms);
        let stale = |found: Option<Projection>| {
            let found = found.filter(|found| found.cluster_info.id == cluster);
            let is_newer = |found: &Projection| newest.is_none_or(|newest| !newest.is_newer_than(found));
            let mut stale = found.filter(is_newer).or(newest.cloned())?;
            stale.cluster_info.stale_since.get_or_insert_with(|| since.to_string());
            Some(stale)
        };
        let found = read(path).ok().flatten();
        if stale(found.clone()) == found {
            return Ok(());
        }
        let alone = contact_lock(path).filter(|file| fs2::FileExt::try_lock_exclusive(file).is_ok());
        if alone.is_none() {
            return Ok(());
        }
        let lock = Lock::take(path, wait)?;
        match stale(lock.read()?) {
            Some(stale) => lock.write(&stale).map(drop),
            None => Ok(()),
        }
    }
}

/// The open file that nodes in contact share a lock on; `None`: it cannot be opened, and so no file is marked.
fn contact_lock(path: &Path) -> Option<File> {
    let path = beside(&target(path), ".contact.lock");
    let created = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    // A file of another user can still be locked.
    created.or_else(|_| File::open(&path)).ok()
}

#[cfg(test)]
#[path = "tests/keeper.rs"]
mod tests;
