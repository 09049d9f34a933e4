//! Finds earlier clusters in the folders of other nodes below the same data folder.
//!
//! A new node checks them before it bootstraps: no cluster is created beside data of one that may still exist
//! (`mod.rs`, D1). A log with an identity that is missing, cannot be read or does not match the folder may belong
//! to any cluster, and so also prevents a bootstrap. Nothing is changed here. Not here: this node's own folder
//! (`node/process/open.rs`).

use crate::store::{RealFiles, identity};
use crate::types::NodeId;
use log::debug;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The derived ports of local ids up to this one are always asked; higher ids are found through `config.json` and the
/// data folders.
pub const LOCAL_IDS: u64 = 9;

/// Clusters found in other nodes' folders.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    /// Clusters that they belong to, each with one such folder.
    pub clusters: BTreeMap<Uuid, PathBuf>,
    /// Message about a folder with a log whose cluster is unknown.
    pub unclear: Option<String>,
}

/// Returns the ids of the node folders below the data folder.
pub fn ids_below(data_dir: &Path) -> Vec<NodeId> {
    let Ok(folders) = std::fs::read_dir(data_dir) else { return Vec::new() };
    let folders = folders.flatten().filter(|folder| folder.path().is_dir());
    let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
    let mut ids: Vec<NodeId> = names
        .filter_map(|name| name.strip_prefix("node-")?.parse().ok().map(NodeId))
        .filter(|id| (1..=NodeId::MAX).contains(&id.0))
        .collect();
    ids.sort();
    ids
}

/// Searches the folders of all other nodes.
pub(crate) fn traces_below(data_dir: &Path, me: NodeId) -> Traces {
    let mut traces = Traces::default();
    for id in ids_below(data_dir).into_iter().filter(|id| *id != me) {
        let folder = identity::folder(data_dir, id);
        let found = identity::peek(&RealFiles, &folder).and_then(|me| {
            if me.is_none() {
                identity::missing_beside_a_log(&RealFiles, &folder)?
            }
            Ok(me)
        });
        match found {
            Ok(Some(identity::StoredIdentity { cluster: Some(cluster), .. })) => {
                traces.clusters.entry(cluster).or_insert(folder);
            }
            Ok(_) => {}
            // A folder of another user that cannot be read does not count.
            Err(e) if identity::holds_log(&RealFiles, &folder).unwrap_or(false) => {
                traces.unclear.get_or_insert(e.to_string());
            }
            Err(e) => debug!("looked into {} err=\"{e}\"", folder.display()),
        }
    }
    traces
}
