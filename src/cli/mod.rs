//! The command line: subcommands to exit codes.
//!
//! The tour: this file declares every subcommand and hands it to its file. `client.rs` talks to nodes over HTTP and
//! tries every address; `fault.rs` is an error with its exit code and what to do next; `term.rs` writes to terminals
//! and pipes. `node.rs` runs a node; `status.rs`, `events.rs`, `leader.rs` and `member.rs` ask and change a running
//! cluster; `kv.rs` and `lock.rs` use its store (`lock_group.rs` has the processes under a lock, `lock_guard.rs` keeps it), `job.rs` its workers, `sql.rs` its
//! database (`sql_text.rs` cuts statements and draws tables), `check.rs` compares its nodes; `config.rs` and `log.rs` read files, `recover.rs` makes a new cluster of one folder; `bench.rs`, `demo.rs`, `dev.rs` and `sim.rs` start worlds of their own.
//! Conventions are those of clig.dev: stdout for data, stderr for messages, `--json`, no colour off a terminal.
//! Not here: what a node does (`node/`), starting and breaking real processes (`lab/`).

mod allocator;
pub mod bench;
pub mod chat;
mod chat_talk;
pub mod check;
pub mod client;
pub mod completions;
pub mod config;
pub mod demo;
pub mod dev;
pub mod events;
pub mod fault;
mod interrupt;
pub mod job;
pub mod kv;
pub mod leader;
pub mod lock;
mod lock_group;
mod lock_guard;
pub mod log;
pub mod member;
pub mod node;
pub mod recover;
pub mod sim;
pub mod sql;
pub mod sql_text;
pub mod status;
pub mod term;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "phalanx", version, about, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 fine, 1 failed and not applied, 2 usage or settings, 3 disk, \
    4 no quorum or unreachable, 5 outcome unknown, 7 unhealthy (status --check), 8 a checker found a violation, \
    9 checker undecided.\n\nStart with: ./run.sh, or phalanx dev")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One subcommand.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node until it is told to stop
    Node(node::NodeArgs),
    /// Verdict on the cluster, then a row per node
    Status(status::StatusArgs),
    /// Elections, failures, joins, snapshots and hand-overs in plain words
    Events(events::EventsArgs),
    /// Who leads; hand leadership over
    Leader(leader::LeaderArgs),
    /// List and change the members
    Member(member::MemberArgs),
    /// Read and write keys
    Kv(kv::KvArgs),
    /// Run programs on the cluster
    Job(job::JobArgs),
    /// Talk: rooms and direct messages
    Chat(chat::ChatArgs),
    /// A shell for the SQL database of the cluster
    Sql(sql::SqlArgs),
    /// Compare what the nodes hold
    Check(check::CheckArgs),
    /// Run a command under a lock of the cluster
    Lock(lock::LockArgs),
    /// Go on from one surviving folder when a majority of the disks is lost for good
    Recover(recover::RecoverArgs),
    /// Show and check settings
    Config(config::ConfigArgs),
    /// Read a node's log on disk
    Log(log::LogArgs),
    /// Measure this program on this machine
    Bench(bench::BenchArgs),
    /// Run simulated clusters, one seed each
    Sim(sim::SimArgs),
    /// Run a whole cluster in this terminal, with keys to break it
    Dev(dev::DevArgs),
    /// What the cluster can do, played and judged
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// How to find the cluster and how to answer: the arguments of every subcommand that asks a running node.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClientArgs {
    /// Nodes to ask, each host:port of HTTP; every one is tried [default: those in config.json, else the local ports]
    #[arg(short, long, value_delimiter = ',', value_name = "HOST:PORT")]
    pub endpoints: Vec<String>,
    /// Settings file that names config.json and the ports
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    /// Seconds to wait for one node's answer [default: 3 for a question, request_timeout_ms and 2 s for a change]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
}

/// Reads the command line and obeys it; the exit code.
pub fn run() -> u8 {
    let command = Cli::parse().command;
    // What `lock` runs has the umask that its user chose.
    if !matches!(command, Command::Lock(_)) {
        crate::store::keep_own_rights();
    }
    let answer = match command {
        Command::Node(args) => return node::run(args),
        Command::Config(args) => return config::run(args),
        Command::Log(args) => return log::run(args),
        Command::Sim(args) => return sim::run(args),
        Command::Status(args) => status::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Leader(args) => leader::run(&args),
        Command::Member(args) => member::run(&args),
        Command::Kv(args) => kv::run(&args),
        Command::Job(args) => job::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Sql(args) => sql::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Lock(args) => lock::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Dev(args) => dev::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Completions(args) => completions::run(&args),
    };
    match answer {
        Ok(()) => 0,
        Err(fault) => fault.report(),
    }
}
