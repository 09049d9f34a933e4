//! The voters of dead processes that this node hosts, for all threads that send messages of raft.
//!
//! The set changes where `core` learns of it: between a release and that, the autopilot would take a voter that still
//! seems to answer for one with a process.
//! Not here: the thread that runs them (`node/takeover/`), why (`cluster/takeover/`).

use crate::lock::{Mutex, lock};
use crate::types::{Identity, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who is hosted here.
#[derive(Debug, Default)]
pub struct Hosted {
    /// Whether there is any: read for each message.
    is_any: AtomicBool,
    voters: Mutex<Arc<BTreeSet<Identity>>>,
    /// Why dead voters are not hosted, or which ones are; for the health.
    note: Mutex<Option<String>>,
}

impl Hosted {
    /// `core` reaches this voter here from now on, or no longer.
    pub fn set(&self, who: Identity, is_here: bool) {
        let mut voters = lock(&self.voters);
        let mut changed = (**voters).clone();
        _ = if is_here { changed.insert(who) } else { changed.remove(&who) };
        self.is_any.store(!changed.is_empty(), Ordering::Release);
        *voters = Arc::new(changed);
    }

    pub fn all(&self) -> Arc<BTreeSet<Identity>> {
        Arc::clone(&lock(&self.voters))
    }

    pub fn contains(&self, who: &Identity) -> bool {
        self.is_any.load(Ordering::Acquire) && self.all().contains(who)
    }

    pub fn has(&self, id: NodeId) -> bool {
        self.is_any.load(Ordering::Acquire) && self.all().iter().any(|who| who.id == id)
    }

    pub fn note(&self) -> Option<String> {
        lock(&self.note).clone()
    }

    /// Returns whether it is another one than before.
    pub fn set_note(&self, note: Option<String>) -> bool {
        let before = std::mem::replace(&mut *lock(&self.note), note.clone());
        before != note
    }
}
