//! What is broken when: drawn from a seed, or read from a file.
//!
//! A fault is a line of text, the same that a person types after `phalanx chaos`; a plan in a file has one per line after
//! its time: `12.5s kill leader --for 3s`. So every run can be repeated by hand, and a seed can be written down as a plan.
//! Not here: what the words mean (`cli/lab/chaos/faults.rs`).

use super::super::{LabError, Result};
use crate::time::parse_duration;
use std::collections::VecDeque;
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: u64,
    pub lasts: Duration,
    pub clients: u64,
    /// Pause between two operations of one client.
    pub pace: Duration,
    /// Reads may be stale: each node answers from its own state.
    pub is_eventual: bool,
    pub plan: Plan,
}

/// After so many faults at most everything is healed until the cluster is healthy.
const FAULTS_UNTIL_CALM: u32 = 8;

/// Kinds of faults that a seed draws from.
pub const KINDS: [&str; 13] =
    ["kill", "stop", "pause", "isolate", "halves", "one-way", "link", "delay", "loss", "disk", "wipe", "clock", "all"];

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Wait(Duration),
    /// Wait until this moment of the run.
    At(Duration),
    Inject(String),
    /// Heal everything, and wait until the cluster is healthy.
    Calm,
}

/// Faults in their order, endless if they are drawn.
#[derive(Clone, Debug)]
pub enum Plan {
    Drawn { rng: fastrand::Rng, kinds: Vec<&'static str>, left: u32, queue: VecDeque<Step> },
    Written(VecDeque<Step>),
}

impl Plan {
    /// Faults of these kinds, drawn from a seed.
    pub fn drawn(seed: u64, kinds: Vec<&'static str>) -> Plan {
        Plan::Drawn { rng: fastrand::Rng::with_seed(seed), kinds, left: 0, queue: VecDeque::new() }
    }

    /// A plan as text. Empty lines and lines that begin with `#` say nothing.
    ///
    /// # Errors
    /// A line without a time, or whose time is before that of the line before it.
    pub fn read(text: &str) -> Result<Plan> {
        let (mut steps, mut last) = (VecDeque::new(), Duration::ZERO);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: String| LabError::Answer(format!("line {} of the plan: {why}", number + 1));
            let (time, command) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let command = command.trim();
            let at = parse_duration(time).ok_or_else(|| {
                wrong(format!("\"{time}\" is not a time; write for example 12.5s kill leader --for 3s"))
            })?;
            if command.is_empty() {
                return Err(wrong("no fault after the time".to_string()));
            }
            if at < last {
                return Err(wrong(format!("{time} is before the time of the line before it")));
            }
            last = at;
            steps.push_back(Step::At(at));
            steps.push_back(if command == "calm" { Step::Calm } else { Step::Inject(command.to_string()) });
        }
        Ok(Plan::Written(steps))
    }

    /// The next step of a cluster with these nodes; `None` at the end of the plan.
    pub fn next(&mut self, nodes: &[u64]) -> Option<Step> {
        match self {
            Plan::Written(steps) => steps.pop_front(),
            Plan::Drawn { rng, kinds, left, queue } => {
                if let Some(step) = queue.pop_front() {
                    return Some(step);
                }
                if *left == 0 {
                    *left = rng.u32(1..=FAULTS_UNTIL_CALM);
                    return Some(Step::Calm);
                }
                *left -= 1;
                let span = Duration::from_millis(rng.u64(300..3500));
                let kind = kinds[rng.usize(..kinds.len())];
                draw(kind, rng, nodes, span, queue);
                // Some faults last into the next one.
                if rng.bool() {
                    queue.push_back(Step::Inject("heal --only links".to_string()));
                }
                queue.pop_front()
            }
        }
    }
}

/// The steps of one fault.
fn draw(kind: &str, rng: &mut fastrand::Rng, nodes: &[u64], span: Duration, queue: &mut VecDeque<Step>) {
    let mut ids = nodes.to_vec();
    rng.shuffle(&mut ids);
    let one = if rng.bool() { "leader".to_string() } else { ids[0].to_string() };
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let lasts = format!("--for {}ms", span.as_millis());
    let minority = &ids[..rng.usize(1..=((ids.len() - 1) / 2).max(1))];
    let mut is_calm_before = false;
    let command = match kind {
        "kill" => format!("kill {one} {lasts}"),
        "stop" => format!("stop {one} {lasts}"),
        "pause" => format!("pause {one} {lasts}"),
        "isolate" => format!("partition {one} {lasts}"),
        "halves" => format!("partition {} {lasts}", list(minority)),
        "one-way" => format!("partition {} --one-way {lasts}", list(minority)),
        "link" => format!("cut {} {} {lasts}", ids[0], ids[ids.len() - 1]),
        "delay" => format!("delay all --ms {} --jitter {} {lasts}", rng.u32(5..120), rng.u32(0..40)),
        "loss" => format!("loss all --percent {} {lasts}", rng.u32(2..25)),
        "disk" => match rng.u8(..3) {
            0 => format!("disk {one} slow --ms {} {lasts}", rng.u32(20..400)),
            1 => format!("disk {one} full {lasts}"),
            _ => format!("disk {one} failing {lasts}"),
        },
        "clock" => format!("clock {one} {}{}s {lasts}", if rng.bool() { "+" } else { "-" }, rng.u32(1..7200)),
        "all" => format!("kill all {lasts}"),
        "wipe" => {
            // A disk that is lost is a copy less: as long as the others are whole, and only then, nothing is lost.
            is_calm_before = true;
            format!("disk {} wipe", ids[0])
        }
        other => unreachable!("{other} is not among the kinds"),
    };
    if is_calm_before {
        queue.push_back(Step::Calm);
    }
    queue.push_back(Step::Inject(command));
    queue.push_back(Step::Wait(span));
    if is_calm_before {
        queue.push_back(Step::Calm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_again_and_calm_among_them() {
        let draw = |seed| {
            let mut plan = Plan::drawn(seed, KINDS.to_vec());
            (0..400).filter_map(|_| plan.next(&[1, 2, 3, 4, 5])).collect::<Vec<_>>()
        };
        let steps = draw(7);
        assert_eq!(steps, draw(7));
        assert_ne!(steps, draw(8));
        assert_eq!(steps[0], Step::Calm, "a run begins with a cluster that works");
        let between: Vec<_> = steps.split(|step| *step == Step::Calm).collect();
        let faults = |steps: &[Step]| steps.iter().filter(|step| matches!(step, Step::Wait(_))).count();
        assert!(between.iter().all(|steps| faults(steps) <= FAULTS_UNTIL_CALM as usize));
        for kind in ["kill leader", "partition", "--one-way", "disk", "wipe", "clock", "loss", "kill all"] {
            assert!(steps.iter().any(|step| matches!(step, Step::Inject(it) if it.contains(kind))), "{kind}");
        }
    }

    #[test]
    fn a_plan_is_read_in_the_order_of_its_times() {
        let mut plan = Plan::read("# a failover\n\n1s kill leader --for 2s\n 5s  calm\n").unwrap();
        let steps: Vec<_> = std::iter::from_fn(|| plan.next(&[1])).collect();
        let expected = [
            Step::At(Duration::from_secs(1)),
            Step::Inject("kill leader --for 2s".into()),
            Step::At(Duration::from_secs(5)),
            Step::Calm,
        ];
        assert_eq!(steps, expected);
        for (bad, why) in
            [("kill leader", "not a time"), ("5s", "no fault"), ("5s heal\n1s heal", "line 2 of the plan")]
        {
            let e = Plan::read(bad).unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
    }
}
