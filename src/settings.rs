//! What a user may choose: every key of settings.json, where its value came from, and what is wrong with it.
//!
//! Precedence, key by key: flag > environment (`PHALANX_<KEY>`) > settings.json > default. All faults are reported at
//! once, each with its source, key, value and what would be allowed. Relative paths (`config_file_path`, `data_dir`) are
//! relative to the current directory, not to the file's folder, so that a value means the same from every source.
//! What other parts of the program read or give to commands ([`RESERVED`], and everything that begins with `PHALANX_TEST_`) is no
//! setting.
//! Not here: bounds that keep a node alive under any load (`limits.rs`), printing (`cli/config.rs`).

mod runtimes;

pub use runtimes::{CageKind, Runtime, known as known_runtimes};

use crate::limits::TICK_MS;
use crate::types::{Addresses, NodeId, Ticks};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The file that is read when none is named and it exists.
pub const DEFAULT_FILE: &str = "settings.json";
/// Environment variables of ours that are no settings.
const RESERVED: [&str; 6] = [
    "PHALANX_LOG",
    "PHALANX_SEED",
    "PHALANX_TRACE",
    // Of the SQL shell.
    "PHALANX_SQL_HISTORY",
    // What `phalanx lock` gives to its command, which may be this program.
    "PHALANX_LOCK_NAME",
    "PHALANX_LOCK_TOKEN",
];
/// Prefix of variables that tests hand to the processes they start.
const RESERVED_PREFIX: &str = "PHALANX_TEST_";
/// Highest value of a port base: it leaves room for every node id.
const PORT_BASE_MAX: u64 = 65_535 - NodeId::MAX;

/// Who is preferred as leader among those whose log is fresh enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaderPreference {
    /// Campaigns are ordered by id, highest first.
    HighestId,
    /// Only chance orders them.
    None,
}

/// Every setting, checked. Times are in milliseconds, as their names say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Shown to people; means nothing to the protocol.
    pub cluster_name: String,
    /// Address that this host's nodes listen on and are reached at.
    pub host: String,
    /// `host:port` of nodes on other hosts (their peer ports).
    pub peers: Vec<String>,
    /// Peer protocol of node n: this + n.
    pub leader_port_base: u16,
    /// The front door, shared by all nodes of a host.
    pub service_port: u16,
    /// HTTP of node n: this + n.
    pub service_port_base: u16,
    /// Redis protocol of node n: this + n.
    pub kv_port_base: u16,
    /// The shared projection of the cluster; its lock is the same path with `.lock` behind it.
    pub config_file_path: PathBuf,
    /// Holds `node-<id>` folders.
    pub data_dir: PathBuf,
    /// Rounds of asking for a leader before a node may found a cluster.
    pub connection_attempts: u32,
    /// Between two such rounds.
    pub discovery_interval_ms: u64,
    /// Between two heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// A follower that hears no leader for this long campaigns.
    pub election_timeout_ms: u64,
    /// Between two gossip tables.
    pub gossip_ms: u64,
    /// A gossip counter that stands still for this long marks its node failed.
    pub fail_after_ms: u64,
    /// A voter silent to the leader for this long is replaced.
    pub dead_after_ms: u64,
    /// Autopilot never shrinks the voters below this.
    pub voters_min: u32,
    /// Autopilot promotes learners up to this.
    pub voters_max: u32,
    /// Who is preferred as leader.
    pub leader_preference: LeaderPreference,
    /// A caught-up node of higher id takes the leadership over.
    pub preempt: bool,
    /// How long a client's request may wait.
    pub request_timeout_ms: u64,
    /// Log bytes between two snapshots, in MiB.
    pub snapshot_every_mb: u64,
    /// A snapshot is also due after so many entries of the log; `None`: only bytes count.
    pub snapshot_every_entries: Option<u64>,
    /// Below this much free disk a node refuses new writes, in MiB.
    pub disk_reserve_mb: u64,
    /// Client connections of one node.
    pub connections_max: u32,
    /// Whether this node takes jobs in and runs them.
    pub jobs_enabled: bool,
    /// Jobs that this node runs at once; `None`: one per processor.
    pub job_slots: Option<u32>,
    /// How programs are shut in.
    pub jobs_cage: CageKind,
    /// How long the result of a job is kept.
    pub jobs_keep_ms: u64,
    /// Languages that jobs may be written in.
    pub runtimes: Vec<Runtime>,
    /// Shared by all nodes; proves on the peer port that a node belongs here. Needed beyond loopback.
    pub cluster_secret: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            cluster_name: "phalanx".into(),
            host: "127.0.0.1".into(),
            peers: Vec::new(),
            leader_port_base: 5700,
            service_port: 8080,
            service_port_base: 6700,
            kv_port_base: 7700,
            config_file_path: "./config.json".into(),
            data_dir: "./data".into(),
            connection_attempts: 3,
            discovery_interval_ms: 250,
            heartbeat_ms: 50,
            election_timeout_ms: 400,
            gossip_ms: 200,
            fail_after_ms: 2000,
            dead_after_ms: 10_000,
            voters_min: 3,
            voters_max: 5,
            leader_preference: LeaderPreference::HighestId,
            preempt: false,
            request_timeout_ms: 5000,
            snapshot_every_mb: 64,
            snapshot_every_entries: None,
            disk_reserve_mb: 256,
            connections_max: 12_000,
            jobs_enabled: true,
            job_slots: None,
            jobs_cage: CageKind::Full,
            jobs_keep_ms: 3_600_000,
            runtimes: runtimes::known(),
            cluster_secret: None,
        }
    }
}

/// What one key may hold.
#[derive(Clone, Copy)]
enum Rule {
    Number(u64, u64),
    NumberOrNull(u64, u64),
    Switch,
    Text(usize, usize),
    Host,
    Peers,
    File,
    Choice(&'static [&'static str]),
    Secret(usize, usize),
    Runtimes,
}

/// Every key in the order of INTERFACES, with its rule.
const KEYS: [(&str, Rule); 31] = [
    ("cluster_name", Rule::Text(1, 64)),
    ("host", Rule::Host),
    ("peers", Rule::Peers),
    ("leader_port_base", Rule::Number(1, PORT_BASE_MAX)),
    ("service_port", Rule::Number(1, 65_535)),
    ("service_port_base", Rule::Number(1, PORT_BASE_MAX)),
    ("kv_port_base", Rule::Number(1, PORT_BASE_MAX)),
    ("config_file_path", Rule::File),
    ("data_dir", Rule::File),
    ("connection_attempts", Rule::Number(1, 100)),
    ("discovery_interval_ms", Rule::Number(10, 60_000)),
    ("heartbeat_ms", Rule::Number(TICK_MS, 10_000)),
    ("election_timeout_ms", Rule::Number(3 * TICK_MS, 60_000)),
    ("gossip_ms", Rule::Number(10, 60_000)),
    ("fail_after_ms", Rule::Number(50, 600_000)),
    ("dead_after_ms", Rule::Number(100, 86_400_000)),
    ("voters_min", Rule::Number(1, 7)),
    ("voters_max", Rule::Number(1, 7)),
    ("leader_preference", Rule::Choice(&["highest-id", "none"])),
    ("preempt", Rule::Switch),
    ("request_timeout_ms", Rule::Number(50, 600_000)),
    ("snapshot_every_mb", Rule::Number(1, 65_536)),
    ("snapshot_every_entries", Rule::NumberOrNull(10, 1_000_000_000)),
    ("disk_reserve_mb", Rule::Number(0, 1_048_576)),
    ("connections_max", Rule::Number(1, 1_000_000)),
    ("jobs_enabled", Rule::Switch),
    ("job_slots", Rule::NumberOrNull(1, 256)),
    ("jobs_cage", Rule::Choice(&["full", "limits"])),
    ("jobs_keep_ms", Rule::Number(1000, 30 * 86_400_000)),
    ("runtimes", Rule::Runtimes),
    ("cluster_secret", Rule::Secret(6, 256)),
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody chose it.
    Default,
    /// A settings file.
    File(PathBuf),
    /// An environment variable, by its name.
    Environment(String),
    /// The command line, by the key it named.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Where each key's value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<&'static str, Source>);

impl Sources {
    /// Source of a key's value; [`Source::Default`] for what nobody chose.
    pub fn of(&self, key: &str) -> Source {
        self.0.get(key).cloned().unwrap_or(Source::Default)
    }
}

/// One thing wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source_of}: {key} = {value}: {why}; allowed: {allowed}")]
pub struct Fault {
    /// Where the value came from.
    pub source_of: Source,
    /// Which key (`(file)` when the file as a whole is wrong).
    pub key: String,
    /// What it was, as JSON or as typed; secrets are masked.
    pub value: String,
    /// `unknown key`, `wrong type`, `out of range`, ...
    pub why: String,
    /// What would be right.
    pub allowed: String,
}

/// A value as it was written.
enum Raw {
    /// From a file.
    Json(Value),
    /// From the environment or the command line.
    Typed(String),
}

impl Raw {
    fn shown(&self, key: &str) -> String {
        match self {
            _ if key == "cluster_secret" => "********".into(),
            Raw::Json(value) => value.to_string(),
            Raw::Typed(text) => format!("{text:?}"),
        }
    }
}

impl Settings {
    /// Reads and checks everything. `file`: the one that the user named, which must exist then; without a name
    /// `./settings.json` is read if it is there. `flags`: keys (with `_` or `-`) and their values as typed.
    ///
    /// # Errors
    /// Every fault that was found, in the order flags, environment, file, rules between keys.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<(Settings, Sources), Vec<Fault>> {
        let mut gather = Gather::default();
        for (key, value) in flags {
            gather.take(Source::Flag(key.clone()), &key.replace('-', "_"), Raw::Typed(value.clone()));
        }
        let is_ours = |name: &str| {
            name.starts_with("PHALANX_") && !RESERVED.contains(&name) && !name.starts_with(RESERVED_PREFIX)
        };
        let variables: BTreeMap<String, String> = env.into_iter().filter(|(name, _)| is_ours(name)).collect();
        for (name, value) in variables {
            let key = name["PHALANX_".len()..].to_ascii_lowercase();
            gather.take(Source::Environment(name), &key, Raw::Typed(value));
        }
        gather.take_file(file);
        gather.finish()
    }

    /// [`Settings::load`] with this process's environment.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_process(file: Option<&Path>, flags: &[(String, String)]) -> Result<(Settings, Sources), Vec<Fault>> {
        let env =
            std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()));
        Settings::load(file, env, flags)
    }

    /// Each key with its value in the order of the documentation; the secret is masked.
    pub fn shown(&self) -> Vec<(&'static str, Value)> {
        let mut all = self.to_map();
        if self.cluster_secret.is_some() {
            all.insert("cluster_secret".into(), Value::from("********"));
        }
        KEYS.iter().map(|(key, _)| (*key, all.remove(*key).unwrap_or(Value::Null))).collect()
    }

    fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self).expect("settings hold nothing that JSON cannot") {
            Value::Object(map) => map,
            other => unreachable!("a struct is an object, not {other}"),
        }
    }

    /// Where node `id` of this host is reached.
    pub fn addresses(&self, id: NodeId) -> Addresses {
        let at = |base: u16| join_host_port(&self.host, u64::from(base) + id.0);
        Addresses { peer: at(self.leader_port_base), http: at(self.service_port_base), kv: at(self.kv_port_base) }
    }

    /// `host:port` of the front door.
    pub fn front_door(&self) -> String {
        join_host_port(&self.host, u64::from(self.service_port))
    }

    /// Data folder of node `id`.
    pub fn node_dir(&self, id: NodeId) -> PathBuf {
        self.data_dir.join(format!("node-{id}", id = id.0))
    }

    /// The lock file beside `config.json`.
    pub fn config_lock_path(&self) -> PathBuf {
        let mut name = self.config_file_path.clone().into_os_string();
        name.push(".lock");
        PathBuf::from(name)
    }

    /// `heartbeat_ms` in ticks.
    pub fn heartbeat_ticks(&self) -> Ticks {
        to_ticks(self.heartbeat_ms)
    }

    /// `election_timeout_ms` in ticks.
    pub fn election_timeout_ticks(&self) -> Ticks {
        to_ticks(self.election_timeout_ms)
    }

    /// `dead_after_ms` in ticks.
    pub fn dead_after_ticks(&self) -> Ticks {
        to_ticks(self.dead_after_ms)
    }

    /// Whether jobs may be taken in and run: who runs other people's programs for strangers at least asks for a secret.
    pub fn has_jobs(&self) -> bool {
        self.jobs_enabled && (self.is_loopback() || self.cluster_secret.is_some())
    }

    /// Jobs that this node runs at once.
    pub fn slots(&self) -> u32 {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        self.job_slots.unwrap_or_else(cores)
    }

    /// Whether nobody beyond this machine can reach the nodes.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// Milliseconds as ticks, rounded up, at least one.
pub fn to_ticks(ms: u64) -> Ticks {
    Ticks(ms.div_ceil(TICK_MS).max(1))
}

/// Ticks as milliseconds.
pub fn to_ms(ticks: Ticks) -> u64 {
    ticks.0.saturating_mul(TICK_MS)
}

/// `host:port`, with brackets where IPv6 needs them.
fn join_host_port(host: &str, port: u64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_host(host: &str) -> bool {
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|part| {
            !part.is_empty()
                && part.len() <= 63
                && !part.starts_with('-')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        });
    // What looks like a number and is no address is a slip ("127.0.0"), not a name.
    let is_numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    host.parse::<IpAddr>().is_ok() || (is_name && !is_numeric)
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    is_host(host) && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Rule {
    /// What is allowed, in words.
    fn allowed(self) -> String {
        match self {
            Rule::Number(least, most) => format!("a whole number from {least} to {most}"),
            Rule::NumberOrNull(least, most) => format!("null or a whole number from {least} to {most}"),
            Rule::Switch => "true or false".into(),
            Rule::Text(least, most) => format!("text of {least} to {most} characters without control characters"),
            Rule::Host => "an IP address or host name of this machine".into(),
            Rule::Peers => "a list of host:port (typed: separated by commas)".into(),
            Rule::File => "a path".into(),
            Rule::Choice(words) => words.join(" or "),
            Rule::Secret(least, most) => format!("null or text of {least} to {most} characters"),
            Rule::Runtimes => {
                "a list of objects with language, file_name, probe, run and, if needed, home, compile, reserves_mb, \
                 threads; each language once (README, Jobs)"
                    .into()
            }
        }
    }

    /// The value in the form that [`Settings`] takes, or what is wrong with it.
    fn check(self, raw: &Raw) -> Result<Value, &'static str> {
        let value = match raw {
            Raw::Json(value) => value.clone(),
            Raw::Typed(text) => self.read_typed(text)?,
        };
        let is_text = |text: &str, least, most| {
            (least..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        let is_right = match (self, &value) {
            (Rule::Number(least, most) | Rule::NumberOrNull(least, most), Value::Number(n)) => match n.as_u64() {
                Some(n) => (least..=most).contains(&n),
                None if n.is_f64() => return Err("wrong type"),
                None => false,
            },
            (Rule::Switch, Value::Bool(_)) | (Rule::Secret(..) | Rule::NumberOrNull(..), Value::Null) => true,
            (Rule::Text(least, most) | Rule::Secret(least, most), Value::String(text)) => is_text(text, least, most),
            (Rule::Host, Value::String(text)) => is_host(text),
            (Rule::File, Value::String(text)) => is_text(text, 1, 4096),
            (Rule::Choice(words), Value::String(text)) => words.contains(&text.as_str()),
            (Rule::Peers, Value::Array(all)) if all.iter().all(Value::is_string) => {
                all.iter().filter_map(Value::as_str).all(is_host_port)
            }
            (Rule::Runtimes, Value::Array(_)) => {
                let all: Vec<Runtime> = serde_json::from_value(value.clone()).map_err(|_| "not allowed")?;
                runtimes::check(&all)?;
                true
            }
            _ => return Err("wrong type"),
        };
        let why =
            if matches!(self, Rule::Number(..) | Rule::NumberOrNull(..)) { "out of range" } else { "not allowed" };
        if is_right { Ok(value) } else { Err(why) }
    }

    /// What was typed in the environment or on the command line, as JSON.
    fn read_typed(self, text: &str) -> Result<Value, &'static str> {
        Ok(match self {
            Rule::NumberOrNull(..) if matches!(text.trim(), "" | "null") => Value::Null,
            Rule::Number(..) | Rule::NumberOrNull(..) => Value::from(
                text.trim()
                    .parse::<i128>()
                    .map_err(|_| "wrong type")
                    .and_then(|n| u64::try_from(n).map_err(|_| "out of range"))?,
            ),
            Rule::Switch => Value::from(text.trim().parse::<bool>().map_err(|_| "wrong type")?),
            Rule::Secret(..) if text.is_empty() => Value::Null,
            Rule::Peers if text.trim_start().starts_with('[') => read_json(text)?,
            Rule::Runtimes => read_json(text)?,
            Rule::Peers => text.split(',').map(str::trim).filter(|peer| !peer.is_empty()).collect(),
            _ => Value::from(text),
        })
    }
}

fn read_json(text: &str) -> Result<Value, &'static str> {
    serde_json::from_str(text).map_err(|_| "wrong type")
}

/// Values and faults while the sources are read, from the strongest to the weakest.
#[derive(Default)]
struct Gather {
    values: Map<String, Value>,
    sources: Sources,
    faults: Vec<Fault>,
}

impl Gather {
    fn fault(&mut self, source_of: &Source, key: &str, value: String, why: &str, allowed: String) {
        let fault = Fault { source_of: source_of.clone(), key: key.into(), value, why: why.into(), allowed };
        self.faults.push(fault);
    }

    /// Checks one value, also when a stronger source has set its key already; keeps it if none has.
    fn take(&mut self, source: Source, key: &str, raw: Raw) {
        let Some((name, rule)) = KEYS.iter().find(|(name, _)| *name == key) else {
            let known: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
            let nearest = known.iter().find(|name| is_near(name, key));
            let allowed = nearest.map_or_else(|| known.join(", "), |name| format!("did you mean {name}?"));
            return self.fault(&source, key, raw.shown(key), "unknown key", allowed);
        };
        match rule.check(&raw) {
            Err(why) => self.fault(&source, name, raw.shown(key), why, rule.allowed()),
            Ok(_) if self.sources.0.contains_key(name) => {
                // The same flag twice: the first would win in silence.
                if matches!((&source, self.sources.of(name)), (Source::Flag(_), Source::Flag(_))) {
                    self.fault(&source, name, raw.shown(key), "given twice", "one value".into());
                }
            }
            Ok(value) => {
                self.values.insert((*name).into(), value);
                self.sources.0.insert(name, source);
            }
        }
    }

    fn take_file(&mut self, named: Option<&Path>) {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE)).to_path_buf();
        let source = Source::File(path.clone());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => return,
            Err(e) => return self.fault(&source, "(file)", e.to_string(), "cannot be read", "a readable file".into()),
        };
        let pairs = match serde_json::from_str::<Pairs>(&text) {
            Ok(Pairs(pairs)) => pairs,
            Err(e) => return self.fault(&source, "(file)", e.to_string(), "not valid JSON", "one JSON object".into()),
        };
        let mut seen = BTreeSet::new();
        for (key, value) in pairs {
            let raw = Raw::Json(value);
            if seen.insert(key.clone()) {
                self.take(source.clone(), &key, raw);
            } else {
                self.fault(&source, &key, raw.shown(&key), "duplicate key", "each key once".into());
            }
        }
    }

    /// Puts the defaults below what was gathered and checks the rules between keys.
    fn finish(mut self) -> Result<(Settings, Sources), Vec<Fault>> {
        let mut all = Settings::default().to_map();
        all.append(&mut self.values);
        let settings: Settings = serde_json::from_value(Value::Object(all)).expect("each value passed its rule");
        let s = &settings;
        self.relate(s.election_timeout_ms >= 3 * s.heartbeat_ms, "election_timeout_ms", s, || {
            format!("at least 3 x heartbeat_ms = {}", 3 * s.heartbeat_ms)
        });
        self.relate(s.fail_after_ms >= 2 * s.gossip_ms, "fail_after_ms", s, || {
            format!("at least 2 x gossip_ms = {}", 2 * s.gossip_ms)
        });
        self.relate(s.voters_max >= s.voters_min, "voters_max", s, || {
            format!("at least voters_min = {}", s.voters_min)
        });
        let bases = [s.leader_port_base, s.service_port_base, s.kv_port_base];
        self.relate(bases.iter().collect::<BTreeSet<_>>().len() == 3, "leader_port_base", s, || {
            "a base that differs from service_port_base and kv_port_base".into()
        });
        self.relate(s.is_loopback() || s.cluster_secret.is_some(), "host", s, || {
            "a loopback address, or any address once cluster_secret is set".into()
        });
        let is_anywhere = s.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        self.relate(s.peers.is_empty() || !is_anywhere, "host", s, || {
            "an address that the other hosts can reach, as peers are set".into()
        });
        if self.faults.is_empty() { Ok((settings, self.sources)) } else { Err(self.faults) }
    }

    fn relate(&mut self, holds: bool, key: &str, settings: &Settings, allowed: impl Fn() -> String) {
        // A key that has a fault of its own stands at its default here: a second complaint would only confuse.
        if holds || self.faults.iter().any(|fault| fault.key == key) {
            return;
        }
        let value = settings.to_map().remove(key).unwrap_or(Value::Null).to_string();
        let source = self.sources.of(key);
        self.fault(&source, key, value, "does not fit the other settings", allowed());
    }
}

/// Whether `typed` is most likely a slip for `name`: equal but for separators, a missing or a wrong letter.
fn is_near(name: &str, typed: &str) -> bool {
    let bare = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let (name, typed) = (bare(name), bare(typed));
    let common_head = name.bytes().zip(typed.bytes()).take_while(|(a, b)| a == b).count();
    let common_tail = name.bytes().rev().zip(typed.bytes().rev()).take_while(|(a, b)| a == b).count();
    name == typed || (common_head + common_tail + 1 >= name.len().max(typed.len()) && common_head > 0)
}

/// A JSON object with its keys in order and nothing lost: a map would swallow duplicates.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of settings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<(Settings, Sources), Vec<Fault>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.json");
        std::fs::write(&path, json).unwrap();
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        Settings::load(Some(&path), own(env), &own(flags))
    }

    #[test]
    fn the_shipped_file_holds_every_key_at_its_default() {
        let text = include_str!("../settings.json");
        let (settings, sources) = load(text, &[], &[]).unwrap();
        assert_eq!(settings, Settings::default());
        for (key, _) in KEYS {
            assert!(matches!(sources.of(key), Source::File(_)), "{key} is not in settings.json");
        }
    }

    #[test]
    fn the_stronger_source_wins_key_by_key() {
        let (settings, sources) = load(
            r#"{"heartbeat_ms": 60, "gossip_ms": 100, "preempt": true}"#,
            &[("PHALANX_HEARTBEAT_MS", "70"), ("PHALANX_PEERS", "a.example:5701, [::1]:5702"), ("HOME", "/")],
            &[("heartbeat-ms", "80"), ("data_dir", "/tmp/x")],
        )
        .unwrap();
        assert_eq!((settings.heartbeat_ms, settings.gossip_ms, settings.preempt), (80, 100, true));
        assert_eq!(settings.peers, ["a.example:5701", "[::1]:5702"]);
        assert_eq!(settings.node_dir(NodeId(3)), PathBuf::from("/tmp/x/node-3"));
        assert_eq!(sources.of("heartbeat_ms"), Source::Flag("heartbeat-ms".into()));
        assert_eq!(sources.of("peers"), Source::Environment("PHALANX_PEERS".into()));
        assert!(matches!(sources.of("gossip_ms"), Source::File(_)));
        assert_eq!(sources.of("voters_max"), Source::Default);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = load(
            r#"{"heartbeat_ms": "fast", "voters_max": 9, "gosip_ms": 5, "preempt": true, "preempt": false,
                "peers": ["nowhere"], "leader_preference": "lowest-id", "service_port": 1.5, "cluster_secret": "x"}"#,
            &[("PHALANX_FAIL_AFTER_MS", "-3"), ("PHALANX_COLOUR", "red")],
            &[("host", "10.0.0.1")],
        )
        .unwrap_err();
        let seen: Vec<(String, String)> = faults.iter().map(|f| (f.key.clone(), f.why.clone())).collect();
        let expected = [
            ("colour", "unknown key"),
            ("fail_after_ms", "out of range"),
            ("heartbeat_ms", "wrong type"),
            ("voters_max", "out of range"),
            ("gosip_ms", "unknown key"),
            ("preempt", "duplicate key"),
            ("peers", "not allowed"),
            ("leader_preference", "not allowed"),
            ("service_port", "wrong type"),
            ("cluster_secret", "not allowed"),
            ("host", "does not fit the other settings"),
        ];
        for (key, why) in expected {
            assert!(seen.contains(&(key.into(), why.into())), "{key}: {why} is missing in {seen:?}");
        }
        assert_eq!(seen.len(), expected.len(), "{seen:?}");
        let text = faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n");
        assert!(
            text.contains("settings.json: voters_max = 9: out of range; allowed: a whole number from 1 to 7"),
            "{text}"
        );
        assert!(text.contains("environment PHALANX_FAIL_AFTER_MS"), "{text}");
        assert!(text.contains("did you mean gossip_ms?"), "{text}");
        assert!(!text.contains("\"x\""), "the secret is shown: {text}");
    }

    #[test]
    fn rules_between_keys() {
        let key_of = |json: &str| load(json, &[], &[]).unwrap_err()[0].key.clone();
        assert_eq!(key_of(r#"{"heartbeat_ms": 200}"#), "election_timeout_ms");
        assert_eq!(key_of(r#"{"gossip_ms": 1500}"#), "fail_after_ms");
        assert_eq!(key_of(r#"{"voters_min": 5, "voters_max": 3}"#), "voters_max");
        assert_eq!(key_of(r#"{"kv_port_base": 5700}"#), "leader_port_base");
        assert_eq!(key_of(r#"{"host": "0.0.0.0"}"#), "host");
        assert_eq!(key_of(r#"{"host": "0.0.0.0", "cluster_secret": "open sesame", "peers": ["b:5701"]}"#), "host");
        assert!(load(r#"{"host": "10.1.2.3", "cluster_secret": "open sesame"}"#, &[], &[]).is_ok());
        assert!(load(r#"{"host": "127.0.0"}"#, &[], &[]).is_err());
        assert!(load(r#"{"host": "::1"}"#, &[], &[]).is_ok());
    }

    #[test]
    fn runtimes_are_checked_as_a_whole() {
        let lua = r#"{"language": "lua", "file_name": "a.lua", "probe": ["lua", "-v"], "run": ["lua", "{file}"]}"#;
        let (settings, _) = load(&format!(r#"{{"runtimes": [{lua}], "job_slots": 3}}"#), &[], &[]).unwrap();
        assert_eq!((settings.runtimes[0].language.as_str(), settings.slots()), ("lua", 3));
        let (settings, _) =
            load("{}", &[("PHALANX_RUNTIMES", &format!("[{lua}]")), ("PHALANX_JOB_SLOTS", "")], &[]).unwrap();
        assert_eq!((settings.runtimes.len(), settings.job_slots), (1, None));
        for bad in
            [format!("[{lua}, {lua}]"), "[{}]".into(), lua.replace("\"run\"", "\"ran\"").replace('{', "[{"), "3".into()]
        {
            assert!(load(&format!(r#"{{"runtimes": {bad}}}"#), &[], &[]).is_err(), "{bad}");
        }
        assert!(load(r#"{"job_slots": 0}"#, &[], &[]).is_err() && load(r#"{"jobs_cage": "none"}"#, &[], &[]).is_err());
    }

    #[test]
    fn reserved_variables_are_no_settings() {
        let env = [("PHALANX_LOG", "debug"), ("PHALANX_SEED", "7"), ("PHALANX_TRACE", "1"), ("PHALANX_TEST_X", "y")];
        assert!(load("{}", &env, &[]).is_ok());
        for ours in ["PHALANX_SQL_HISTORY", "PHALANX_LOCK_NAME", "PHALANX_LOCK_TOKEN"] {
            assert!(load("{}", &[(ours, "x")], &[]).is_ok(), "{ours}");
        }
    }

    #[test]
    fn a_named_file_must_exist_and_hold_one_object() {
        let faults = Settings::load(Some(Path::new("/nowhere/at/all.json")), [], &[]).unwrap_err();
        assert_eq!((faults.len(), faults[0].why.as_str()), (1, "cannot be read"));
        assert!(faults[0].to_string().contains("/nowhere/at/all.json"));
        assert_eq!(load("{\"a\": ", &[], &[]).unwrap_err()[0].why, "not valid JSON");
        assert_eq!(load("[1]", &[], &[]).unwrap_err()[0].why, "not valid JSON");
    }

    #[test]
    fn the_same_flag_twice_is_a_fault() {
        let faults = load("{}", &[], &[("gossip_ms", "100"), ("gossip-ms", "200")]).unwrap_err();
        assert_eq!(faults[0].why, "given twice");
    }

    #[test]
    fn addresses_ticks_and_masked_secrets() {
        let settings = Settings { host: "::1".into(), cluster_secret: Some("hush hush".into()), ..Settings::default() };
        assert_eq!(settings.addresses(NodeId(2)).peer, "[::1]:5702");
        assert_eq!(Settings::default().addresses(NodeId(2)).kv, "127.0.0.1:7702");
        assert_eq!(to_ticks(1), Ticks(1));
        assert_eq!(to_ticks(50), Ticks(10));
        assert!(!format!("{:?}", settings.shown()).contains("hush"));
        assert_eq!(settings.shown().len(), KEYS.len());
        assert_eq!(settings.config_lock_path(), PathBuf::from("./config.json.lock"));
    }
}
