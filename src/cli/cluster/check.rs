//! `phalanx check digest`: compares the state of all nodes.
//!
//! A checkpoint goes through the log, and every member is asked for its digests there: of the directory, the keys, the
//! database, the jobs, the chat and the session table. So all are compared at one index, also while clients write. A
//! member that is still digesting its state at an earlier checkpoint skips this one; then there is another one when it
//! has finished. The digests of the tables are compared and printed as well if all nodes answer at the same index of the
//! database.
//! Exit codes: 0 equal, 4 a member does not answer, 8 different, 9 a member has no digest at that index.
//! Not here: how digests are taken (`services/digests.rs`), what nodes do about a difference
//! (`node/snapshots/checkpoints.rs`).

use crate::cli::client::{ClientArgs, ClusterClient, Request};
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::lab::poll;
use crate::node::views::status::IntegrityStatus;
use crate::progress::Progress;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long digests may take: a large state is read at a bounded rate.
const DIGEST_WITHIN: Duration = Duration::from_secs(60);
/// Checkpoints that one comparison takes at most.
const CHECKPOINTS_MAX: usize = 5;
/// Rounds in which all nodes are asked for the digests of their tables.
const TABLE_ROUNDS: usize = 5;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// Arguments of `phalanx check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    #[command(subcommand)]
    command: CheckCommand,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum CheckCommand {
    /// Compare digests of the state of all nodes at the same index
    #[command(
        after_help = "Example:\n  phalanx check digest\n\nExit codes: 0 all equal, 4 a member does not answer, 8 a difference was found, 9 no digest in \
            time."
    )]
    Digest,
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
    /// A witness has no state to compare.
    #[serde(default)]
    is_witness: bool,
}

#[derive(Debug, Deserialize)]
struct Checkpoint {
    index: u64,
}

/// # Errors
/// Those of the exit codes at the top of this file.
pub fn run(args: &CheckArgs) -> Result<(), Fault> {
    let CheckCommand::Digest = args.command;
    let client = ClusterClient::new(&args.client)?;
    let members = client.get::<Members>("/v1/members")?.value.members;
    let clients: Vec<(u64, ClusterClient)> =
        members.iter().filter(|it| !it.is_witness).map(|it| (it.id, client.only(&it.http))).collect();
    let (checkpoint, states) = at_checkpoint(&client, &clients)?;
    let parts = compare(&states, checkpoint)?;
    report(args.client.json, checkpoint, states.keys().copied().collect(), &parts, same_tables(&clients)?.as_ref());
    Ok(())
}

/// The digests of each member at one checkpoint, by part.
type States = BTreeMap<u64, BTreeMap<String, String>>;

/// Takes a checkpoint; returns its index and the digests of each member there.
fn at_checkpoint(client: &ClusterClient, clients: &[(u64, ClusterClient)]) -> Result<(u64, States), Fault> {
    let take = || Ok::<_, Fault>(client.change::<Checkpoint>("POST", "/v1/digests", &json!({}))?.value.index);
    let (mut checkpoint, mut taken) = (take()?, 1);
    let begun = Instant::now();
    let mut states = States::new();
    let progress = Progress::new();
    progress.count(clients.len() as u64);
    while states.len() < clients.len() {
        let mut has_skipped = false;
        for (id, only) in clients {
            if states.contains_key(id) {
                continue;
            }
            let status: IntegrityStatus = ask(*id, only, "/v1/digests")?;
            if let Some(row) = status.corrupt.iter().find(|row| row.node.is_some_and(|node| node.0 == *id)) {
                let parts = row.parts.join(" and ");
                return Err(differs(format!(
                    "node {id} differs from the majority in {parts} since index {}",
                    row.index
                )));
            }
            if let Some(row) = status.digests.iter().find(|row| row.index.0 == checkpoint) {
                states.insert(*id, row.parts.clone());
                progress.advance(1);
            } else if begun.elapsed() > DIGEST_WITHIN {
                let message = format!("node {id} has no digest of its state at index {checkpoint}");
                return Err(Fault::new(code::UNDECIDED, message, "the node may be far behind or busy: try again"));
            } else {
                has_skipped |= status.checkpoint_index.0 >= checkpoint && !status.is_digesting;
            }
        }
        if has_skipped && taken < CHECKPOINTS_MAX {
            progress.count(clients.len() as u64);
            (checkpoint, taken) = (take()?, taken + 1);
            states.clear();
        } else if states.len() < clients.len() {
            poll::pause(PAUSE);
        }
    }
    Ok((checkpoint, states))
}

fn differs(message: String) -> Fault {
    Fault::new(
        code::VIOLATION,
        message,
        "see phalanx status and phalanx events: the nodes repair themselves if a majority agrees",
    )
}

/// The parts that all nodes have; a part without a digest on one node is not compared.
fn compare(states: &States, index: u64) -> Result<BTreeMap<String, String>, Fault> {
    let mut states = states.iter();
    let Some((first, all)) = states.next() else { return Ok(BTreeMap::new()) };
    let mut same = all.clone();
    for (other, found) in states {
        same.retain(|name, _| found.contains_key(name));
        if let Some(name) = same.iter().find(|(name, digest)| found[*name] != **digest).map(|(name, _)| name) {
            return Err(differs(format!("nodes {first} and {other} differ at index {index}: {name}")));
        }
    }
    Ok(same)
}

/// The digests of the tables, if all nodes answer at the same index of the database.
fn same_tables(clients: &[(u64, ClusterClient)]) -> Result<Option<Digest>, Fault> {
    // By index and node.
    let mut seen: BTreeMap<u64, BTreeMap<u64, Digest>> = BTreeMap::new();
    for round in 0..TABLE_ROUNDS {
        if round > 0 {
            poll::pause(PAUSE);
        }
        for (id, only) in clients {
            let digest: Digest = ask(*id, only, "/db/digest?level=none")?;
            seen.entry(digest.index).or_default().insert(*id, digest);
        }
        for (index, nodes) in &seen {
            let mut digests = nodes.iter();
            let Some((first, digest)) = digests.next() else { continue };
            if let Some((other, found)) = digests.find(|(_, other)| *other != digest) {
                let what = difference(digest, found);
                return Err(differs(format!("nodes {first} and {other} differ at index {index}: {what}")));
            }
            if nodes.len() == clients.len() {
                return Ok(Some(digest.clone()));
            }
        }
    }
    Ok(None)
}

fn ask<T: DeserializeOwned>(id: u64, client: &ClusterClient, path: &str) -> Result<T, Fault> {
    let one = client.exchange(&Request::get(path.to_string())).map_err(|fault| Fault {
        message: format!("node {id}: {}", fault.message),
        next: "the check needs all members: phalanx status shows which are offline".to_string(),
        ..fault
    })?;
    let value = if one.status == 200 { serde_json::from_slice(&one.body).ok() } else { None };
    value.ok_or_else(|| one.fault())
}

fn difference(one: &Digest, other: &Digest) -> String {
    if one.schema != other.schema {
        return "the schema".to_string();
    }
    let differs = |name: &&String| one.tables.get(*name) != other.tables.get(*name);
    let names: Vec<&str> = one.tables.keys().chain(other.tables.keys()).filter(differs).map(String::as_str).collect();
    term::plain(&format!("table {}", names.first().unwrap_or(&"?")))
}

fn report(is_json: bool, index: u64, nodes: Vec<u64>, parts: &BTreeMap<String, String>, tables: Option<&Digest>) {
    if is_json {
        return term::json(&json!({
            "same": true, "index": index, "nodes": nodes, "parts": parts,
            "schema": tables.map(|digest| &digest.schema), "tables": tables.map(|digest| &digest.tables),
        }));
    }
    let names = nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    term::line(&format!("nodes {names} hold the same state at index {index}"));
    for (name, digest) in parts {
        term::line(&format!("  {digest}  {name}"));
    }
    for (name, digest) in tables.iter().flat_map(|digest| &digest.tables) {
        term::line(&format!("  {digest}  table {}", term::plain(name)));
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::cluster::check::*;

    #[test]
    fn a_difference_is_named() {
        let digest = |schema: &str, table: &str| Digest {
            index: 7,
            schema: schema.into(),
            tables: [("a".to_string(), "1".to_string()), ("b".to_string(), table.to_string())].into(),
        };
        assert_eq!(difference(&digest("s", "1"), &digest("t", "1")), "the schema");
        assert_eq!(difference(&digest("s", "1"), &digest("s", "2")), "table b");
        let state = |sql: Option<&str>| {
            let parts = [("key-value", Some("1")), ("sql", sql)];
            parts.into_iter().filter_map(|(name, it)| Some((name.to_string(), it?.to_string()))).collect()
        };
        let compare = |second| compare(&BTreeMap::from([(1, state(Some("2"))), (2, state(second))]), 7);
        assert_eq!(compare(Some("2")).unwrap().len(), 2);
        assert_eq!(compare(None).unwrap().len(), 1, "a part without a digest is not compared");
        assert_eq!(compare(Some("3")).unwrap_err().message, "nodes 1 and 2 differ at index 7: sql");
    }
}
