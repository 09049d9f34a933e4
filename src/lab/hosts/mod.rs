//! Hosts of their own: each a network namespace with an address and folders of its own, all at one switch.
//!
//! [`Hosts`] makes a network namespace for each host and the switch (`switch.py`), which cuts, delays and loses what it
//! is told to. The program itself is at port 0 of the switch and reaches each node at its address. It has namespaces of
//! its own (`namespaces.rs`), because the switch's devices and addresses are those of its network. It needs root on
//! Linux, `ip` and Python.
//! Not here: what is tested and measured with them (`tests/cluster/hosts/`, `bench/failover/`).

pub mod namespaces;

use super::process::Process;
use super::{Cluster, Host, LabError, Result, wait_until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The port of the switch that this program is at.
pub const OWN_PORT: u64 = 0;
/// What clients of all hosts present.
pub const CLIENT_PASSWORD: &str = "for clients of the phalanx";
/// With room for 128 random bits, as nodes require.
const CLUSTER_SECRET: &str = "for the phalanx and nobody else";
/// Time for the switch to start, and to obey.
const SWITCH_WITHIN: Duration = Duration::from_secs(20);

/// What happens to frames on a link, in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// Share of frames that are lost, from 0 to 1.
    pub loss: f64,
    /// Each frame is delayed by this.
    pub delay_ms: u32,
    /// Each frame is delayed by up to so much more.
    pub jitter_ms: u32,
}

impl Link {
    /// Nothing passes.
    pub const CUT: Link = Link { loss: 1.0, delay_ms: 0, jitter_ms: 0 };
    /// Everything passes at once.
    pub const WHOLE: Link = Link { loss: 0.0, delay_ms: 0, jitter_ms: 0 };
}

/// A cluster with a node on each of its hosts; node N is on host N. Fields are dropped in this order.
#[derive(Debug)]
pub struct Hosts {
    /// Its nodes; a command to one reaches it at its host's address.
    pub cluster: Cluster,
    switch: Process,
    /// Keep the namespaces: each ends with its standard input.
    keepers: Vec<Process>,
    /// Lines that the switch was told.
    told: usize,
}

impl Hosts {
    /// Makes `n` hosts without nodes. `settings`: of all nodes.
    ///
    /// # Errors
    /// This program has no namespaces of its own, or something that hosts need is missing.
    pub fn prepare(exe: impl AsRef<Path>, n: u64, settings: &Value) -> Result<Hosts> {
        if !namespaces::is_apart() {
            return Err(LabError::Answer("hosts are made within namespaces of the program's own only".into()));
        }
        // Both are needed beyond loopback.
        let mut all = json!({"cluster_secret": CLUSTER_SECRET, "client_password": CLIENT_PASSWORD});
        for (name, value) in settings.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let mut cluster = Cluster::prepare(exe, &all)?;
        let mut keepers = Vec::new();
        for id in 1..=n {
            let keeper =
                Process::start(Command::new("unshare").args(["--net", "cat"]), &cluster.dir().join("hosts.log"))?;
            let network = network_of(&keeper);
            let own =
                std::fs::read_link("/proc/self/ns/net").map_err(LabError::io("read the own network namespace"))?;
            wait_until("the host has a network of its own", SWITCH_WITHIN, || {
                std::fs::read_link(&network).is_ok_and(|it| it != own).then_some(())
            })?;
            keepers.push(keeper);
            let enter = vec!["nsenter".to_string(), format!("--net={}", network.display())];
            cluster.place(id, Host { address: format!("10.77.0.{id}"), enter });
        }
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("switch.py"), "1"]).args(keepers.iter().map(|it| it.pid().to_string()));
        let switch = Process::start(&mut command, &cluster.dir().join("switch.log"))?;
        let hosts = Hosts { cluster, switch, keepers, told: 0 };
        hosts.wait_for_switch("ready", 1)?;
        Ok(hosts)
    }

    /// Makes `n` hosts and starts a node on each.
    ///
    /// # Errors
    /// As [`Hosts::prepare`], or the program does not start.
    pub fn start(exe: impl AsRef<Path>, n: u64, settings: &Value) -> Result<Hosts> {
        let mut hosts = Hosts::prepare(exe, n, settings)?;
        for id in 1..=n {
            hosts.cluster.spawn(id, &[])?;
        }
        Ok(hosts)
    }

    /// As [`Hosts::start`]; waits until all nodes are in one healthy cluster.
    ///
    /// # Errors
    /// As [`Hosts::start`], or they do not find each other in time.
    pub fn ready(exe: impl AsRef<Path>, n: u64, settings: &Value) -> Result<Hosts> {
        let hosts = Hosts::start(exe, n, settings)?;
        hosts.cluster.settle()?;
        Ok(hosts)
    }

    /// All hosts.
    pub fn ids(&self) -> Vec<u64> {
        (1..=self.keepers.len() as u64).collect()
    }

    /// A command on a host.
    pub fn command(&self, id: u64, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let network = network_of(&self.keepers[id as usize - 1]);
        command.arg(format!("--net={}", network.display())).arg(program);
        command
    }

    /// From now on this happens to frames from any of `from` to any of `to`; returns when it does.
    ///
    /// # Errors
    /// The switch does not obey.
    pub fn link(&mut self, from: &[u64], to: &[u64], link: Link) -> Result<()> {
        self.tell_switch(&json!([rule(from, to, link)]))
    }

    /// From now on no datagram passes, as with a firewall that knows TCP alone.
    ///
    /// # Errors
    /// The switch does not obey.
    pub fn drop_datagrams(&mut self) -> Result<()> {
        self.tell_switch(&json!([{"drop_udp": true}]))
    }

    /// Several rules begin at the same moment.
    fn tell_switch(&mut self, rules: &Value) -> Result<()> {
        self.switch.type_line(&rules.to_string())?;
        self.told += 1;
        self.wait_for_switch("done", self.told)
    }

    /// From one moment on nothing passes between these hosts and those, in both directions; nothing closes a connection
    /// and no port refuses.
    ///
    /// # Errors
    /// The switch does not obey.
    pub fn cut(&mut self, these: &[u64], those: &[u64]) -> Result<()> {
        self.tell_switch(&json!([rule(these, those, Link::CUT), rule(those, these, Link::CUT)]))
    }

    /// From one moment on the host is gone for all others, for this program as well.
    ///
    /// # Errors
    /// The switch does not obey.
    pub fn vanish(&mut self, id: u64) -> Result<()> {
        let others: Vec<u64> = self.ids().into_iter().filter(|it| *it != id).chain([OWN_PORT]).collect();
        self.cut(&[id], &others)
    }

    /// Every link is whole again.
    ///
    /// # Errors
    /// The switch does not obey.
    pub fn heal(&mut self) -> Result<()> {
        let all: Vec<u64> = self.ids().into_iter().chain([OWN_PORT]).collect();
        self.link(&all, &all, Link::WHOLE)
    }

    fn wait_for_switch(&self, word: &str, times: usize) -> Result<()> {
        self.cluster.wait_explained("the switch has obeyed", SWITCH_WITHIN, || {
            let output = self.switch.output();
            if output.lines().filter(|line| *line == word).count() >= times { Ok(()) } else { Err(output) }
        })
    }
}

fn network_of(keeper: &Process) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", keeper.pid()))
}

/// As `switch.py` reads it.
fn rule(from: &[u64], to: &[u64], link: Link) -> Value {
    let Link { loss, delay_ms, jitter_ms } = link;
    json!({"from": from, "to": to, "loss": loss, "delay_ms": delay_ms, "jitter_ms": jitter_ms})
}
