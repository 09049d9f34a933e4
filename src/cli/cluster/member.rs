//! `phalanx member`: list the members and change them one step at a time.
//!
//! A running node joins by itself; `add` is for one that was removed and is to return. A change is answered when it is
//! committed. Not here: which changes are safe (`raft/membership.rs`), automatic changes (`cluster/autopilot.rs`).

use crate::cli::client::{self, ClientArgs, ClusterClient};
use crate::cli::cluster::status::{member, state};
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::node::views::status::{NodeRow, Status};
use crate::types::NodeId;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// Arguments of `phalanx member`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  phalanx member list\n  phalanx member remove 6     # after its process is stopped\n  \
    phalanx member demote 2\n\nExit codes: 0 done, 1 refused, 4 no quorum or unreachable, 5 outcome unknown."
)]
pub struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
    #[command(flatten)]
    client: ClientArgs,
}

/// What to do with the members.
#[derive(Clone, Debug, clap::Subcommand)]
enum MemberCommand {
    /// List voters, learners and other known nodes
    List,
    /// Add a running node as a learner; the autopilot makes it a voter when it has caught up
    Add {
        /// Id of the node
        node: u64,
        /// uuid of the node [default: asked from the node itself]
        #[arg(long)]
        uuid: Option<Uuid>,
    },
    /// Remove a voter or learner
    Remove {
        /// Id of the node
        node: u64,
    },
    /// Make a learner a voter
    Promote {
        /// Id of the node
        node: u64,
    },
    /// Make a voter a learner; while it runs and there are fewer than voters_max voters, it is promoted again
    Demote {
        /// Id of the node
        node: u64,
    },
}

pub fn run(args: &MemberArgs) -> Result<(), Fault> {
    let client = &args.client;
    match &args.command {
        MemberCommand::List => list(client),
        MemberCommand::Add { node, uuid } => add(*node, *uuid, client),
        MemberCommand::Remove { node } => {
            let done = ClusterClient::new(client)?.change("DELETE", &format!("/v1/members/{node}"), &Value::Null)?;
            print_result(client, *node, "removed", &done.value)
        }
        MemberCommand::Promote { node } => set(*node, "voter", client),
        MemberCommand::Demote { node } => set(*node, "learner", client),
    }
}

fn list(args: &ClientArgs) -> Result<(), Fault> {
    let status = ClusterClient::new(args)?.get::<Status>("/v1/status")?.value;
    if args.json {
        let row = |n: &NodeRow| json!({"id": n.id, "membership": n.membership, "status": n.status, "peer": n.peer, "http": n.http});
        term::json(&json!({"members": status.nodes.iter().map(row).collect::<Vec<_>>()}));
        return Ok(());
    }
    let row = |n: &NodeRow| vec![n.id.0.to_string(), member(n).into(), state(n).into(), n.peer.clone(), n.http.clone()];
    let rows: Vec<Vec<String>> = status.nodes.iter().map(row).collect();
    term::out(&term::table(&["NODE", "MEMBER", "STATE", "PEER", "HTTP"], &rows));
    Ok(())
}

fn add(node: u64, uuid: Option<Uuid>, args: &ClientArgs) -> Result<(), Fault> {
    let uuid = match uuid {
        Some(uuid) => uuid,
        None => ask_uuid(node, args)?,
    };
    let done = ClusterClient::new(args)?.change("POST", "/v1/members", &json!({"id": node, "uuid": uuid}))?;
    print_result(args, node, "added", &done.value)
}

/// Asks the node for its uuid, at the HTTP address that the cluster or else the settings give.
fn ask_uuid(node: u64, args: &ClientArgs) -> Result<Uuid, Fault> {
    let known = ClusterClient::new(args)?.get::<Status>("/v1/status").ok();
    let row = known.and_then(|s| s.value.nodes.into_iter().find(|n| n.id.0 == node));
    let at = match row {
        Some(row) => row.http,
        None => client::settings(args.settings.as_deref())?.local_addresses(NodeId(node)).http,
    };
    let client = ClusterClient::to(vec![at.clone()], Duration::from_secs(2)).with_password(client::password(args)?);
    let asked = client.get::<Status>("/v1/status");
    let next = format!("start it (phalanx node --id {node}), or give its uuid with --uuid");
    match asked {
        Ok(answer) if answer.value.node.id.0 == node => Ok(answer.value.node.uuid),
        Ok(answer) => {
            let message = format!("node {} answers at {at}, not node {node}", answer.value.node.id.0);
            Err(Fault::new(code::FAILED, message, next))
        }
        Err(_) => Err(Fault::new(code::UNREACHABLE, format!("node {node} does not answer at {at}"), next)),
    }
}

fn set(node: u64, membership: &str, args: &ClientArgs) -> Result<(), Fault> {
    let body = json!({"membership": membership});
    let done = ClusterClient::new(args)?.change("POST", &format!("/v1/members/{node}"), &body)?;
    print_result(args, node, &format!("now a {membership}"), &done.value)
}

fn print_result(args: &ClientArgs, node: u64, what: &str, answer: &Value) -> Result<(), Fault> {
    let at = answer["index"].as_u64().map_or(String::new(), |index| format!(" (committed at index {index})"));
    term::answer(args.json, answer, || format!("node {node} is {what}{at}"));
    Ok(())
}
