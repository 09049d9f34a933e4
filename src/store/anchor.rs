//! Checks whether a node's folder is still the one that was opened.
//!
//! Open files stay writable after their folder was removed, renamed or replaced: every write and sync succeeds, but a
//! restart does not find the data. So the paths are compared with the open files: device and inode of the folder, of
//! `lock` and of `wal/`. All of them are kept open, so that their inodes are not reused.
//! Not here: when this is checked, and the reaction (`node/threads/disk.rs`).

use super::WAL_DIR;
use super::error::StoreError;
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files and folders that this process has opened, each with its path.
#[derive(Debug)]
pub struct Anchor {
    opened: Vec<(PathBuf, File)>,
}

impl Anchor {
    /// Creates an anchor. `folder` is the node's folder at `dir`, `lock` the lock file in it, each with its path.
    ///
    /// # Errors
    /// Returns the system's error if the log's folder cannot be opened, [`StoreError::FolderGone`] if a path leads to
    /// another file already.
    pub(crate) fn new(dir: &Path, folder: (&Path, &File), lock: (&Path, &File)) -> Result<Anchor, StoreError> {
        let again = |(path, file): (&Path, &File)| {
            let file = file.try_clone().map_err(|e| StoreError::io("hold on to", path, e))?;
            Ok::<_, StoreError>((path.to_path_buf(), file))
        };
        let mut anchor = Anchor { opened: vec![again(folder)?, again(lock)?] };
        anchor.check()?;
        let wal = dir.join(WAL_DIR);
        let file = File::open(&wal).map_err(|e| StoreError::io("open", &wal, e))?;
        anchor.opened.push((wal, file));
        Ok(anchor)
    }

    /// Checks that each path still leads to the file that was opened.
    ///
    /// # Errors
    /// Returns [`StoreError::FolderGone`] if one does not. Any other error means that the check was not possible.
    pub fn check(&self) -> Result<(), StoreError> {
        for (path, file) in &self.opened {
            let what = match std::fs::metadata(path) {
                Ok(now) => match file.metadata() {
                    Ok(then) if is_same(&now, &then) => continue,
                    Ok(_) => "is another one now",
                    Err(e) => return Err(StoreError::io("look at", path, e)),
                },
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => "is gone",
                Err(e) => return Err(StoreError::io("look at", path, e)),
            };
            let node = self.opened.first().and_then(|(dir, _)| super::error::node_of(dir));
            return Err(StoreError::FolderGone { path: path.clone(), what, node });
        }
        Ok(())
    }
}

fn is_same(now: &Metadata, then: &Metadata) -> bool {
    (now.dev(), now.ino()) == (then.dev(), then.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::folder_lock::lock;
    use crate::store::identity::folder;
    use crate::types::NodeId;

    #[test]
    fn a_folder_that_was_removed_renamed_or_replaced_is_noticed() {
        let cases: [(&str, &[&str], &str); 6] = [
            ("rm -r node-3", &["node-3", "is gone"], "removed"),
            ("mv node-3 aside", &["node-3", "is gone"], "renamed"),
            ("cp -r node-3 copy; mv node-3 aside; mv copy node-3", &["node-3", "is another one now"], "replaced"),
            ("rm -r node-3; touch node-3", &["node-3", "is another one now"], "no folder any more"),
            ("rm node-3/lock; touch node-3/lock", &["node-3/lock", "is another one now"], "another lock"),
            ("rm -r node-3/wal; mkdir node-3/wal", &["node-3/wal", "is another one now"], "another log"),
        ];
        for (script, said, what) in cases {
            let data = tempfile::tempdir().unwrap();
            let dir = folder(data.path(), NodeId(3));
            let held = lock(&dir).unwrap();
            std::fs::create_dir(dir.join(WAL_DIR)).unwrap();
            let anchor = held.anchor().unwrap();
            anchor.check().unwrap();
            let shell = std::process::Command::new("sh").args(["-ec", script]).current_dir(data.path()).status();
            assert!(shell.unwrap().success(), "{script}");
            let error = anchor.check().unwrap_err();
            assert!(matches!(error, StoreError::FolderGone { .. }), "{what}: {error}");
            let text = error.to_string();
            assert!(said.iter().all(|words| text.contains(words)), "{what}: {text}");
            assert!(text.contains("phalanx node --id 3"), "{text}");
        }
    }

    #[test]
    fn a_link_to_the_folder_may_stand_in_the_path() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", data.path().join("link")).unwrap();
        let dir = folder(&data.path().join("link"), NodeId(1));
        let held = lock(&dir).unwrap();
        std::fs::create_dir(dir.join(WAL_DIR)).unwrap();
        let anchor = held.anchor().unwrap();
        anchor.check().unwrap();
        std::fs::remove_file(data.path().join("link")).unwrap();
        assert!(matches!(anchor.check(), Err(StoreError::FolderGone { .. })));
    }
}
