//! Whether a client may use the node: the setting `client_password`, sessions of browsers, and the wait after wrong
//! passwords.
//!
//! A session is a text that a browser keeps in place of the password: the time of its end, and a MAC over it under a key
//! made from the password. Every node with the same password accepts it, nothing is stored, and another password ends
//! all of them. The key is made by a slow function (Argon2id), so a session that is seen makes no guess at the password
//! cheap.
//!
//! After a few wrong passwords an address must wait, twice as long after each further one. During the wait its passwords
//! are refused, whether right or wrong: otherwise many connections at once would be no slower. Sessions are accepted at
//! any time, since they cannot be guessed. No other client waits, no thread sleeps, and the table is bounded.
//!
//! Invariants: A1 passwords and sessions are compared in constant time. A2 an address that has to wait is not told
//! whether a password is right. A3 a right password does not end the count of wrong ones: else clients that share an address with a
//! guesser (one machine, one router) would reset its wait.
//! Not here: how a client presents a password (`http/access.rs`, `resp/commands/connection.rs`).

use crate::lock::{Mutex, lock};
use crate::wire::authentication::slow_key;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::BTreeMap;
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
/// How long a session lasts.
pub const SESSION: Duration = Duration::from_secs(7 * 86_400);
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
    key: Option<Hmac<Sha256>>,
    /// MAC of the right password.
    right: Vec<u8>,
    /// By address, or the first half of an IPv6 address.
    tries: Mutex<BTreeMap<IpAddr, Tries>>,
    /// Addresses in `tries`: while there are none, the mutex is not taken.
    remembered: AtomicUsize,
    wrong: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Tries {
    wrong: u32,
    last: Instant,
    wait_until: Instant,
}

impl ClientAccess {
    /// With a password this is as slow as [`slow_key`], once for each process.
    pub fn new(password: Option<&str>) -> ClientAccess {
        let key = password.map(|password| {
            Hmac::<Sha256>::new_from_slice(&slow_key(password, SALT)).expect("HMAC takes keys of any length")
        });
        let right = key.as_ref().zip(password).map(|(key, password)| mac(key, b"password", password.as_bytes()));
        ClientAccess {
            key,
            right: right.map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default(),
            tries: Mutex::new(BTreeMap::new()),
            remembered: AtomicUsize::new(0),
            wrong: AtomicU64::new(0),
        }
    }

    /// Whether clients need a password.
    pub fn is_required(&self) -> bool {
        self.key.is_some()
    }

    /// Wrong passwords since the start.
    pub fn wrong_total(&self) -> u64 {
        self.wrong.load(Relaxed)
    }

    /// Compares a password that a client at this address has sent to a port (`HTTP`, `Redis`). Right if none is required.
    pub fn check(&self, from: IpAddr, port: &str, password: &[u8], now: Instant) -> PasswordCheck {
        let Some(key) = &self.key else { return PasswordCheck::Right };
        let is_right = mac(key, b"password", password).verify_slice(&self.right).is_ok();
        if is_right && self.remembered.load(Relaxed) == 0 {
            return PasswordCheck::Right;
        }
        let from = network(from);
        let (check, is_first) = self.decide(&mut lock(&self.tries), from, is_right, now);
        if is_first {
            log::warn!(
                "wrong client_password from {from} ({port} port); further ones are slowed down, and not logged before \
                 {} s have passed without one",
                FORGET_AFTER.as_secs()
            );
        }
        check
    }

    /// What the client gets, and whether it is the first wrong password of this address in a while. One decision
    /// after another: tries that arrive together are counted before the next one is judged.
    fn decide(
        &self,
        tries: &mut BTreeMap<IpAddr, Tries>,
        from: IpAddr,
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
        self.wrong.fetch_add(1, Relaxed);
        tries.retain(|_, it| now.saturating_duration_since(it.last) < FORGET_AFTER);
        if tries.len() >= ADDRESSES_MAX
            && !tries.contains_key(&from)
            && let Some(oldest) = tries.iter().min_by_key(|(_, it)| it.last).map(|(address, _)| *address)
        {
            tries.remove(&oldest);
        }
        let it = tries.entry(from).or_insert(Tries { wrong: 0, last: now, wait_until: now });
        it.wrong = it.wrong.saturating_add(1);
        (it.last, it.wait_until) = (now, now + wait_after(it.wrong));
        let is_first = it.wrong == 1;
        self.remembered.store(tries.len(), Relaxed);
        (PasswordCheck::Wrong, is_first)
    }

    /// A new session that ends [`SESSION`] after `now_ms` (milliseconds since 1970); `None`: no password is required.
    pub fn new_session(&self, now_ms: u64) -> Option<String> {
        let end_s = now_ms / 1000 + SESSION.as_secs();
        let mac = mac(self.key.as_ref()?, b"session", &end_s.to_le_bytes()).finalize().into_bytes();
        Some(format!("{SESSION_PREFIX}{end_s}.{}", BASE64.encode(mac)))
    }

    /// Whether a text has the form of a session, valid or not.
    pub fn looks_like_session(text: &str) -> bool {
        text.starts_with(SESSION_PREFIX)
    }

    /// Whether it is a session of this cluster's password that has not ended.
    pub fn is_session(&self, text: &str, now_ms: u64) -> bool {
        let checked = (|| {
            let (end_s, tag) = text.strip_prefix(SESSION_PREFIX)?.split_once('.')?;
            let (end_s, tag) = (end_s.parse::<u64>().ok()?, BASE64.decode(tag).ok()?);
            mac(self.key.as_ref()?, b"session", &end_s.to_le_bytes()).verify_slice(&tag).ok()?;
            Some(end_s)
        })();
        checked.is_some_and(|end_s| now_ms / 1000 < end_s)
    }
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
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn access() -> ClientAccess {
        ClientAccess::new(Some("open sesame"))
    }

    #[test]
    fn without_a_password_everything_is_right_and_there_are_no_sessions() {
        let access = ClientAccess::new(None);
        assert!(!access.is_required());
        assert_eq!(access.check(ip("10.0.0.1"), "HTTP", b"x", Instant::now()), PasswordCheck::Right);
        assert_eq!(access.new_session(0), None);
        assert!(!access.is_session(&super::tests::access().new_session(0).unwrap(), 0));
    }

    #[test]
    fn an_address_that_guesses_waits_longer_each_time_and_no_other_does() {
        let (access, mut now) = (access(), Instant::now());
        let (guesser, other) = (ip("10.0.0.9"), ip("10.0.0.1"));
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(access.check(guesser, "HTTP", b"open sesam", now), PasswordCheck::Wrong);
            assert_eq!(access.check(other, "HTTP", b"open sesame", now), PasswordCheck::Right, "never slowed");
            let wait = match access.check(guesser, "HTTP", b"open sesame", now) {
                PasswordCheck::MustWait(wait) => wait,
                PasswordCheck::Right => Duration::ZERO,
                PasswordCheck::Wrong => panic!("the right password is wrong"),
            };
            waits.push(wait.as_millis());
            now += wait;
        }
        assert_eq!(waits, [0, 0, 0, 250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000]);
        assert_eq!(access.wrong_total(), 12, "what is not compared is not counted");
        // A right password ends no wait (A3); a quiet minute does.
        assert_eq!(access.check(guesser, "HTTP", b"open sesame", now), PasswordCheck::Right);
        assert_eq!(access.check(guesser, "HTTP", b"x", now), PasswordCheck::Wrong);
        assert!(matches!(access.check(guesser, "HTTP", b"open sesame", now), PasswordCheck::MustWait(_)));
        now += FORGET_AFTER + WAIT_MAX;
        assert_eq!(access.check(guesser, "HTTP", b"x", now), PasswordCheck::Wrong);
        assert_eq!(access.check(guesser, "HTTP", b"open sesame", now), PasswordCheck::Right);
    }

    #[test]
    fn the_first_wrong_password_of_a_burst_is_logged() {
        let (access, now) = (access(), Instant::now());
        let told = |from: &str, now| access.decide(&mut lock(&access.tries), network(ip(from)), false, now).1;
        assert!(told("10.0.0.9", now) && !told("10.0.0.9", now + FORGET_AFTER / 2));
        assert!(!told("10.0.0.9", now + FORGET_AFTER), "half a minute after the last one");
        assert!(told("10.0.0.9", now + 2 * FORGET_AFTER), "a minute after the last one");
        assert!(told("2001:db8::1", now) && !told("2001:db8::2:1", now), "one network");
        assert!(told("2001:db8:0:1::1", now) && told("::1", now) && !told("::ffff:10.0.0.9", now + 2 * FORGET_AFTER));
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_from_its_oldest() {
        let (access, now) = (access(), Instant::now());
        for n in 0..3 * ADDRESSES_MAX as u32 {
            let from = IpAddr::V4((0x0a00_0000 + n).into());
            for _ in 0..=TRIES_FREE {
                assert_eq!(
                    access.check(from, "HTTP", b"x", now + Duration::from_millis(n.into())),
                    PasswordCheck::Wrong
                );
            }
            assert!(lock(&access.tries).len() <= ADDRESSES_MAX);
        }
        assert_eq!(access.remembered.load(Relaxed), ADDRESSES_MAX);
        let last = IpAddr::V4((0x0a00_0000 + 3 * ADDRESSES_MAX as u32 - 1).into());
        let check = |from| access.check(from, "HTTP", b"open sesame", now + Duration::from_secs(3));
        assert!(matches!(check(last), PasswordCheck::MustWait(_)));
        assert_eq!(check(ip("10.0.0.0")), PasswordCheck::Right);
    }

    #[test]
    fn a_session_is_good_for_its_time_and_its_password() {
        let (access, elsewhere) = (access(), access());
        let session = access.new_session(HOUR_MS).unwrap();
        assert!(ClientAccess::looks_like_session(&session) && !session.contains("sesame"));
        let end_ms = HOUR_MS + SESSION.as_millis() as u64;
        for (now_ms, is_good) in [(HOUR_MS, true), (end_ms - 1, true), (end_ms, false)] {
            assert_eq!(elsewhere.is_session(&session, now_ms), is_good, "{now_ms}");
        }
        assert!(!ClientAccess::new(Some("open sesame!")).is_session(&session, HOUR_MS), "another password");
        let (head, mac) = session.rsplit_once('.').unwrap();
        let later = format!("{}.{mac}", head.replace(&(end_ms / 1000).to_string(), &(end_ms / 1000 + 1).to_string()));
        let changed = session.replace(mac, &BASE64.encode([0; 32]));
        for bad in ["", "phalanx-session.", "phalanx-session.1.", head, &later, &changed, &session[1..]] {
            assert!(!access.is_session(bad, HOUR_MS), "{bad}");
        }
        // The MAC of a session is none of a password.
        assert_eq!(access.check(ip("10.0.0.1"), "HTTP", session.as_bytes(), Instant::now()), PasswordCheck::Wrong);
    }

    #[test]
    fn nothing_shows_the_password() {
        assert_eq!(format!("{:?}", access()), "ClientAccess { is_required: true, .. }");
    }
}
