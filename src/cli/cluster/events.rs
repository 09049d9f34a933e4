//! `phalanx events`: events in the cluster: elections, failures, joins, snapshots, leadership transfers.
//!
//! A sequence number belongs to one process, so `-f` continues at (incarnation, sequence). When another process answers,
//! it sends all its events: after a restart of the same node all of them are news, of another node those that are not
//! older than the last line printed.
//! Not here: the events themselves (`node/`).

use crate::cli::client::{ClientArgs, ClusterClient};
use crate::cli::fault::{Fault, code};
use crate::cli::term::{self, Colour};
use crate::lab::poll;
use crate::node::views::status::{EventLine, EventPage, EventPosition};
use crate::time::time_of_day;
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

pub fn run(args: &EventsArgs) -> Result<(), Fault> {
    let client = ClusterClient::new(&args.client)?;
    let (mut source, mut position, mut last_ms, mut is_lost) = (String::new(), EventPosition::default(), 0, false);
    loop {
        match client.get::<EventPage>(&path_after(position)) {
            Ok(answer) => {
                let page = answer.value;
                let (is_other_process, is_other_node) =
                    (page.incarnation != position.incarnation, answer.from != source);
                let from_ms = if is_other_process && is_other_node { last_ms } else { 0 };
                if is_other_process {
                    position = EventPosition { incarnation: page.incarnation, seq: 0 };
                }
                for event in page.events {
                    position.seq = event.seq;
                    if event.at_ms >= from_ms {
                        print(&event, args.client.json);
                        last_ms = event.at_ms;
                    }
                }
                source = answer.from;
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

fn path_after(position: EventPosition) -> String {
    let incarnation = position.incarnation.map_or(String::new(), |it| format!("&incarnation={it}"));
    format!("/v1/events?since={}{incarnation}", position.seq)
}

fn print(event: &EventLine, json: bool) {
    if json {
        return term::line(&term::escaped(&serde_json::to_string(event).expect("an event always encodes")));
    }
    let colour = match event.kind.as_str() {
        "failure" | "disk" => Colour::Red,
        "election" | "leadership transfer" | "takeover" => Colour::Yellow,
        _ => Colour::Green,
    };
    let kind = term::paint(&format!("{:<10}", term::plain(&event.kind)), colour);
    term::line(&format!("{}  {kind}  {}", time_of_day(event.at_ms), term::plain(&event.text)));
}
