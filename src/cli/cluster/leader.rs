//! `phalanx leader`: shows the leader; `--wait` waits for one; `transfer N` transfers the leadership.
//!
//! Not here: how a leadership transfer works (`raft/transfer.rs`).

use crate::cli::client::{ClientArgs, ClusterClient};
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::lab::poll;
use crate::node::views::status::Status;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Arguments of `phalanx leader`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LeaderArgs {
    #[command(subcommand)]
    command: Option<LeaderCommand>,
    #[command(flatten)]
    client: ClientArgs,
    /// Wait until there is a leader
    #[arg(long)]
    wait: bool,
    /// Maximum number of seconds to wait with --wait
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    within: u64,
}

/// What to do with the leadership.
#[derive(Clone, Debug, clap::Subcommand)]
enum LeaderCommand {
    /// Transfer the leadership to a voter
    Transfer {
        /// Id of the node that becomes the leader
        node: u64,
    },
}

pub fn run(args: &LeaderArgs) -> Result<(), Fault> {
    match &args.command {
        Some(LeaderCommand::Transfer { node }) => transfer(*node, &args.client),
        None => show(args),
    }
}

fn show(args: &LeaderArgs) -> Result<(), Fault> {
    let client = ClusterClient::new(&args.client)?;
    let deadline = Instant::now() + Duration::from_secs(args.within);
    loop {
        let answer = client.get::<Status>("/v1/status");
        let fault = match answer {
            Ok(answer) => match answer.value.cluster.leader {
                Some(leader) => {
                    print(&answer.value, leader.0, args.client.json);
                    return Ok(());
                }
                None => {
                    let message = format!("no leader in term {}", answer.value.cluster.term);
                    Fault::new(
                        code::UNREACHABLE,
                        message,
                        "wait with phalanx leader --wait; phalanx status shows the reason",
                    )
                }
            },
            Err(fault) => fault,
        };
        if !args.wait || fault.code != code::UNREACHABLE || Instant::now() >= deadline {
            return Err(fault);
        }
        poll::pause(Duration::from_millis(100));
    }
}

fn print(status: &Status, leader: u64, json: bool) {
    let http = status.nodes.iter().find(|n| n.id.0 == leader).map(|n| n.http.clone());
    if json {
        return term::json(&json!({"leader": leader, "term": status.cluster.term, "http": http}));
    }
    let at = http.map_or(String::new(), |http| format!(" (http://{}/)", term::plain(&http)));
    term::line(&format!("node {leader} leads in term {}{at}", status.cluster.term));
}

fn transfer(node: u64, args: &ClientArgs) -> Result<(), Fault> {
    let client = ClusterClient::new(args)?;
    let started = Instant::now();
    client.change::<Value>("POST", "/v1/leader/transfer", &json!({"to": node}))?;
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    term::answer(args.json, &json!({"leader": node, "took_ms": ms}), || {
        format!("node {node} leads now; the transfer took {}", term::span(ms))
    });
    Ok(())
}
