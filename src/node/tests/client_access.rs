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
    // A right password ends the wait of nobody (A3); a quiet minute does.
    assert_eq!(access.check(guesser, "HTTP", b"open sesame", now), PasswordCheck::Right);
    assert_eq!(access.check(guesser, "HTTP", b"x", now), PasswordCheck::Wrong);
    assert!(matches!(access.check(guesser, "HTTP", b"open sesame", now), PasswordCheck::MustWait(_)));
    now += FORGET_AFTER + WAIT_MAX;
    assert_eq!(access.check(guesser, "HTTP", b"x", now), PasswordCheck::Wrong);
    assert_eq!(access.check(guesser, "HTTP", b"open sesame", now), PasswordCheck::Right);
}

#[test]
fn the_first_wrong_password_of_a_burst_is_told() {
    let (access, now) = (access(), Instant::now());
    let told = |from: &str, now| access.judge(&mut lock(&access.tries), network(ip(from)), false, now).1;
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
