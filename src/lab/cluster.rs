//! A folder full of node processes on ports of their own.
//!
//! [`Cluster::start`] writes a settings file into a temporary folder and starts the real binary. When a wait fails or
//! the test panics, each node's last lines are printed and the folder stays; otherwise it is removed.
//!
//! Invariants: L1 to L3 of `mod.rs`.
//! Not here: faults and expectations (`bench/failover/`, `tests/cluster/`).

use super::folders::Folder;
use super::ports::{self, Block};
use super::process::Process;
use super::web::{self, KeyClient, Response};
use super::{LabError, Result, poll};
use crate::node::views::status::{Health, Liveness, Standing, Status};
use crate::raft::Role;
use crate::types::NodeId;
use crate::work::leftovers;
use rustix::process::Signal;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Time for one node to answer a query of the lab; a frozen one costs this much.
const ASK_WITHIN: Duration = Duration::from_millis(700);
/// The password of clients in the environment.
const CLIENT_PASSWORD: &str = "PHALANX_CLIENT_PASSWORD";
/// Log lines per node that a failure prints.
const TAIL_LINES: usize = 40;
/// Time for processes to start, elect and catch up on a loaded machine.
pub const SETTLE_WITHIN: Duration = Duration::from_secs(30);

/// A host of its own for one node: it shares no file with other hosts, and is reached at an address of its own.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its IP address.
    pub address: String,
    /// What precedes the command line of a node so that it runs there: `nsenter --net=...`; empty if nothing does.
    pub enter: Vec<String>,
}

/// Node processes, their folder and their ports.
#[derive(Debug)]
pub struct Cluster {
    exe: PathBuf,
    dir: Folder,
    block: Block,
    nodes: BTreeMap<u64, Process>,
    hosts: BTreeMap<u64, Host>,
    frozen: BTreeSet<u64>,
    envs: Vec<(String, String)>,
    /// Setting of its nodes.
    client_password: Option<String>,
    /// Nodes started from now on continue when this program ends.
    pub outlives_us: bool,
    has_failed: Cell<bool>,
    /// Keep the folder in any case.
    pub keep: bool,
}

impl Cluster {
    /// Starts nodes 1 to `n` at the same moment; does not wait for them. `overrides`: a JSON object of settings.
    ///
    /// # Errors
    /// No ports, no temporary folder, or the program does not start.
    pub fn start(exe: impl AsRef<Path>, n: u64, overrides: &Value) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(exe, overrides)?;
        for id in 1..=n {
            cluster.spawn(id, &[])?;
        }
        Ok(cluster)
    }

    /// Starts nodes 1 to `n` and waits until all are members of one healthy cluster.
    ///
    /// # Errors
    /// As [`Cluster::start`], or they do not find each other in time.
    pub fn ready(exe: impl AsRef<Path>, n: u64, overrides: &Value) -> Result<Cluster> {
        let cluster = Cluster::start(exe, n, overrides)?;
        cluster.settle()?;
        Ok(cluster)
    }

    /// The folder, ports and settings file of a cluster without processes.
    ///
    /// # Errors
    /// No ports or no temporary folder.
    pub fn prepare(exe: impl AsRef<Path>, overrides: &Value) -> Result<Cluster> {
        let block = Block::take()?;
        let dir = Folder::make("phalanx-lab-")?;
        let cluster = Cluster {
            exe: exe.as_ref().to_path_buf(),
            dir,
            block,
            nodes: BTreeMap::new(),
            hosts: BTreeMap::new(),
            frozen: BTreeSet::new(),
            envs: Vec::new(),
            client_password: overrides["client_password"].as_str().map(str::to_string),
            outlives_us: false,
            has_failed: Cell::new(false),
            keep: false,
        };
        cluster.write_settings(overrides)?;
        Ok(cluster)
    }

    fn write_settings(&self, overrides: &Value) -> Result<()> {
        let mut all: Map<String, Value> = Map::new();
        all.insert("leader_port_base".into(), self.block.peer_base().into());
        all.insert("service_port_base".into(), self.block.http_base().into());
        all.insert("kv_port_base".into(), self.block.kv_base().into());
        all.insert("service_port".into(), self.block.front().into());
        all.insert("config_file_path".into(), self.config_path().to_string_lossy().into());
        all.insert("data_dir".into(), self.data_dir().to_string_lossy().into());
        // Off unless overridden: probing for compilers would keep the processors busy while elections are timed.
        all.insert("jobs_enabled".into(), false.into());
        for (key, value) in overrides.as_object().into_iter().flatten() {
            all.insert(key.clone(), value.clone());
        }
        let text = serde_json::to_string_pretty(&all).expect("a JSON object always encodes");
        let path = self.settings_path();
        std::fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))
    }

    /// Gives node `id` a host of its own, before it is started. Its `peers` are the nodes of all other such hosts.
    pub fn place(&mut self, id: u64, host: Host) {
        self.hosts.insert(id, host);
    }

    /// Its folder: `settings.json`, `node-N.log`, and of the nodes on this host `config.json` and `data/`; of a node with a
    /// host of its own they are in `host-N/`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    /// The settings file of all its nodes.
    pub fn settings_path(&self) -> PathBuf {
        self.dir.path().join("settings.json")
    }
    /// `config.json` of this host.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.json")
    }
    /// `config.json` that node `id` uses.
    pub fn config_path_of(&self, id: u64) -> PathBuf {
        match self.hosts.contains_key(&id) {
            true => self.host_dir(id).join("config.json"),
            false => self.config_path(),
        }
    }
    fn host_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("host-{id}"))
    }
    /// Holds `node-N` of the nodes on this host.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    fn node_dir(&self, id: u64) -> PathBuf {
        let data = if self.hosts.contains_key(&id) { self.host_dir(id).join("data") } else { self.data_dir() };
        data.join(format!("node-{id}"))
    }
    /// The output file of a node.
    pub fn log_path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node-{id}.log"))
    }
    /// Everything a node has printed so far.
    pub fn log(&self, id: u64) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path(id)).unwrap_or_default()).into_owned()
    }
    /// `host:port` of a node's HTTP server.
    pub fn http(&self, id: u64) -> String {
        self.at(id, self.block.http_base())
    }
    /// `host:port` of a node's Redis server.
    pub fn kv(&self, id: u64) -> String {
        self.at(id, self.block.kv_base())
    }
    /// `host:port` of a node's peer port.
    pub fn peer(&self, id: u64) -> String {
        self.at(id, self.block.peer_base())
    }
    fn at(&self, id: u64, base: u16) -> String {
        let host = self.hosts.get(&id).map_or("127.0.0.1", |host| &host.address);
        format!("{host}:{}", u64::from(base) + id)
    }
    /// The setting `client_password` of the nodes.
    pub fn client_password(&self) -> Option<String> {
        self.client_password.clone()
    }

    /// `host:port` of the front door of this host.
    pub fn front(&self) -> String {
        format!("127.0.0.1:{}", self.block.front())
    }
    /// HTTP addresses of every node that was ever started.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.keys().map(|id| self.http(*id)).collect()
    }

    /// Sets an environment variable for nodes started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        if name == CLIENT_PASSWORD {
            self.client_password = (!value.is_empty()).then(|| value.to_string());
        }
        self.envs.push((name.into(), value.into()));
    }

    /// Starts node `id`, with more arguments if given.
    ///
    /// # Errors
    /// The program does not start, or the node runs already.
    pub fn spawn(&mut self, id: u64, more: &[&str]) -> Result<()> {
        if id > ports::NODES_MAX || self.is_running(id) {
            return Err(LabError::Answer(format!("node {id} runs already or has no ports")));
        }
        let mut command = self.command(id);
        command.args(["node", "--id", &id.to_string(), "--settings"]).arg(self.settings_path());
        if !self.outlives_us {
            command.arg("--until-eof");
        }
        // What the user of this program has set is for another cluster.
        command.env_remove(CLIENT_PASSWORD);
        command.args(more).envs(self.envs.iter().map(|(name, value)| (name, value))).current_dir(self.dir.path());
        let process = Process::start(&mut command, &self.log_path(id))?;
        self.frozen.remove(&id);
        self.nodes.insert(id, process);
        Ok(())
    }

    /// The program on the host of node `id`, with the settings of that host.
    fn command(&self, id: u64) -> Command {
        let Some(host) = self.hosts.get(&id) else { return Command::new(&self.exe) };
        let words = host.enter.iter().map(OsStr::new).chain([self.exe.as_os_str()]).collect::<Vec<_>>();
        let mut command = Command::new(words[0]);
        let peers: Vec<String> = self.hosts.keys().filter(|it| **it != id).map(|it| self.peer(*it)).collect();
        command.args(&words[1..]).env("PHALANX_HOST", &host.address).env("PHALANX_PEERS", peers.join(","));
        command.env("PHALANX_CONFIG_FILE_PATH", self.config_path_of(id));
        command.env("PHALANX_DATA_DIR", self.host_dir(id).join("data"));
        command
    }

    /// The process of node `id`, alive or dead.
    ///
    /// # Errors
    /// It was never started.
    pub fn process(&mut self, id: u64) -> Result<&mut Process> {
        self.nodes.get_mut(&id).ok_or(LabError::NotRunning(id))
    }

    /// Whether node `id` has a process that has not ended.
    pub fn is_running(&mut self, id: u64) -> bool {
        self.nodes.get_mut(&id).is_some_and(|p| p.exited().is_none())
    }

    /// Nodes whose process has not ended.
    pub fn running(&mut self) -> Vec<u64> {
        self.nodes.iter_mut().filter_map(|(id, p)| p.exited().is_none().then_some(*id)).collect()
    }

    /// SIGKILL; returns when the process is gone and its ports refuse.
    ///
    /// # Errors
    /// It does not run, or something else answers on its port.
    pub fn kill(&mut self, id: u64) -> Result<ExitStatus> {
        if !self.is_running(id) {
            return Err(LabError::NotRunning(id));
        }
        let status = self.process(id)?.kill()?;
        self.frozen.remove(&id);
        let (http, peer) = (self.http(id), self.peer(id));
        self.wait_until(&format!("ports of killed node {id} refuse"), Duration::from_secs(5), || {
            [&http, &peer].iter().all(|at| std::net::TcpStream::connect(at.as_str()).is_err()).then_some(())
        })?;
        Ok(status)
    }

    /// SIGKILL without waiting for the end: for time measurements.
    ///
    /// # Errors
    /// The system refused.
    pub fn kill_now(&mut self, id: u64) -> Result<()> {
        self.process(id)?.signal(Signal::KILL)
    }

    /// SIGSTOP; returns when the kernel says that it is stopped.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&mut self, id: u64) -> Result<()> {
        let process = self.process(id)?;
        process.signal(Signal::STOP)?;
        if process.state().is_some() {
            poll::wait_until(&format!("node {id} is stopped"), Duration::from_secs(5), || {
                (process.state() == Some('T')).then_some(())
            })?;
        }
        self.frozen.insert(id);
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&mut self, id: u64) -> Result<()> {
        self.frozen.remove(&id);
        self.process(id)?.signal(Signal::CONT)
    }

    /// SIGINT, as Ctrl+C sends it.
    ///
    /// # Errors
    /// It does not run.
    pub fn interrupt(&mut self, id: u64) -> Result<()> {
        self.process(id)?.signal(Signal::INT)
    }

    /// Stops one node after another as Ctrl+C does, waiting up to `within` for each; returns those that failed, in
    /// words.
    ///
    /// # Errors
    /// One does not end.
    pub fn stop_orderly(&mut self, within: Duration) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        for id in self.running() {
            self.interrupt(id)?;
            let status = self.process(id)?.wait(within)?;
            if !status.success() {
                faults.push(format!("node {id} ended with {status}"));
            }
        }
        Ok(faults)
    }

    /// Kills node `id` if it runs and starts it again on its data; proves that it is another process.
    ///
    /// # Errors
    /// The program does not start.
    pub fn restart(&mut self, id: u64) -> Result<()> {
        let old = self.process(id)?.pid();
        if self.is_running(id) {
            self.kill(id)?;
        }
        self.spawn(id, &[])?;
        assert_ne!(self.process(id)?.pid(), old, "a restarted node is a new process");
        Ok(())
    }

    /// Removes the data folder of a stopped node.
    ///
    /// # Errors
    /// It still runs, or the folder cannot be removed.
    pub fn wipe(&mut self, id: u64) -> Result<()> {
        if self.is_running(id) {
            return Err(LabError::Answer(format!("node {id} runs: stop it before its folder is removed")));
        }
        let folder = self.node_dir(id);
        leftovers::unmount_below(&folder);
        std::fs::remove_dir_all(&folder).map_err(LabError::io(format!("remove {}", folder.display())))
    }

    /// The status of one node.
    ///
    /// # Errors
    /// No answer, or not a status.
    pub fn status(&self, id: u64) -> Result<Status> {
        let response = self.get(id, "/v1/status")?;
        serde_json::from_slice(&response.body)
            .map_err(|e| LabError::Answer(format!("node {id} answered {}: {e}: {}", response.status, response.text())))
    }

    /// The status of each node that answers; frozen ones are not asked.
    pub fn statuses(&self) -> BTreeMap<u64, Status> {
        let ids = self.nodes.keys().filter(|id| !self.frozen.contains(id));
        ids.filter_map(|id| self.status(*id).ok().map(|s| (*id, s))).collect()
    }

    /// The node that says it leads, in the highest term if several do.
    pub fn leader(&self) -> Option<u64> {
        let leads = |s: &Status| s.node.role == Role::Leader;
        self.statuses().into_iter().filter(|(_, s)| leads(s)).max_by_key(|(_, s)| s.cluster.term).map(|(id, _)| id)
    }

    /// Waits until some node leads.
    ///
    /// # Errors
    /// No node does in time.
    pub fn wait_leader(&self) -> Result<u64> {
        self.wait_until("a node leads", SETTLE_WITHIN, || self.leader())
    }

    /// Waits until a node other than `old` leads and a majority of those that answer follow it.
    ///
    /// # Errors
    /// No node does in time.
    pub fn wait_other_leader(&self, old: u64) -> Result<u64> {
        self.wait_until(&format!("another node than {old} leads"), SETTLE_WITHIN, || {
            let leader = self.leader().filter(|l| *l != old)?;
            let all = self.statuses();
            let follow = all.values().filter(|s| s.cluster.leader == Some(NodeId(leader))).count();
            (follow * 2 > all.len()).then_some(leader)
        })
    }

    /// Waits until every running node is in one healthy cluster: one leader, all online, caught up, as many voters
    /// as the autopilot wants (5 at most).
    ///
    /// # Errors
    /// That state is not reached in time; the error says what was missing.
    pub fn settle(&self) -> Result<u64> {
        self.settle_as(self.nodes.len().min(5))
    }

    /// As [`Cluster::settle`] with this many voters.
    ///
    /// # Errors
    /// As [`Cluster::settle`].
    pub fn settle_as(&self, voters: usize) -> Result<u64> {
        self.settle_within(voters, SETTLE_WITHIN)
    }

    /// The same within another time.
    ///
    /// # Errors
    /// As [`Cluster::settle`].
    pub fn settle_within(&self, voters: usize, within: Duration) -> Result<u64> {
        self.wait_explained("the cluster is healthy and caught up", within, || self.settled(voters))
    }

    /// The leader of a healthy cluster that has caught up, or what is missing.
    fn settled(&self, voters: usize) -> std::result::Result<u64, String> {
        let expected = self.nodes.keys().filter(|id| !self.frozen.contains(id)).count();
        // What is committed grows while nodes are asked one after another: each must have applied what was committed
        // before.
        let committed: BTreeMap<_, _> = self
            .statuses()
            .into_iter()
            .filter_map(|(id, status)| Some((id, status.nodes.iter().find(|row| row.id.0 == id)?.commit_index)))
            .collect();
        let all = self.statuses();
        if all.len() < expected {
            return Err(format!("{} of {expected} nodes answer", all.len()));
        }
        let leaders: BTreeSet<_> = all.values().map(|s| (s.cluster.id, s.cluster.leader, s.cluster.term)).collect();
        let (1, Some((Some(_), Some(leader), _))) = (leaders.len(), leaders.first().copied()) else {
            return Err(format!("they follow {leaders:?}"));
        };
        let lead = all.get(&leader.0).ok_or(format!("leader {leader} is not among them"))?;
        if lead.cluster.voters.len() != voters {
            return Err(format!("voters are {:?}, {voters} wanted", lead.cluster.voters));
        }
        for (id, status) in &all {
            let row = lead.nodes.iter().find(|n| n.id.0 == *id).ok_or(format!("node {id} unknown to the leader"))?;
            if row.status == Liveness::Offline || row.membership == Standing::None {
                return Err(format!("the leader sees node {id} as {:?}, {:?}", row.status, row.membership));
            }
            let own = status.nodes.iter().find(|n| n.id.0 == *id).ok_or(format!("node {id} unknown to itself"))?;
            let head = *committed.get(&leader.0).ok_or(format!("leader {leader} has only just answered"))?;
            if own.applied_index < head {
                return Err(format!("node {id} has applied {} of {head}", own.applied_index));
            }
        }
        match lead.cluster.verdict {
            Health::Healthy => Ok(leader.0),
            // One or two voters cannot lose any, so they are degraded at best.
            Health::Degraded if voters < 3 => Ok(leader.0),
            health => Err(format!("{health:?}: {:?}", lead.cluster.reasons)),
        }
    }

    /// `GET` from a node.
    ///
    /// # Errors
    /// No answer in time.
    pub fn get(&self, id: u64, path: &str) -> Result<Response> {
        let password = self.client_password.as_deref();
        web::ask_with(password, &self.http(id), "GET", path, None, ASK_WITHIN)
            .map_err(LabError::io(format!("GET {path} from node {id}")))
    }

    /// `POST` JSON to a node.
    ///
    /// # Errors
    /// No answer in time.
    pub fn post(&self, id: u64, path: &str, body: &Value) -> Result<Response> {
        let (password, within) = (self.client_password.as_deref(), Duration::from_secs(10));
        let answer = web::ask_with(password, &self.http(id), "POST", path, Some(body), within);
        answer.map_err(LabError::io(format!("POST {path} to node {id}")))
    }

    /// A client that knows every node.
    pub fn keys(&self) -> KeyClient {
        KeyClient::new(self.addresses()).with_password(self.client_password.clone())
    }

    /// Writes one key through any node that accepts it.
    ///
    /// # Errors
    /// No node did within ten seconds.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        let written = self.keys().put(key, value, Instant::now() + Duration::from_secs(10));
        self.mark(written)
    }

    /// Waits for a condition; after a timeout, the folder is kept and the logs are printed when the cluster is dropped.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn wait_until<T>(&self, what: &str, within: Duration, probe: impl FnMut() -> Option<T>) -> Result<T> {
        self.mark(poll::wait_until(what, within, probe))
    }

    /// As [`Cluster::wait_until`], for a probe that says what is missing.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn wait_explained<T>(
        &self,
        what: &str,
        within: Duration,
        probe: impl FnMut() -> std::result::Result<T, String>,
    ) -> Result<T> {
        self.mark(poll::wait_explained(what, within, probe))
    }

    fn mark<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.has_failed.set(true);
        }
        result
    }

    /// Kills every node at once and reaps them.
    pub fn kill_all(&mut self) {
        for process in self.nodes.values_mut() {
            // Fails if it has ended already.
            let _ = process.signal(Signal::KILL);
        }
        for process in self.nodes.values_mut() {
            let _ = process.wait(Duration::from_secs(10));
        }
        self.frozen.clear();
    }

    fn print_tails(&self) {
        eprintln!("--- folder kept: {}", self.dir.path().display());
        for id in self.nodes.keys() {
            let log = self.log(*id);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- node {id}, last lines of {}", self.log_path(*id).display());
            for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        // Removes what the nodes had below `/run`; a folder that another program uses is locked.
        leftovers::remove_abandoned();
        let has_failed = std::thread::panicking() || self.has_failed.get();
        if has_failed {
            self.print_tails();
        }
        if has_failed || self.keep {
            self.dir.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_folder_is_removed_unless_something_failed() {
        let cluster = Cluster::prepare("/no/such/program", &json!({})).unwrap();
        let mut cluster = cluster;
        assert!(cluster.spawn(1, &[]).is_err(), "that is not a failure of the cluster");
        let gone = cluster.dir().to_path_buf();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&gone).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700, "it contains settings with secrets");
        drop(cluster);
        assert!(!gone.exists());
        let cluster = Cluster::prepare("/no/such/program", &json!({})).unwrap();
        let kept = cluster.dir().to_path_buf();
        assert!(cluster.wait_until("a condition that never holds", Duration::ZERO, || None::<()>).is_err());
        drop(cluster);
        assert!(kept.join("settings.json").exists(), "the folder says what went wrong");
        std::fs::remove_dir_all(kept).unwrap();
    }
}
