//! `phalanx chaos`: faults of nodes that run in a lab, on this host.
//!
//! A command ends as soon as the fault is in force; with `--for` it heals by itself. Exit codes: 0 done, 1 a supervisor
//! refuses or does not confirm it, 2 wrong usage, 4 no lab.
//! Not here: what the faults do (`faults/`), who does it (`lab/supervisor/`).

use crate::cli::client::{self, ClusterClient};
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::faults::command::{self, Command};
use crate::faults::control::{self, Action, ControlError, LabNode, ProcessState};
use crate::faults::{self, FaultKind, LinkQuality};
use crate::node::views::status::Status;
use crate::settings::Settings;
use crate::time::parse_duration;
use crate::types::NodeId;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `phalanx chaos`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "A NODE is a number, leader, or all.\n\nExamples:\n  ./run.sh --lab\n  \
    phalanx chaos kill leader --for 10s\n  phalanx chaos partition 1,2 3,4,5 --for 30s\n  \
    phalanx chaos delay leader --ms 80 --jitter 20\n  phalanx chaos loss 1 2 --percent 20\n  \
    phalanx chaos disk 3 slow --ms 200\n  phalanx chaos clock 2 +1h\n  phalanx chaos status\n  phalanx chaos heal\n\n\
    Exit codes: 0 in force, 1 refused or not confirmed, 2 wrong usage, 4 no such node in a lab on this host.")]
pub struct ChaosArgs {
    #[command(subcommand)]
    command: ChaosCommand,
    /// Settings file of the nodes [default: settings.json in the current directory, if there is one]
    #[arg(long, value_name = "FILE", global = true)]
    settings: Option<PathBuf>,
    /// Print the state of the nodes afterwards as JSON
    #[arg(long, global = true)]
    json: bool,
}

/// When a fault ends by itself.
#[derive(Clone, Debug, clap::Args)]
struct Lasts {
    /// Heal after this time, for example 500ms, 30s or 2m [default: not before heal]
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    lasts: Option<Duration>,
}

/// Which links: of one node to all others, or from one to another and back.
#[derive(Clone, Debug, clap::Args)]
struct Ends {
    /// A node; without OTHER all its links
    #[arg(value_name = "NODE")]
    one: String,
    /// Only the link to this node
    #[arg(value_name = "OTHER")]
    other: Option<String>,
    /// Only the direction from NODE, not back
    #[arg(long)]
    one_way: bool,
    #[command(flatten)]
    lasts: Lasts,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ChaosCommand {
    /// Kill a node (SIGKILL)
    Kill {
        node: String,
        #[command(flatten)]
        lasts: Lasts,
    },
    /// Stop a node as Ctrl+C does
    Stop {
        node: String,
        #[command(flatten)]
        lasts: Lasts,
    },
    /// Freeze a node (SIGSTOP)
    Pause {
        node: String,
        #[command(flatten)]
        lasts: Lasts,
    },
    /// Continue a frozen node (SIGCONT)
    Resume { node: String },
    /// Start a node; one that runs is killed first
    Restart { node: String },
    /// Cut all links between groups of nodes; nodes in no group are a group
    Partition {
        /// Each group: node numbers with commas, or leader
        #[arg(value_name = "GROUP", required = true)]
        groups: Vec<String>,
        /// Only from the first group to the others, not back
        #[arg(long)]
        one_way: bool,
        #[command(flatten)]
        lasts: Lasts,
    },
    /// Cut links
    Cut {
        #[command(flatten)]
        ends: Ends,
    },
    /// Make links slow
    Delay {
        #[command(flatten)]
        ends: Ends,
        /// Milliseconds that each direction takes longer
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=faults::DELAY_MS_MAX))]
        ms: u64,
        /// Up to this many milliseconds more, at random
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=faults::DELAY_MS_MAX))]
        jitter: u64,
    },
    /// Have links lose packets; TCP repeats them, 200 ms later and more
    Loss {
        #[command(flatten)]
        ends: Ends,
        /// Share of the packets of each direction, 0 to 100
        #[arg(long, value_name = "N", value_parser = percent)]
        percent: f64,
    },
    /// Make the disk of a node slow, full, failing, new or damaged
    Disk {
        node: String,
        #[command(subcommand)]
        fault: DiskCommand,
    },
    /// Set the clock of a node ahead (+1h) or back (-30s)
    #[command(allow_negative_numbers = true)]
    Clock {
        node: String,
        /// How far
        #[arg(value_parser = offset, allow_hyphen_values = true)]
        by: i64,
        #[command(flatten)]
        lasts: Lasts,
    },
    /// End all faults, or those of a node or of a kind; frozen nodes continue, ended ones start
    Heal {
        /// Only of this node
        node: Option<String>,
        /// Only faults of this kind; processes stay as they are
        #[arg(long, value_enum)]
        only: Option<Kind>,
    },
    /// Show the nodes of the lab and their faults
    Status,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum DiskCommand {
    /// Each sync of the log takes longer
    Slow {
        /// Milliseconds
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=faults::DELAY_MS_MAX))]
        ms: u64,
        #[command(flatten)]
        lasts: Lasts,
    },
    /// No byte is free: the node goes on reading, and another one leads
    Full {
        #[command(flatten)]
        lasts: Lasts,
    },
    /// The next sync fails: the node stops with exit code 3
    Failing {
        #[command(flatten)]
        lasts: Lasts,
    },
    /// Kill the node and remove its data folder
    Wipe,
    /// Kill the node and change one bit in the middle of its log
    Damage,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    Links,
    Disk,
    Clock,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "give a time above 0, for example 500ms, 30s or 2m".to_string())
}

fn percent(text: &str) -> Result<f64, String> {
    let share = text.trim_end_matches('%').parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share));
    share.map(|share| share / 100.0).ok_or_else(|| "give a number from 0 to 100".to_string())
}

fn offset(text: &str) -> Result<i64, String> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let ms =
        parse_duration(rest).and_then(|by| i64::try_from(by.as_millis()).ok()).filter(|ms| *ms <= faults::CLOCK_MS_MAX);
    ms.map(|ms| sign * ms).ok_or_else(|| "give a time, for example +1h or -30s, at most 100 years".to_string())
}

/// Injects the fault, and shows what has become of it.
pub fn run(args: &ChaosArgs) -> Result<(), Fault> {
    let lab = Lab::find(client::settings(args.settings.as_deref())?)?;
    if let ChaosCommand::Status = args.command {
        return lab.show(args.json);
    }
    let commands = lab.commands(&args.command)?;
    let mut last_fault: Option<Fault> = None;
    for (_, answer) in commands.iter().flat_map(|it| command::carry_out(&lab.settings.data_dir, it)) {
        match answer {
            Ok(state) if args.json => drop(state),
            Ok(state) => term::line(&done(&state)),
            Err(e) => {
                let fault = to_fault(e);
                if let Some(earlier) = last_fault.replace(fault) {
                    earlier.report();
                }
            }
        }
    }
    match last_fault {
        Some(fault) => Err(fault),
        None if args.json => lab.show(true),
        None => Ok(()),
    }
}

fn to_fault(e: ControlError) -> Fault {
    match e {
        ControlError::NoSupervisor { .. } => {
            Fault::new(code::UNREACHABLE, e, "phalanx chaos status lists the nodes of the lab")
        }
        _ => Fault::new(code::FAILED, e, "phalanx chaos status shows the state of each node"),
    }
}

fn done(state: &LabNode) -> String {
    format!("node {}: {}", state.node.0, state.done)
}

/// The nodes of this host that have a supervisor.
struct Lab {
    settings: Settings,
    nodes: Vec<LabNode>,
}

impl Lab {
    fn find(settings: Settings) -> Result<Lab, Fault> {
        let nodes = control::nodes(&settings.data_dir);
        let show = Command::Process { nodes, action: Action::Show };
        let nodes = command::carry_out(&settings.data_dir, &show).into_iter().filter_map(|(_, answer)| answer.ok());
        let lab = Lab { nodes: nodes.collect(), settings };
        if lab.nodes.is_empty() {
            let message = format!("no node of {} runs in a lab", lab.settings.data_dir.display());
            let next = "start the nodes with ./run.sh --lab, phalanx dev --lab, or phalanx node --id N --lab, and run this command in \
                the same folder";
            return Err(Fault::new(code::UNREACHABLE, message, next));
        }
        Ok(lab)
    }

    fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.node).collect()
    }

    /// The node that leads, as the nodes that run say.
    fn leader(&self) -> Result<NodeId, Fault> {
        let running = self.nodes.iter().filter(|node| node.process == ProcessState::Running);
        let addresses: Vec<String> = running.map(|node| self.settings.local_addresses(node.node).http).collect();
        let client = |address: &String| {
            let client = ClusterClient::to(vec![address.clone()], Duration::from_millis(700));
            client.with_password(self.settings.client_password.clone()).get::<Status>("/v1/status").ok()
        };
        // A leader that was cut off does not know yet that it is none: the highest term counts.
        let named = addresses
            .iter()
            .filter_map(client)
            .filter_map(|it| Some((it.value.cluster.term, it.value.cluster.leader?)));
        let leader = named.max().map(|(_, leader)| leader);
        leader
            .ok_or_else(|| Fault::new(code::UNREACHABLE, "no running node knows a leader", "name a node by its number"))
    }

    fn named(&self, text: &str) -> Result<Vec<NodeId>, Fault> {
        match text {
            "all" => Ok(self.ids()),
            _ => text.split(',').map(|one| self.one(one.trim())).collect(),
        }
    }

    fn one(&self, text: &str) -> Result<NodeId, Fault> {
        if text == "leader" {
            return self.leader();
        }
        let id = text.strip_prefix("node_").or(text.strip_prefix('n')).unwrap_or(text).parse().ok();
        id.map(NodeId).filter(|id| self.ids().contains(id)).ok_or_else(|| {
            let ids: Vec<String> = self.ids().iter().map(|id| id.0.to_string()).collect();
            let next = format!("give leader, all, or one of {}", ids.join(", "));
            Fault::new(code::USAGE, format!("\"{text}\" is no node of this lab"), next)
        })
    }

    fn commands(&self, asked: &ChaosCommand) -> Result<Vec<Command>, Fault> {
        let process = |node: &str, action| Ok(vec![Command::Process { nodes: self.named(node)?, action }]);
        match asked {
            ChaosCommand::Kill { node, lasts } => process(node, Action::Kill { for_ms: ms(lasts) }),
            ChaosCommand::Stop { node, lasts } => process(node, Action::Stop { for_ms: ms(lasts) }),
            ChaosCommand::Pause { node, lasts } => process(node, Action::Freeze { for_ms: ms(lasts) }),
            ChaosCommand::Resume { node } => process(node, Action::Thaw),
            ChaosCommand::Restart { node } => process(node, Action::Start),
            ChaosCommand::Partition { groups, one_way, lasts } => self.partition(groups, *one_way, lasts),
            ChaosCommand::Cut { ends } => self.links(ends, LinkQuality { is_cut: true, ..LinkQuality::default() }),
            ChaosCommand::Delay { ends, ms, jitter } => {
                self.links(ends, LinkQuality { delay_ms: *ms, jitter_ms: *jitter, ..LinkQuality::default() })
            }
            ChaosCommand::Loss { ends, percent } => {
                self.links(ends, LinkQuality { loss: *percent, ..LinkQuality::default() })
            }
            ChaosCommand::Disk { node, fault } => self.disk(node, fault),
            ChaosCommand::Clock { node, by, lasts } => self.each(node, &faults::Fault::Clock { offset_ms: *by }, lasts),
            ChaosCommand::Heal { node, only } => {
                let kind = only.map(|kind| match kind {
                    Kind::Links => FaultKind::Link,
                    Kind::Disk => FaultKind::Disk,
                    Kind::Clock => FaultKind::Clock,
                });
                let nodes = self.named(node.as_deref().unwrap_or("all"))?;
                Ok(vec![Command::Heal { nodes, kind }])
            }
            ChaosCommand::Status => Ok(Vec::new()),
        }
    }

    fn each(&self, node: &str, fault: &faults::Fault, lasts: &Lasts) -> Result<Vec<Command>, Fault> {
        let nodes = self.named(node)?.into_iter();
        Ok(nodes.map(|node| Command::Node { node, fault: fault.clone(), for_ms: ms(lasts) }).collect())
    }

    fn disk(&self, node: &str, fault: &DiskCommand) -> Result<Vec<Command>, Fault> {
        let process = |action| Ok(vec![Command::Process { nodes: self.named(node)?, action }]);
        match fault {
            DiskCommand::Slow { ms, lasts } => self.each(node, &faults::Fault::SlowDisk { delay_ms: *ms }, lasts),
            DiskCommand::Full { lasts } => self.each(node, &faults::Fault::FullDisk, lasts),
            DiskCommand::Failing { lasts } => self.each(node, &faults::Fault::FailingDisk, lasts),
            DiskCommand::Wipe => process(Action::Wipe),
            DiskCommand::Damage => process(Action::DamageLog),
        }
    }

    fn partition(&self, groups: &[String], is_one_way: bool, lasts: &Lasts) -> Result<Vec<Command>, Fault> {
        let mut sides = groups.iter().map(|group| self.named(group)).collect::<Result<Vec<_>, _>>()?;
        let rest: Vec<NodeId> =
            self.ids().into_iter().filter(|id| !sides.iter().flatten().any(|it| it == id)).collect();
        if !rest.is_empty() {
            sides.push(rest);
        }
        let links = command::between(&sides, is_one_way)
            .map_err(|why| Fault::new(code::USAGE, why, "for example: phalanx chaos partition 1,2 3,4,5"))?;
        let quality = LinkQuality { is_cut: true, ..LinkQuality::default() };
        Ok(vec![Command::Links { links, quality, for_ms: ms(lasts) }])
    }

    fn links(&self, ends: &Ends, quality: LinkQuality) -> Result<Vec<Command>, Fault> {
        let ones = self.named(&ends.one)?;
        let others = match &ends.other {
            Some(other) => self.named(other)?,
            None => self.ids(),
        };
        let pairs = ones.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
        let there: Vec<(NodeId, NodeId)> = pairs.filter(|(one, other)| one != other).collect();
        let back = there.iter().map(|(one, other)| (*other, *one)).filter(|_| !ends.one_way);
        let links: std::collections::BTreeSet<_> = there.iter().copied().chain(back).collect();
        if links.is_empty() {
            let message = format!("node {} has no link to itself", ends.one);
            return Err(Fault::new(code::USAGE, message, "name another node as OTHER"));
        }
        Ok(vec![Command::Links { links, quality, for_ms: ms(&ends.lasts) }])
    }

    fn show(&self, is_json: bool) -> Result<(), Fault> {
        let fresh = Lab::find(self.settings.clone())?;
        if is_json {
            term::line(&json!({ "nodes": fresh.nodes }).to_string());
            return Ok(());
        }
        fresh.nodes.iter().for_each(|node| term::line(&row(node)));
        Ok(())
    }
}

fn ms(lasts: &Lasts) -> Option<u64> {
    lasts.lasts.map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// A node in one line.
fn row(node: &LabNode) -> String {
    let left = |left_ms: Option<u64>| left_ms.map_or(String::new(), |ms| format!(", {:.1} s left", ms as f64 / 1000.0));
    let process = match (node.process, node.pid) {
        (ProcessState::Running, Some(pid)) => format!("running (pid {pid})"),
        (ProcessState::Frozen, Some(pid)) => format!("frozen (pid {pid}{})", left(node.left_ms)),
        _ if node.left_ms.is_some() => format!("ended{}", left(node.left_ms)),
        _ => "ended".to_string(),
    };
    let faults: Vec<String> = node.faults.iter().map(|it| format!("{}{}", it.fault, left(it.left_ms))).collect();
    let faults = if faults.is_empty() { "no fault".to_string() } else { faults.join("; ") };
    format!("node {}: {process}; {faults}", node.node.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_shares_and_offsets_have_bounds() {
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(time("0").is_err() && time("soon").is_err());
        assert_eq!(percent("20%"), Ok(0.2));
        assert!(percent("101").is_err() && percent("-1").is_err() && percent("NaN").is_err());
        assert_eq!((offset("+1h"), offset("-30s"), offset("5ms")), (Ok(3_600_000), Ok(-30_000), Ok(5)));
        assert!(offset("--1s").is_err() && offset("999999999h").is_err());
    }
}
