//! `phalanx check digest`: whether all nodes hold the same tables.
//!
//! Every member is asked for the fingerprints of its tables at the newest entry of its database. Nodes that stand at the same
//! index must agree; while writes go on, the question is asked again until all have been seen at one index.
//! Exit codes: 0 the same, 4 a member does not answer, 8 not the same, 9 never seen at one index.
//! Not here: how fingerprints are taken (`services/sql/digest.rs`).

use super::ClientArgs;
use super::client::{Client, Request};
use super::fault::Fault;
use super::term;
use crate::lab::poll;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often all are asked.
const ROUNDS: usize = 50;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// Arguments of `phalanx check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    #[command(subcommand)]
    command: CheckCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum CheckCommand {
    /// Compare the tables of all nodes at the same index
    #[command(after_help = "Exit codes: 0 the same, 4 a member does not answer, 8 not the same, 9 never at one index.")]
    Digest {
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Digest {
    index: u64,
    schema: String,
    tables: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Members {
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    id: u64,
    http: String,
}

/// Runs it.
///
/// # Errors
/// As the head of this file says.
pub fn run(args: &CheckArgs) -> Result<(), Fault> {
    let CheckCommand::Digest { client: args } = &args.command;
    let client = Client::new(args)?;
    let members = client.get::<Members>("/v1/members")?.value.members;
    let clients: Vec<(u64, Client)> = members.iter().map(|member| (member.id, client.only(&member.http))).collect();
    // By index, what each node had there.
    let mut seen: BTreeMap<u64, BTreeMap<u64, Digest>> = BTreeMap::new();
    for round in 0..ROUNDS {
        if round > 0 {
            poll::pause(PAUSE);
        }
        for (id, only) in &clients {
            let digest = ask(*id, only)?;
            seen.entry(digest.index).or_default().insert(*id, digest);
        }
        for (index, nodes) in &seen {
            let mut digests = nodes.iter();
            let Some((first, digest)) = digests.next() else { continue };
            if let Some((other, found)) = digests.find(|(_, other)| *other != digest) {
                let message =
                    format!("nodes {first} and {other} differ at index {index}: {}", difference(digest, found));
                return Err(Fault::new(VIOLATION, message, "keep both data folders: this must never happen"));
            }
            if nodes.len() == members.len() {
                report(args.json, *index, nodes.keys().copied().collect(), digest);
                return Ok(());
            }
        }
    }
    let message = "the nodes were never seen at the same index: writes go on all the time";
    Err(Fault::new(UNDECIDED, message, "try again when less is written"))
}

/// Exit codes of checkers.
const VIOLATION: u8 = 8;
const UNDECIDED: u8 = 9;

fn ask(id: u64, client: &Client) -> Result<Digest, Fault> {
    let one = client.exchange(&Request::get("/db/digest".to_string())).map_err(|fault| Fault {
        message: format!("node {id}: {}", fault.message),
        next: "phalanx status tells who is down; the check needs all members".to_string(),
        ..fault
    })?;
    let digest = if one.status == 200 { serde_json::from_slice(&one.body).ok() } else { None };
    digest.ok_or_else(|| one.fault())
}

fn difference(one: &Digest, other: &Digest) -> String {
    if one.schema != other.schema {
        return "their definitions".to_string();
    }
    let differs = |name: &&String| one.tables.get(*name) != other.tables.get(*name);
    let names: Vec<&str> = one.tables.keys().chain(other.tables.keys()).filter(differs).map(String::as_str).collect();
    term::plain(&format!("table {}", names.first().unwrap_or(&"?")))
}

fn report(is_json: bool, index: u64, nodes: Vec<u64>, digest: &Digest) {
    if is_json {
        return term::json(&json!({
            "same": true, "index": index, "nodes": nodes, "schema": digest.schema, "tables": digest.tables,
        }));
    }
    let names = nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    term::line(&format!("nodes {names} hold the same {} tables at index {index}", digest.tables.len()));
    for (name, fingerprint) in &digest.tables {
        term::line(&format!("  {fingerprint}  {}", term::plain(name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named() {
        let digest = |schema: &str, table: &str| Digest {
            index: 7,
            schema: schema.into(),
            tables: [("a".to_string(), "1".to_string()), ("b".to_string(), table.to_string())].into(),
        };
        assert_eq!(difference(&digest("s", "1"), &digest("t", "1")), "their definitions");
        assert_eq!(difference(&digest("s", "1"), &digest("s", "2")), "table b");
    }
}
