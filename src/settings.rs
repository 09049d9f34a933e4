//! The settings: every key of settings.json, the source of its value, and its errors.
//!
//! Precedence, key by key: flag > environment (`PHALANX_<KEY>`) > settings.json > default. All errors are reported at
//! once, each with its source, key, value and the allowed values. Relative paths (`config_file_path`, `data_dir`) are
//! relative to the current directory, not to the file's folder, so that a value means the same from every source. What
//! other parts of the program read or give to commands (`gather.rs` lists it, and everything that begins with
//! `PHALANX_TEST_`) is not a setting.
//! Not here: bounds that keep a node alive under any load (`limits.rs`), printing (`cli/local/config.rs`).

mod gather;
mod injected;
mod rules;
mod runtimes;

pub use gather::{SettingsError, Source, Sources};
pub use rules::{RANDOM_ALPHABET, RANDOM_CHARS, is_random_secret};
pub use runtimes::{Runtime, SandboxKind, known as known_runtimes};

use crate::address;
use crate::limits::TICK_MS;
use crate::types::{Addresses, NodeId, Ticks};
use rules::{MASK, PORT_BASE_MAX, Rule, is_secret};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::path::PathBuf;

/// The file that is read when none is named and it exists.
pub const DEFAULT_FILE: &str = "settings.json";

/// Who is preferred as leader among those whose log is fresh enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaderPreference {
    /// Campaigns are ordered by id, highest first.
    HighestId,
    /// Only chance orders them.
    None,
}

/// Declares the settings: a row for each key with its type, its default and its rule.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $rule:expr;)*) => {
        /// Every setting, checked. Times are in milliseconds, as their names say.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for Settings {
            fn default() -> Settings {
                Settings { $($name: $default,)* }
            }
        }

        /// Every key with its rule, in the order of the documentation.
        const KEYS: &[(&str, Rule)] = &[$((stringify!($name), $rule),)*];
    };
}

settings! {
    /// Name for display; the protocol does not use it.
    cluster_name: String = "phalanx".into(), Rule::Text(1, 64);
    /// Address that this host's nodes listen on.
    host: String = "127.0.0.1".into(), Rule::Host;
    /// Address at which peers and clients reach this host's nodes; `None`: `host`.
    advertise_host: Option<String> = None, Rule::HostOrNull;
    /// `host:port` of nodes on other hosts (their peer ports).
    peers: Vec<String> = Vec::new(), Rule::Peers;
    /// Peer protocol of node n: this + n.
    leader_port_base: u16 = 5700, Rule::Number(1, PORT_BASE_MAX);
    /// The front door's port, shared by all nodes of a host.
    service_port: u16 = 8080, Rule::Number(1, 65_535);
    /// HTTP of node n: this + n.
    service_port_base: u16 = 6700, Rule::Number(1, PORT_BASE_MAX);
    /// Redis protocol of node n: this + n.
    kv_port_base: u16 = 7700, Rule::Number(1, PORT_BASE_MAX);
    /// The shared projection of the cluster; its lock is the same path with `.lock` behind it.
    config_file_path: PathBuf = "./config.json".into(), Rule::File;
    /// Holds `node-<id>` folders.
    data_dir: PathBuf = "./data".into(), Rule::File;
    /// Rounds of asking for a leader before a node may bootstrap a cluster.
    connection_attempts: u32 = 3, Rule::Number(1, 100);
    /// Time between two such rounds.
    discovery_interval_ms: u64 = 250, Rule::Number(10, 60_000);
    /// Longest wait for the answers of such a round, on a network that is slow.
    discovery_timeout_ms: u64 = 5000, Rule::Number(100, 60_000);
    /// Time between two heartbeats of a leader.
    heartbeat_ms: u64 = 50, Rule::Number(TICK_MS, 10_000);
    /// A follower that hears no leader for this long campaigns, until it has measured the network for 3 s.
    election_timeout_ms: u64 = 400, Rule::Number(3 * TICK_MS, 60_000);
    /// The shortest time after which it campaigns where a leader is heard regularly.
    election_timeout_min_ms: u64 = 200, Rule::Number(3 * TICK_MS, 60_000);
    /// The longest time after which it campaigns where a leader is heard irregularly.
    election_timeout_max_ms: u64 = 2000, Rule::Number(3 * TICK_MS, 60_000);
    /// Time between two gossip tables.
    gossip_ms: u64 = 200, Rule::Number(10, 60_000);
    /// A node whose gossip counter does not grow for this long counts as failed.
    fail_after_ms: u64 = 2000, Rule::Number(50, 600_000);
    /// A voter silent to the leader for this long is replaced.
    dead_after_ms: u64 = 10_000, Rule::Number(100, 86_400_000);
    /// Without a leader for this long, a node hosts the voters of dead processes of its host; 0: never.
    takeover_after_ms: u64 = 1000, Rule::Number(0, 86_400_000);
    /// The autopilot keeps at least this many voters.
    voters_min: u32 = 3, Rule::Number(1, 7);
    /// Autopilot promotes learners up to this.
    voters_max: u32 = 5, Rule::Number(1, 7);
    /// Who is preferred as leader.
    leader_preference: LeaderPreference = LeaderPreference::HighestId, Rule::Choice(&["highest-id", "none"]);
    /// A node of higher id that has caught up takes over the leadership.
    preempt: bool = false, Rule::Switch;
    /// How long a client's request may wait.
    request_timeout_ms: u64 = 5000, Rule::Number(50, 600_000);
    /// Log bytes between two snapshots, in MiB.
    snapshot_every_mb: u64 = 64, Rule::Number(1, 65_536);
    /// A snapshot is also due after so many entries of the log; `None`: only bytes count.
    snapshot_every_entries: Option<u64> = None, Rule::NumberOrNull(10, 1_000_000_000);
    /// A witness keeps the log until enough full nodes hold it, but no more than this, in MiB.
    witness_log_mb: u64 = 512, Rule::Number(1, 65_536);
    /// Below this much free disk a node refuses new writes, in MiB.
    disk_reserve_mb: u64 = 256, Rule::Number(0, 1_048_576);
    /// Further names under which HTTP is reached, and origins of pages that a proxy serves in front of it.
    http_hosts: Vec<String> = Vec::new(), Rule::HttpHosts;
    /// How long an HTTP connection is kept between two requests.
    http_keep_alive_ms: u64 = 75_000, Rule::Number(1000, 3_600_000);
    /// Client connections of one node.
    connections_max: u32 = 12_000, Rule::Number(1, 1_000_000);
    /// Bytes that all connections of one node may hold, in MiB; `None`: a quarter of the memory, at most 1 GiB.
    memory_budget_mb: Option<u64> = None, Rule::NumberOrNull(16, 1_048_576);
    /// Keys, values and locks of the cluster, in MiB: beyond it a leader refuses more. So for all quotas.
    quota_kv_mb: u64 = 2048, Rule::Number(1, 1_048_576);
    /// The database, in MiB.
    quota_db_mb: u64 = 16_384, Rule::Number(1, 1_048_576);
    /// Messages of the chat, in MiB.
    quota_chat_mb: u64 = 512, Rule::Number(1, 512);
    /// Messages of one account, in MiB.
    quota_chat_account_mb: u64 = 64, Rule::Number(1, 512);
    /// Jobs that wait or run.
    quota_jobs: u64 = 10_000, Rule::Number(1, 100_000);
    /// Their programs and files, in MiB.
    quota_jobs_mb: u64 = 512, Rule::Number(1, 512);
    /// Whether this node accepts and runs jobs.
    jobs_enabled: bool = true, Rule::Switch;
    /// Jobs that this node runs at once; `None`: one per processor.
    job_slots: Option<u32> = None, Rule::NumberOrNull(1, 256);
    /// How programs are isolated.
    jobs_sandbox: SandboxKind = SandboxKind::Full, Rule::Choice(&["full", "limits"]);
    /// How long the result of a job is kept.
    jobs_keep_ms: u64 = 3_600_000, Rule::Number(1000, 30 * 86_400_000);
    /// Languages that jobs may be written in.
    runtimes: Vec<Runtime> = runtimes::known(), Rule::Runtimes;
    /// Shared by all nodes; proves on the peer port that a node belongs here. Needed beyond loopback.
    cluster_secret: Option<String> = None, Rule::Secret(256);
    /// What clients must present on the HTTP and Redis ports. Needed beyond loopback.
    client_password: Option<String> = None, Rule::Password(8, 256);
    /// Whether health checks and metrics are answered without it.
    health_open: bool = true, Rule::Switch;
}

/// Ports of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub peer: u16,
    pub http: u16,
    pub kv: u16,
}

impl Ports {
    fn at(self, host: &str) -> Addresses {
        let [peer, http, kv] = [self.peer, self.http, self.kv].map(|port| address::join(host, port));
        Addresses { peer, http, kv }
    }
}

impl Settings {
    /// Each key with its value in the order of the documentation; secrets are masked.
    pub fn shown(&self) -> Vec<(&'static str, Value)> {
        let mut all = self.to_map();
        for (_, value) in all.iter_mut().filter(|(key, value)| is_secret(key) && !value.is_null()) {
            *value = Value::from(MASK);
        }
        KEYS.iter().map(|(key, _)| (*key, all.remove(*key).unwrap_or(Value::Null))).collect()
    }

    fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self).expect("settings can be encoded as JSON") {
            Value::Object(map) => map,
            other => unreachable!("a struct is an object, not {other}"),
        }
    }

    /// Ports of node `id`.
    pub fn ports(&self, id: NodeId) -> Ports {
        let at = |base: u16| u16::try_from(u64::from(base) + id.0).unwrap_or(u16::MAX);
        Ports { peer: at(self.leader_port_base), http: at(self.service_port_base), kv: at(self.kv_port_base) }
    }

    /// Where peers and clients reach node `id` of this host.
    pub fn addresses(&self, id: NodeId) -> Addresses {
        self.ports(id).at(self.advertised_host())
    }

    /// Where this host itself reaches node `id` of it.
    pub fn local_addresses(&self, id: NodeId) -> Addresses {
        self.ports(id).at(self.local_host())
    }

    /// `advertise_host`, or else the address that nodes listen on; of nodes that listen on all, loopback: clients from
    /// elsewhere get the address by which they came.
    pub fn advertised_host(&self) -> &str {
        self.advertise_host.as_deref().unwrap_or(self.local_host())
    }

    fn local_host(&self) -> &str {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1",
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "::1",
            _ => &self.host,
        }
    }

    /// `host:port` of the front door, for people.
    pub fn front_door(&self) -> String {
        address::join(self.advertised_host(), self.service_port)
    }

    /// `host:port` of the front door from this host.
    pub fn local_front_door(&self) -> String {
        address::join(self.local_host(), self.service_port)
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

    /// Whether jobs may be accepted and run: beyond loopback, only with a secret.
    pub fn has_jobs(&self) -> bool {
        self.jobs_enabled && (self.is_loopback() || self.cluster_secret.is_some())
    }

    /// Jobs that this node runs at once.
    pub fn slots(&self) -> u32 {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        self.job_slots.unwrap_or_else(cores)
    }

    /// Whether the nodes listen on loopback only.
    pub fn is_loopback(&self) -> bool {
        address::is_loopback(&self.host)
    }
}

/// Milliseconds as ticks, rounded up, at least one.
pub fn to_ticks(ms: u64) -> Ticks {
    Ticks(ms.div_ceil(TICK_MS).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn load(
        json: &str,
        env: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<(Settings, Sources), Vec<SettingsError>> {
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
        assert_eq!(sources.warnings(&settings), Vec::<String>::new(), "a secret that is null is none");
        for (key, _) in KEYS {
            assert!(matches!(sources.of(key), Source::File(_)), "{key} is not in settings.json");
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_warned_of() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.json");
        let warning = |text: &str, mode: u32, env: Option<&str>| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let env = env.map(|value| ("PHALANX_CLUSTER_SECRET".to_string(), value.to_string()));
            Settings::load(Some(&path), env, &[]).unwrap().1.exposed("cluster_secret")
        };
        const WITH: &str = r#"{"cluster_secret": "abracadabra-abracadabra"}"#;
        for mode in [0o644, 0o640, 0o604] {
            let said = warning(WITH, mode, None).unwrap_or_default();
            assert!(said.contains(&format!("mode {mode:o}")) && said.contains("chmod 600"), "{said}");
            assert!(!said.contains("abracadabra"), "{said}");
        }
        assert_eq!(warning(WITH, 0o600, None), None);
        assert_eq!(warning("{}", 0o644, None), None);
        assert_eq!(warning(WITH, 0o644, Some("abracadabra-abracadabra")), None, "the environment is stronger");
    }

    #[test]
    fn a_short_secret_is_refused_with_the_cure() {
        for short in ["abracadabra-abracada", "0123456789abcdef0123456789abcde", "abr"] {
            let faults = load(&format!(r#"{{"cluster_secret": "{short}"}}"#), &[], &[]).unwrap_err();
            let text = faults[0].to_string();
            assert!(faults.len() == 1 && text.contains("too short to hold 128 random bits"), "{text}");
            assert!(text.contains("`phalanx secret new`") && text.contains("on all of them"), "{text}");
            assert!(!text.contains("abra") && !text.contains("0123"), "{text}");
        }
        let (settings, _) = load("{}", &[("PHALANX_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef")], &[]).unwrap();
        assert!(settings.cluster_secret.is_some());
    }

    #[test]
    fn the_password_of_clients_is_another_secret() {
        const SECRET: &str = "abracadabra-abracadabra";
        let of = |password: &str| format!(r#"{{"cluster_secret": "{SECRET}", "client_password": "{password}"}}"#);
        let text = load(&of(SECRET), &[], &[]).unwrap_err()[0].to_string();
        assert!(text.contains("client_password = ********") && text.contains("another value"), "{text}");
        let text = load(&of("short"), &[], &[]).unwrap_err()[0].to_string();
        assert!(text.contains("8 to 256 characters") && !text.contains("short"), "{text}");
        let (settings, _) = load(&of("open sesame"), &[], &[]).unwrap();
        assert!(settings.health_open && settings.client_password.as_deref() == Some("open sesame"));
        let shown = format!("{:?}", settings.shown());
        assert!(!shown.contains("sesame") && !shown.contains("abracadabra"), "{shown}");
        let (settings, _) = load("{}", &[("PHALANX_CLIENT_PASSWORD", "")], &[]).unwrap();
        assert_eq!(settings.client_password, None);
    }

    #[test]
    fn a_secret_on_the_command_line_is_refused() {
        for key in ["cluster_secret", "cluster-secret", "client_password"] {
            let variable = format!("PHALANX_{}", key.replace('-', "_").to_ascii_uppercase());
            let faults = load("{}", &[], &[(key, "abracadabra-abracadabra")]).unwrap_err();
            let text = faults.iter().map(SettingsError::to_string).collect::<Vec<_>>().join("\n");
            assert!(text.contains("the command line is visible") && text.contains(&variable), "{text}");
            assert!(text.contains("settings file") && text.contains("chmod 600"), "{text}");
            assert!(!text.contains("abracadabra"), "{text}");
        }
        // An empty text does not count as a secret.
        let (settings, _) =
            load(r#"{"cluster_secret": "hush hush hush hush hush"}"#, &[], &[("cluster_secret", "")]).unwrap();
        assert_eq!(settings.cluster_secret, None);
        let misspelt = load("{}", &[], &[("cluster_secrets", "abracadabra-abracadabra")]).unwrap_err();
        assert!(!misspelt[0].to_string().contains("abracadabra"), "{}", misspelt[0]);
    }

    #[test]
    fn a_former_name_still_works_and_is_warned_of_once() {
        let file = r#"{"jobs_cage": "limits"}"#;
        let none: &[(&str, &str)] = &[];
        let env: &[(&str, &str)] = &[("PHALANX_JOBS_CAGE", "limits")];
        let flags: &[(&str, &str)] = &[("jobs-cage", "limits")];
        for (file, env, flags) in [(file, none, none), ("{}", env, none), ("{}", none, flags), (file, env, flags)] {
            let (settings, sources) = load(file, env, flags).unwrap();
            assert_eq!(settings.jobs_sandbox, SandboxKind::Limits, "{file} {env:?} {flags:?}");
            assert_eq!(sources.warnings(&settings), ["the setting jobs_cage is now called jobs_sandbox"]);
        }
        let (settings, sources) = load(file, &[], &[("jobs_sandbox", "full")]).unwrap();
        assert_eq!(settings.jobs_sandbox, SandboxKind::Full, "{sources:?}");
        let (settings, sources) = load(r#"{"jobs_sandbox": "limits"}"#, &[], &[]).unwrap();
        assert_eq!((settings.jobs_sandbox, sources.warnings(&settings)), (SandboxKind::Limits, Vec::new()));
        // Both names in one place contradict each other.
        let faults = load(r#"{"jobs_cage": "limits", "jobs_sandbox": "full"}"#, &[], &[]).unwrap_err();
        assert!(faults[0].to_string().contains("given twice"), "{}", faults[0]);
        let faults = load("{}", &[("PHALANX_JOBS_CAGE", "full"), ("PHALANX_JOBS_SANDBOX", "full")], &[]).unwrap_err();
        assert!(faults[0].to_string().contains("given twice"), "{}", faults[0]);
        let faults = load(r#"{"jobs_cage": "none"}"#, &[], &[]).unwrap_err();
        assert!(faults[0].to_string().contains("jobs_cage = \"none\""), "{}", faults[0]);
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
    fn faults_show_nothing_that_a_terminal_would_obey() {
        let faults = load(r#"{"no\u001b[31mkey\n": 1, "host": "\u001b]0;x"}"#, &[], &[]).unwrap_err();
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().all(|fault| !fault.to_string().contains(char::is_control)), "{faults:?}");
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let (settings, _) = load("\u{feff}{\"heartbeat_ms\": 77}\r\n", &[], &[]).unwrap();
        assert_eq!(settings.heartbeat_ms, 77);
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
            ("cluster_secret", "too short to hold 128 random bits, so it can be guessed"),
            ("host", "does not fit the other settings"),
        ];
        for (key, why) in expected {
            assert!(seen.contains(&(key.into(), why.into())), "{key}: {why} is missing in {seen:?}");
        }
        assert_eq!(seen.len(), expected.len(), "{seen:?}");
        let text = faults.iter().map(SettingsError::to_string).collect::<Vec<_>>().join("\n");
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
        const BOTH: &str = r#""cluster_secret": "abracadabra-abracadabra", "client_password": "open sesame""#;
        let (secret, password) = BOTH.split_once(", ").unwrap();
        for (given, missing) in [
            ("", "once cluster_secret and client_password is"),
            (secret, "once client_password is"),
            (password, "once cluster_secret is"),
        ] {
            let comma = if given.is_empty() { "" } else { ", " };
            let fault = load(&format!(r#"{{"host": "0.0.0.0"{comma}{given}}}"#), &[], &[]).unwrap_err()[0].to_string();
            assert!(fault.contains("host = ") && fault.contains(missing), "{fault}");
        }
        assert_eq!(key_of(&format!(r#"{{"host": "0.0.0.0", {BOTH}, "peers": ["b:5701"]}}"#)), "host");
        assert!(load(&format!(r#"{{"host": "10.1.2.3", {BOTH}}}"#), &[], &[]).is_ok());
        assert!(load(r#"{"host": "127.0.0"}"#, &[], &[]).is_err());
        assert!(load(r#"{"host": "::1"}"#, &[], &[]).is_ok());
        let everywhere = format!(r#"{{"host": "::", {BOTH}, "peers": ["b:5701"]"#);
        assert!(load(&format!("{everywhere}, \"advertise_host\": \"a.example\"}}"), &[], &[]).is_ok());
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
        assert!(
            load(r#"{"job_slots": 0}"#, &[], &[]).is_err() && load(r#"{"jobs_sandbox": "none"}"#, &[], &[]).is_err()
        );
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
    fn advertised_addresses_may_differ_from_listening_ones() {
        let told = |host: &str, advertised: Option<&str>| {
            let advertise_host = advertised.map(String::from);
            let settings = Settings { host: host.into(), advertise_host, ..Settings::default() };
            (settings.addresses(NodeId(1)).http, settings.local_addresses(NodeId(1)).http, settings.front_door())
        };
        for (host, advertised, [there, here, front]) in [
            ("127.0.0.1", None, ["127.0.0.1:6701", "127.0.0.1:6701", "127.0.0.1:8080"]),
            ("0.0.0.0", None, ["127.0.0.1:6701", "127.0.0.1:6701", "127.0.0.1:8080"]),
            ("::", None, ["[::1]:6701", "[::1]:6701", "[::1]:8080"]),
            ("::", Some("fd00::1"), ["[fd00::1]:6701", "[::1]:6701", "[fd00::1]:8080"]),
            ("10.0.0.1", Some("a.example"), ["a.example:6701", "10.0.0.1:6701", "a.example:8080"]),
        ] {
            assert_eq!(told(host, advertised), (there.into(), here.into(), front.into()), "{host} {advertised:?}");
        }
    }

    #[test]
    fn hosts_are_checked() {
        let with = |key: &str, value: &str| load(&format!("{{\"{key}\": {value}}}"), &[], &[]);
        for value in ["null", "\"a.example\"", "\"fd00::1\""] {
            assert!(with("advertise_host", value).is_ok(), "{value}");
        }
        for value in ["\"0.0.0.0\"", "\"::\"", "\"a b\"", "\"a:1\"", "\"\"", "1"] {
            assert!(with("advertise_host", value).is_err(), "{value}");
        }
        assert!(with("http_hosts", r#"["a", "a:80", "http://a", "https://a:8443", "[::1]:80", "10.0.0.1"]"#).is_ok());
        for value in ["a/", "ftp://a", "http://", "*", "*.a", "a:b", "a:0", "0.0.0.0", "", "http://a/b", "u@a"] {
            assert!(with("http_hosts", &format!("[\"{value}\"]")).is_err(), "{value}");
        }
        let typed = [("PHALANX_HTTP_HOSTS", "a.example, https://b.example"), ("PHALANX_ADVERTISE_HOST", "")];
        let (settings, _) = load("{}", &typed, &[]).unwrap();
        assert_eq!((settings.http_hosts.len(), settings.advertise_host), (2, None));
        let (settings, _) = load("{}", &[("PHALANX_PEERS", "[::1]:5702,a:1")], &[]).unwrap();
        assert_eq!(settings.peers, ["[::1]:5702", "a:1"]);
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
