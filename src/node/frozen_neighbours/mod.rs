//! The front doors of the other nodes of this host, while those are frozen.
//!
//! The kernel distributes the clients of the shared port over all listening sockets, whether or not the process of one
//! still accepts. Only a process that has a socket can take its clients. So nodes of one host and user give each other
//! descriptors of their sockets (`descriptors.rs`), and while one of them is silent the others accept its clients
//! (`accept.rs`).
//! Not here: answering them (`http/front_door.rs`).

#[cfg(target_os = "linux")]
pub(crate) mod accept;
#[cfg(target_os = "linux")]
mod descriptors;

use crate::lock::{Mutex, lock};
use crate::types::NodeId;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Another node of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub id: NodeId,
    pub pid: u32,
    /// It has not been heard for longer than usual.
    pub is_silent: bool,
}

/// The other nodes of this host as the heartbeats tell, for the thread that helps them.
#[derive(Debug, Default)]
pub struct Neighbours {
    all: Mutex<Arc<Vec<Neighbour>>>,
    /// Wakes the thread.
    wake: Mutex<Option<UnixStream>>,
}

impl Neighbours {
    /// Publishes them, if they have changed.
    pub fn set(&self, neighbours: Vec<Neighbour>) {
        let mut all = lock(&self.all);
        if **all == neighbours {
            return;
        }
        *all = Arc::new(neighbours);
        drop(all);
        self.wake();
    }

    pub fn all(&self) -> Arc<Vec<Neighbour>> {
        Arc::clone(&lock(&self.all))
    }

    /// Has the thread look again.
    pub fn wake(&self) {
        if let Some(stream) = &mut *lock(&self.wake) {
            // If it cannot be written to, the thread has not read the last byte yet.
            let _ = stream.write(&[0]);
        }
    }

    #[cfg(target_os = "linux")]
    fn waken_by(&self, stream: UnixStream) {
        *lock(&self.wake) = Some(stream);
    }
}
