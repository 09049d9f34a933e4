//! `phalanx node`: one node of the cluster, until it is told to stop.

use std::path::PathBuf;

/// Arguments of `phalanx node`.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeArgs {
    /// Number of this node; without it, the lowest free one
    #[arg(long, value_name = "N")]
    pub id: Option<u64>,
    /// Settings file
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Data folder (setting `data_dir`); the node keeps its state in node-N below it
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Discard this node's state and fetch it again from the leader, under a new uuid
    #[arg(long)]
    pub rejoin: bool,
    /// One setting, before environment and file; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Runs the node; the exit code.
pub fn run(_args: NodeArgs) -> u8 {
    eprintln!("error: this part of the house is under construction");
    1
}
