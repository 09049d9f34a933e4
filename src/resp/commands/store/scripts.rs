//! The three Lua scripts of redis-py's `Lock`, recognized by their text: each is one operation of the store.
//!
//! Phalanx runs no Lua. These texts are the same in every redis-py from 4 to 8; blanks and line breaks may differ. A
//! script's name is the SHA-1 of the exact text, so a text with other blanks is remembered under its own name when it
//! is loaded.
//! Not here: what they do to a key (`services/kv/`), their arguments (`keys.rs`).

use crate::lock::{Mutex, lock};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Length of a script's name.
pub const NAME_BYTES: usize = 40;

/// The error for any other script.
pub const UNKNOWN: &str =
    "ERR Lua scripts are not supported, except for the lock scripts of redis-py; use LOCK.ACQUIRE or CAS";

/// Texts with other blanks that are remembered by name. More: one is dropped, and its client sends the text again.
const OTHERS_MAX: usize = 64;

/// Deletes the key if its value is the token.
const RELEASE: &str = "
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        redis.call('del', KEYS[1])
        return 1
    ";
/// Adds to the time to live, or replaces it, if the value is the token.
const EXTEND: &str = "
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        local expiration = redis.call('pttl', KEYS[1])
        if not expiration then
            expiration = 0
        end
        if expiration < 0 then
            return 0
        end

        local newttl = ARGV[2]
        if ARGV[3] == \"0\" then
            newttl = ARGV[2] + expiration
        end
        redis.call('pexpire', KEYS[1], newttl)
        return 1
    ";
/// Sets the time to live if the value is the token.
const REACQUIRE: &str = "
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        redis.call('pexpire', KEYS[1], ARGV[2])
        return 1
    ";

/// A script that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// `Lock.release`
    Release,
    /// `Lock.extend`
    Extend,
    /// `Lock.reacquire`
    Reacquire,
}

const ALL: [(&str, Script); 3] = [(RELEASE, Script::Release), (EXTEND, Script::Extend), (REACQUIRE, Script::Reacquire)];

/// Names of the texts above.
static NAMES: LazyLock<BTreeMap<String, Script>> =
    LazyLock::new(|| ALL.into_iter().map(|(text, script)| (name_of(text.as_bytes()), script)).collect());

/// SHA-1 of a text in hexadecimal digits: its name in EVALSHA.
pub fn name_of(text: &[u8]) -> String {
    Sha1::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The script with this text, ignoring blanks.
pub fn recognise(text: &[u8]) -> Option<Script> {
    let text = std::str::from_utf8(text).ok()?;
    let is_same = |known: &str| known.split_whitespace().eq(text.split_whitespace());
    ALL.into_iter().find_map(|(known, script)| is_same(known).then_some(script))
}

/// Names of texts with other blanks.
#[derive(Debug, Default)]
pub struct Loaded(Mutex<BTreeMap<String, Script>>);

impl Loaded {
    /// Remembers a text; returns its name, or `None` if it is not one of the scripts.
    pub fn load(&self, text: &[u8]) -> Option<String> {
        let (script, name) = (recognise(text)?, name_of(text));
        if !NAMES.contains_key(&name) {
            let mut others = lock(&self.0);
            if others.len() >= OTHERS_MAX {
                others.pop_first();
            }
            others.insert(name.clone(), script);
        }
        Some(name)
    }

    pub fn find(&self, name: &[u8]) -> Option<Script> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        let others = || lock(&self.0).get(&name).copied();
        NAMES.get(&name).copied().or_else(others)
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::commands::store::scripts::*;

    #[test]
    fn names_are_those_that_redis_py_computes() {
        // hashlib.sha1(Lock.LUA_..._SCRIPT.encode()).hexdigest() of redis-py 4.3.4, 5.0.8, 6.4.0, 7.1.0 and 8.1.0.
        let known: Vec<(&str, Script)> = NAMES.iter().map(|(name, script)| (name.as_str(), *script)).collect();
        assert_eq!(known, PY_NAMES);
    }

    const PY_NAMES: [(&str, Script); 3] = [
        ("1cac51482acf5858da00f6d685d68f886cd6b6b2", Script::Reacquire),
        ("a4e8783852e6b949f9ef3a97212805108459a890", Script::Extend),
        ("c3f8721cbb97f72bc19e972846bd7aaf91901658", Script::Release),
    ];

    #[test]
    fn blanks_do_not_matter_and_everything_else_does() {
        let squeezed = RELEASE.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(recognise(squeezed.as_bytes()), Some(Script::Release));
        assert_eq!(recognise(squeezed.replace("return 1", "return 2").as_bytes()), None);
        assert_eq!(recognise(b""), None);
        assert_eq!(recognise(b"\xff"), None);
        let loaded = Loaded::default();
        let name = name_of(squeezed.as_bytes());
        assert_eq!(loaded.find(name.as_bytes()), None);
        assert_eq!(loaded.load(squeezed.as_bytes()), Some(name.clone()));
        assert_eq!(loaded.find(name.to_uppercase().as_bytes()), Some(Script::Release));
        assert_eq!(loaded.load(b"return 1"), None);
    }
}
