//! The command line: subcommands to exit codes.
//!
//! This file declares every subcommand and calls its file.
//! - `client.rs` queries nodes over HTTP and tries every address; `fault.rs` is an error with its exit code and advice;
//!   `term.rs` writes to terminals and pipes.
//! - `cluster/` asks a running cluster about itself and changes it: status, events, leader, members, digests.
//! - `kv.rs`, `job.rs`, `lock/`, `sql/` and `chat/` use its services.
//! - `local/` works on this machine only: a node, its settings and secrets, its log, recovery of a lost majority, shell
//!   completions, manual pages.
//! - `lab/` starts clusters of its own: bench, demo, dev, sim; `chaos` breaks nodes that run.
//!
//! Conventions are those of clig.dev: stdout for data, stderr for messages, `--json`, no colour off a terminal.
//! Not here: what a node does (`node/`), real processes and faults (`lab/`).

pub(crate) mod chat;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod fault;
pub(crate) mod job;
pub(crate) mod kv;
pub(crate) mod lab;
pub(crate) mod local;
pub(crate) mod lock;
pub(crate) mod sql;
pub(crate) mod term;

use clap::{CommandFactory, Parser, Subcommand};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "phalanx", version, disable_help_subcommand = true)]
#[command(about = "A replicated key-value store, SQL database, job queue and chat in one program, over Raft")]
#[command(before_help = "Start with ./run.sh (a terminal for each node), or phalanx dev (all nodes in one terminal).")]
#[command(after_help = "Exit codes: 0 success, 1 failed and not applied, 2 usage or settings, 3 disk, 4 no quorum or \
    unreachable, 5 outcome unknown, 7 unhealthy (status --check), 8 a checker found a violation, 9 checker \
    undecided, 101 a bug in Phalanx (the message names the violated invariant), 130 ended at once by a second \
    Ctrl+C.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One subcommand.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node until it is stopped
    Node(local::node::NodeArgs),
    /// Show the health of the cluster and a row for each node
    Status(cluster::status::StatusArgs),
    /// List events: elections, failures, joins, snapshots, leadership transfers
    Events(cluster::events::EventsArgs),
    /// Show the leader, or transfer the leadership
    Leader(cluster::leader::LeaderArgs),
    /// List and change the members of the cluster
    Member(cluster::member::MemberArgs),
    /// Read and write keys
    Kv(kv::KvArgs),
    /// Submit jobs: run programs on the cluster
    Job(job::JobArgs),
    /// Send and read chat messages
    Chat(chat::ChatArgs),
    /// Open an SQL shell, or run SQL statements
    Sql(sql::SqlArgs),
    /// Check that the state of all nodes is the same
    Check(cluster::check::CheckArgs),
    /// Run a command while holding a cluster-wide lock
    Lock(lock::LockArgs),
    /// Make a new cluster from one data folder after a majority of the disks is lost
    Recover(local::recover::RecoverArgs),
    /// Show and validate settings
    Config(local::config::ConfigArgs),
    /// Make a random secret for the settings
    Secret(local::secret::SecretArgs),
    /// Print or verify a node's Raft log on disk
    Log(local::log::LogArgs),
    /// Measure performance on this machine
    Bench(lab::bench::BenchArgs),
    /// Inject faults into nodes that run in a lab: kill, freeze, partition, delay, full disk
    Chaos(lab::chaos::ChaosArgs),
    /// Run simulated clusters; a seed determines each run
    Sim(lab::sim::SimArgs),
    /// Run a cluster in this terminal, with keys to kill and freeze nodes
    Dev(lab::dev::DevArgs),
    /// Run a demonstration with real processes and check its result
    Demo(lab::demo::DemoArgs),
    /// Print a shell completion script
    Completions(local::completions::CompletionsArgs),
    /// Print the manual page of a command
    Man(local::man::ManArgs),
}

/// Runs the subcommand that the command line names; returns the exit code.
pub fn run() -> u8 {
    let command = Cli::parse().command;
    // The command that `lock` runs keeps the umask of its user.
    if !matches!(command, Command::Lock(_)) {
        crate::store::keep_own_rights();
    }
    let answer = match command {
        Command::Node(args) => return local::node::run(args),
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
        Command::Config(args) => local::config::run(&args),
        Command::Secret(args) => local::secret::run(&args),
        Command::Bench(args) => lab::bench::run(&args),
        Command::Chaos(args) => lab::chaos::run(&args),
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
