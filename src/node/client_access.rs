//! Whether a client may use the node: the setting `client_password`, sessions of browsers, and the wait after wrong
//! passwords.
//!
//! A session is a text that a browser keeps in place of the password: the time of its end, and a MAC over it under a key
//! made from the password and the `cluster_secret`. Every node with the same two accepts it, nothing is stored, and
//! another password ends all of them. The key is made by a slow function (Argon2id), so a session that is seen makes no
//! guess at the password cheap.
//!
//! After a few wrong passwords an address must wait, twice as long after each further one. During the wait its passwords
//! are refused, whether right or wrong: otherwise many connections at once would be no slower. Nobody else waits, no
//! thread sleeps, and the table is bounded. What cannot be guessed is accepted at any time: sessions, and a password as
//! `phalanx secret new` prints it. Without a `cluster_secret` whoever guesses the password can make a session of the
//! guess: then a session is counted like a password.
//!
//! Invariants: A1 passwords and sessions are compared in constant time. A2 an address that has to wait is not told
//! whether its guess is right. A3 a right password does not end the count of wrong ones: else clients that share an
//! address with a guesser (one machine, one router) would reset its wait. A4 no guess goes uncounted, in whatever form.
//! Not here: how a client presents a password (`http/access.rs`, `resp/commands/connection.rs`).

use crate::lock::{Mutex, lock};
use crate::settings::is_random_secret;
use crate::wire::authentication::{Key, slow_key};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Distinguishes this use of a password from any other. Not random: all nodes must have the same key.
const SALT: &[u8] = b"phalanx client password";
/// Wrong passwords of one address without a wait: typing errors.
const TRIES_FREE: u32 = 3;
/// The first wait; it doubles with each further wrong password.
const WAIT_FIRST: Duration = Duration::from_millis(250);
/// The longest: with it an address has 8,640 tries a day, and clients that share it can still come through.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// An address that has sent no wrong password for this time begins anew.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Addresses that are remembered; beyond it the one whose last try is oldest is forgotten.
const ADDRESSES_MAX: usize = 1024;
/// Refused sessions of an address that are recognized: a browser sends the same one with each request.
const SESSIONS_SEEN: usize = 8;
/// How long a session of a browser lasts.
pub const SESSION: Duration = Duration::from_secs(7 * 86_400);
/// How long one lasts that a node presents to another: until the request has arrived, and what their clocks may differ.
pub const SESSION_OF_NODE: Duration = Duration::from_secs(600);
/// Bytes of a MAC.
const MAC_BYTES: usize = 32;
/// Begins every session, to tell it from a password.
const SESSION_PREFIX: &str = "phalanx-session.";

/// The result of comparing a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordCheck {
    Right,
    Wrong,
    /// The address must wait for so long; whether the password is right is not told.
    MustWait(Duration),
}

/// What one node requires of its clients.
pub struct ClientAccess {
    /// `None`: nothing is required.
    keys: Option<Keys>,
    /// By address, or the first half of an IPv6 address.
    tries: Mutex<BTreeMap<IpAddr, Tries>>,
    /// Addresses in `tries`: while there are none, the mutex is not taken.
    remembered: AtomicUsize,
    wrong: AtomicU64,
}

struct Keys {
    password: Hmac<Sha256>,
    /// MAC of the right password.
    right: Vec<u8>,
    sessions: Hmac<Sha256>,
    can_password_be_guessed: bool,
    can_sessions_be_guessed: bool,
}

#[derive(Clone, Debug)]
struct Tries {
    wrong: u32,
    last: Instant,
    wait_until: Instant,
    /// The newest refused sessions: the first bytes of each.
    sessions: VecDeque<u64>,
}

/// What a client guesses.
#[derive(Clone, Copy)]
enum Guess {
    Password,
    /// With the first bytes of the session's MAC.
    Session(u64),
}

impl ClientAccess {
    /// `peer_key`: made of the `cluster_secret`. With a password this is as slow as [`slow_key`], once for each process.
    pub fn new(password: Option<&str>, peer_key: Option<&Key>) -> ClientAccess {
        ClientAccess {
            keys: password.map(|password| Keys::of(password, peer_key)),
            tries: Mutex::new(BTreeMap::new()),
            remembered: AtomicUsize::new(0),
            wrong: AtomicU64::new(0),
        }
    }

    /// Whether clients need a password.
    pub fn is_required(&self) -> bool {
        self.keys.is_some()
    }

    /// Wrong passwords since the start.
    pub fn wrong_total(&self) -> u64 {
        self.wrong.load(Relaxed)
    }

    /// Compares a password that a client at this address has sent to a port (`HTTP`, `Redis`). Right if none is required.
    pub fn check(&self, from: IpAddr, port: &str, password: &[u8], now: Instant) -> PasswordCheck {
        let Some(keys) = &self.keys else { return PasswordCheck::Right };
        let is_right = mac(&keys.password, b"password", password).verify_slice(&keys.right).is_ok();
        if is_right && (!keys.can_password_be_guessed || self.remembered.load(Relaxed) == 0) {
            return PasswordCheck::Right;
        }
        self.decide_and_log(from, (Guess::Password, port), is_right, now)
    }

    fn decide_and_log(
        &self,
        from: IpAddr,
        (guess, port): (Guess, &str),
        is_right: bool,
        now: Instant,
    ) -> PasswordCheck {
        let from = network(from);
        let (check, is_first) = self.decide(&mut lock(&self.tries), from, guess, is_right, now);
        if is_first {
            let what = match guess {
                Guess::Password => "wrong client_password",
                Guess::Session(_) => "session of another client_password",
            };
            log::warn!(
                "{what} from {from} ({port} port); further ones are slowed down, and not logged before {} s have passed \
                 without one",
                FORGET_AFTER.as_secs()
            );
        }
        check
    }

    /// What the client gets, and whether it is the first wrong guess of this address in a while. One decision
    /// after another: tries that arrive together are counted before the next one is judged.
    fn decide(
        &self,
        tries: &mut BTreeMap<IpAddr, Tries>,
        from: IpAddr,
        guess: Guess,
        is_right: bool,
        now: Instant,
    ) -> (PasswordCheck, bool) {
        if let Some(wait) = tries.get(&from).map(|it| it.wait_until.saturating_duration_since(now))
            && !wait.is_zero()
        {
            return (PasswordCheck::MustWait(wait), false); // A2
        }
        if is_right {
            return (PasswordCheck::Right, false); // A3
        }
        if let Guess::Session(session) = guess
            && tries.get(&from).is_some_and(|it| it.sessions.contains(&session))
        {
            return (PasswordCheck::Wrong, false);
        }
        self.wrong.fetch_add(1, Relaxed);
        tries.retain(|_, it| now.saturating_duration_since(it.last) < FORGET_AFTER);
        if tries.len() >= ADDRESSES_MAX
            && !tries.contains_key(&from)
            && let Some(oldest) = tries.iter().min_by_key(|(_, it)| it.last).map(|(address, _)| *address)
        {
            tries.remove(&oldest);
        }
        let it = tries.entry(from).or_insert_with(|| Tries {
            wrong: 0,
            last: now,
            wait_until: now,
            sessions: VecDeque::new(),
        });
        it.wrong = it.wrong.saturating_add(1);
        (it.last, it.wait_until) = (now, now + wait_after(it.wrong));
        if let Guess::Session(session) = guess {
            it.sessions.truncate(SESSIONS_SEEN - 1);
            it.sessions.push_front(session);
        }
        let is_first = it.wrong == 1;
        self.remembered.store(tries.len(), Relaxed);
        (PasswordCheck::Wrong, is_first)
    }

    /// A new session that `lasts` so long after `now_ms` (milliseconds since 1970); `None`: no password is required.
    pub fn new_session(&self, now_ms: u64, lasts: Duration) -> Option<String> {
        let end_s = now_ms / 1000 + lasts.as_secs();
        let mac = mac(&self.keys.as_ref()?.sessions, b"session", &end_s.to_le_bytes()).finalize().into_bytes();
        Some(format!("{SESSION_PREFIX}{end_s}.{}", BASE64.encode(mac)))
    }

    /// Whether a text has the form of a session, valid or not.
    pub fn looks_like_session(text: &str) -> bool {
        text.starts_with(SESSION_PREFIX)
    }

    /// Whether it is a session of this cluster's password that has not ended, and that a client at this address may
    /// present now.
    pub fn is_session(&self, from: IpAddr, text: &str, now_ms: u64, now: Instant) -> bool {
        let (Some(keys), Some((end_s, tag))) = (&self.keys, read_session(text)) else { return false };
        let is_right = mac(&keys.sessions, b"session", &end_s.to_le_bytes()).verify_slice(&tag).is_ok();
        let is_valid = is_right && now_ms / 1000 < end_s;
        if !keys.can_sessions_be_guessed || (is_right && self.remembered.load(Relaxed) == 0) {
            return is_valid;
        }
        let guess = Guess::Session(tag.first_chunk().map_or(0, |first| u64::from_le_bytes(*first)));
        is_valid & (self.decide_and_log(from, (guess, "HTTP"), is_right, now) == PasswordCheck::Right)
    }
}

impl Keys {
    fn of(password: &str, peer_key: Option<&Key>) -> Keys {
        let key = keyed(&slow_key(password, SALT));
        let of_cluster = peer_key.map(|key| key.derive(b"sessions of clients"));
        let sessions = mac(&key, b"sessions of clients", &of_cluster.unwrap_or_default()).finalize().into_bytes();
        let can_password_be_guessed = !is_random_secret(password);
        Keys {
            right: mac(&key, b"password", password.as_bytes()).finalize().into_bytes().to_vec(),
            password: key,
            sessions: keyed(&sessions),
            can_password_be_guessed,
            can_sessions_be_guessed: can_password_be_guessed && of_cluster.is_none(),
        }
    }
}

/// The end of a session, in seconds since 1970, and its MAC, right or wrong.
fn read_session(text: &str) -> Option<(u64, Vec<u8>)> {
    let (end_s, tag) = text.strip_prefix(SESSION_PREFIX)?.split_once('.')?;
    Some((end_s.parse().ok()?, BASE64.decode(tag).ok()?)).filter(|(_, tag)| tag.len() == MAC_BYTES)
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Compared by its `verify_slice` (A1).
fn mac(key: &Hmac<Sha256>, label: &[u8], bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(label);
    mac.update(bytes);
    mac
}

fn wait_after(wrong: u32) -> Duration {
    match wrong.checked_sub(TRIES_FREE + 1) {
        None => Duration::ZERO,
        Some(doublings) => WAIT_FIRST.saturating_mul(1 << doublings.min(16)).min(WAIT_MAX),
    }
}

/// What counts as one address: a host chooses the second half of its IPv6 address freely.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

impl fmt::Debug for ClientAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAccess").field("is_required", &self.is_required()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests/client_access.rs"]
mod tests;
