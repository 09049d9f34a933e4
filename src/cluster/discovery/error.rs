//! Why a node cannot start.

use super::world::FrontOwner;
use crate::cluster::config::file::ConfigFileError;
use crate::settings::Settings;
use std::path::PathBuf;
use uuid::Uuid;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// `config.json` and the node's data name different clusters (D3).
    #[error(
        "{file} names cluster {theirs}, but the data in {data} belongs to cluster {ours}; nothing was changed. If the \
         data is right, move {file} away and start again; if the file is right, move {data} away, and the node joins \
         as a new node",
        file = file.display(), data = data.display()
    )]
    OtherCluster {
        /// Path of `config.json`.
        file: PathBuf,
        /// Cluster in `config.json`.
        theirs: Uuid,
        data: PathBuf,
        /// Cluster of the node's data.
        ours: Uuid,
    },
    /// Another cluster uses this host's front door (D4).
    #[error(
        "the front door {address} belongs to another cluster on this host, {name:?} ({theirs}), and {why}: set service_port to \
         another port in settings.json"
    )]
    FrontTaken {
        /// Address of the front door, `host:port`.
        address: String,
        /// Name of the cluster that uses it.
        name: String,
        /// Id of that cluster.
        theirs: Uuid,
        /// Message that says why it is not this node's cluster.
        why: String,
    },
    /// The lock or the file cannot be used at all.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    /// The node could not write the initial data.
    #[error("cannot bootstrap a cluster: {0}")]
    Bootstrap(String),
}

impl DiscoveryError {
    /// Returns the error for a node of cluster `ours` whose front door is used by another cluster.
    pub fn front_taken(settings: &Settings, owner: FrontOwner, ours: Uuid) -> DiscoveryError {
        front_taken(settings, owner, format!("this node is in cluster {ours}"))
    }
}

pub(super) fn front_taken(settings: &Settings, owner: FrontOwner, why: String) -> DiscoveryError {
    let (address, name, theirs) = (settings.front_door(), owner.name, owner.cluster);
    DiscoveryError::FrontTaken { address, name, theirs, why }
}
