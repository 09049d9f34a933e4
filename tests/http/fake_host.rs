//! A host without a node: frames, sessions and outcomes as a test wants them, behind the real door on a real socket.

use phalanx::http::{self, Deadlines, Server};
use phalanx::node::views::chat_feed::{ChatFeed, ChatReader};
use phalanx::node::views::sessions::Sessions;
use phalanx::node::views::status::*;
use phalanx::node::{
    Addressing, Admission, Backup, BackupForm, ClientAccess, ConnectionSlot, Connections, Listener, MemoryBudget,
    Metric, NodeRuntimes, Operation, Output, Published, Redirect, Reports, Requests, Reservation, SentFile,
    SessionGuard, Sql, SqlFiles, SqlRead, Watching, gauge,
};
use phalanx::outcome::{Outcome, Reason};
use phalanx::raft::{Change, Role};
use phalanx::services::jobs::{Job, JobId};
use phalanx::services::kv::{BatchReply, Value};
use phalanx::services::sessions::Tag;
use phalanx::services::{Reply, sql};
use phalanx::settings::Settings;
use phalanx::types::{Identity, Index, NodeId, ProcessLimit, Term};
use phalanx::wire::authentication::Key;
use phalanx::wire::heartbeat::JobReport;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Connections beyond `connections_max`.
pub const RESERVED: usize = 2;

/// The host.
pub struct FakeHost {
    pub me: u64,
    published: Mutex<Arc<Published>>,
    changed: Condvar,
    pub settings: Settings,
    access: ClientAccess,
    pub sessions: Arc<Sessions>,
    pub worker: Mutex<Option<(NodeId, String)>>,
    /// No node can serve: `worker` is the node that was asked.
    pub cannot_serve: AtomicBool,
    /// How often a node was asked for.
    pub dispatched: AtomicUsize,
    /// How long that takes.
    pub dispatch_ms: AtomicU64,
    /// How many ask for one at present, and at most.
    dispatching: AtomicUsize,
    pub dispatching_most: AtomicUsize,
    pub addresses: Mutex<Vec<(NodeId, String)>>,
    pub stopping: AtomicBool,
    pub connections: Arc<AtomicUsize>,
    pub connections_max: AtomicUsize,
    /// Threads of connections that were started.
    pub threads_started: AtomicUsize,
    pub memory: Arc<MemoryBudget>,
    pub changes: Mutex<Vec<Change>>,
    pub transfers: Mutex<Vec<Option<NodeId>>>,
    pub refusal: Mutex<Option<Outcome<()>>>,
    /// Commands that went through the log, and what the service answers.
    pub commands: Mutex<Vec<(Option<Tag>, Vec<u8>)>>,
    pub reply: Mutex<Vec<u8>>,
    /// What was asked of the database, and what it answers.
    pub sql_commands: Mutex<Vec<(Option<Tag>, sql::Command)>>,
    pub sql_reads: Mutex<Vec<SqlRead>>,
    pub sql_answer: Mutex<sql::Answer>,
    /// Every job.
    pub job: Mutex<Option<Job>>,
}

/// Counts a connection until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl FakeHost {
    pub fn new(me: u64) -> Arc<FakeHost> {
        FakeHost::with(me, Settings { jobs_keep_ms: 1000, ..Settings::default() })
    }

    pub fn with(me: u64, settings: Settings) -> Arc<FakeHost> {
        let frame = canned_frame(me, 5, 0);
        Arc::new(FakeHost {
            me,
            addresses: Mutex::new(frame.status.nodes.iter().map(|row| (row.id, row.http.clone())).collect()),
            published: Mutex::new(publish(frame)),
            changed: Condvar::new(),
            access: ClientAccess::new(
                settings.client_password.as_deref(),
                settings.cluster_secret.as_deref().map(Key::of).as_ref(),
            ),
            settings,
            sessions: Arc::default(),
            worker: Mutex::new(Some((NodeId(2), "127.0.0.1:6702".to_owned()))),
            cannot_serve: AtomicBool::new(false),
            dispatched: AtomicUsize::new(0),
            dispatch_ms: AtomicU64::new(0),
            dispatching: AtomicUsize::new(0),
            dispatching_most: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            connections: Arc::default(),
            connections_max: AtomicUsize::new(12_000),
            threads_started: AtomicUsize::new(0),
            memory: MemoryBudget::new(16 << 20),
            changes: Mutex::default(),
            transfers: Mutex::default(),
            refusal: Mutex::new(None),
            commands: Mutex::default(),
            reply: Mutex::default(),
            sql_commands: Mutex::default(),
            sql_reads: Mutex::default(),
            sql_answer: Mutex::new(sql::Answer::Results(Vec::new())),
            job: Mutex::default(),
        })
    }

    /// Publishes a frame with the next sequence number and the sessions that stand.
    pub fn publish(&self, mut frame: MonitorFrame) {
        let mut published = self.published.lock().unwrap();
        frame.seq = published.seq + 1;
        *published = publish(frame);
        self.changed.notify_all();
    }

    pub fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.changed.notify_all();
    }

    fn outcome<T>(&self, done: T) -> Outcome<T> {
        self.refusal.lock().unwrap().clone().unwrap_or(Outcome::Done(())).map(|()| done)
    }
}

fn publish(frame: MonitorFrame) -> Arc<Published> {
    let json = serde_json::to_string(&frame).unwrap().replace('<', "\\u003c");
    Arc::new(Published { seq: frame.seq, json: json.into(), frame: Arc::new(frame) })
}

/// What the key-value store answers when a number was added: the sum, and the index that the key has then.
pub fn sum_reply(sum: i64, index: i64) -> Vec<u8> {
    BatchReply::Values(vec![Value::Int(sum), Value::List(vec![Value::Int(index)])]).encode()
}

impl Addressing for FakeHost {
    fn settings(&self) -> &Settings {
        &self.settings
    }
    fn identity(&self) -> Identity {
        Identity { id: NodeId(self.me), uuid: Uuid::nil() }
    }
    fn http_addresses(&self) -> Vec<(NodeId, String)> {
        self.addresses.lock().unwrap().clone()
    }
    fn dispatch(&self) -> Option<Redirect> {
        self.dispatched.fetch_add(1, SeqCst);
        self.dispatching_most.fetch_max(self.dispatching.fetch_add(1, SeqCst) + 1, SeqCst);
        match self.dispatch_ms.load(SeqCst) {
            0 => {}
            ms => phalanx::lab::poll::pause(Duration::from_millis(ms)),
        }
        self.dispatching.fetch_sub(1, SeqCst);
        let worker = self.worker.lock().unwrap().clone();
        worker.map(|(node, http)| Redirect { node, http, can_serve: !self.cannot_serve.load(SeqCst) })
    }
}

impl Connections for FakeHost {
    fn access(&self) -> &ClientAccess {
        &self.access
    }
    fn open_session(&self, kind: &'static str, peer: SocketAddr) -> SessionGuard {
        SessionGuard::open(Arc::clone(&self.sessions), kind, peer)
    }
    fn memory(&self) -> &Arc<MemoryBudget> {
        &self.memory
    }
    fn admit(&self, client: Option<(IpAddr, Arc<TcpStream>)>) -> Result<Admission, String> {
        let (before, max) = (self.connections.fetch_add(1, SeqCst), self.connections_max.load(SeqCst));
        let counted = Counted(self.connections.clone());
        let slot = if before < max { ConnectionSlot::Ordinary } else { ConnectionSlot::Reserved };
        match before < max + if client.is_some() { RESERVED } else { 0 } {
            true => Ok(Admission::new(slot, counted)),
            false => Err("too many connections".to_owned()),
        }
    }
    fn run_connection(&self, name: &'static str, run: Box<dyn FnOnce() + Send>) -> Result<(), String> {
        self.threads_started.fetch_add(1, SeqCst);
        let thread = std::thread::Builder::new().name(name.into());
        let thread = thread.stack_size(phalanx::limits::CONNECTION_STACK_BYTES).spawn(run);
        thread.map(|_| ()).map_err(|error| error.to_string())
    }
    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }
}

impl Requests for FakeHost {
    fn ask(&self, operation: Operation, _: Instant) -> Outcome<(Index, Reply)> {
        match operation {
            Operation::Query { .. } => self.outcome((Index(77), Reply::Ok(self.reply.lock().unwrap().clone()))),
            Operation::Command { tag, command, .. } => {
                self.commands.lock().unwrap().push((tag, command));
                self.outcome((Index(77), Reply::Ok(self.reply.lock().unwrap().clone())))
            }
            Operation::Change(change) => {
                self.changes.lock().unwrap().push(change);
                self.outcome((Index(78), Reply::Ok(Vec::new())))
            }
            Operation::Transfer(to) => {
                self.transfers.lock().unwrap().push(to);
                self.outcome((Index(0), Reply::Ok(to.unwrap_or(NodeId(5)).0.to_le_bytes().to_vec())))
            }
        }
    }
    fn checkpoint(&self, _: Instant) -> Outcome<Index> {
        self.outcome(Index(79))
    }
}

impl Watching for FakeHost {
    fn wait_key(&self, _: &[u8], _: u64, _: Instant) -> bool {
        false
    }
    fn job(&self, _: JobId) -> Option<Job> {
        self.job.lock().unwrap().clone()
    }
    fn await_job(&self, _: JobId, _: Index, _: Instant) -> Outcome<(Index, Reply)> {
        self.outcome((Index(77), Reply::Ok(self.reply.lock().unwrap().clone())))
    }
    fn live_output(&self, _: JobId, _: u32) -> Option<Arc<Output>> {
        None
    }
    fn follow_chat(&self) -> ChatReader {
        Arc::new(ChatFeed::new(crossbeam_channel::bounded(1).0)).follow()
    }
    fn state_epoch(&self) -> Option<u64> {
        Some(0)
    }
}

impl Reports for FakeHost {
    fn frame(&self) -> Arc<Published> {
        self.published.lock().unwrap().clone()
    }
    fn fresh_frame(&self) -> Published {
        (*self.frame()).clone()
    }
    fn wait_frame(&self, after: u64, deadline: Instant) -> Option<Arc<Published>> {
        let mut published = self.published.lock().unwrap();
        while published.seq <= after {
            let left = deadline.checked_duration_since(Instant::now())?;
            if self.is_stopping() {
                return None;
            }
            published = self.changed.wait_timeout(published, left).unwrap().0;
        }
        Some(published.clone())
    }
    fn events_since(&self, after: EventPosition) -> EventPage {
        let all = self.frame().frame.events.clone();
        let events = all.into_iter().filter(|event| event.seq > after.seq).collect();
        EventPage { incarnation: Some(uuid::Uuid::nil()), events }
    }
    fn wait_events(&self, after: EventPosition, _: Instant) -> EventPage {
        self.events_since(after)
    }
    fn gossip_json(&self) -> serde_json::Value {
        serde_json::json!([{"from": 3}])
    }
    fn runtimes(&self) -> Vec<NodeRuntimes> {
        let runtimes = BTreeMap::from([("python".to_owned(), "Python 3.13.5".to_owned())]);
        let jobs = Arc::new(JobReport { runtimes, process_limit: Some(ProcessLimit::Kernel) });
        vec![NodeRuntimes { id: NodeId(self.me), is_online: true, jobs }]
    }
    fn integrity(&self) -> IntegrityStatus {
        IntegrityStatus::default()
    }
    fn readiness(&self) -> Result<(), Vec<String>> {
        match self.refusal.lock().unwrap().clone() {
            None => Ok(()),
            Some(_) => Err(vec!["no leader is known".to_owned()]),
        }
    }
    fn metrics(&self) -> Vec<Metric> {
        let metric = |labels| Metric { labels, ..gauge("phalanx_term", "Term.", 7) };
        vec![metric(vec![]), metric(vec![("peer", "a\"b".to_owned())])]
    }
}

impl Sql for FakeHost {
    fn sql_run(
        &self,
        run: sql::Run,
        tag: Option<Tag>,
        _: Option<&mut Vec<Duration>>,
        deadline: Instant,
    ) -> Outcome<(Index, sql::Answer)> {
        self.sql_write(&sql::Command::Run(run), tag, deadline)
    }
    fn sql_write(&self, command: &sql::Command, tag: Option<Tag>, _: Instant) -> Outcome<(Index, sql::Answer)> {
        self.sql_commands.lock().unwrap().push((tag, command.clone()));
        let answer = match command {
            sql::Command::Stage { .. } => sql::Answer::Done,
            _ => self.sql_answer.lock().unwrap().clone(),
        };
        self.outcome((Index(81), answer))
    }
    fn sql_read(
        &self,
        read: SqlRead,
        _: Option<&mut Vec<Duration>>,
        _: &mut Reservation,
        _: Instant,
    ) -> Outcome<(Index, sql::Answer)> {
        self.sql_reads.lock().unwrap().push(read);
        self.outcome((Index(80), self.sql_answer.lock().unwrap().clone()))
    }
    fn sql_only_reads(&self, statements: &[sql::Statement], _: Instant) -> bool {
        statements.iter().all(|statement| statement.sql.starts_with("SELECT"))
    }
    /// A megabyte in odd pieces; breaks off at the end if the host refuses.
    fn sql_backup(&self, backup: &Backup, _: sql::ReadLevel, _: Instant, out: &mut dyn Write) -> Outcome<Index> {
        if backup.form == BackupForm::File {
            for _ in 0..1000 {
                out.write_all(&[7; 1000]).unwrap();
            }
        }
        self.outcome(Index(80))
    }
    fn sql_digest(&self, _: sql::ReadLevel, _: Instant) -> Outcome<sql::Digest> {
        Outcome::Refused(Reason::NoDatabase)
    }
}

impl SqlFiles for FakeHost {
    fn sql_stage(&self, load: u64, offset: u64, piece: &[u8]) -> Outcome<(Index, sql::Answer)> {
        let bytes = sql::commands::Bytes::from(piece);
        match self.sql_write(&sql::Command::Stage { load, offset, bytes }, None, Instant::now()) {
            Outcome::Unknown(why) => Outcome::Refused(Reason::NothingChanged(why)),
            other => other,
        }
    }
    fn sql_put_in_place(&self, file: SentFile, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, sql::Answer)> {
        let SentFile { load, bytes, crc } = file;
        self.sql_write(&sql::Command::PutInPlace { load, bytes, crc, seed: load }, tag, deadline)
    }
    fn sql_unstage(&self, _: u64) {}
}

/// A running door on a free port; ends with the test process.
pub struct Served {
    pub host: Arc<FakeHost>,
    pub server: Arc<Server>,
    pub address: SocketAddr,
}

/// Deadlines short enough for tests, long enough for a busy machine.
pub fn quick() -> Deadlines {
    let ms = Duration::from_millis;
    Deadlines { head: ms(400), body: ms(400), write: ms(400), idle: ms(600), linger: ms(400), linger_silence: ms(200) }
}

/// Patient deadlines, so that only what a test provokes can end a connection.
pub fn patient() -> Deadlines {
    Deadlines::of(&Settings::default())
}

pub fn serve(deadlines: Deadlines) -> Served {
    serve_on(FakeHost::new(4), deadlines, "127.0.0.1:0", false)
}

pub fn serve_front(deadlines: Deadlines) -> Served {
    serve_on(FakeHost::new(4), deadlines, "127.0.0.1:0", true)
}

pub fn serve_on(host: Arc<FakeHost>, deadlines: Deadlines, address: &str, is_front: bool) -> Served {
    let listener = TcpListener::bind(address).unwrap();
    let (address, listener) = (listener.local_addr().unwrap(), Listener::from(listener));
    let server = Server::new(host.clone(), deadlines);
    let served = Served { host, server: server.clone(), address };
    std::thread::spawn(move || {
        if is_front { http::front_door::serve_host(&listener, &server) } else { http::serve_host(&listener, &server) }
    });
    served
}

impl Served {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends bytes and reads until the server closes.
    pub fn talk(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_ref()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the server closes, and does not reset");
        String::from_utf8(answer).unwrap()
    }

    /// One request with `Connection: close`; `more` are header lines, each with its end.
    pub fn ask(&self, method: &str, target: &str, more: &str, body: &str) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let text = self.talk(format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{more}{length}\r\n{body}",
            self.address
        ));
        Answer::parse(&text)
    }

    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, "", "")
    }
}

/// A parsed answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (other, value) = line.split_once(": ")?;
            other.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// Reads one answer with a Content-Length off a connection that stays open.
pub fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    let mut answer = Answer::parse(std::str::from_utf8(&bytes).unwrap());
    let length = answer.header("Content-Length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    answer.body = String::from_utf8(body).unwrap();
    answer
}

/// Waits until `probe` holds, without a fixed pause: probes again at each short wait on a condition variable.
pub fn wait_until(what: &str, probe: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let (lock, never) = (Mutex::new(()), Condvar::new());
    while !probe() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        drop(never.wait_timeout(lock.lock().unwrap(), Duration::from_millis(5)).unwrap());
    }
}

/// Whether the other side has closed: a read ends within the stream's timeout.
pub fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn canned_jobs(now: u64, step: u64) -> JobsStatus {
    let languages = ["c", "java", "python", "shell"].map(String::from);
    let worker = |id: u64| WorkerRow {
        id: NodeId(id),
        is_here: id != 3,
        slots: 2,
        running: (0..(id + step) % 3).filter(|_| id != 3).map(|n| 40 + id * 2 + n).collect(),
        runtimes: languages.to_vec(),
        trouble: None,
    };
    let workers = (1..=5).map(|id| Arc::new(worker(id)));
    let last = [
        (39, "python", "finished", Some(0), "Hello from <python> & friends"),
        (38, "java", "not_compiled", Some(1), "Main.java:1: error: class, interface, enum, or record expected"),
        (37, "shell", "timed_out", None, ""),
        (36, "c", "finished", Some(3), "segments: 17"),
    ];
    let last = last.into_iter().enumerate().map(|(age, (id, language, verdict, exit_code, says))| JobRow {
        id,
        language: language.to_owned(),
        verdict: verdict.to_owned(),
        exit_code,
        signal: exit_code.is_none().then_some(9),
        worker: Some(NodeId(1 + id % 5)),
        attempt: if id == 36 { 2 } else { 1 },
        took_ms: 12 + id,
        says: says.to_owned(),
        at_ms: now - 1000 * (1 + age as u64),
    });
    JobsStatus { queued: step as usize % 7, running: 4, workers: workers.collect(), last: last.map(Arc::new).collect() }
}

/// A cluster of five as it looks `step` steps into a story: all well; the leader is lost; another one leads.
pub fn canned_frame(me: u64, leader: u64, step: u64) -> MonitorFrame {
    let commit = 120 + step * 3;
    let nodes = (1..=5)
        .map(|id| {
            let is_leader = id == leader;
            NodeRow {
                id: NodeId(id),
                status: if is_leader { Liveness::Leader } else { Liveness::Online },
                role: if is_leader { Role::Leader } else { Role::Follower },
                membership: Standing::Voter,
                term: Term(7),
                load: (id * 7 + step) % 5,
                load_parts: Load { connections: (id * 7 + step) % 5, ..Load::default() },
                last_index: Index(commit + u64::from(is_leader)),
                commit_index: Index(commit),
                applied_index: Index(commit - id % 2),
                lag: id % 2,
                pace: ClientRates {
                    kv_ops_per_s: if id == 4 { 0 } else { 1200 * id + 37 * (step % 7) },
                    led_per_s: if is_leader { 900 } else { 0 },
                    kv_p50_us: 210 + 40 * id,
                    kv_p99_us: 1400 + 900 * id,
                    keys: 12_300 + step % 40,
                },
                http: format!("127.0.0.1:{}", 6700 + id),
                kv: format!("127.0.0.1:{}", 7700 + id),
                peer: format!("127.0.0.1:{}", 5700 + id),
                heartbeat_age_ms: Some(if id == me { 0 } else { 40 + (id * 37 + step * 13) % 160 }),
                is_gateway: false,
                is_witness: false,
                pid: Some(4000 + id as u32),
                is_corrupt: false,
                is_disk_low: false,
                clock_ahead_ms: Some(0),
            }
        })
        .collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let event = |seq: u64, age: u64, kind: &str, node: u64, text: &str| EventLine {
        seq,
        at_ms: now - age,
        kind: kind.to_owned(),
        node: Some(NodeId(node)),
        text: text.to_owned(),
    };
    MonitorFrame {
        seq: 1,
        at_ms: now,
        status: Status {
            node: NodeStatus {
                id: NodeId(me),
                uuid: Uuid::nil(),
                role: if me == leader { Role::Leader } else { Role::Follower },
                membership: Standing::Voter,
                version: "0.1.0".to_owned(),
                uptime_ms: 81_234 + step * 1000,
            },
            cluster: ClusterStatus {
                id: Some(Uuid::nil()),
                name: "phalanx".to_owned(),
                leader: Some(NodeId(leader)),
                term: Term(7),
                has_quorum: true,
                voters: (1..=5).map(NodeId).collect(),
                learners: vec![],
                failure_tolerance: 2,
                verdict: Health::Healthy,
                reasons: vec![],
                integrity: IntegrityStatus::default(),
            },
            nodes,
            sessions: vec![
                Session { id: "9f3c0001".into(), kind: "monitor".into(), peer: "127.0.0.1:50512".into(), age_ms: 5120 },
                Session {
                    id: "41be77d2".into(),
                    kind: "stream".into(),
                    peer: "127.0.0.1:50544".into(),
                    age_ms: 61_000,
                },
                Session { id: "c0ffee42".into(), kind: "api".into(), peer: "127.0.0.1:51002".into(), age_ms: 340 },
            ],
            sessions_total: 3,
            jobs: canned_jobs(now, step),
            failovers: vec![
                Failover {
                    term: Term(7),
                    from: Some(NodeId(3)),
                    to: NodeId(leader),
                    cause: "link lost".into(),
                    leaderless_ms: 23,
                    at_ms: now - 95_000,
                },
                Failover {
                    term: Term(6),
                    from: Some(NodeId(5)),
                    to: NodeId(3),
                    cause: "leadership transfer".into(),
                    leaderless_ms: 4,
                    at_ms: now - 300_000,
                },
                Failover {
                    term: Term(5),
                    from: Some(NodeId(4)),
                    to: NodeId(5),
                    cause: "timeout".into(),
                    leaderless_ms: 612,
                    at_ms: now - 900_000,
                },
            ],
        },
        events: vec![
            event(1, 901_000, "start", 4, "node 4 started and found 120 entries in its log"),
            event(2, 900_000, "election", 5, "node 5 leads in term 5, 612 ms after node 4 fell silent"),
            event(3, 300_000, "leadership transfer", 3, "node 5 transfers the leadership to node 3"),
            event(4, 96_000, "failure", 3, "no heartbeat from node 3: failed"),
            event(5, 95_000, "election", leader, "node 5 leads in term 7, 23 ms after node 3 was lost"),
            event(6, 42_000, "join", 3, "node 3 is back and asks for what it missed"),
            event(7, 40_000, "membership", 3, "node 3 has caught up and votes again"),
            event(8, 12_000, "snapshot", 4, "node 4 saved a snapshot at index 100"),
        ],
    }
}

/// Where a program is; Debian has some servers where only root looks.
pub fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|folder| std::path::Path::new(folder).join(name)).find(|file| file.is_file())
}

/// A Python with this module, the system's own first.
pub fn python_with(module: &str) -> Option<&'static str> {
    ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        let output = std::process::Command::new(python).args(["-c", &format!("import {module}")]).output();
        output.is_ok_and(|output| output.status.success())
    })
}
