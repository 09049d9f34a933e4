//! `phalanx node`: one node of the cluster, until it is told to stop.

use super::allocator;
use crate::http;
use crate::node::{self, Endpoints, NodeOptions};
use crate::resp;
use crate::settings::Settings;
use crate::types::NodeId;
use std::path::PathBuf;

/// Exit code for bad usage or settings.
const EXIT_USAGE: u8 = 2;

/// Arguments of `phalanx node`.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeArgs {
    /// Number of this node; without it, the lowest free one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=NodeId::MAX))]
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
    /// Serve clients only: follow the log, never vote, never run jobs
    #[arg(long)]
    pub gateway: bool,
    /// Stop when standard input ends, as when the program that started this node ends
    #[arg(long)]
    pub until_eof: bool,
    /// For tests: the console obeys `alter PART`, which changes a part of this node's state behind the log's back
    #[arg(long, hide = true)]
    pub lab: bool,
    /// One setting, before environment and file; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Runs the node; the exit code.
pub fn run(args: NodeArgs) -> u8 {
    allocator::bound();
    let mut flags = Vec::new();
    for pair in &args.set {
        match pair.split_once('=') {
            Some((key, value)) => flags.push((key.to_string(), value.to_string())),
            None => {
                eprintln!("error: --set {pair}: write KEY=VALUE, for example --set gossip_ms=100");
                return EXIT_USAGE;
            }
        }
    }
    if let Some(data) = &args.data {
        flags.push(("data_dir".to_string(), data.display().to_string()));
    }
    let settings = match Settings::from_process(args.settings.as_deref(), &flags) {
        Ok((settings, sources)) => {
            for warning in sources.exposed_secret().into_iter().chain(settings.short_secret()) {
                eprintln!("warning: {warning}");
            }
            settings
        }
        Err(faults) => {
            for fault in &faults {
                eprintln!("error: {fault}");
            }
            return EXIT_USAGE;
        }
    };
    let options = NodeOptions {
        id: args.id.map(NodeId),
        rejoin: args.rejoin,
        is_gateway: args.gateway,
        ends_with_input: args.until_eof,
        is_lab: args.lab,
    };
    node::run(settings, &options, Endpoints { http: http::serve, front: http::front::serve, resp: resp::serve })
}
