//! The stop of a node: refuse clients, transfer leadership, send the last answers, sync, join, within five seconds.
//!
//! Not here: how a stop is requested (`node/shared/stopper.rs`), what each thread does at its end.

use crate::node::shared::Shared;
use crate::node::shared::request::{Operation, transferred_to};
use crate::raft::Role;
use log::{info, warn};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for a successor.
const TRANSFER_MAX: Duration = Duration::from_millis(1500);
/// Longest wait for client connections to end.
const CLIENTS_MAX: Duration = Duration::from_millis(1500);

/// Transfers leadership to the best live voter, if this node leads.
pub fn transfer_leadership(shared: &Shared) {
    if shared.view().raft.role != Role::Leader || shared.view().raft.membership.voters.len() < 2 {
        return;
    }
    let deadline = Instant::now() + TRANSFER_MAX;
    match shared.inboxes.ask(Operation::Transfer(None), deadline).into_result() {
        Ok((_, reply)) => {
            let to = transferred_to(&reply).map_or("another node".to_string(), |id| id.to_string());
            info!("leadership transferred to={to}");
        }
        Err(why) => warn!("leadership not transferred err={why:?}"),
    }
}

/// Waits until the client connections are closed.
pub fn drain_clients(shared: &Arc<Shared>) {
    let deadline = Instant::now() + CLIENTS_MAX;
    while shared.sessions.count() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let left = shared.sessions.count();
    if left > 0 {
        info!("{left} client connections did not close in time");
    }
}
