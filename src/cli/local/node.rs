//! `phalanx node`: one node of the cluster, until it is stopped.

use super::allocator;
use crate::cli::fault::code;
use crate::http;
use crate::lab::supervisor::{self, Supervised};
use crate::node::{self, Endpoints, NodeOptions};
use crate::resp;
use crate::settings::Settings;
use crate::types::{NodeId, NodeKind};
use std::path::PathBuf;

/// Arguments of `phalanx node`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  phalanx node --id 1\n  phalanx node --id 2 --set election_timeout_ms=1000\n  \
    phalanx node --id 3 --data /var/lib/phalanx --settings /etc/phalanx.json\n  phalanx node --id 4 --lab\n\n\
    It writes to its data folder, ./data/node-N by default, with the log lines also in node.log there, and the nodes \
    of a host share ./config.json. Ctrl+C or SIGTERM stops it gracefully within five seconds, a second Ctrl+C at \
    once; kill -9 loses no acknowledged write. In its terminal: lead, status, peers, help, quit.\n\n\
    Exit codes: 0 stopped, 1 a port is not available, 2 usage, settings or a problem that a person must resolve, \
    3 disk, 101 a bug, 130 ended at once.")]
pub struct NodeArgs {
    /// Id of this node [default: the lowest that is free]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=NodeId::MAX))]
    pub id: Option<u64>,
    /// Settings file [default: settings.json in the current directory, if there is one]
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Data folder (setting `data_dir`); node N uses its subfolder node-N
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Discard this node's data and join again as a new member with the same id (a new uuid); the leader sends the data
    #[arg(long)]
    pub rejoin: bool,
    /// Serve clients only: replicate the log, but never vote or run jobs
    #[arg(long)]
    pub gateway: bool,
    /// Vote and keep the end of the log, but no data: serve no clients, run no jobs, lead only to pass entries on
    #[arg(long, conflicts_with = "gateway")]
    pub witness: bool,
    /// Stop at the end of standard input, for example when the parent process exits
    #[arg(long)]
    pub until_eof: bool,
    /// Allow faults on demand (phalanx chaos): a supervisor, the parent process of the node, injects them
    #[arg(long, requires = "id")]
    pub lab: bool,
    /// For the supervisor: take the faults that it keeps
    #[arg(long, hide = true)]
    pub supervised: bool,
    /// For tests: adds the console command `alter PART`, which changes this node's state without the log
    #[arg(long, hide = true)]
    pub alterable: bool,
    /// Set one setting; overrides the environment and the settings file; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Runs the node; returns the exit code.
pub fn run(args: NodeArgs) -> u8 {
    if !args.lab {
        allocator::bound();
    }
    let mut flags = Vec::new();
    for pair in &args.set {
        match pair.split_once('=') {
            Some((key, value)) => flags.push((key.to_string(), value.to_string())),
            None => {
                eprintln!("error: --set {pair}: expected KEY=VALUE, for example --set gossip_ms=100");
                return code::USAGE;
            }
        }
    }
    if let Some(data) = &args.data {
        flags.push(("data_dir".to_string(), data.display().to_string()));
    }
    let settings = match Settings::from_process(args.settings.as_deref(), &flags) {
        Ok((settings, sources)) => {
            for warning in sources.warnings(&settings) {
                eprintln!("warning: {warning}");
            }
            settings
        }
        Err(faults) => {
            for fault in &faults {
                eprintln!("error: {fault}");
            }
            return code::USAGE;
        }
    };
    if let (true, Some(id)) = (args.lab, args.id) {
        return supervise(NodeId(id), &settings);
    }
    let options = NodeOptions {
        id: args.id.map(NodeId),
        rejoin: args.rejoin,
        kind: match (args.gateway, args.witness) {
            (true, _) => NodeKind::Gateway,
            (_, true) => NodeKind::Witness,
            (false, false) => NodeKind::Full,
        },
        ends_with_input: args.until_eof,
        is_alterable: args.alterable,
        is_supervised: args.supervised,
    };
    node::run(settings, &options, Endpoints { http: http::serve, front: http::front_door::serve, resp: resp::serve })
}

/// Runs this command line again without `--lab` as a child that has faults on demand.
fn supervise(id: NodeId, settings: &Settings) -> u8 {
    let fault = match std::env::current_exe() {
        Ok(program) => {
            let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--lab");
            let command =
                [program.into_os_string()].into_iter().chain(arguments).chain(["--supervised".into()]).collect();
            let (data_dir, node_dir) = (settings.data_dir.clone(), settings.node_dir(id));
            match supervisor::run(Supervised { id, command, data_dir, node_dir }) {
                Ok(code) => return code,
                Err(e) => e.to_string(),
            }
        }
        Err(e) => format!("cannot find the path of this program: {e}"),
    };
    eprintln!("error: {fault}");
    code::FAILED
}
