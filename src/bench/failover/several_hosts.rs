//! The failover figures of five hosts at one switch (`lab/hosts/`); the client is at a port of the switch of its own.
//!
//! Nothing of a host that vanishes closes a connection, and no port refuses: its links drop everything, in both
//! directions. After each round this is verified, and the links are whole again. Links between the hosts may be slow or
//! lossy; the client's never are.
//! Not here: namespaces, and what happens where there are none (`apart.rs`).

use super::figure::{Figure, Goal, Sample};
use super::part::{LinkKind, Options, Part};
use super::stream::{Before, NODES, Round, Stream, another_than, defaults, ms, place_of, rounds};
use crate::lab::hosts::{Hosts, Link};
use crate::lab::{LabError, Result};
use crate::node::views::status::Standing;
use crate::progress::Progress;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for five hosts to create a cluster over the worst of links.
const START_WITHIN: Duration = Duration::from_secs(180);
/// How long one node may take over slow links until the next is asked: longer than `request_timeout_ms`.
const PATIENCE: Duration = Duration::from_secs(6);
/// A write over slow links that is not acknowledged for this long has failed.
const GIVE_UP: Duration = Duration::from_secs(60);

pub(crate) fn vanished(exe: &Path, count: usize, progress: &Progress) -> Result<Figure> {
    progress.begin("starting nodes on five hosts");
    let mut hosts = Hosts::ready(exe, NODES, &defaults())?;
    let samples = rounds("vanished", count, progress, |round| {
        let before = Before::settle(&mut hosts.cluster)?;
        let mut stream = Stream::new(&hosts.cluster, format!("vanished {round}")).at_another_than(before.leader);
        stream.warm_up()?;
        let begun = Instant::now();
        hosts.vanish(before.leader)?;
        stream.step()?;
        let took = begun.elapsed();
        let round = verify_vanished(&hosts, &before, took)?;
        hosts.heal()?;
        Ok(round)
    })?;
    hosts.cluster.settle()?;
    let goal = Goal { words: "median <= 250", median: 250.0, worst: f64::INFINITY };
    Ok(Figure::new(Part::Vanished, "leader's host vanished -> next acknowledged command", "ms", &samples, goal))
}

/// Another node leads, and the host of the old leader does not answer.
fn verify_vanished(hosts: &Hosts, before: &Before, took: Duration) -> Result<Round> {
    let new = before.wait_failover(&hosts.cluster)?;
    match hosts.cluster.status(before.leader) {
        Ok(_) => Err(LabError::Answer(format!("host {} has not vanished: its node answers", before.leader))),
        Err(_) => Ok(before.round(took, new)),
    }
}

/// The figures of each kind of link.
pub(crate) fn slow_links(exe: &Path, count: usize, options: &Options, progress: &Progress) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for kind in &options.links {
        let span = Duration::from_secs(options.writes.max(1));
        figures.extend(over(exe, *kind, count, span, progress)?);
    }
    Ok(figures)
}

/// Creates a cluster over links of one kind, writes for a time, and loses leaders.
fn over(exe: &Path, kind: LinkKind, count: usize, span: Duration, progress: &Progress) -> Result<[Figure; 5]> {
    let words = kind.in_words();
    progress.begin(&format!("slow links: creating a cluster, {words}"));
    let mut hosts = Hosts::prepare(exe, NODES, &defaults())?;
    restore(&mut hosts, kind.link())?;
    let started = first_start(&mut hosts)?;
    hosts.cluster.settle()?;
    progress.begin_timed(&format!("slow links: five voters after {started:.1?}, writing"), span);
    let (writes, elections) = write(&hosts, span)?;
    let mut lose = |what: &str, is_killed: bool| {
        rounds(&format!("{words}, {what}"), count, progress, |_| lose_leader(&mut hosts, kind, is_killed))
    };
    let killed = lose("leader killed", true)?;
    let vanished = lose("leader's host vanished", false)?;
    let figure = |what: &str, unit: &str, samples: &[Sample], goal: Goal| {
        Figure::new(Part::SlowLinks, &format!("{words}: {what}"), unit, samples, goal)
    };
    Ok([
        figure("first start", "ms", &[ms(started).into()], Goal::NONE),
        figure("write", "ms", &writes, Goal::NONE),
        figure("elections meanwhile", "", &[elections.into()], Goal { words: "none", median: 0.0, worst: 0.0 }),
        figure("leader killed -> next acknowledged command", "ms", &killed, Goal::NONE),
        figure("leader's host vanished -> next acknowledged command", "ms", &vanished, Goal::NONE),
    ])
}

/// All links between hosts are of this kind, those of the client whole.
fn restore(hosts: &mut Hosts, link: Link) -> Result<()> {
    let all = hosts.ids();
    hosts.heal()?;
    hosts.link(&all, &all, link)
}

/// From the start of the processes until all are voters.
fn first_start(hosts: &mut Hosts) -> Result<Duration> {
    let begun = Instant::now();
    for id in hosts.ids() {
        hosts.cluster.spawn(id, &[])?;
    }
    hosts.cluster.wait_explained("all hosts are voters", START_WITHIN, || {
        let rows = hosts.cluster.status(1).map_err(|e| e.to_string())?.nodes;
        let voters = rows.iter().filter(|row| row.membership == Standing::Voter).count() as u64;
        if voters == NODES { Ok(()) } else { Err(format!("{voters} are")) }
    })?;
    Ok(begun.elapsed())
}

/// Writes for this long, one after the other, through each node in turn: four of five forward them. Returns the times
/// and the number of elections.
fn write(hosts: &Hosts, span: Duration) -> Result<(Vec<Sample>, f64)> {
    let term = || Ok(hosts.cluster.status(1)?.cluster.term.0);
    let mut keys = hosts.cluster.keys().with_patience(PATIENCE);
    let (until, before) = (Instant::now() + span, term()?);
    let mut writes = Vec::new();
    while Instant::now() < until {
        keys.go_to(writes.len());
        let begun = Instant::now();
        keys.put("bench", &writes.len().to_string(), begun + GIVE_UP)?;
        writes.push(ms(begun.elapsed()).into());
    }
    Ok((writes, (term()? - before) as f64))
}

/// Loses the leader and writes through another node; the time until that is acknowledged.
fn lose_leader(hosts: &mut Hosts, kind: LinkKind, is_killed: bool) -> Result<Round> {
    let before = Before::settle(&mut hosts.cluster)?;
    let old = before.leader;
    let mut keys = hosts.cluster.keys().with_patience(PATIENCE);
    keys.go_to(place_of(another_than(old)));
    let begun = Instant::now();
    if is_killed {
        hosts.cluster.kill_now(old)?;
    } else {
        hosts.vanish(old)?;
    }
    keys.put("bench", "after the fault", Instant::now() + GIVE_UP)?;
    let took = begun.elapsed();
    if is_killed {
        let ended = hosts.cluster.process(old)?.wait(Duration::from_secs(5))?;
        let new = before.wait_failover(&hosts.cluster)?;
        if ended.success() {
            return Err(LabError::Answer(format!("node {old} was not killed: {ended}")));
        }
        hosts.cluster.restart(old)?;
        return Ok(before.round(took, new));
    }
    let round = verify_vanished(hosts, &before, took)?;
    restore(hosts, kind.link())?;
    Ok(round)
}
