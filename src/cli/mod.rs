//! The command line: subcommands to exit codes.
//!
//! This file declares every subcommand and calls its file.
//! - `client.rs` talks to nodes over HTTP and tries every address; `fault.rs` is an error with its exit code and what to do next;
//!   `term.rs` writes to terminals and pipes.
//! - `cluster/` asks a running cluster about itself and changes it: status, events, leader, members, digests.
//! - `kv.rs`, `job.rs`, `lock/`, `sql/` and `chat/` use its services.
//! - `local/` works on this machine alone: a node, its settings, its log, recovery of a lost majority, shell completions, manual pages.
//! - `lab/` starts clusters of its own: bench, demo, dev, sim.
//!
//! Conventions are those of clig.dev: stdout for data, stderr for messages, `--json`, no colour off a terminal.
//! Not here: what a node does (`node/`), starting and breaking real processes (`lab/`).

pub mod chat;
pub mod client;
pub mod cluster;
pub mod fault;
pub mod job;
pub mod kv;
pub mod lab;
pub mod local;
pub mod lock;
pub mod sql;
pub mod term;

use clap::{CommandFactory, Parser, Subcommand};

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
    Node(local::node::NodeArgs),
    /// Verdict on the cluster, then a row per node
    Status(cluster::status::StatusArgs),
    /// Elections, failures, joins, snapshots and hand-overs in plain words
    Events(cluster::events::EventsArgs),
    /// Who leads; hand leadership over
    Leader(cluster::leader::LeaderArgs),
    /// List and change the members
    Member(cluster::member::MemberArgs),
    /// Read and write keys
    Kv(kv::KvArgs),
    /// Run programs on the cluster
    Job(job::JobArgs),
    /// Talk: rooms and direct messages
    Chat(chat::ChatArgs),
    /// A shell for the SQL database of the cluster
    Sql(sql::SqlArgs),
    /// Compare what the nodes hold
    Check(cluster::check::CheckArgs),
    /// Run a command under a lock of the cluster
    Lock(lock::LockArgs),
    /// Go on from one surviving folder when a majority of the disks is lost for good
    Recover(local::recover::RecoverArgs),
    /// Show and check settings
    Config(local::config::ConfigArgs),
    /// Read a node's log on disk
    Log(local::log::LogArgs),
    /// Measure this program on this machine
    Bench(lab::bench::BenchArgs),
    /// Run simulated clusters, one seed each
    Sim(lab::sim::SimArgs),
    /// Run a whole cluster in this terminal, with keys to break it
    Dev(lab::dev::DevArgs),
    /// What the cluster can do, played and judged
    Demo(lab::demo::DemoArgs),
    /// Print a completion script for a shell
    Completions(local::completions::CompletionsArgs),
    /// Print the manual page of a command
    Man(local::man::ManArgs),
}

/// Reads the command line and obeys it; the exit code.
pub fn run() -> u8 {
    let command = Cli::parse().command;
    // What `lock` runs has the umask that its user chose.
    if !matches!(command, Command::Lock(_)) {
        crate::store::keep_own_rights();
    }
    let answer = match command {
        Command::Node(args) => return local::node::run(args),
        Command::Config(args) => return local::config::run(args),
        Command::Log(args) => return local::log::run(args),
        Command::Sim(args) => return lab::sim::run(args),
        Command::Status(args) => cluster::status::run(&args),
        Command::Events(args) => cluster::events::run(&args),
        Command::Leader(args) => cluster::leader::run(&args),
        Command::Member(args) => cluster::member::run(&args),
        Command::Kv(args) => kv::run(&args),
        Command::Job(args) => job::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Sql(args) => sql::run(&args),
        Command::Check(args) => cluster::check::run(&args),
        Command::Lock(args) => lock::run(&args),
        Command::Recover(args) => local::recover::run(&args),
        Command::Bench(args) => lab::bench::run(&args),
        Command::Dev(args) => lab::dev::run(&args),
        Command::Demo(args) => lab::demo::run(&args),
        Command::Completions(args) => local::completions::run(&args, Cli::command()),
        Command::Man(args) => local::man::run(&args, Cli::command()),
    };
    match answer {
        Ok(()) => 0,
        Err(fault) => fault.report(),
    }
}
