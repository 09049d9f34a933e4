//! The `console` thread: commands typed into a running node's terminal.
//!
//! The end of the input only ends this thread: a node without a terminal continues. But a program that starts nodes
//! with a pipe as input may ask that they stop when it ends, however it ends.
//! Not here: the command line that talks to a node from outside (`cli/`).

use crate::node::reports::heartbeat::standing;
use crate::node::reports::status::status;
use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::raft::Role;
use crate::services::digests::part_number;
use crate::text;
use crate::types::{NodeKind, Standing};
use std::io::{self, BufRead, Write};
use std::sync::Arc;

const HELP: &str = "commands: L or lead (take the leadership), status, peers, help, quit";

/// What the command line allows the console to do.
#[derive(Clone, Copy, Debug)]
pub struct ConsoleOptions {
    /// Stop the node when the input ends.
    pub ends_with_input: bool,
    /// Accept the commands of tests, which damage this node.
    pub is_alterable: bool,
}

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, input: impl BufRead, options: ConsoleOptions) {
    for line in input.lines() {
        let Ok(line) = line else { break };
        match line.trim() {
            "" => {}
            "L" | "l" | "lead" => lead(shared),
            "status" => print_status(shared),
            "peers" => print_peers(shared),
            "help" | "?" | "h" => print_line(HELP),
            "quit" | "exit" | "q" => {
                shared.stopper.stop("quit");
                return;
            }
            alter if options.is_alterable && alter.starts_with("alter ") => {
                self::alter(shared, &alter["alter ".len()..])
            }
            other => print_line(&format!("unknown command {other:?}; {HELP}")),
        }
    }
    if options.ends_with_input {
        shared.stopper.stop("end of input");
    }
}

/// Writes a line to the terminal. Only this thread waits for a terminal that does not accept output; a closed one is
/// ignored.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{}", text::plain_lines(line));
}

fn lead(shared: &Shared) {
    let (me, view) = (shared.me.id, shared.view());
    if view.raft.role == Role::Leader {
        return print_line(&format!("node {me} leads already, in term {}", view.raft.term, me = me.0));
    }
    if standing(shared, me) != Standing::Voter {
        return print_line(&format!(
            "node {me} cannot lead: it is not a voter; phalanx member list shows the voters",
            me = me.0
        ));
    }
    if shared.kind == NodeKind::Witness {
        return print_line(&format!("node {} cannot lead: it is a witness", me.0));
    }
    print_line(&format!("node {} requests the leadership", me.0));
    shared.inboxes.to_core(CoreInput::Lead);
}

/// For tests: changes this node's state as a fault would.
fn alter(shared: &Shared, part: &str) {
    match part_number(part) {
        Some(number) => {
            shared.inboxes.alter(number);
            print_line(&format!("altered {part}"));
        }
        None => print_line(&format!("no part of the state is called {part:?}")),
    }
}

fn print_status(shared: &Shared) {
    let status = status(shared);
    let leader = status.cluster.leader.map_or("none".to_string(), |id| id.0.to_string());
    print_line(&shared.health().line());
    print_line(&format!("node {} term {} leader {leader}", status.node.id.0, status.cluster.term));
    for row in status.nodes {
        print_line(&format!(
            "  node {:<3} {:<8} {:<9} last {} commit {} applied {} lag {} load {}",
            row.id.0,
            format!("{:?}", row.status).to_uppercase(),
            format!("{:?}", row.role).to_lowercase(),
            row.last_index,
            row.commit_index,
            row.applied_index,
            row.lag,
            row.load
        ));
    }
}

fn print_peers(shared: &Shared) {
    for (id, addresses) in shared.known_addresses() {
        let here = if id == shared.me.id { " (this node)" } else { "" };
        print_line(&format!(
            "  node {:<3} peer {} http {} kv {}{here}",
            id.0, addresses.peer, addresses.http, addresses.kv
        ));
    }
}
