//! `phalanx status`: the health in one line, then a row per node.
//!
//! Any node can answer; the table is what that node knows. `--check` turns the health into an exit code for scripts.
//! Not here: how the health is derived (`cluster/health.rs`).

use crate::cli::client::{ClientArgs, ClusterClient};
use crate::cli::fault::{Fault, code};
use crate::cli::term::{self, Colour, span};
use crate::cluster::log_clock::SKEW_WARN_MS;
use crate::lab::poll;
use crate::node::views::status::{Health, Liveness, NodeRow, Standing, Status};
use crate::raft::Role;
use std::io::IsTerminal;
use std::time::Duration;

/// Between two tables of `--watch`.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `phalanx status`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "The first line is the health: healthy; degraded (it serves, but can lose fewer nodes than it \
    should); unavailable (no writes). The table is what the node that answered knows:\n  \
    STATE    LEADER, ONLINE, OFFLINE, or CORRUPT (its state is wrong, it serves no reads)\n  \
    MEMBER   voter, learner (no vote), witness (no data), - (not a member)\n  \
    TERM     the period between two elections that the node is in\n  \
    LAST     the last index in its log; COMMIT: up to there a majority has it; APPLIED: its services have it\n  \
    LAG      entries that it has still to apply\n  \
    LOAD     its clients and work, by which the front door chooses\n  \
    HEARD    the age of what is known of it\n\n\
    Examples:\n  phalanx status --watch\n  phalanx status --check -e 127.0.0.1:6702\n\n\
    Exit codes: 0 answered (with --check: healthy), 4 no node answers, 7 not healthy (--check).")]
pub struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Refresh until Ctrl+C
    #[arg(short, long)]
    watch: bool,
    /// Exit with code 7 unless the cluster is `healthy`
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}
pub fn run(args: &StatusArgs) -> Result<(), Fault> {
    let client = ClusterClient::new(&args.client)?;
    if args.watch {
        return watch(&client, args.client.json);
    }
    let answer = client.get::<Status>("/v1/status")?;
    if args.client.json {
        term::json(&answer.value);
    } else {
        term::out(&render(&answer.value, &answer.from));
    }
    if args.check && answer.value.cluster.verdict != Health::Healthy {
        let message = format!("the cluster is {}", answer.value.cluster.verdict.word());
        return Err(Fault::new(code::UNHEALTHY, message, "phalanx events shows what happened"));
    }
    Ok(())
}

/// Shows the table repeatedly: in place on a terminal, one after the other in a pipe.
fn watch(client: &ClusterClient, json: bool) -> Result<(), Fault> {
    let in_place = std::io::stdout().is_terminal() && !json;
    loop {
        let text = match client.get::<Status>("/v1/status") {
            Ok(answer) if json => {
                term::line(&term::escaped(&serde_json::to_string(&answer.value).expect("a status always encodes")));
                String::new()
            }
            Ok(answer) => render(&answer.value, &answer.from),
            Err(fault) if fault.code == code::UNREACHABLE && !json => format!("{}\n", term::plain(&fault.message)),
            Err(fault) => return Err(fault),
        };
        if in_place {
            // Cursor to the top left; clears the rest of each line, and the lines below.
            term::out(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")));
        } else if !text.is_empty() {
            term::line(&text);
        }
        poll::pause(WATCH_EVERY);
    }
}

/// `healthy: node 5 leads in term 7; can lose 2 more`.
pub fn health_line(status: &Status) -> String {
    let cluster = &status.cluster;
    let colour = match cluster.verdict {
        Health::Healthy => Colour::Green,
        Health::Degraded => Colour::Yellow,
        Health::Unavailable => Colour::Red,
    };
    let leads = match cluster.leader {
        Some(leader) => format!("node {} leads in term {}", leader.0, cluster.term),
        None => format!("no leader in term {}", cluster.term),
    };
    let mut parts = vec![leads];
    if cluster.verdict != Health::Unavailable {
        parts.push(match cluster.failure_tolerance {
            0 => "cannot lose another voter".into(),
            n => format!("can lose {n} more"),
        });
    }
    parts.extend(cluster.reasons.iter().map(|reason| term::plain(reason)));
    format!("{}: {}", term::paint(cluster.verdict.word(), colour), parts.join("; "))
}

/// The status as text.
pub fn render(status: &Status, from: &str) -> String {
    let rows: Vec<Vec<String>> = status.nodes.iter().map(row).collect();
    let head = ["NODE", "STATE", "ROLE", "MEMBER", "TERM", "LAST", "COMMIT", "APPLIED", "LAG", "LOAD", "HTTP", "HEARD"];
    let mut text = format!("{}\n{}", health_line(status), term::table(&head, &rows));
    for node in &status.nodes {
        if let Some(ahead_ms) = node.clock_ahead_ms.filter(|ms| ms.unsigned_abs() >= SKEW_WARN_MS.unsigned_abs()) {
            let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
            text += &format!(
                "the clock of node {} is {} {way} node {}'s: check that time synchronization (NTP) runs on both\n",
                node.id.0,
                span(ahead_ms.unsigned_abs()),
                status.node.id.0
            );
        }
    }
    if let Some(last) = status.failovers.first() {
        let from = last.from.map_or("none".to_string(), |n| format!("node {}", n.0));
        text += &format!(
            "last change of leader: {from} -> node {} in term {} ({}), {} without a leader\n",
            last.to.0,
            last.term,
            term::plain(&last.cause.to_string()),
            span(last.leaderless_ms)
        );
    }
    text += &format!("as node {} at {} sees it\n", status.node.id.0, term::plain(from));
    text
}

/// `LEADER`, `ONLINE` or `OFFLINE`.
pub fn state(node: &NodeRow) -> &'static str {
    match node.status {
        Liveness::Offline => "OFFLINE",
        Liveness::Leader => "LEADER",
        Liveness::Online => "ONLINE",
    }
}

/// `voter`, `witness`, `learner`, or `-` for a node that is not a member.
pub fn member(node: &NodeRow) -> &'static str {
    match node.membership {
        Standing::Voter if node.is_witness => "witness",
        Standing::Voter => "voter",
        Standing::Learner => "learner",
        Standing::None => "-",
    }
}

fn row(node: &NodeRow) -> Vec<String> {
    let is_offline = node.status == Liveness::Offline;
    let is_known = node.heartbeat_age_ms.is_some();
    let number = |n: u64| if is_known { n.to_string() } else { "-".into() };
    vec![
        node.id.0.to_string(),
        if node.is_corrupt && !is_offline { "CORRUPT" } else { state(node) }.into(),
        match node.role {
            _ if is_offline => "-".into(),
            Role::Follower => "follower".into(),
            Role::Candidate => "candidate".into(),
            Role::Leader => "leader".into(),
        },
        if node.is_gateway { "gateway" } else { member(node) }.into(),
        number(node.term.0),
        number(node.last_index.0),
        number(node.commit_index.0),
        number(node.applied_index.0),
        number(node.lag),
        if is_offline { "-".into() } else { number(node.load) },
        node.http.clone(),
        node.heartbeat_age_ms.map_or("never".into(), |ms| format!("{} ago", span(ms))),
    ]
}

#[cfg(test)]
mod tests {
    use crate::cli::cluster::status::*;

    fn example() -> Status {
        serde_json::from_str(
            r#"{"node":{"id":4,"uuid":"6f9619ff-8b86-d011-b42d-00c04fc964ff","role":"follower","membership":"voter",
            "version":"0.1.0","uptime_ms":81234},"cluster":{"id":null,"name":"phalanx","leader":5,"term":7,
            "has_quorum":true,"voters":[4,5],"learners":[],"failure_tolerance":2,"verdict":"healthy","reasons":[]},
            "nodes":[{"id":4,"status":"ONLINE","role":"follower","membership":"voter","term":7,"load":3,
            "last_index":120,"commit_index":120,"applied_index":119,"lag":1,"http":"127.0.0.1:6704",
            "kv":"127.0.0.1:7704","peer":"127.0.0.1:5704","heartbeat_age_ms":80},
            {"id":5,"status":"OFFLINE","role":"leader","membership":"voter","term":7,"load":17,
            "last_index":0,"commit_index":0,"applied_index":0,"lag":0,"http":"127.0.0.1:6705",
            "kv":"127.0.0.1:7705","peer":"127.0.0.1:5705","heartbeat_age_ms":null}],"sessions":[],"sessions_total":0,
            "failovers":[{"term":7,"from":3,"to":5,"cause":"link lost","leaderless_ms":23,"at_ms":1}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn health_comes_first_then_a_row_per_node() {
        let text = render(&example(), "127.0.0.1:6704");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "healthy: node 5 leads in term 7; can lose 2 more");
        assert!(lines[1].starts_with("NODE  STATE    ROLE      MEMBER"), "{text}");
        assert!(lines[2].contains("follower") && lines[2].contains("119") && lines[2].ends_with("80 ms ago"), "{text}");
        let offline: Vec<&str> = lines[3].split_whitespace().collect();
        assert_eq!(offline, ["5", "OFFLINE", "-", "voter", "-", "-", "-", "-", "-", "-", "127.0.0.1:6705", "never"]);
        assert_eq!(lines[4], "last change of leader: node 3 -> node 5 in term 7 (link lost), 23 ms without a leader");
    }

    #[test]
    fn a_node_whose_state_differs_is_marked_also_if_it_leads_but_not_if_it_is_gone() {
        let mut status = example();
        status.nodes.iter_mut().for_each(|node| node.is_corrupt = true);
        let state = |status: &Status, line: usize| {
            let text = render(status, "127.0.0.1:6704");
            text.lines().nth(line).and_then(|row| row.split_whitespace().nth(1)).unwrap().to_string()
        };
        assert_eq!((state(&status, 2).as_str(), state(&status, 3).as_str()), ("CORRUPT", "OFFLINE"));
        status.nodes[0].status = Liveness::Leader;
        assert_eq!(state(&status, 2), "CORRUPT");
        status.nodes[0].is_corrupt = false;
        assert_eq!(state(&status, 2), "LEADER");
    }

    #[test]
    fn a_clock_that_is_off_is_named() {
        let mut status = example();
        status.nodes[0].clock_ahead_ms = Some(999);
        status.nodes[1].clock_ahead_ms = Some(-3_600_000);
        let text = render(&status, "127.0.0.1:6704");
        assert!(
            text.contains(
                "the clock of node 5 is 1 h behind node 4's: check that time synchronization (NTP) runs on both\n"
            ),
            "{text}"
        );
        assert!(!text.contains("the clock of node 4"), "{text}");
    }

    #[test]
    fn a_lost_quorum_is_shown_with_its_reasons() {
        let mut status = example();
        status.cluster.verdict = Health::Unavailable;
        status.cluster.leader = None;
        status.cluster.reasons = vec!["2 of 5 voters are reachable, 3 are needed".into()];
        let expected = "unavailable: no leader in term 7; 2 of 5 voters are reachable, 3 are needed";
        assert_eq!(health_line(&status), expected);
    }
}
