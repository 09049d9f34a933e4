//! Hosts of their own: each a network namespace with an address and folders of its own, all at one switch.
//!
//! [`is_apart`] runs a test again within a network and a process namespace of its own, so the machine sees nothing of
//! it, several tests run at once, and the kernel removes everything when the test ends, however it ends. [`Hosts`]
//! makes a network namespace for each host and the switch (`switch.py`), which cuts, delays and loses what the test
//! wants. The test itself is at port 0 of the switch and reaches each node at its address. It needs root on Linux, `ip`
//! and Python.

use crate::EXE;
use phalanx::lab::process::Process;
use phalanx::lab::{Cluster, Host, Result, wait_until};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

mod config_files;
mod datagrams;
mod dispatch;
mod links;
mod random_faults;
mod recorded_clients;
mod slow_links;

/// Set in the process that runs a test within namespaces of its own.
const APART: &str = "LAB_HOSTS_APART";
/// The port of the switch that the test is at.
pub const TEST: u64 = 0;
const SWITCH_WITHIN: Duration = Duration::from_secs(20);

/// Whether this process has namespaces of its own. If not, the test (its name with its module) has been run in a
/// process that has, or there is a line that says what is missing.
pub fn is_apart(test: &str) -> bool {
    if std::env::var_os(APART).is_some() {
        return true;
    }
    // The kernel kills the first process with this one, and all others of a process namespace with its first.
    let within = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).args(words).env(APART, "1");
        command
    };
    let tun = "import os; os.open('/dev/net/tun', os.O_RDWR)";
    let can = rustix::process::geteuid().is_root()
        && within(&["python3", "-c", tun]).output().is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: hosts need root on Linux, unshare, ip (Debian package iproute2), python3 and /dev/net/tun");
        return false;
    }
    let exe = std::env::current_exe().unwrap();
    let again = within(&[exe.to_str().unwrap(), test, "--exact", "--include-ignored", "--nocapture"]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    print!("{out}");
    eprint!("{err}");
    assert!(again.status.success() && out.contains(" 1 passed"), "the test failed in its own network");
    false
}

/// What happens to frames on a link, in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// Share of frames that are lost, from 0 to 1.
    pub loss: f64,
    pub delay_ms: u32,
    /// Each frame is delayed by up to so much more.
    pub jitter_ms: u32,
}

/// What clients of all hosts present.
pub const CLIENT_PASSWORD: &str = "for clients of the phalanx";

impl Link {
    pub const CUT: Link = Link { loss: 1.0, delay_ms: 0, jitter_ms: 0 };
    pub const WHOLE: Link = Link { loss: 0.0, delay_ms: 0, jitter_ms: 0 };
}

/// A cluster with a node on each of its hosts; node N is on host N. Fields are dropped in this order.
pub struct Hosts {
    pub cluster: Cluster,
    switch: Process,
    /// Keep the namespaces: each ends with its standard input.
    keepers: Vec<Process>,
    rules: usize,
}

impl Hosts {
    /// Makes `n` hosts without nodes. `settings`: of all nodes.
    pub fn prepare(n: u64, settings: &Value) -> Result<Hosts> {
        // Both are needed beyond loopback.
        let mut all = json!({"cluster_secret": "for the phalanx and nobody else", "client_password": CLIENT_PASSWORD});
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let mut cluster = Cluster::prepare(EXE, &all)?;
        let mut keepers = Vec::new();
        for id in 1..=n {
            let keeper =
                Process::start(Command::new("unshare").args(["--net", "cat"]), &cluster.dir().join("hosts.log"))?;
            let network = format!("/proc/{}/ns/net", keeper.pid());
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            wait_until("the host has a network of its own", SWITCH_WITHIN, || {
                std::fs::read_link(&network).is_ok_and(|it| it != own).then_some(())
            })?;
            keepers.push(keeper);
            let enter = vec!["nsenter".to_string(), format!("--net={network}")];
            cluster.place(id, Host { address: format!("10.77.0.{id}"), enter });
        }
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("switch.py"), "1"]).args(keepers.iter().map(|it| it.pid().to_string()));
        let switch = Process::start(&mut command, &cluster.dir().join("switch.log"))?;
        let hosts = Hosts { cluster, switch, keepers, rules: 0 };
        hosts.wait_for_switch("ready", 1)?;
        Ok(hosts)
    }

    /// Makes `n` hosts and starts a node on each.
    pub fn start(n: u64, settings: &Value) -> Result<Hosts> {
        let mut hosts = Hosts::prepare(n, settings)?;
        for id in 1..=n {
            hosts.cluster.spawn(id, &[])?;
        }
        Ok(hosts)
    }

    /// As [`Hosts::start`]; waits until all nodes are in one healthy cluster.
    pub fn ready(n: u64, settings: &Value) -> Result<Hosts> {
        let hosts = Hosts::start(n, settings)?;
        hosts.cluster.settle()?;
        Ok(hosts)
    }

    pub fn ids(&self) -> Vec<u64> {
        (1..=self.keepers.len() as u64).collect()
    }

    /// A command on a host.
    pub fn command(&self, id: u64, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.keepers[id as usize - 1].pid())).arg(program);
        command
    }

    /// From now on this happens to frames from any of `from` to any of `to`; returns when it does.
    pub fn link(&mut self, from: &[u64], to: &[u64], link: Link) -> Result<()> {
        let Link { loss, delay_ms, jitter_ms } = link;
        self.tell_switch(&json!({"from": from, "to": to, "loss": loss, "delay_ms": delay_ms, "jitter_ms": jitter_ms}))
    }

    /// From now on no datagram passes, as with a firewall that knows TCP alone.
    pub fn drop_datagrams(&mut self) -> Result<()> {
        self.tell_switch(&json!({"drop_udp": true}))
    }

    fn tell_switch(&mut self, rule: &Value) -> Result<()> {
        self.switch.type_line(&rule.to_string())?;
        self.rules += 1;
        self.wait_for_switch("done", self.rules)
    }

    /// Nothing passes between these hosts and those; nothing closes a connection and no port refuses.
    pub fn cut(&mut self, these: &[u64], those: &[u64]) -> Result<()> {
        self.link(these, those, Link::CUT)?;
        self.link(those, these, Link::CUT)
    }

    /// The host is gone for all others, for the test as well.
    pub fn vanish(&mut self, id: u64) -> Result<()> {
        let others: Vec<u64> = self.ids().into_iter().filter(|it| *it != id).chain([TEST]).collect();
        self.cut(&[id], &others)
    }

    /// Every link is whole again.
    pub fn heal(&mut self) -> Result<()> {
        let all: Vec<u64> = self.ids().into_iter().chain([TEST]).collect();
        self.link(&all, &all, Link::WHOLE)
    }

    fn wait_for_switch(&self, word: &str, times: usize) -> Result<()> {
        self.cluster.wait_explained("the switch has obeyed", SWITCH_WITHIN, || {
            let output = self.switch.output();
            if output.lines().filter(|line| *line == word).count() >= times { Ok(()) } else { Err(output) }
        })
    }
}
