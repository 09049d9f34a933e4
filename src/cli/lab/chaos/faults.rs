//! Faults in the words of the command line, and which nodes they concern.
//!
//! Not here: what the faults do (`faults/`), who does it (`lab/supervisor/`).

use crate::cli::client::ClusterClient;
use crate::cli::fault::{Fault, code};
use crate::faults::command::{self, Command};
use crate::faults::control::{self, Action, ControlError, LabNode, ProcessState};
use crate::faults::{self, FaultKind, LinkQuality};
use crate::node::views::status::Status;
use crate::settings::Settings;
use crate::time::parse_duration;
use crate::types::NodeId;
use clap::{FromArgMatches, Subcommand};
use std::time::Duration;

/// When a fault ends by itself.
#[derive(Clone, Debug, clap::Args)]
pub struct Lasts {
    /// Heal after this time, for example 500ms, 30s or 2m [default: not before heal]
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    lasts: Option<Duration>,
}

/// Which links: of one node to all others, or from one to another and back.
#[derive(Clone, Debug, clap::Args)]
pub struct Ends {
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

/// One fault, or the end of some.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum FaultCommand {
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
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum DiskCommand {
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
pub enum Kind {
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

/// A fault in the words of the command line.
///
/// # Errors
/// They mean none; the text says why.
pub fn parse(words: &str) -> Result<FaultCommand, String> {
    let command = FaultCommand::augment_subcommands(clap::Command::new("chaos").no_binary_name(true));
    let matches = command.subcommand_required(true).try_get_matches_from(words.split_whitespace());
    let parsed = matches.and_then(|matches| FaultCommand::from_arg_matches(&matches));
    // The first paragraph says what is wrong; the others are advice for a terminal.
    let first = |e: clap::Error| {
        e.to_string().lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
    };
    parsed.map_err(|e| first(e).trim_start_matches("error: ").to_string())
}

/// Injects a fault, in the words of the command line, into the nodes of these settings; returns what was done.
///
/// # Errors
/// It was not done, or not by all nodes.
pub fn inject(settings: Settings, words: &str) -> Result<String, String> {
    let asked = parse(words)?;
    let lab = Lab::find(settings).map_err(|e| e.message)?;
    let (lines, faults) = carry_out(&lab, &asked).map_err(|e| e.message)?;
    match faults.first() {
        None => Ok(lines.join("\n")),
        Some(fault) => Err(fault.to_string()),
    }
}

/// What was done, a line for each node or one for all, and what was not.
pub fn carry_out(lab: &Lab, asked: &FaultCommand) -> Result<(Vec<String>, Vec<ControlError>), Fault> {
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    for asked in lab.commands(asked)? {
        let answers = command::carry_out(&lab.settings.data_dir, &asked);
        let (done, failed): (Vec<_>, Vec<_>) = answers.into_iter().map(|(_, answer)| answer).partition(Result::is_ok);
        faults.extend(failed.into_iter().filter_map(Result::err));
        let done: Vec<LabNode> = done.into_iter().filter_map(Result::ok).collect();
        let nodes = || done.iter().map(|node| node.node.0.to_string()).collect::<Vec<_>>().join(", ");
        match asked.summary() {
            Some(summary) if !done.is_empty() => lines.push(format!("{summary} at nodes {}", nodes())),
            Some(_) => {}
            None => lines.extend(done.iter().map(|node| format!("node {}: {}", node.node.0, node.done))),
        }
    }
    Ok((lines, faults))
}

/// The nodes of this host that have a supervisor.
pub struct Lab {
    pub settings: Settings,
    pub nodes: Vec<LabNode>,
}

impl Lab {
    /// Those whose supervisor answers.
    ///
    /// # Errors
    /// There is none.
    pub fn find(settings: Settings) -> Result<Lab, Fault> {
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

    /// What is asked of the supervisors.
    ///
    /// # Errors
    /// It names a node that is not in the lab, or the leader while there is none.
    pub fn commands(&self, asked: &FaultCommand) -> Result<Vec<Command>, Fault> {
        let process = |node: &str, action| Ok(vec![Command::Process { nodes: self.named(node)?, action }]);
        match asked {
            FaultCommand::Kill { node, lasts } => process(node, Action::Kill { for_ms: ms(lasts) }),
            FaultCommand::Stop { node, lasts } => process(node, Action::Stop { for_ms: ms(lasts) }),
            FaultCommand::Pause { node, lasts } => process(node, Action::Freeze { for_ms: ms(lasts) }),
            FaultCommand::Resume { node } => process(node, Action::Thaw),
            FaultCommand::Restart { node } => process(node, Action::Start),
            FaultCommand::Partition { groups, one_way, lasts } => self.partition(groups, *one_way, lasts),
            FaultCommand::Cut { ends } => self.links(ends, LinkQuality { is_cut: true, ..LinkQuality::default() }),
            FaultCommand::Delay { ends, ms, jitter } => {
                self.links(ends, LinkQuality { delay_ms: *ms, jitter_ms: *jitter, ..LinkQuality::default() })
            }
            FaultCommand::Loss { ends, percent } => {
                self.links(ends, LinkQuality { loss: *percent, ..LinkQuality::default() })
            }
            FaultCommand::Disk { node, fault } => self.disk(node, fault),
            FaultCommand::Clock { node, by, lasts } => self.each(node, &faults::Fault::Clock { offset_ms: *by }, lasts),
            FaultCommand::Heal { node, only } => {
                let kind = only.map(|kind| match kind {
                    Kind::Links => FaultKind::Link,
                    Kind::Disk => FaultKind::Disk,
                    Kind::Clock => FaultKind::Clock,
                });
                let nodes = self.named(node.as_deref().unwrap_or("all"))?;
                Ok(vec![Command::Heal { nodes, all: self.ids(), kind }])
            }
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
}

fn ms(lasts: &Lasts) -> Option<u64> {
    lasts.lasts.map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).max(1))
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
