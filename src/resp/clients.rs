//! The connections of the Redis server.

use super::outbox::Client;
use crate::lock::{Mutex, lock};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All connections by number, which is their order of arrival.
#[derive(Default)]
pub struct Clients(Mutex<BTreeMap<u64, Arc<Client>>>);

impl Clients {
    pub fn insert(&self, client: Arc<Client>) {
        lock(&self.0).insert(client.id, client);
    }

    /// Its thread has ended or never started, or it was killed.
    pub fn remove(&self, id: u64) {
        lock(&self.0).remove(&id);
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        lock(&self.0).values().cloned().collect()
    }

    pub fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// One of them, while it is connected.
    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        lock(&self.0).get(&id).cloned()
    }
}
