//! Blocks of free ports, so that clusters of several test processes never meet.
//!
//! A block lies below the range from which the system picks ports for outgoing connections; otherwise a client of one
//! test could sit on the port that a restarted node of another needs. Whoever uses a block holds the lock on a file
//! of its number in the temporary folder; the system takes the lock back when the process dies, however it dies.
//! Not here: which node uses which port (`settings.rs`).

use super::{LabError, Result};
use fs2::FileExt;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;

/// Ports of one base: node ids 1 to 15.
const PER_BASE: u16 = 16;
/// Three bases and the front door.
const PER_BLOCK: u16 = 3 * PER_BASE + 1;
/// First port of the first block.
const LOWEST: u16 = 10_000;
/// No block reaches this; Linux hands out 32768 and above to clients.
const HIGHEST: u16 = 32_000;
/// Blocks that are tried before giving up.
const TRIES: usize = 200;

/// The highest node id that a block has ports for.
pub const NODES_MAX: u64 = PER_BASE as u64 - 1;

/// A block of ports that nobody else in any lab uses, until it is dropped.
#[derive(Debug)]
pub struct Block {
    first: u16,
    _lock: File,
}

impl Block {
    /// Takes a random free block.
    ///
    /// # Errors
    /// No block is free, or the temporary folder cannot be written.
    pub fn take() -> Result<Block> {
        let folder = std::env::temp_dir().join("phalanx-lab-ports");
        std::fs::create_dir_all(&folder).map_err(LabError::io(format!("create {}", folder.display())))?;
        let blocks = (HIGHEST - LOWEST) / PER_BLOCK;
        for _ in 0..TRIES {
            let first = LOWEST + fastrand::u16(0..blocks) * PER_BLOCK;
            let path = folder.join(format!("{first}.lock"));
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let lock = lock.map_err(LabError::io(format!("open {}", path.display())))?;
            if lock.try_lock_exclusive().is_ok() && all_free(first) {
                return Ok(Block { first, _lock: lock });
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
    fn a_port_in_use_spoils_its_block() {
        let block = Block::take().unwrap();
        let _guest = TcpListener::bind(("127.0.0.1", block.http_base() + 3)).unwrap();
        assert!(!all_free(block.first));
    }
}
