//! The setting `client_password` over HTTP: what is answered without it, how it is presented, the log-in page, and the
//! wait after wrong ones.
//!
//! All operations are taken from the OpenAPI document, which a unit test in `src/http/routes.rs` compares with the
//! table of routes: a new route cannot be forgotten here.

use crate::fake_host::*;
use crate::openapi::{Document, ask};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use phalanx::node::{ClientAccess, Connections};
use phalanx::services::jobs::{self, Job, Limits, State};
use phalanx::settings::Settings;
use phalanx::types::{Identity, NodeId};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const TEXT: &str = include_str!("../../static/openapi.json");
const HOUR: Duration = Duration::from_secs(3600);
const PASSWORD: &str = "open sesame: the door";
/// Sent by a browser that opens a window.
const WINDOW: &str =
    "User-Agent: Mozilla/5.0\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";

fn host(settings: Settings) -> Arc<FakeHost> {
    let (client_password, cluster_secret) = (Some(PASSWORD.into()), Some("a secret of the nodes".into()));
    FakeHost::with(4, Settings { client_password, cluster_secret, ..settings })
}

fn serve_closed(is_front: bool) -> Served {
    serve_on(host(Settings::default()), patient(), "127.0.0.1:0", is_front)
}

fn basic(password: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64.encode(format!("anybody:{password}")))
}

fn form(password: &str, next: &str) -> String {
    let encoded: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("next={next}&password={encoded}")
}

/// The cookie that a log-in sets, as a header of later requests.
fn cookie_of(answer: &Answer) -> String {
    let cookie = answer.header("Set-Cookie").unwrap_or_else(|| panic!("no cookie: {answer:?}"));
    format!("Cookie: other=1; {}\r\n", cookie.split(';').next().unwrap())
}

const OWN_PAGE: &str = "User-Agent: Mozilla/5.0\r\nSec-Fetch-Site: same-origin\r\n";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

fn log_in(served: &Served, password: &str, next: &str) -> Answer {
    let headers = format!("{OWN_PAGE}Origin: http://{}\r\n{FORM}", served.address);
    served.ask("POST", "/login", &headers, &form(password, next))
}

#[test]
fn every_route_wants_the_password_but_those_for_probes_and_the_log_in() {
    let document = Document::new(TEXT.as_bytes());
    let open = ["/livez", "/readyz", "/metrics", "/login"];
    for is_health_open in [true, false] {
        let settings = Settings { health_open: is_health_open, ..Settings::default() };
        let served = serve_on(host(settings), patient(), "127.0.0.1:0", false);
        let address = served.address.to_string();
        let mut asked = 0;
        for operation in document.operations() {
            let path = operation.path.replace("{id}", "1").replace("{number}", "1").replace("{key}", "k");
            let path = path.replace("{name}", if path.starts_with("/static") { "app.js" } else { "l" });
            let ask = |headers: &str| ask(&address, &operation.method, &path, headers, b"", 1);
            let answer = ask("");
            let what = format!("{} {path}: {} {}", operation.method, answer.status, answer.text());
            if path == "/login" || (open.contains(&path.as_str()) && is_health_open) {
                assert!(answer.status != 401 || path == "/login", "{what}");
                continue;
            }
            asked += 1;
            assert_eq!(answer.status, 401, "{what}");
            assert!(answer.json()["error"].as_str().unwrap().contains("client_password"), "{what}");
            assert_eq!(answer.json()["outcome"], "refused", "{what}");
            assert_eq!(answer.header("WWW-Authenticate"), Some("Basic realm=\"phalanx\", charset=\"UTF-8\""), "{what}");
            document.check(&operation, &answer);
            for right in [basic(PASSWORD), format!("Authorization: Bearer {PASSWORD}\r\n")] {
                // The chat has tokens of its own, and asks for one.
                let answer = ask(&right);
                let is_let_in =
                    answer.status != 401 || answer.header("WWW-Authenticate") == Some("Bearer realm=\"chat\"");
                assert!(is_let_in, "{} {path}: {}", operation.method, answer.text());
            }
        }
        assert!(asked >= 65, "{asked} operations");
        // What is not there is not told either.
        let method = |method: &str, path: &str| served.ask(method, path, "", "").status;
        assert_eq!((method("GET", "/nothing"), method("PUT", "/v1/status")), (401, 401));
        assert_eq!(served.ask("GET", "/nothing", &basic(PASSWORD), "").status, 404);
        assert_eq!(method("OPTIONS", "/v1/status"), 204, "a preflight request presents nothing");
    }
}

#[test]
fn without_a_password_there_is_no_log_in() {
    let served = serve(patient());
    assert_eq!(served.get("/v1/status").status, 200);
    assert_eq!(served.ask("GET", "/v1/status", &basic("whatever"), "").status, 200);
    let answer = log_in(&served, "whatever", "/");
    assert!(answer.status == 404 && answer.body.contains("client_password is not set"), "{answer:?}");
}

#[test]
fn a_person_logs_in_and_returns_to_the_page() {
    for is_front in [false, true] {
        let served = serve_closed(is_front);
        let asked = served.ask("GET", "/v1/events?since=3&wait=1s", WINDOW, "");
        assert_eq!((asked.status, asked.header("Content-Type")), (401, Some("text/html; charset=utf-8")));
        // With `Basic` the browser would show a dialogue of its own.
        assert_eq!(asked.header("WWW-Authenticate"), Some("Bearer realm=\"phalanx\""));
        assert!(asked.body.contains("name=\"next\" value=\"/v1/events?since=3&amp;wait=1s\""), "{}", asked.body);
        let policy = asked.header("Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(policy.contains("form-action 'self' ") && policy.contains("http://127.0.0.1:*"), "{policy}");

        let wrong = log_in(&served, "open sesame", "%2Fchat");
        assert!(wrong.status == 401 && wrong.body.contains("Wrong password."), "{wrong:?}");
        assert!(wrong.body.contains("value=\"/chat\"") && wrong.header("Set-Cookie").is_none(), "{wrong:?}");

        let right = log_in(&served, PASSWORD, "%2Fv1%2Fevents%3Fsince%3D3");
        assert_eq!((right.status, right.header("Location")), (303, Some("/v1/events?since=3")));
        let cookie = right.header("Set-Cookie").unwrap();
        assert!(cookie.starts_with("phalanx-session-") && !cookie.contains(PASSWORD), "{cookie}");
        assert!(cookie.ends_with("; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict"), "{cookie}");
        let cookie = cookie_of(&right);
        let expected = if is_front { 307 } else { 200 };
        assert_eq!(served.ask("GET", "/v1/status", &format!("{WINDOW}{cookie}"), "").status, expected);
        // A cookie of another cluster beside it, and one that was changed.
        let changed = cookie.replace("phalanx-session.1", "phalanx-session.2");
        assert_ne!(changed, cookie);
        assert_eq!(served.ask("GET", "/v1/status", &changed, "").status, 401);

        // The form of another site, and a log-in for another site.
        let foreign = format!("User-Agent: Mozilla/5.0\r\nOrigin: http://evil.example\r\n{FORM}");
        assert_eq!(served.ask("POST", "/login", &foreign, &form(PASSWORD, "/")).status, 403);
        assert_eq!(log_in(&served, PASSWORD, "%2F%2Fevil.example").header("Location"), Some("/"));
        assert_eq!(served.ask("POST", "/login", FORM, &"x".repeat(9 << 10)).status, 413);
    }
}

#[test]
fn a_session_is_good_at_every_node_of_the_cluster_and_a_page_hands_it_on() {
    let (one, two) = (serve_closed(false), serve_on(host(Settings::default()), patient(), "127.0.0.1:0", false));
    let cookie = cookie_of(&log_in(&one, PASSWORD, "/"));
    assert_eq!(two.ask("GET", "/v1/status", &cookie, "").status, 200, "cookies are not separated by port");
    let page = two.ask("GET", "/chat", &format!("{WINDOW}{cookie}"), "");
    let access = page.body.split_once("\"access\":\"").expect("the page has a session").1.split('"').next().unwrap();
    let bearer = format!("Authorization: Bearer {access}\r\n");
    assert_eq!(one.ask("GET", "/v1/status", &bearer, "").status, 200);

    // As a page of another host uses it: a preflight request, then the session.
    one.host.addresses.lock().unwrap().push((NodeId(2), "10.0.0.2:6702".into()));
    let origin = "User-Agent: Mozilla/5.0\r\nOrigin: http://10.0.0.2:6702\r\nSec-Fetch-Site: cross-site\r\n";
    for path in ["/v1/stream", "/v1/jobs/1/output", "/v1/chat/me"] {
        let preflight = one.ask("OPTIONS", path, &format!("{origin}Access-Control-Request-Method: GET\r\n"), "");
        assert_eq!(preflight.status, 204, "{path}");
        let allowed = preflight.header("Access-Control-Allow-Headers").unwrap();
        assert!(allowed.contains("Authorization") && allowed.contains("X-Phalanx-Chat-Token"), "{path}: {allowed}");
    }
    let answer = ask(&one.address.to_string(), "GET", "/v1/stream", &format!("{origin}{bearer}"), b"", 1);
    assert_eq!(answer.status, 200);
    let refused = one.ask("GET", "/v1/stream", origin, "");
    assert_eq!(refused.header("Access-Control-Allow-Origin"), Some("http://10.0.0.2:6702"), "it can read why");
    assert_eq!((refused.status, refused.header("WWW-Authenticate")), (401, Some("Bearer realm=\"phalanx\"")));

    // Another password: another cluster, or the same one after a change.
    let settings = Settings { client_password: Some("another password".into()), ..Settings::default() };
    let other = serve_on(FakeHost::with(4, settings), patient(), "127.0.0.1:0", false);
    for session in [&cookie, &bearer] {
        assert_eq!(other.ask("GET", "/v1/status", session, "").status, 401);
    }
    let out = one.ask("POST", "/logout", &format!("{OWN_PAGE}{cookie}Content-Type: application/json\r\n"), "");
    assert!(out.status == 204 && out.header("Set-Cookie").unwrap().contains("=; Path=/; Max-Age=0;"), "{out:?}");
}

#[test]
fn password_guesses_are_slowed_and_sessions_are_not() {
    let served = serve_closed(false);
    let cookie = cookie_of(&log_in(&served, PASSWORD, "/"));
    let status = |headers: &str| served.ask("GET", "/v1/status", headers, "").status;
    let mut refused = 0;
    for n in 0..40 {
        match status(&basic(&format!("guess {n}"))) {
            401 => assert_eq!(status(&basic(PASSWORD)) == 429, n > 2, "the fourth wrong one begins the wait"),
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused >= 30, "{refused} of 40 were not compared");
    let answer = served.ask("GET", "/v1/status", &basic(PASSWORD), "");
    assert_eq!(answer.status, 429, "the right one is not told from a wrong one meanwhile");
    assert!(
        answer.header("Retry-After").unwrap().parse::<u64>().unwrap() >= 1 && answer.body.contains("retry_after_ms")
    );
    let page = log_in(&served, PASSWORD, "/");
    assert!(page.status == 429 && page.body.contains("Too many wrong passwords"), "{page:?}");
    assert_eq!((status(&cookie), status(""), served.get("/livez").status), (200, 401, 200));
}

/// Whoever has taken the port of a worker that is down does not get the password.
#[test]
fn a_node_presents_a_short_session_to_another_one() {
    let served = serve_closed(false);
    let worker = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = worker.local_addr().unwrap().to_string();
    served.host.addresses.lock().unwrap().push((NodeId(9), address));
    let limits = Limits { wall_ms: 1000, cpu_ms: 1000, memory_mb: 64, output_bytes: 1000, files_mb: 1, processes: 8 };
    let request = jobs::Request {
        language: "sh".into(),
        files: Vec::new(),
        stdin: Default::default(),
        args: Vec::new(),
        limits,
        keep_ms: 0,
    };
    let state = State::Assigned { worker: Identity { id: NodeId(9), uuid: Uuid::nil() }, since_ms: 0 };
    let (request, past) = (Arc::new(request), Vec::new());
    let job = Job { request, submitted_ms: 0, attempt: 1, losses: 0, given: 0, state, past };
    *served.host.job.lock().unwrap() = Some(job);
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let (mut stream, _) = worker.accept().unwrap();
            let lines = BufReader::new(&stream).lines().map(|line| line.unwrap());
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            head.join("\r\n")
        });
        assert_eq!(served.ask("GET", "/v1/jobs/1/output", &basic(PASSWORD), "").status, 200);
        asked.join().unwrap()
    });
    assert!(asked.starts_with("GET /v1/jobs/1/output?attempt=1"), "{asked}");
    let session = asked.split_once("Authorization: ").unwrap().1.split("\r\n").next().unwrap();
    assert!(session.starts_with("Bearer phalanx-session."), "{asked}");
    let end_s: u64 = session.split('.').nth(1).unwrap().parse().unwrap();
    let left_s = end_s - SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(left_s <= 600, "{left_s} s");
    assert_eq!(served.ask("GET", "/v1/status", &format!("Authorization: {session}\r\n"), "").status, 200);
}

/// Otherwise nobody without the password could make front doors avoid a node.
#[test]
fn a_client_without_the_password_is_no_load() {
    let served = serve_closed(false);
    let mut client = served.connect();
    let mut ask = |headers: &str| {
        let head = format!("GET /v1/status HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", served.address);
        client.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 64 << 10];
        let read = client.read(&mut answer).unwrap();
        Answer::parse(&String::from_utf8_lossy(&answer[..read])).status
    };
    assert_eq!((ask(""), ask(&basic("wrong")), served.host.sessions.count()), (401, 401, 0));
    assert_eq!((ask(&basic(PASSWORD)), served.host.sessions.count()), (200, 1));
    assert_eq!((ask(""), served.host.sessions.count()), (401, 1), "of a proxy, for example");
}

/// Without a `cluster_secret`, the key of sessions is made of the password alone.
#[test]
fn a_session_that_was_made_of_a_guess_is_a_guess() {
    let settings = Settings { client_password: Some(PASSWORD.into()), ..Settings::default() };
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    for is_cookie in [false, true] {
        let served = serve_on(FakeHost::with(4, settings.clone()), patient(), "127.0.0.1:0", false);
        let cookie = cookie_of(&log_in(&served, PASSWORD, "/"));
        let name = cookie.trim_start_matches("Cookie: other=1; ").split('=').next().unwrap();
        let status = |headers: &str| served.ask("GET", "/v1/status", headers, "").status;
        let begun = Instant::now();
        for n in 0..40 {
            let made = ClientAccess::new(Some(&format!("guess {n}")), None).new_session(now_ms, HOUR).unwrap();
            let headers = match is_cookie {
                true => format!("Cookie: {name}={made}\r\n"),
                false => format!("Authorization: Bearer {made}\r\n"),
            };
            assert_eq!(status(&headers), 401, "{headers}");
        }
        assert_eq!(status(&basic(PASSWORD)), 429, "the guesser waits");
        assert_eq!(status(&cookie), 401, "and is not told which session is right");
        let wrong = served.host.access().wrong_total();
        // After three of them the first wait is a quarter of a second, and each further one twice as long.
        let waits_over = u64::from((begun.elapsed().as_millis() as u64 / 250 + 1).ilog2());
        assert!((4..=5 + waits_over).contains(&wrong), "{wrong} of 40 were compared within {:?}", begun.elapsed());
    }
}

/// A name that its owner points at this machine makes a page of it "same-origin": it may send any header.
#[test]
fn a_page_under_a_rebound_name_cannot_guess() {
    for is_front in [false, true] {
        for is_health_open in [true, false] {
            let settings = Settings { health_open: is_health_open, ..Settings::default() };
            let served = serve_on(host(settings), patient(), "127.0.0.1:0", is_front);
            for path in ["/livez", "/readyz", "/metrics"] {
                for _ in 0..8 {
                    let head = format!(
                        "GET {path} HTTP/1.1\r\nHost: evil.example:6704\r\nConnection: close\r\n{}\r\n",
                        basic("a guess")
                    );
                    let answer = Answer::parse(&served.talk(&head));
                    let expected: &[u16] = if is_health_open { &[200, 307, 503] } else { &[421] };
                    assert!(expected.contains(&answer.status), "{path}: {answer:?}");
                }
            }
            assert_eq!(served.host.access().wrong_total(), 0);
        }
    }
}

#[test]
fn the_front_door_wants_the_password_but_tells_other_clusters_who_it_is() {
    let served = serve_closed(true);
    assert_eq!((served.get("/").status, served.get("/v1/status").status), (401, 401));
    assert_eq!(served.ask("GET", "/v1/status", &basic(PASSWORD), "").status, 307);
    // Nodes ask before they know whose cluster it is: they must not send a password to it.
    assert_eq!(served.get("/v1/front").status, 200);
    assert_eq!(served.get("/livez").status, 307);
}
