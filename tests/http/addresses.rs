//! By which names a server is reached, and what it tells clients of the others: HTTP/1.0 without `Host`, health checks,
//! names in the settings, proxies, and a server that listens on every address.

use crate::EXE;
use crate::fake_host::*;
use phalanx::lab::{Cluster, web};
use phalanx::settings::Settings;
use phalanx::types::NodeId;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(10);

/// Settings of a server that is also reached by these names.
fn listed(http_hosts: &[&str]) -> Settings {
    Settings { http_hosts: http_hosts.iter().map(|it| it.to_string()).collect(), ..Settings::default() }
}

fn serve_with(settings: Settings, is_front: bool) -> Served {
    serve_on(FakeHost::with(4, settings), patient(), "127.0.0.1:0", is_front)
}

/// One request with these header lines alone.
fn raw(served: &Served, line: &str, headers: &str) -> Answer {
    Answer::parse(&served.talk(format!("{line}\r\n{headers}\r\n")))
}

#[test]
fn probes_and_scrapers_need_no_name_of_ours() {
    for (is_front, expected) in [(false, 200), (true, 307)] {
        let served = serve_with(Settings::default(), is_front);
        for path in ["/livez", "/readyz", "/readyz?verbose", "/metrics"] {
            for host in ["phalanx.default.svc.cluster.local:8080", "10.1.2.3:6701", "localhost.", "[fd00::1]"] {
                let headers = format!("Host: {host}\r\nConnection: close\r\n");
                assert_eq!(raw(&served, &format!("GET {path} HTTP/1.1"), &headers).status, expected, "{host} {path}");
            }
            assert_eq!(raw(&served, &format!("GET {path} HTTP/1.0"), "").status, expected, "{path} without Host");
        }
        // HAProxy's `option httpchk` without more.
        let checked = raw(&served, "OPTIONS / HTTP/1.0", "");
        assert_eq!(checked.status, if is_front { 307 } else { 204 });
        assert_eq!(checked.header("Allow"), if is_front { None } else { Some("GET, HEAD") });
        // Other paths still need one of our names.
        let headers = "Host: evil.example\r\nConnection: close\r\n";
        for line in ["GET /v1/status HTTP/1.1", "GET / HTTP/1.1", "OPTIONS / HTTP/1.1", "GET / HTTP/1.0"] {
            assert_eq!(raw(&served, line, headers).status, 421, "{line}");
        }
        // A redirect never names a host that somebody else has chosen.
        let told = raw(&served, "GET /livez HTTP/1.1", headers);
        assert!(!told.head.contains("evil.example") && !told.body.contains("evil.example"), "{told:?}");
        assert_eq!(raw(&served, "GET /livez HTTP/1.1", "").status, 400, "HTTP/1.1 has a Host");
    }
}

#[test]
fn keep_alive_of_http_1_0_is_announced_or_the_connection_closed() {
    for is_front in [false, true] {
        let served = serve_with(Settings::default(), is_front);
        for path in ["/livez", "/v1/status", "/metrics", "/nothing"] {
            let mut stream = served.connect();
            for _ in 0..3 {
                write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
                let answer = read_answer(&mut stream);
                assert_eq!(answer.header("Connection"), Some("keep-alive"), "{path}");
            }
            // HTTP/1.1 is not told what it knows.
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            assert_eq!(read_answer(&mut stream).header("Connection"), None, "{path}");
            let text = served.talk(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"));
            assert_eq!(Answer::parse(&text).header("Connection"), Some("close"), "{path}");
        }
    }
}

#[test]
fn a_stream_to_http_1_0_is_not_chunked_and_ends_with_the_connection() {
    let served = serve_with(Settings::default(), false);
    for path in ["/", "/v1/stream", "/v1/hold"] {
        let mut stream = served.connect();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let mut text = String::new();
        while !text.contains("\r\n\r\n") {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "{path}");
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        let answer = Answer::parse(&text);
        assert_eq!((answer.header("Transfer-Encoding"), answer.header("Connection")), (None, Some("close")), "{path}");
        assert_eq!(answer.header("X-Accel-Buffering"), Some("no"), "nginx passes on what comes: {path}");
    }
}

#[test]
fn ab_keeps_its_connections() {
    let Some(ab) = program("ab") else { return eprintln!("skipped: no ab; ./test.sh installs it") };
    let served = serve_with(Settings::default(), false);
    let url = format!("http://{}/livez", served.address);
    let output = std::process::Command::new(ab).args(["-k", "-n", "500", "-c", "4", "-s", "5", &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_string();
    assert!(line("Complete requests").ends_with(" 500"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(line("Keep-Alive requests").ends_with(" 500") && line("Failed requests").ends_with(" 0"), "{text}");
}

#[test]
fn names_in_the_settings_are_served_and_no_others() {
    let served = serve_with(listed(&["phalanx.example", "https://shop.example:8443"]), false);
    for (host, status) in [
        ("phalanx.example", 200),
        ("PHALANX.example:6701", 200),
        ("shop.example", 200),
        ("evil.example", 421),
        ("phalanx.example.evil.example", 421),
    ] {
        let headers = format!("Host: {host}\r\nConnection: close\r\n");
        assert_eq!(raw(&served, "GET /v1/status HTTP/1.1", &headers).status, status, "{host}");
    }
    // What a page can send itself makes no name ours.
    let forwarded = "Host: evil.example\r\nX-Forwarded-Host: phalanx.example\r\nForwarded: host=phalanx.example\r\n";
    assert_eq!(raw(&served, "GET /v1/status HTTP/1.1", &format!("{forwarded}Connection: close\r\n")).status, 421);
}

/// nginx sends its upstream's name as `Host`, HAProxy the client's; the page's origin is the proxy's in both cases.
#[test]
fn pages_of_a_listed_origin_are_our_own() {
    let served = serve_with(listed(&["http://phalanx.example:8000", "https://shop.example"]), false);
    let post = |host: &str, origin: &str, site: &str| {
        let headers = format!(
            "Host: {host}\r\nOrigin: {origin}\r\n{site}Content-Type: application/json\r\nContent-Length: 8\r\n\
             Connection: close\r\n"
        );
        let text = served.talk(format!("POST /v1/leader/transfer HTTP/1.1\r\n{headers}\r\n{{\"to\":2}}"));
        Answer::parse(&text).status
    };
    let same = "Sec-Fetch-Site: same-origin\r\n";
    for (host, origin, site, status) in [
        ("127.0.0.1:6701", "http://phalanx.example:8000", same, 200),
        ("phalanx.example:8000", "http://phalanx.example:8000", "", 200),
        ("shop.example", "https://shop.example", same, 200),
        ("127.0.0.1:6701", "https://shop.example", same, 200),
        // Another port, another scheme, another site.
        ("127.0.0.1:6701", "http://phalanx.example", same, 403),
        ("127.0.0.1:6701", "https://phalanx.example:8000", same, 403),
        ("127.0.0.1:6701", "http://shop.example", same, 403),
        ("127.0.0.1:6701", "http://evil.example", same, 403),
        ("127.0.0.1:6701", "http://phalanx.example:8000", "Sec-Fetch-Site: cross-site\r\n", 403),
    ] {
        assert_eq!(post(host, origin, site), status, "{host} {origin} {site}");
    }
    // A browser that sends neither header, over plain HTTP beyond loopback.
    let get = |referer: &str| {
        let headers =
            format!("Host: 127.0.0.1:6701\r\nUser-Agent: Mozilla/5.0\r\nReferer: {referer}\r\nConnection: close\r\n");
        raw(&served, "GET /v1/members HTTP/1.1", &headers).status
    };
    assert_eq!(
        (get("http://phalanx.example:8000/x"), get("http://evil.example/"), get("http://phalanx.example/")),
        (200, 403, 403)
    );
    // After a fail-over the page reads from a node's own address.
    let origin = "Origin: https://shop.example\r\nSec-Fetch-Site: cross-site\r\n";
    let answer = served.ask("GET", "/v1/status", origin, "");
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("https://shop.example"));
}

fn host_of(settings: Settings, workers: &str) -> Arc<FakeHost> {
    let host = FakeHost::with(4, settings);
    *host.worker.lock().unwrap() = Some((NodeId(2), workers.to_string()));
    host
}

/// Where the front door sends a client that came by this `Host`, without one by HTTP/1.0.
fn location(settings: Settings, worker: &str, host: Option<&str>) -> String {
    let served = serve_on(host_of(settings, worker), patient(), "127.0.0.1:0", true);
    let answer = match host {
        Some(host) => raw(&served, "GET /x HTTP/1.1", &format!("Host: {host}\r\nConnection: close\r\n")),
        None => raw(&served, "GET /x HTTP/1.0", ""),
    };
    answer.header("Location").unwrap_or_else(|| panic!("no redirect: {answer:?}")).to_string()
}

#[test]
fn a_redirect_names_an_address_that_the_client_can_reach() {
    let any = || Settings { host: "0.0.0.0".into(), ..Settings::default() };
    let told = |host: &str| Settings { advertise_host: Some(host.into()), ..any() };
    let loopback = "127.0.0.1:6702";
    for (settings, worker, host, expected) in [
        // Nodes on every address are told as loopback; clients from elsewhere get the address at which they came.
        (any(), loopback, Some("10.9.9.1:8080"), "http://10.9.9.1:6702/x"),
        (any(), loopback, Some("[fd00::1]:8080"), "http://[fd00::1]:6702/x"),
        (any(), loopback, Some("localhost:8080"), "http://127.0.0.1:6702/x"),
        (any(), loopback, None, "http://127.0.0.1:6702/x"),
        (any(), "10.0.0.2:6702", Some("10.9.9.1:8080"), "http://10.0.0.2:6702/x"),
        (told("node1.example"), "node1.example:6702", Some("10.9.9.1:8080"), "http://node1.example:6702/x"),
        (told("fd00::1"), "[fd00::1]:6702", Some("node1"), ""),
        (Settings::default(), loopback, Some("localhost:8080"), "http://127.0.0.1:6702/x"),
        // What listens on loopback alone is not reached at another name.
        (listed(&["phalanx.example"]), loopback, Some("phalanx.example"), "http://127.0.0.1:6702/x"),
        (Settings { host: "::1".into(), ..Settings::default() }, "[::1]:6702", Some("[::1]"), "http://[::1]:6702/x"),
    ] {
        if expected.is_empty() {
            let served = serve_on(host_of(settings, worker), patient(), "127.0.0.1:0", true);
            let headers = format!("Host: {}\r\nConnection: close\r\n", host.unwrap());
            assert_eq!(raw(&served, "GET /x HTTP/1.1", &headers).status, 421);
            continue;
        }
        assert_eq!(location(settings, worker, host), expected, "{host:?}");
    }
}

#[test]
fn pages_and_lists_of_a_server_on_every_address_fit_the_client() {
    let served = serve_with(Settings { host: "0.0.0.0".into(), ..Settings::default() }, false);
    let ask = |path: &str, host: &str| {
        raw(&served, &format!("GET {path} HTTP/1.1"), &format!("Host: {host}\r\nConnection: close\r\n"))
    };
    let far = ask("/v1/status", "10.9.9.1:6704").json();
    assert_eq!((&far["nodes"][0]["http"], &far["nodes"][0]["kv"]), (&"10.9.9.1:6701".into(), &"10.9.9.1:7701".into()));
    assert_eq!(ask("/v1/status", "localhost").json()["nodes"][0]["http"], "127.0.0.1:6701");
    assert_eq!(ask("/nodes", "10.9.9.1:6704").json()["1"]["api_addr"], "http://10.9.9.1:6701");
    let policy = ask("/chat", "10.9.9.1:6704").header("Content-Security-Policy").unwrap().to_string();
    assert!(policy.contains("http://10.9.9.1:*"), "its page may ask the other nodes there: {policy}");
    // A page of another node that was reached at the same address is one of the cluster's.
    let origin = |origin: &str, host: &str| {
        let headers = format!("Host: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n");
        let answer = raw(&served, "GET /v1/status HTTP/1.1", &headers);
        answer.header("Access-Control-Allow-Origin").map(str::to_string)
    };
    assert_eq!(origin("http://10.9.9.1:6702", "10.9.9.1:6704").as_deref(), Some("http://10.9.9.1:6702"));
    assert_eq!(origin("http://10.9.9.1:9", "10.9.9.1:6704"), None);
    assert_eq!(origin("http://10.9.9.2:6702", "10.9.9.1:6704"), None);
}

/// An address of this machine that is not loopback, if it has a network.
pub fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: this only chooses a route.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn a_cluster_on_every_address_gives_each_client_one_that_fits() {
    let Some(ip) = own_address() else { return eprintln!("skipped: this machine has no address but loopback") };
    const PASSWORD: &str = "open-sesame";
    let settings = json!({"host": "0.0.0.0", "cluster_secret": "abracadabra-abracadabra", "client_password": PASSWORD});
    let cluster = Cluster::ready(EXE, 2, &settings).unwrap();
    let here = |address: String| address.replace("127.0.0.1", &ip.to_string());
    let get = |address: &str, path: &str| web::ask_with(Some(PASSWORD), address, "GET", path, None, WITHIN).unwrap();
    let same = |address: String| address;
    let ways: [&dyn Fn(String) -> String; 2] = [&same, &here];
    for seen in ways {
        let nodes: Vec<String> = (1..=2).map(|id| seen(cluster.http(id))).collect();
        let redirect = get(&seen(cluster.front()), "/v1/status");
        let to = redirect.header("location").unwrap().to_string();
        let to = to.strip_prefix("http://").unwrap().strip_suffix("/v1/status").unwrap().to_string();
        assert!(nodes.contains(&to), "{to} is none of {nodes:?}");
        let status = get(&to, "/v1/status").json();
        assert_eq!(status["nodes"][0]["http"], nodes[0].as_str());
        let leader = status["cluster"]["leader"].as_u64().unwrap();
        let mut redis = TcpStream::connect(seen(cluster.kv(1))).unwrap();
        redis.write_all(format!("AUTH {PASSWORD}\r\nLEADER\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut said = String::new();
        redis.read_to_string(&mut said).unwrap();
        assert!(said.contains(&seen(cluster.kv(leader))), "{said}");
    }
    cluster
        .wait_explained("config.json has both nodes, on loopback", WITHIN, || {
            let config = std::fs::read_to_string(cluster.config_path()).unwrap();
            if config.matches("\"ip\": \"127.0.0.1\"").count() == 2 { Ok(()) } else { Err(config) }
        })
        .unwrap();
}
