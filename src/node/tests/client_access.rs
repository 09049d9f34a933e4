//! Guessers at several addresses, sessions of several passwords and secrets, in virtual time.

use super::*;

const HOUR_MS: u64 = 3_600_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn is_session(access: &ClientAccess, text: &str, now_ms: u64) -> bool {
    access.is_session(ip("10.0.0.1"), text, now_ms, Instant::now())
}

/// Without a `cluster_secret`, and with a password that can be guessed.
fn access() -> ClientAccess {
    ClientAccess::new(Some("open sesame"), None)
}

#[test]
fn without_a_password_everything_is_right_and_there_are_no_sessions() {
    let access = ClientAccess::new(None, None);
    assert!(!access.is_required());
    assert_eq!(access.check(ip("10.0.0.1"), "HTTP", b"x", Instant::now()), PasswordCheck::Right);
    assert_eq!(access.new_session(0, SESSION), None);
    assert!(!is_session(&access, &super::tests::access().new_session(0, SESSION).unwrap(), 0));
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
    // A right password ends the wait of nobody (A3); a quiet minute does.
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
    let told =
        |from: &str, now| access.decide(&mut lock(&access.tries), network(ip(from)), Guess::Password, false, now).1;
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
            assert_eq!(access.check(from, "HTTP", b"x", now + Duration::from_millis(n.into())), PasswordCheck::Wrong);
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
fn a_session_is_good_for_its_time_its_password_and_its_secret() {
    let with = |password, secret: &str| ClientAccess::new(Some(password), Some(&Key::of(secret)));
    let (one, elsewhere) = (with("open sesame", "secret"), with("open sesame", "secret"));
    let session = one.new_session(HOUR_MS, SESSION).unwrap();
    assert!(ClientAccess::looks_like_session(&session) && !session.contains("sesame"));
    let end_ms = HOUR_MS + SESSION.as_millis() as u64;
    for (now_ms, is_good) in [(HOUR_MS, true), (end_ms - 1, true), (end_ms, false)] {
        assert_eq!(is_session(&elsewhere, &session, now_ms), is_good, "{now_ms}");
    }
    for other in [with("open sesame!", "secret"), with("open sesame", "another secret"), access()] {
        assert!(!is_session(&other, &session, HOUR_MS));
        assert!(!is_session(&one, &other.new_session(HOUR_MS, SESSION).unwrap(), HOUR_MS));
    }
    let (head, mac) = session.rsplit_once('.').unwrap();
    let later = format!("{}.{mac}", head.replace(&(end_ms / 1000).to_string(), &(end_ms / 1000 + 1).to_string()));
    let changed = session.replace(mac, &BASE64.encode([0; 32]));
    for bad in ["", "phalanx-session.", "phalanx-session.1.", head, &later, &changed, &session[1..]] {
        assert!(!is_session(&one, bad, HOUR_MS), "{bad}");
    }
    // The MAC of a session is none of a password.
    let sent = |access: &ClientAccess| access.check(ip("10.0.0.1"), "HTTP", session.as_bytes(), Instant::now());
    assert_eq!(sent(&one), PasswordCheck::Wrong);
}

/// Without a `cluster_secret` a guess of the password makes a session, without asking any node.
#[test]
fn sessions_that_can_be_made_of_a_guess_are_counted_like_passwords() {
    let (access, mut now) = (access(), Instant::now());
    let (guesser, other) = (ip("10.0.0.9"), ip("10.0.0.1"));
    let made_of = |guess: &str| ClientAccess::new(Some(guess), None).new_session(HOUR_MS, SESSION).unwrap();
    let right = made_of("open sesame");
    let is_accepted = |from, session: &str, now| access.is_session(from, session, HOUR_MS, now);
    for n in 0..=TRIES_FREE {
        assert!(is_accepted(guesser, &right, now), "{n}");
        let wrong = made_of(&format!("guess {n}"));
        // A browser has one of an earlier password, and sends it with each request: that is one guess.
        for _ in 0..5 {
            assert!(!is_accepted(guesser, &wrong, now));
        }
    }
    assert_eq!(access.wrong_total(), u64::from(TRIES_FREE) + 1);
    assert!(!is_accepted(guesser, &right, now), "not told during the wait (A2)");
    assert!(matches!(access.check(guesser, "HTTP", b"open sesame", now), PasswordCheck::MustWait(_)));
    assert!(is_accepted(other, &right, now));
    now += WAIT_FIRST;
    assert!(is_accepted(guesser, &right, now));
    // One that has ended is none of a guesser.
    assert!(!access.is_session(other, &right, HOUR_MS + SESSION.as_millis() as u64, now));
    assert_eq!(access.wrong_total(), u64::from(TRIES_FREE) + 1);
    // What is remembered of an address is bounded.
    for n in 0..3 * SESSIONS_SEEN {
        now += WAIT_MAX;
        assert!(!is_accepted(guesser, &made_of(&format!("more {n}")), now));
    }
    assert_eq!(lock(&access.tries)[&guesser].sessions.len(), SESSIONS_SEEN);
}

#[test]
fn what_nobody_can_guess_is_accepted_while_its_address_must_wait() {
    const RANDOM: &str = "a2bcdefghijkmnpqrstuvwxyz2345678";
    let key = Key::of("secret");
    for (password, peer_key, of_password, of_session) in [
        (RANDOM, None, true, true),
        (RANDOM, Some(&key), true, true),
        ("open sesame", Some(&key), false, true),
        ("open sesame", None, false, false),
    ] {
        let (access, now) = (ClientAccess::new(Some(password), peer_key), Instant::now());
        let session = access.new_session(HOUR_MS, SESSION).unwrap();
        let here = ip("127.0.0.1");
        for _ in 0..=TRIES_FREE {
            assert_eq!(access.check(here, "HTTP", b"guess", now), PasswordCheck::Wrong);
        }
        assert!(matches!(access.check(here, "HTTP", b"guess", now), PasswordCheck::MustWait(_)));
        let is_right = access.check(here, "HTTP", password.as_bytes(), now) == PasswordCheck::Right;
        let is_session = access.is_session(here, &session, HOUR_MS, now);
        assert_eq!((is_right, is_session), (of_password, of_session), "{password} {}", peer_key.is_some());
    }
}

#[test]
fn nothing_shows_the_password() {
    assert_eq!(format!("{:?}", access()), "ClientAccess { is_required: true, .. }");
}
