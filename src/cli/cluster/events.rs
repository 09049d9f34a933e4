//! `phalanx events`: events in the cluster: elections, failures, joins, snapshots, leadership transfers.
//!
//! Event numbers belong to one process. When `-f` continues with another node, it asks for all of its
//! events and leaves out those that are not newer than the last line printed.
//! Not here: the events themselves (`node/`).

use crate::cli::client::{ClientArgs, ClusterClient};
use crate::cli::fault::{Fault, code};
use crate::cli::term::{self, Colour};
use crate::lab::poll;
use crate::node::views::status::EventLine;
use crate::time::time_of_day;
use serde::Deserialize;
use std::time::Duration;

/// Between two requests of `-f`.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

/// Arguments of `phalanx events`.
#[derive(Clone, Debug, clap::Args)]
pub struct EventsArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Print new events as they happen, until Ctrl+C
    #[arg(short, long)]
    follow: bool,
}

/// Body of `/v1/events`.
#[derive(Debug, Deserialize)]
struct Events {
    events: Vec<EventLine>,
}
pub fn run(args: &EventsArgs) -> Result<(), Fault> {
    let client = ClusterClient::new(&args.client)?;
    let mut source = String::new();
    let (mut since, mut last_ms, mut is_lost) = (0, 0, false);
    loop {
        match client.get::<Events>(&format!("/v1/events?since={since}")) {
            Ok(answer) => {
                let is_new_source = answer.from != source;
                if is_new_source && since > 0 {
                    // The number belongs to another node: ask this one for all its events.
                    (source, since) = (answer.from, 0);
                    continue;
                }
                source = answer.from;
                for event in answer.value.events {
                    since = since.max(event.seq);
                    if event.at_ms > last_ms || !args.follow {
                        print(&event, args.client.json);
                    }
                    last_ms = last_ms.max(event.at_ms);
                }
                is_lost = false;
            }
            Err(fault) if args.follow && fault.code == code::UNREACHABLE && !source.is_empty() => {
                if !is_lost {
                    eprintln!("{}; waiting until a node answers", term::plain_err(&fault.message));
                }
                is_lost = true;
            }
            Err(fault) => return Err(fault),
        }
        if !args.follow {
            return Ok(());
        }
        poll::pause(FOLLOW_EVERY);
    }
}

fn print(event: &EventLine, json: bool) {
    if json {
        return term::line(&term::escaped(&serde_json::to_string(event).expect("an event always encodes")));
    }
    let colour = match event.kind.as_str() {
        "failure" | "disk" => Colour::Red,
        "election" | "leadership transfer" => Colour::Yellow,
        _ => Colour::Green,
    };
    let kind = term::paint(&format!("{:<10}", term::plain(&event.kind)), colour);
    term::line(&format!("{}  {kind}  {}", time_of_day(event.at_ms), term::plain(&event.text)));
}
