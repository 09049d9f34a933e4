//! What `phalanx bench failover` can measure, and its arguments.
//!
//! Not here: how (`one_host.rs`, `several_hosts.rs`).

use crate::lab::hosts::Link;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longer delays are longer than the longest election timeout of the default settings.
const DELAY_MS_MAX: u32 = 2000;
/// With more, hardly any message arrives.
const LOSS_PERCENT_MAX: u32 = 90;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Leader killed (SIGKILL) to next acknowledged command
    Kill,
    /// Leader frozen (SIGSTOP) to next acknowledged command
    Stop,
    /// Two full nodes and a witness: leader killed (SIGKILL) to next acknowledged command
    Witness,
    /// Leadership transfer: the longest wait of a command
    Transfer,
    /// Five processes started to first redirect to a live worker
    ColdStart,
    /// CPU of an idle node
    Idle,
    /// Many monitor pages on one node
    Monitors,
    /// Several hosts: the leader's host vanished to next acknowledged command
    Vanished,
    /// Several hosts with slow or lossy links: first start, writes, leader killed, its host vanished
    SlowLinks,
}

impl Part {
    /// In the order in which they run.
    pub(crate) const ALL: [Part; 9] = [
        Part::Kill,
        Part::Stop,
        Part::Transfer,
        Part::ColdStart,
        Part::Idle,
        Part::Monitors,
        Part::Witness,
        Part::Vanished,
        Part::SlowLinks,
    ];

    pub(crate) fn rounds(self) -> usize {
        match self {
            Part::Kill | Part::Witness => 20,
            Part::Stop | Part::Transfer | Part::Vanished => 10,
            Part::ColdStart => 5,
            Part::SlowLinks => 3,
            Part::Idle | Part::Monitors => 1,
        }
    }

    /// As it is given on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }

    /// Whether it needs hosts of its own.
    pub(crate) fn needs_hosts(self) -> bool {
        matches!(self, Part::Vanished | Part::SlowLinks)
    }
}

/// The links between all hosts: `25ms` is a delay each way; `10%` is a share of lost packets, at delays of 5 to 10 ms;
/// `300ms+10%` is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkKind {
    /// Each way, in ms; `None`: 5 to 10 ms.
    delay_ms: Option<u32>,
    /// Share of lost packets.
    loss_percent: Option<u32>,
}

impl LinkKind {
    pub(crate) fn link(self) -> Link {
        let (delay_ms, jitter_ms) = self.delay_ms.map_or((5, 5), |ms| (ms, 0));
        Link { loss: f64::from(self.loss_percent.unwrap_or(0)) / 100.0, delay_ms, jitter_ms }
    }

    pub(crate) fn in_words(self) -> String {
        let delay = self.delay_ms.map_or("5 to 10".to_string(), |ms| ms.to_string());
        let loss = self.loss_percent.map_or(String::new(), |percent| format!(", {percent} % lost"));
        format!("{delay} ms each way{loss}")
    }
}

/// As it is given on the command line.
impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delay = self.delay_ms.map(|ms| format!("{ms}ms"));
        let loss = self.loss_percent.map(|percent| format!("{percent}%"));
        f.write_str(&delay.into_iter().chain(loss).collect::<Vec<_>>().join("+"))
    }
}

impl FromStr for LinkKind {
    type Err = String;

    fn from_str(text: &str) -> Result<LinkKind, String> {
        let number = |text: &str, unit: &str, most: u32| {
            text.strip_suffix(unit)?.parse::<u32>().ok().filter(|number| *number <= most)
        };
        let (delay, loss) = match text.split_once('+') {
            Some((delay, loss)) => (Some(delay), Some(loss)),
            None if text.ends_with('%') => (None, Some(text)),
            None => (Some(text), None),
        };
        let delay_ms = delay.map(|text| number(text, "ms", DELAY_MS_MAX));
        let loss_percent = loss.map(|text| number(text, "%", LOSS_PERCENT_MAX));
        if [delay_ms, loss_percent].contains(&Some(None)) {
            return Err(format!(
                "give a delay of at most {DELAY_MS_MAX}ms, a loss of at most {LOSS_PERCENT_MAX}%, or both: 25ms, 10%, 25ms+10%"
            ));
        }
        Ok(LinkKind { delay_ms: delay_ms.flatten(), loss_percent: loss_percent.flatten() })
    }
}

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run only these parts
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    pub only: Vec<Part>,
    /// Rounds per part [default: kill and witness 20, stop, transfer and vanished 10, cold-start 5, slow-links 3]
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Number of open monitor pages
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub monitors: usize,
    /// Seconds to measure idle nodes
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub idle: u64,
    /// Links of slow-links: a delay each way (25ms), a share of lost packets (10%, at delays of 5 to 10 ms), or both
    /// (300ms+10%)
    #[arg(long, value_delimiter = ',', default_value = "0ms,25ms,100ms,300ms,10%,30%", value_name = "LINK")]
    pub links: Vec<LinkKind>,
    /// Seconds to write over each kind of link
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub writes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_they_are_written() {
        for text in ["0ms", "300ms", "0%", "30%", "300ms+10%"] {
            assert_eq!(text.parse::<LinkKind>().unwrap().to_string(), text);
        }
        let (near, far): (LinkKind, LinkKind) = ("30%".parse().unwrap(), "300ms+10%".parse().unwrap());
        assert_eq!((near.link().loss, near.link().delay_ms, near.link().jitter_ms), (0.3, 5, 5));
        assert_eq!((far.link().loss, far.link().delay_ms, far.link().jitter_ms), (0.1, 300, 0));
        assert_eq!(near.in_words(), "5 to 10 ms each way, 30 % lost");
        for wrong in ["", "5", "ms", "%", "5 ms", "-5ms", "2001ms", "91%", "5s", "1.5%", "10%+5ms", "+", "5ms+", "+5%"]
        {
            assert!(wrong.parse::<LinkKind>().is_err(), "{wrong}");
        }
    }
}
