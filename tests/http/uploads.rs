//! Large bodies: a response that comes before the body is there is seen by the client, and what makes progress is not
//! cut.

use crate::fake_host::*;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// What a node refuses before it has read the body, and what the front door redirects: path, header, status.
const REFUSED: [(&str, &str, u16); 5] = [
    ("/v1/kv/big", "X: y", 413),
    ("/nothing", "X: y", 404),
    ("/v1/status", "X: y", 405),
    ("/v1/kv/x", "Origin: http://evil.example", 403),
    ("/v1/kv/x", "Host: evil.example", 421),
];

/// Uploads 20 MB twenty times and prints the statuses.
const HTTP_CLIENT: &str = r"
import collections, http.client, sys
address, path, (name, value) = sys.argv[1], sys.argv[2], sys.argv[3].split(': ', 1)
seen = collections.Counter()
for _ in range(20):
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request('PUT', path, body=b'x' * 20_000_000, headers={name: value})
        seen[connection.getresponse().status] += 1
    except OSError as error:
        seen[type(error).__name__] += 1
    connection.close()
print(dict(seen))
";

const REQUESTS: &str = r"
import collections, requests, sys
address, path, (name, value) = sys.argv[1], sys.argv[2], sys.argv[3].split(': ', 1)
seen, session = collections.Counter(), requests.Session()
for _ in range(20):
    try:
        answer = session.put(f'http://{address}{path}', data=b'x' * 20_000_000, headers={name: value}, timeout=20,
                             allow_redirects=False)
        seen[answer.status_code] += 1
    except requests.RequestException as error:
        seen[type(error).__name__] += 1
print(dict(seen))
";

/// curl, with and without `Expect: 100-continue`.
const CURL: &str = r#"
head -c 20000000 /dev/zero >"$0/body"
for i in $(seq 20); do
  expect='Expect:'; [ $((i % 4)) = 0 ] && expect='Expect: 100-continue'
  curl -s -o "$0/out" -w '%{http_code} %{exitcode}\n' -H "$expect" -H "$3" -T "$0/body" "http://$1$2"
done | sort | uniq -c
"#;

#[test]
fn a_refusal_or_a_redirect_during_an_upload_is_seen() {
    let (node, front) = (serve(patient()), serve_front(patient()));
    let python = python_with("requests");
    if python.is_none() {
        eprintln!("skipped: no python3-requests; ./test.sh installs it");
    }
    let redirect = [("/v1/kv/x", "X: y", 307), ("/v1/kv/x", "Origin: http://evil.example", 403)];
    let cases = REFUSED.map(|case| (&node, case)).into_iter().chain(redirect.map(|case| (&front, case)));
    let folder = tempfile::tempdir().unwrap();
    for (served, (path, header, status)) in cases {
        let address = served.address.to_string();
        let run = |program: &str, first: &[&str]| {
            let output = Command::new(program).args(first).args([&address, path, header]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().to_string() + &String::from_utf8_lossy(&output.stderr)
        };
        let expected = format!("{{{status}: 20}}");
        assert_eq!(run("python3", &["-c", HTTP_CLIENT]), expected, "http.client: {path} {header}");
        if let Some(python) = python {
            assert_eq!(run(python, &["-c", REQUESTS]), expected, "requests: {path} {header}");
        }
        let curl = run("bash", &["-c", CURL, folder.path().to_str().unwrap()]);
        assert_eq!(curl, format!("20 {status} 0"), "curl: {path} {header}");
    }
    // Nobody is kept waiting for a client that is done.
    wait_until("the connections have ended", || node.host.connections.load(SeqCst) == 0);
    wait_until("the connections have ended", || front.host.connections.load(SeqCst) == 0);
}

#[test]
fn a_client_that_sends_on_and_on_is_given_up() {
    let served = serve(quick());
    let mut stream = served.connect();
    write!(stream, "PUT /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000000\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 404);
    let begun = Instant::now();
    while stream.write_all(&[b'x'; 1000]).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is still read from");
        phalanx::lab::poll::pause(Duration::from_millis(5));
    }
    // One that falls silent, too.
    let mut silent = served.connect();
    write!(silent, "PUT /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n").unwrap();
    wait_until("no thread is left", || served.host.connections.load(SeqCst) == 0);
    assert_eq!(read_answer(&mut silent).status, 404);
}

#[test]
fn a_stopping_node_does_not_wait_for_an_upload() {
    let served = serve(patient());
    let mut stream = served.connect();
    write!(stream, "PUT /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000000\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 404);
    served.host.stop();
    let begun = Instant::now();
    wait_until("no thread is left", || served.host.connections.load(SeqCst) == 0);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// With windows of 400 ms, a body must move 3 KiB in each: 1 KiB each 40 ms is enough, for far longer than a window.
#[test]
fn a_body_that_makes_progress_is_read_to_its_end() {
    let served = serve(quick());
    *served.host.reply.lock().unwrap() = sum_reply(7, 77);
    let mut stream = served.connect();
    let body = format!("{{\"incr\":1{}}}", " ".repeat(50 << 10));
    let begun = Instant::now();
    write!(stream, "POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    for piece in body.as_bytes().chunks(1 << 10) {
        stream.write_all(piece).unwrap();
        phalanx::lab::poll::pause(Duration::from_millis(40));
    }
    assert!(begun.elapsed() > Duration::from_millis(1500), "longer than three windows");
    assert_eq!(read_answer(&mut stream).status, 200);
}

/// The same for a response: the client takes a few hundred KB a second for longer than two windows, far more than the
/// least. What the sockets hold is sent at once; the rest of some megabytes at the client's pace.
#[test]
fn a_response_that_makes_progress_is_sent_to_its_end() {
    const SLOW: Duration = Duration::from_secs(4);
    let served = serve(phalanx::http::Deadlines { write: Duration::from_millis(1500), ..patient() });
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&served.address.into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    let mut frame = canned_frame(4, 5, 0);
    frame.events[0].text = "x".repeat(6 << 20);
    served.host.publish(frame);
    write!(stream, "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let (begun, mut read, mut bytes) = (Instant::now(), 0, [0; 4096]);
    while read < 6 << 20 {
        let got = stream.read(&mut bytes).unwrap();
        assert_ne!(got, 0, "cut off after {read} bytes and {:?}", begun.elapsed());
        read += got;
        if begun.elapsed() < SLOW {
            phalanx::lab::poll::pause(Duration::from_millis(8));
        }
    }
    assert!(begun.elapsed() >= SLOW, "it was not slow: {:?}", begun.elapsed());
}

#[test]
fn a_connection_is_kept_for_the_time_in_the_settings() {
    let settings = phalanx::settings::Settings { http_keep_alive_ms: 1000, ..Default::default() };
    let deadlines = phalanx::http::Deadlines::of(&settings);
    assert_eq!(deadlines.idle, Duration::from_secs(1));
    let default = phalanx::http::Deadlines::of(&Default::default());
    assert!(default.idle > Duration::from_secs(60), "longer than proxies keep theirs: {:?}", default.idle);
    let served = serve(deadlines);
    let mut stream = served.connect();
    write!(stream, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
    let begun = Instant::now();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed");
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
}
