//! Random faults of network and processes while six clients work: nothing acknowledged is lost, and every history is
//! linearizable.
//!
//! A run is given by its seed, up to the timing of a real machine. `FAULTS_SECONDS` and `FAULTS_SEED`
//! choose another one than the test's. Not here: what the clients record and its check (`recorded_clients.rs`).

use super::is_apart;
use super::recorded_clients::Recorders;
use crate::EXE;
use crate::clients::Onlooker;
use fastrand::Rng;
use phalanx::lab::hosts::{CLIENT_PASSWORD, Hosts, Link};
use phalanx::lab::{Result, poll};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

const CLIENTS: u64 = 6;
const SECONDS: u64 = 60;
const SEED: u64 = 15;
/// After so many faults everything is whole again until the cluster is healthy.
const FAULTS_UNTIL_CALM: usize = 12;
/// How long a cluster without faults may take until it is healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Isolated,
    Vanished,
    Halves,
    OneLink,
    OneWay,
    Lossy,
    Slow,
    Flapping,
    Killed,
    TwoKilled,
    AllKilled,
    Frozen,
    Stopped,
}

const MENU: [Fault; 13] = [
    Fault::Isolated,
    Fault::Vanished,
    Fault::Halves,
    Fault::OneLink,
    Fault::OneWay,
    Fault::Lossy,
    Fault::Slow,
    Fault::Flapping,
    Fault::Killed,
    Fault::TwoKilled,
    Fault::AllKilled,
    Fault::Frozen,
    Fault::Stopped,
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Breaks something for `span`, then mends what concerns processes; links stay as they are until the next heal.
fn inflict(hosts: &mut Hosts, fault: Fault, rng: &mut Rng, span: Duration) -> Result<()> {
    let mut ids = hosts.ids();
    rng.shuffle(&mut ids);
    match fault {
        Fault::Isolated => hosts.cut(&ids[..1], &ids[1..])?,
        Fault::Vanished => hosts.vanish(ids[0])?,
        Fault::Halves => hosts.cut(&ids[..2], &ids[2..])?,
        Fault::OneLink => hosts.cut(&ids[..1], &ids[1..2])?,
        Fault::OneWay => hosts.link(&ids[..1], &ids[1..3], Link::CUT)?,
        Fault::Lossy => {
            let link = Link { loss: 0.05 + 0.25 * rng.f64(), delay_ms: 2, jitter_ms: 5 };
            hosts.link(&ids, &ids, link)?;
        }
        Fault::Slow => hosts.link(&ids, &ids, Link { loss: 0.0, delay_ms: rng.u32(10..150), jitter_ms: 50 })?,
        Fault::Flapping => {
            for _ in 0..6 {
                hosts.cut(&ids[..2], &ids[2..])?;
                poll::pause(span / 12);
                hosts.heal()?;
                poll::pause(span / 12);
            }
            return Ok(());
        }
        Fault::Killed | Fault::TwoKilled | Fault::AllKilled => {
            let count = match fault {
                Fault::Killed => 1,
                Fault::TwoKilled => 2,
                _ => ids.len(),
            };
            for id in &ids[..count] {
                hosts.cluster.kill_now(*id)?;
            }
            poll::pause(span / 2);
            for id in &ids[..count] {
                hosts.cluster.restart(*id)?;
            }
            poll::pause(span / 2);
            return Ok(());
        }
        Fault::Frozen => {
            hosts.cluster.freeze(ids[0])?;
            poll::pause(span);
            return hosts.cluster.thaw(ids[0]);
        }
        Fault::Stopped => {
            hosts.cluster.interrupt(ids[0])?;
            hosts.cluster.process(ids[0])?.wait(Duration::from_secs(10))?;
            poll::pause(span / 2);
            return hosts.cluster.restart(ids[0]);
        }
    }
    poll::pause(span);
    Ok(())
}

/// All nodes hold the same state.
fn assert_equal_states(hosts: &Hosts) -> Result<()> {
    hosts.cluster.wait_explained("all nodes hold the same state", HEALTHY_WITHIN, || {
        let mut command = Command::new(EXE);
        command.env("PHALANX_CLIENT_PASSWORD", CLIENT_PASSWORD);
        let check = command.args(["check", "digest", "-e", &hosts.cluster.http(1)]).output();
        let check = check.map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
        if check.status.success() { Ok(()) } else { Err(said) }
    })
}

#[test]
fn nothing_acknowledged_is_lost_whatever_hosts_and_network_do() -> Result<()> {
    if !is_apart("hosts::random_faults::nothing_acknowledged_is_lost_whatever_hosts_and_network_do") {
        return Ok(());
    }
    let (seconds, seed) = (number("FAULTS_SECONDS", SECONDS), number("FAULTS_SEED", SEED));
    let mut rng = Rng::with_seed(seed);
    let settings = json!({"jobs_enabled": false, "snapshot_every_entries": 2000, "connections_max": 200});
    let mut hosts = Hosts::ready(EXE, 5, &settings)?;
    let onlooker = Onlooker::start(&hosts.cluster);
    let recorders = Recorders::start(&hosts.cluster.addresses(), CLIENTS);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut count: BTreeMap<Fault, usize> = BTreeMap::new();
    while Instant::now() < until {
        for _ in 0..rng.usize(1..=FAULTS_UNTIL_CALM) {
            let fault = MENU[rng.usize(..MENU.len())];
            let span = Duration::from_millis(rng.u64(300..4000));
            *count.entry(fault).or_default() += 1;
            println!("{fault:?} for {span:?}");
            inflict(&mut hosts, fault, &mut rng, span)?;
            if rng.bool() {
                hosts.heal()?;
            }
            if Instant::now() >= until {
                break;
            }
        }
        hosts.heal()?;
        let before = recorders.acknowledged();
        hosts.cluster.wait_until("writes are acknowledged after the faults", HEALTHY_WITHIN, || {
            (recorders.acknowledged() > before + CLIENTS as usize).then_some(())
        })?;
    }
    hosts.heal()?;
    hosts.cluster.settle()?;
    let records = recorders.finish()?;
    let terms = onlooker.assert_one_leader_per_term().len();
    println!("seed {seed}, {seconds} s: {count:?}, leaders seen in {terms} terms");
    println!("{records}");
    assert_equal_states(&hosts)?;
    assert_eq!(records.unexplained_keys(), Vec::<String>::new(), "keys whose history nothing explains");
    assert!(records.acknowledged > 100, "too little was acknowledged to prove anything");
    Ok(())
}
