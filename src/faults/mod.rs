//! Faults that a person injects into running nodes of a lab (`phalanx node --lab`).
//!
//! - This file has the kinds of faults; `switch.rs` holds those of this process, where its connections, its disk and its
//!   clock look them up.
//! - `control.rs` is the protocol of a node's supervisor: it does to the process what a process cannot do to itself, and
//!   keeps the faults of the node while that is dead.
//! - `command.rs` is what a person says (`kill the leader`, `partition 1,2 from 3,4,5`), in terms of requests to
//!   supervisors: the same for the command line and the page.
//!
//! Without `--lab` there is no switch, no supervisor and no port, and each of these places costs one load of a pointer.
//! Not here: the supervisor (`lab/supervisor/`), links with faults (`node/lab/link.rs`).

pub(crate) mod command;
pub(crate) mod control;
pub(crate) mod switch;

use crate::types::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a link does to the bytes that go over it in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkQuality {
    /// Nothing arrives. What was sent arrives when the link is healed, unless its connection was given up meanwhile.
    pub is_cut: bool,
    /// Added to the time that bytes take.
    pub delay_ms: u64,
    /// Up to this much more, at random; bytes stay in order.
    pub jitter_ms: u64,
    /// The share of packets that are lost, 0 to 1. TCP sends a lost one again: what was lost arrives
    /// [`RETRANSMIT_MS`] later, and what was sent after it waits.
    pub loss: f64,
}

/// The time after which Linux sends a lost packet again at first (RFC 6298 with its lower bound of 200 ms).
pub const RETRANSMIT_MS: u64 = 200;
/// The largest delay, jitter, and slowness of a disk: ten minutes are a partition.
pub const DELAY_MS_MAX: u64 = 600_000;
/// The largest jump of a clock: 100 years.
pub const CLOCK_MS_MAX: i64 = 100 * 366 * 86_400_000;

impl LinkQuality {
    /// Both on one link: delays add up, and each loses its share.
    #[must_use]
    fn with(self, other: LinkQuality) -> LinkQuality {
        LinkQuality {
            is_cut: self.is_cut || other.is_cut,
            delay_ms: self.delay_ms + other.delay_ms,
            jitter_ms: self.jitter_ms + other.jitter_ms,
            loss: 1.0 - (1.0 - self.loss) * (1.0 - other.loss),
        }
    }
}

/// One fault of a node, as long as it lasts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Of the direction from one node to another. Both nodes have it: the one that connects and the one that answers.
    Link { from: NodeId, to: NodeId, quality: LinkQuality },
    /// Each sync of the log takes this much longer.
    SlowDisk { delay_ms: u64 },
    /// The next sync fails, and with it the node (exit code 3), each time it is started.
    FailingDisk,
    /// No byte of the disk is free.
    FullDisk,
    /// The wall clock is ahead by this much, or behind if it is negative.
    Clock { offset_ms: i64 },
}

/// Kinds of faults, to heal those of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    Link,
    Disk,
    Clock,
}

impl Fault {
    pub fn kind(&self) -> FaultKind {
        match self {
            Fault::Link { .. } => FaultKind::Link,
            Fault::SlowDisk { .. } | Fault::FailingDisk | Fault::FullDisk => FaultKind::Disk,
            Fault::Clock { .. } => FaultKind::Clock,
        }
    }

    /// Whether its figures are within their bounds: they come from outside.
    ///
    /// # Errors
    /// The figure that is not, in words.
    pub fn check(&self) -> Result<(), String> {
        let within = |what: &str, ms: u64| match ms <= DELAY_MS_MAX {
            true => Ok(()),
            false => Err(format!("{what} of {ms} ms: at most {DELAY_MS_MAX} ms")),
        };
        match self {
            Fault::Link { from, to, .. } if from == to => Err(format!("node {} has no link to itself", from.0)),
            Fault::Link { quality, .. } => {
                within("a delay", quality.delay_ms)?;
                within("a jitter", quality.jitter_ms)?;
                match (0.0..=1.0).contains(&quality.loss) {
                    true => Ok(()),
                    false => Err(format!("a loss of {}: 0 to 1 is possible", quality.loss)),
                }
            }
            Fault::SlowDisk { delay_ms } => within("a delay", *delay_ms),
            Fault::Clock { offset_ms } if offset_ms.unsigned_abs() > CLOCK_MS_MAX.unsigned_abs() => {
                Err(format!("a clock off by {offset_ms} ms: at most 100 years"))
            }
            Fault::FailingDisk | Fault::FullDisk | Fault::Clock { .. } => Ok(()),
        }
    }
}

impl fmt::Display for LinkQuality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LinkQuality { is_cut, delay_ms, jitter_ms, loss } = *self;
        let mut parts = Vec::new();
        if is_cut {
            parts.push("cut".to_string());
        }
        if delay_ms > 0 || jitter_ms > 0 {
            let jitter = if jitter_ms > 0 { format!(" to {}", delay_ms + jitter_ms) } else { String::new() };
            parts.push(format!("{delay_ms}{jitter} ms delay"));
        }
        if loss > 0.0 {
            parts.push(format!("{:.0} % loss", loss * 100.0));
        }
        f.write_str(if parts.is_empty() { "as it is" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultKind::Link => "links",
            FaultKind::Disk => "disks",
            FaultKind::Clock => "clocks",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Link { from, to, quality } => write!(f, "link {} to {}: {quality}", from.0, to.0),
            Fault::SlowDisk { delay_ms } => write!(f, "disk: each sync takes {delay_ms} ms longer"),
            Fault::FailingDisk => f.write_str("disk: syncs fail"),
            Fault::FullDisk => f.write_str("disk: full"),
            Fault::Clock { offset_ms } => write!(f, "clock: {offset_ms:+} ms"),
        }
    }
}

/// What all faults together do to the direction from one node to another.
pub fn quality(faults: &[Fault], from: NodeId, to: NodeId) -> LinkQuality {
    let on_link = faults.iter().filter_map(|fault| match fault {
        Fault::Link { from: a, to: b, quality } if (*a, *b) == (from, to) => Some(*quality),
        _ => None,
    });
    on_link.fold(LinkQuality::default(), LinkQuality::with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_one_link_add_up() {
        let link = |from, to, quality| Fault::Link { from: NodeId(from), to: NodeId(to), quality };
        let faults = [
            link(1, 2, LinkQuality { delay_ms: 10, loss: 0.5, ..LinkQuality::default() }),
            link(1, 2, LinkQuality { delay_ms: 5, loss: 0.5, jitter_ms: 1, ..LinkQuality::default() }),
            link(2, 1, LinkQuality { is_cut: true, ..LinkQuality::default() }),
        ];
        let both = LinkQuality { is_cut: false, delay_ms: 15, jitter_ms: 1, loss: 0.75 };
        assert_eq!(quality(&faults, NodeId(1), NodeId(2)), both);
        assert!(quality(&faults, NodeId(2), NodeId(1)).is_cut);
        assert_eq!(quality(&faults, NodeId(1), NodeId(3)), LinkQuality::default());
        assert_eq!(faults[1].to_string(), "link 1 to 2: 5 to 6 ms delay, 50 % loss");
    }

    #[test]
    fn figures_out_of_bounds_are_refused() {
        let link = |loss| Fault::Link {
            from: NodeId(1),
            to: NodeId(2),
            quality: LinkQuality { loss, ..LinkQuality::default() },
        };
        assert!(link(1.0).check().is_ok());
        for bad in [1.01, -0.1, f64::NAN] {
            assert!(link(bad).check().is_err(), "{bad}");
        }
        assert!(Fault::Link { from: NodeId(1), to: NodeId(1), quality: LinkQuality::default() }.check().is_err());
        assert!(Fault::SlowDisk { delay_ms: DELAY_MS_MAX + 1 }.check().is_err());
        assert!(Fault::Clock { offset_ms: i64::MIN }.check().is_err());
    }
}
