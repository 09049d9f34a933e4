//! nginx and HAProxy with the settings that their manuals begin with, in front of a node and of the front door: every
//! page and stream, the chat, a job's output, uploads and redirects come through.
//!
//! nginx speaks HTTP/1.0 to a node and sends the node's address as `Host`; HAProxy passes on what the client sent, and
//! checks a node's health by HTTP/1.0 without `Host`.

use crate::EXE;
use crate::fake_host::{Answer, program};
use phalanx::lab::ports::Block;
use phalanx::lab::process::Process;
use phalanx::lab::{Cluster, wait_until};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(10);
/// The name under which a browser knows the proxies.
const NAME: &str = "phalanx.example";

const NGINX: &str = "
daemon off;
master_process off;
pid FOLDER/nginx.pid;
error_log stderr;
USER
events {}
http {
  access_log off;
  client_body_temp_path FOLDER/body;
  proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi;
  uwsgi_temp_path FOLDER/uwsgi;
  scgi_temp_path FOLDER/scgi;
  server { listen 127.0.0.1:PORT1; location / { proxy_pass http://NODE; } }
  server { listen 127.0.0.1:PORT2; location / { proxy_pass http://FRONT; } }
}
";

const HAPROXY: &str = "
defaults
  mode http
  timeout connect 5s
  timeout client 50s
  timeout server 50s
  timeout check 5s
  option httpchk
frontend node
  bind 127.0.0.1:PORT1
  default_backend node
backend node
  server node NODE check inter 100 fall 1
frontend front
  bind 127.0.0.1:PORT2
  default_backend front
backend front
  server front FRONT check inter 100 fall 1
frontend ready
  bind 127.0.0.1:PORT3
  default_backend ready
backend ready
  option httpchk GET /readyz
  server ready NODE check inter 100 fall 1
";

/// A cluster, and one proxy before node 1 and before the front door.
struct Proxied {
    cluster: Cluster,
    ports: Block,
    _proxy: Process,
}

impl Proxied {
    /// `None`, with a line, where the proxy is missing.
    fn start(name: &str, arguments: &[&str], template: &str) -> Option<Proxied> {
        let Some(program) = program(name) else {
            eprintln!("skipped: no {name}; ./test.sh installs it");
            return None;
        };
        let ports = Block::take().unwrap();
        let origins: Vec<String> = (1..=3).map(|at| format!("{NAME}:{}", ports.http_base() + at)).collect();
        let more = json!({"http_hosts": origins, "jobs_enabled": true, "jobs_sandbox": "limits"});
        let cluster = Cluster::ready(EXE, 3, &more).unwrap();
        let folder = cluster.dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        // nginx drops the rights of root, and stores bodies there.
        for open in [cluster.dir(), &folder] {
            std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let is_root = rustix::process::geteuid().is_root();
        let mut text = template
            .replace("FOLDER", &folder.display().to_string())
            .replace("USER", if is_root { "user root;" } else { "" })
            .replace("NODE", &cluster.http(1))
            .replace("FRONT", &cluster.front());
        for at in 1..=3 {
            text = text.replace(&format!("PORT{at}"), &(ports.http_base() + at).to_string());
        }
        let file = folder.join("proxy.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).arg(&file).stdin(Stdio::null());
        let proxy = Process::start(&mut command, &folder.join("log")).unwrap();
        let proxied = Proxied { cluster, ports, _proxy: proxy };
        let is_up = || TcpStream::connect(("127.0.0.1", proxied.port(2))).ok();
        wait_until("the proxy listens", WITHIN, is_up).unwrap_or_else(|e| panic!("{e}: {}", log(&folder)));
        Some(proxied)
    }

    fn port(&self, at: u16) -> u16 {
        self.ports.http_base() + at
    }

    /// Sends a request of a page that came through the proxy.
    fn open(&self, at: u16, line: &str, more: &str, body: &[u8]) -> TcpStream {
        let host = format!("{NAME}:{}", self.port(at));
        let is_get = line.starts_with("GET");
        let origin = if is_get { String::new() } else { format!("Origin: http://{host}\r\n") };
        let length = if is_get { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port(at))).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Mozilla/5.0\r\nReferer: http://{host}/\r\n{origin}{more}{length}\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        stream
    }

    /// One whole answer.
    fn ask(&self, at: u16, line: &str, more: &str, body: &[u8]) -> Answer {
        let mut stream = self.open(at, line, &format!("{more}Connection: close\r\n"), body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::parse(&String::from_utf8_lossy(&bytes))
    }

    fn post(&self, path: &str, token: &str, body: &Value) -> Value {
        let more = format!("Content-Type: application/json\r\n{token}");
        let answer = self.ask(1, &format!("POST {path}"), &more, body.to_string().as_bytes());
        assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        json_in(&answer)
    }

    fn goes_through_everything(&self) {
        // The page, and each frame as it is made.
        let mut page = self.open(1, "GET /", "Accept: text/html\r\nUpgrade-Insecure-Requests: 1\r\n", b"");
        let begun = Instant::now();
        see(&mut page, |text| text.matches(">update({").count() >= 3);
        assert!(begun.elapsed() < Duration::from_secs(8), "frames came late: {:?}", begun.elapsed());
        see(&mut self.open(1, "GET /v1/stream", "", b""), |text| text.matches("\"cluster\":").count() >= 2);
        see(&mut self.open(1, "GET /v1/hold", "", b""), |text| text.contains("\r\n\r\n"));
        for path in ["/static/app.js", "/openapi.json", "/v1/status", "/metrics", "/livez", "/chat"] {
            let answer = self.ask(1, &format!("GET {path}"), "", b"");
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
        // The chat: an account, its stream, and a message that arrives there.
        let account = self.post("/v1/chat/accounts", "", &json!({"name": "alice", "password": "correct horse"}));
        let token = format!("Authorization: Bearer {}\r\n", account["token"].as_str().unwrap());
        self.post("/v1/chat/rooms", &token, &json!({"name": "harbour"}));
        let mut stream = self.open(1, "GET /v1/chat/stream?after=0", &token, b"");
        see(&mut stream, |text| text.contains("\"beat\""));
        self.post("/v1/chat/messages", &token, &json!({"room": "harbour", "client_id": "m-1", "text": "ahoy"}));
        see(&mut stream, |text| text.contains("ahoy"));
        // A job, and its output while it runs.
        let source = "echo first; sleep 1; echo last";
        let job = wait_until("a worker takes the job", WITHIN, || {
            let body = json!({"language": "shell", "source": source}).to_string();
            let answer = self.ask(1, "POST /v1/jobs", "Content-Type: application/json\r\n", body.as_bytes());
            (answer.status == 202).then(|| json_in(&answer)["id"].clone())
        });
        let mut output = self.open(1, &format!("GET /v1/jobs/{}/output?follow", job.unwrap()), "", b"");
        let text = see(&mut output, |text| text.contains("first"));
        assert!(!text.contains("last"), "output comes as it is made: {text}");
        see(&mut output, |text| text.contains("last"));
        // Uploads: what is taken, what is refused, and what is redirected.
        let body = vec![b'x'; 900_000];
        let written = self.ask(1, "PUT /v1/kv/big", "", &body);
        assert_eq!(written.status, 200, "{written:?}");
        assert_eq!(self.ask(1, "GET /v1/kv/big", "", b"").body.matches('x').count(), body.len());
        assert_eq!(self.ask(1, "PUT /nothing", "", &body).status, 404);
        assert_eq!(self.ask(1, "PUT /v1/kv/big", "", &vec![b'x'; 9_000_000]).status, 413);
        for (line, body) in [("GET /v1/status?x=1", &[][..]), ("PUT /v1/kv/big", &body)] {
            let path = line.split(' ').nth(1).unwrap();
            let answer = self.ask(2, line, "", body);
            assert_eq!(answer.status, 307, "{answer:?}");
            let to = answer.header("Location").unwrap().to_string();
            let nodes: Vec<String> = (1..=3).map(|id| format!("http://{}{path}", self.cluster.http(id))).collect();
            assert!(nodes.contains(&to), "{to} is no node");
        }
        // A page of another site is one through a proxy, too.
        let evil = "Origin: http://evil.example\r\nContent-Type: application/json\r\n";
        let mut stream = TcpStream::connect(("127.0.0.1", self.port(1))).unwrap();
        write!(
            stream,
            "POST /v1/jobs HTTP/1.1\r\nHost: {NAME}:{}\r\n{evil}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}",
            self.port(1)
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(Answer::parse(&text).status, 403);
    }
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// Reads a stream until it shows something.
fn see(stream: &mut TcpStream, is_there: impl Fn(&str) -> bool) -> String {
    let (mut all, mut bytes) = (String::new(), [0; 16 << 10]);
    while !is_there(&all) {
        let read = stream.read(&mut bytes).unwrap_or_else(|e| panic!("{e} after {all}"));
        assert_ne!(read, 0, "ended after {all}");
        all.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    all
}

fn json_in(answer: &Answer) -> Value {
    let from = answer.body.find('{').unwrap_or_else(|| panic!("no JSON: {answer:?}"));
    let to = answer.body.rfind('}').unwrap();
    serde_json::from_str(&answer.body[from..=to]).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
}

#[test]
fn nginx_with_its_defaults_passes_everything_on() {
    let Some(proxied) = Proxied::start("nginx", &["-e", "stderr", "-c"], NGINX) else { return };
    proxied.goes_through_everything();
}

#[test]
fn haproxy_with_its_defaults_passes_everything_on() {
    let Some(proxied) = Proxied::start("haproxy", &["-f"], HAPROXY) else { return };
    proxied.goes_through_everything();
    // By now every server was checked many times: one whose check had failed would be answered with 503.
    assert_eq!(proxied.ask(3, "GET /v1/status", "", b"").status, 200);
    let said = log(&proxied.cluster.dir().join("haproxy"));
    assert!(!said.contains("is DOWN"), "{said}");
}
