//! Reads the sources in the order of their precedence, and collects all errors in them.
//!
//! Not here: what one key may hold (`rules.rs`).

use super::injected;
use super::rules::{MASK, RawValue, Rule, is_secret};
use super::{DEFAULT_FILE, KEYS, Settings};
use crate::address;
use crate::text::{plain, without_byte_order_mark};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Environment variables of Phalanx that are not settings.
const RESERVED: [&str; 6] = [
    "PHALANX_LOG",
    "PHALANX_SEED",
    "PHALANX_TRACE",
    // Of the SQL shell.
    "PHALANX_SQL_HISTORY",
    // `phalanx lock` sets these for its command, which may be this program.
    "PHALANX_LOCK_NAME",
    "PHALANX_LOCK_TOKEN",
];
/// Prefix of variables that tests hand to the processes they start.
const RESERVED_PREFIX: &str = "PHALANX_TEST_";
/// Settings that had another name in earlier versions: that name, which still works, and the present one.
const RENAMED: [(&str, &str); 1] = [("jobs_cage", "jobs_sandbox")];
/// Longest settings file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was not set.
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
pub struct Sources {
    by_key: BTreeMap<&'static str, Source>,
    /// Environment variables of a service that are no settings.
    injected: Vec<String>,
    /// Former names that were used, with the present ones.
    renamed: BTreeMap<&'static str, &'static str>,
}

impl Sources {
    /// Source of a key's value; [`Source::Default`] for what was not set.
    pub fn of(&self, key: &str) -> Source {
        self.by_key.get(key).cloned().unwrap_or(Source::Default)
    }

    /// All warnings about settings that are valid.
    pub fn warnings(&self, settings: &Settings) -> Vec<String> {
        let renamed = self.renamed.iter().map(|(former, name)| format!("the setting {former} is now called {name}"));
        // A file may name a key without a value.
        let secrets = [("cluster_secret", &settings.cluster_secret), ("client_password", &settings.client_password)];
        let exposed = secrets.into_iter().filter_map(|(key, value)| value.as_ref().and_then(|_| self.exposed(key)));
        self.ignored_variables().into_iter().chain(exposed).chain(renamed).collect()
    }

    /// A warning of environment variables that were ignored: Kubernetes makes them for a service.
    fn ignored_variables(&self) -> Option<String> {
        (!self.injected.is_empty()).then(|| {
            format!(
                "ignored, because Kubernetes sets them for a service: {}. To use such a name for a setting, put it into \
                 settings.json, or turn these off (enableServiceLinks: false)",
                self.injected.join(", ")
            )
        })
    }

    /// A warning if other users of this machine can read a secret.
    pub(super) fn exposed(&self, key: &str) -> Option<String> {
        match self.of(key) {
            Source::File(path) => {
                let mode = std::fs::metadata(&path).ok()?.permissions().mode() & 0o777;
                (mode & 0o044 != 0).then(|| {
                    let path = path.display();
                    format!("{path} contains {key}, but other users can read it (mode {mode:o}): chmod 600 {path}")
                })
            }
            // A flag is refused; only its user can read the environment of a process.
            Source::Default | Source::Environment(_) | Source::Flag(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source_of}: {key} = {value}: {why}; allowed: {allowed}")]
pub struct SettingsError {
    /// Where the value came from.
    pub source_of: Source,
    /// Which key (`(file)` when the file as a whole is wrong).
    pub key: String,
    /// What it was, as JSON or as typed; secrets are masked.
    pub value: String,
    /// `unknown key`, `wrong type`, `out of range`, ...
    pub why: String,
    pub allowed: String,
}

/// Values and errors while the sources are read, in the order of their precedence.
#[derive(Default)]
pub(crate) struct Gather {
    values: Map<String, Value>,
    sources: Sources,
    faults: Vec<SettingsError>,
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
    ) -> Result<(Settings, Sources), Vec<SettingsError>> {
        let mut gather = Gather::default();
        for (key, value) in flags {
            gather.take(Source::Flag(key.clone()), &key.replace('-', "_"), RawValue::Typed(value.clone()));
        }
        let mut variables: BTreeMap<String, String> = env.into_iter().filter(|(name, _)| is_setting(name)).collect();
        let injected = injected::names(&variables);
        variables.retain(|name, _| !injected.contains(name));
        gather.sources.injected = injected;
        for (name, value) in variables {
            let key = name["PHALANX_".len()..].to_ascii_lowercase();
            gather.take(Source::Environment(name), &key, RawValue::Typed(value));
        }
        gather.take_file(file);
        gather.finish()
    }

    /// [`Settings::load`] with this process's environment.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_process(
        file: Option<&Path>,
        flags: &[(String, String)],
    ) -> Result<(Settings, Sources), Vec<SettingsError>> {
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            match value.into_string() {
                Ok(value) => env.push((name, value)),
                Err(value) if is_setting(&name) => {
                    let mut gather = Gather::default();
                    let value = value.to_string_lossy().into_owned();
                    gather.fault(&Source::Environment(name.clone()), &name, value, "not UTF-8", "text in UTF-8".into());
                    return Err(gather.faults);
                }
                Err(_) => {}
            }
        }
        Settings::load(file, env, flags)
    }
}

/// Whether an environment variable names a setting.
fn is_setting(name: &str) -> bool {
    name.starts_with("PHALANX_") && !RESERVED.contains(&name) && !name.starts_with(RESERVED_PREFIX)
}

impl Gather {
    fn fault(&mut self, source_of: &Source, key: &str, value: String, why: &str, allowed: String) {
        // A file or a variable may contain control characters.
        let (key, value) = (plain(key), plain(&value));
        let fault = SettingsError { source_of: source_of.clone(), key, value, why: why.into(), allowed };
        self.faults.push(fault);
    }

    /// Checks one value, also when a stronger source has set its key already; keeps it if none has.
    pub(crate) fn take(&mut self, source: Source, key: &str, raw: RawValue) {
        let renamed = RENAMED.iter().find(|(former, _)| *former == key);
        let present = renamed.map_or(key, |(_, name)| name);
        let Some((name, rule)) = KEYS.iter().find(|(name, _)| *name == present) else {
            let known: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
            let nearest = known.iter().find(|name| is_near(name, key));
            let allowed = nearest.map_or_else(|| known.join(", "), |name| format!("did you mean {name}?"));
            return self.fault(&source, key, raw.shown(key), "unknown key", allowed);
        };
        self.sources.renamed.extend(renamed.copied());
        match rule.check(&raw) {
            Err(why) => self.fault(&source, key, raw.shown(key), why, rule.allowed()),
            Ok(Value::String(_))
                if matches!((rule, &source), (Rule::Secret(..) | Rule::Password(..), Source::Flag(_))) =>
            {
                let why = "the command line is visible to all users of this machine (ps)";
                let allowed = format!(
                    "{name} in a settings file that only its owner can read (chmod 600), or in the environment as \
                        PHALANX_{}",
                    name.to_ascii_uppercase()
                );
                self.fault(&source, key, raw.shown(key), why, allowed);
            }
            Ok(_) if self.sources.by_key.contains_key(name) => {
                // Without this error, the second one would be ignored. Two in a file or in the environment are a
                // former name and the present one.
                if std::mem::discriminant(&source) == std::mem::discriminant(&self.sources.of(name)) {
                    self.fault(&source, key, raw.shown(key), "given twice", "one value".into());
                }
            }
            Ok(value) => {
                self.values.insert((*name).into(), value);
                self.sources.by_key.insert(name, source);
            }
        }
    }

    pub(crate) fn take_file(&mut self, named: Option<&Path>) {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE)).to_path_buf();
        let source = Source::File(path.clone());
        let mut text = Vec::new();
        // The file may be a pipe, and have no end.
        let opened = std::fs::File::open(&path);
        match opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)) {
            Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => {
                let want = format!("at most {FILE_BYTES_MAX} bytes");
                return self.fault(&source, "(file)", "more".into(), "too long", want);
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => return,
            Err(e) => return self.fault(&source, "(file)", e.to_string(), "cannot be read", "a readable file".into()),
        }
        let text = match without_byte_order_mark(&text) {
            Ok(text) => text,
            Err(why) => return self.fault(&source, "(file)", why.to_string(), "not UTF-8", "text in UTF-8".into()),
        };
        let pairs = match serde_json::from_slice::<Pairs>(text) {
            Ok(Pairs(pairs)) => pairs,
            Err(e) => return self.fault(&source, "(file)", e.to_string(), "not valid JSON", "one JSON object".into()),
        };
        let mut seen = BTreeSet::new();
        for (key, value) in pairs {
            let raw = RawValue::Json(value);
            if seen.insert(key.clone()) {
                self.take(source.clone(), &key, raw);
            } else {
                self.fault(&source, &key, raw.shown(&key), "duplicate key", "each key once".into());
            }
        }
    }

    /// Adds the defaults and checks the rules between keys.
    pub(crate) fn finish(mut self) -> Result<(Settings, Sources), Vec<SettingsError>> {
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
            "a value other than service_port_base and kv_port_base".into()
        });
        let missing = [("cluster_secret", &s.cluster_secret), ("client_password", &s.client_password)];
        let missing: Vec<&str> = missing.iter().filter_map(|(key, value)| value.is_none().then_some(*key)).collect();
        self.relate(s.is_loopback() || missing.is_empty(), "host", s, || {
            format!(
                "a loopback address, or any address once {} is set (`phalanx secret new` prints a value; use another one \
                 for each): everybody who reaches a port could use it",
                missing.join(" and ")
            )
        });
        self.relate(s.client_password.is_none() || s.client_password != s.cluster_secret, "client_password", s, || {
            "another value than that of cluster_secret, which clients must not know".into()
        });
        let is_told = !address::is_unspecified(&s.host) || s.advertise_host.is_some();
        self.relate(s.peers.is_empty() || is_told, "host", s, || {
            "an address that the other hosts can reach, because peers are set; or any, with that address as \
             advertise_host"
                .into()
        });
        if self.faults.is_empty() { Ok((settings, self.sources)) } else { Err(self.faults) }
    }

    fn relate(&mut self, holds: bool, key: &str, settings: &Settings, allowed: impl Fn() -> String) {
        // A key with an error has its default here: a second error about it would only confuse.
        if holds || self.faults.iter().any(|fault| fault.key == key) {
            return;
        }
        let value = match is_secret(key) {
            true => MASK.to_string(),
            false => settings.to_map().remove(key).unwrap_or(Value::Null).to_string(),
        };
        let source = self.sources.of(key);
        self.fault(&source, key, value, "does not fit the other settings", allowed());
    }
}

/// Whether `typed` is probably a typing error for `name`: equal except for separators, a missing or a wrong letter.
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
