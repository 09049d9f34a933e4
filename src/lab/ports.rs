//! Blocks of free ports, so that clusters of several test processes never use the same port, and whose turn it is.
//!
//! A block is below the range from which the system picks ports for outgoing connections; otherwise a client of one
//! test could occupy the port that a restarted node of another needs. A process that uses a block holds the lock on a
//! file with the block's number in the temporary folder; the system releases the lock when the process dies, however it
//! dies. Who takes a block also waits for a turn (L3).
//! Not here: which node uses which port (`settings.rs`).

use super::{LabError, Result};
use fs2::FileExt;
use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Ports of one base: node ids 1 to 15.
const PER_BASE: u16 = 16;
/// Three bases and the front door.
const PER_BLOCK: u16 = 3 * PER_BASE + 1;
/// First port of the first block.
const LOWEST: u16 = 10_000;
/// No block reaches this; Linux assigns ports from 32768 to clients.
const HIGHEST: u16 = 32_000;
/// Blocks that are tried before giving up.
const TRIES: usize = 200;

/// The highest node id that a block has ports for.
pub const NODES_MAX: u64 = PER_BASE as u64 - 1;

/// The folder with the locks of this user's labs. In a temporary folder, another user may have made a folder or a link
/// of this name: it is refused unless only this user can write to it.
///
/// # Errors
/// It cannot be made, or is not ours.
pub fn own_folder() -> Result<PathBuf> {
    own_folder_in(&std::env::temp_dir())
}

fn own_folder_in(below: &Path) -> Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let folder = below.join(format!("phalanx-lab-locks-{user}"));
    let made = DirBuilder::new().mode(0o700).create(&folder);
    match made {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(LabError::io(format!("make {}", folder.display()))(e));
        }
        _ => {}
    }
    let meta = std::fs::symlink_metadata(&folder).map_err(LabError::io(format!("make {}", folder.display())))?;
    match meta.is_dir() && meta.uid() == user && meta.mode() & 0o022 == 0 {
        true => Ok(folder),
        false => Err(LabError::Answer(format!(
            "{} is not a folder that only this user can write to: remove it",
            folder.display()
        ))),
    }
}

/// A block of ports that no other lab process uses, until it is dropped.
#[derive(Debug)]
pub struct Block {
    first: u16,
    _lock: File,
    _turn: Arc<File>,
}

impl Block {
    /// Waits for a turn and takes a random free block.
    ///
    /// # Errors
    /// No block is free, or the temporary folder cannot be written.
    pub fn take() -> Result<Block> {
        let folder = own_folder()?;
        let turn = take_turn(&folder)?;
        let blocks = (HIGHEST - LOWEST) / PER_BLOCK;
        for _ in 0..TRIES {
            let first = LOWEST + fastrand::u16(0..blocks) * PER_BLOCK;
            let path = folder.join(format!("{first}.lock"));
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let lock = lock.map_err(LabError::io(format!("open {}", path.display())))?;
            if lock.try_lock_exclusive().is_ok() && all_free(first) {
                return Ok(Block { first, _lock: lock, _turn: turn });
            }
        }
        Err(LabError::NoPorts)
    }

    /// Setting `leader_port_base`.
    pub fn peer_base(&self) -> u16 {
        self.first
    }
    /// Setting `service_port_base`.
    pub fn http_base(&self) -> u16 {
        self.first + PER_BASE
    }
    /// Setting `kv_port_base`.
    pub fn kv_base(&self) -> u16 {
        self.first + 2 * PER_BASE
    }
    /// Setting `service_port`.
    pub fn front(&self) -> u16 {
        self.first + 3 * PER_BASE
    }
}

/// Waits until no other process or thread of this machine has a block; a thread that has one may have more. Under nextest
/// the runner decides who has the machine to itself: tests of other groups than `machine` share the turn.
fn take_turn(folder: &Path) -> Result<Arc<File>> {
    thread_local! {
        static TURN: RefCell<Weak<File>> = const { RefCell::new(Weak::new()) };
    }
    if let Some(turn) = TURN.with_borrow(Weak::upgrade) {
        return Ok(turn);
    }
    let path = folder.join("turn.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(LabError::io(format!("open {}", path.display())))?;
    let is_shared = std::env::var("NEXTEST_TEST_GROUP").is_ok_and(|group| group != "machine");
    let locked = if is_shared { file.lock_shared() } else { file.lock_exclusive() };
    locked.map_err(LabError::io(format!("lock {}", path.display())))?;
    let turn = Arc::new(file);
    TURN.set(Arc::downgrade(&turn));
    Ok(turn)
}

fn all_free(first: u16) -> bool {
    (first..first + PER_BLOCK).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_holders_never_share_a_block() {
        let held: Vec<Block> = (0..8).map(|_| Block::take().unwrap()).collect();
        let mut firsts: Vec<u16> = held.iter().map(|b| b.first).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 8);
        for block in &held {
            assert!(block.front() < HIGHEST && block.kv_base() + PER_BASE == block.front());
        }
    }

    #[test]
    fn a_folder_of_locks_that_another_could_have_made_is_refused() {
        let below = tempfile::tempdir().unwrap();
        let folder = own_folder_in(below.path()).unwrap();
        assert_eq!(own_folder_in(below.path()).unwrap(), folder);
        std::fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink(below.path(), &folder).unwrap();
        assert!(own_folder_in(below.path()).is_err(), "a link");
        std::fs::remove_file(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(own_folder_in(below.path()).is_err(), "open to all");
    }

    #[test]
    fn a_port_in_use_spoils_its_block() {
        let block = Block::take().unwrap();
        let _guest = TcpListener::bind(("127.0.0.1", block.http_base() + 3)).unwrap();
        assert!(!all_free(block.first));
    }
}
