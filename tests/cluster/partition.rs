//! Nodes that are cut off from the others. Workers whose programs run on, also for so long that the log has gone on without
//! them: what they had is run elsewhere, ends once, and they take jobs again when they are back. Databases: they refuse what
//! needs the others, and replay what they missed.
//!
//! Links are cut by the kernel: a test runs in a network of its own, each node as a user of its own, and a rule of the routing
//! table takes away the way of everything that one user sends. So nothing closes a connection and no port refuses: what was
//! sent before arrives, what is sent now vanishes, and a dial runs out of time. That needs root. Programs are sandboxed
//! by limits alone, so that they can tell where they are and be told when to end, through files.

use crate::EXE;
use phalanx::bench::job_rates::wait_workers;
use phalanx::lab::Cluster;
use phalanx::lab::jobs::Jobs;
use phalanx::lab::web::{Connection, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// Set in the process that runs a test within a network of its own.
const APART: &str = "LAB_NETWORK_APART";
/// The way of a node's user is decided before the table of local addresses is looked at, which comes first elsewhere.
const NETWORK: &str =
    "ip link set lo up && ip rule add pref 200 lookup local && ip rule del pref 0 && exec \"$0\" \"$@\"";
/// Node N runs as this user and N.
const USERS: u64 = 70_000;
/// Says that it has begun, and ends when it is told to. `$HOME` lies in the folder of its attempt, `JOB-ATTEMPT`.
const PROGRAM: &str = "me=$(basename $(dirname $HOME)); echo begun >> $1/begun-$me; \
                       while [ ! -e $1/go-$me ]; do sleep 0.02; done; echo end of $me";

/// Whether this is a network of its own; else the test has been run in one, or this machine has none.
fn is_apart(test: &str) -> bool {
    if std::env::var_os(APART).is_some() {
        return true;
    }
    let within = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", NETWORK]).args(words).env(APART, "1");
        command
    };
    if !rustix::process::geteuid().is_root() || !within(&["true"]).output().is_ok_and(|output| output.status.success())
    {
        eprintln!("skipped: only root can have a network of its own here, and users for its nodes");
        return false;
    }
    let (exe, test) = (std::env::current_exe().unwrap(), format!("partition::{test}"));
    let again = within(&[exe.to_str().unwrap(), &test, "--exact", "--nocapture"]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    print!("{out}");
    eprint!("{err}");
    assert!(again.status.success() && out.contains(" 1 passed"), "the test failed in its own network");
    false
}

/// Three nodes whose programs can be led.
struct Led {
    cluster: Cluster,
    /// Through which programs and the test speak.
    signs: TempDir,
    /// Where each node's user finds the program.
    _exe: TempDir,
    /// All jobs that were handed in.
    handed_in: usize,
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

impl Led {
    fn start(more: &Value) -> Led {
        let shell = json!({"language": "shell", "file_name": "main.sh", "probe": ["sh", "-c", "true"], "run": ["sh", "{file}"]});
        let mut settings = json!({
            "runtimes": [shell], "jobs_enabled": true, "jobs_sandbox": "limits", "job_slots": 4,
            "fail_after_ms": 1000, "dead_after_ms": 60_000,
        });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (signs, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        open(signs.path(), 0o777);
        open(folder.path(), 0o755);
        let (copy, start) = (folder.path().join("phalanx"), folder.path().join("start"));
        std::fs::copy(EXE, &copy).unwrap();
        let user = format!("--reuid=$(({USERS} + $3)) --regid=$(({USERS} + $3)) --clear-groups --inh-caps=-all");
        std::fs::write(&start, format!("#!/bin/sh\nexec setpriv {user} {} \"$@\"\n", copy.display())).unwrap();
        open(&start, 0o755);
        let mut cluster = Cluster::prepare(&start, &settings).unwrap();
        // What the nodes of one user would make for each other.
        std::fs::create_dir(cluster.data_dir()).unwrap();
        let lock = cluster.config_path().with_file_name("config.json.lock");
        std::fs::write(&lock, "").unwrap();
        open(cluster.dir(), 0o777);
        open(&cluster.data_dir(), 0o777);
        open(&lock, 0o666);
        for id in 1..=3 {
            // Only nodes of one user can share a front door.
            let front = cluster.kv(10 + id);
            cluster.spawn(id, &["--set", &format!("service_port={}", front.rsplit(':').next().unwrap())]).unwrap();
        }
        cluster.settle().unwrap();
        if settings["jobs_enabled"] == true {
            wait_workers(&cluster, 3).unwrap();
        }
        Led { cluster, signs, _exe: folder, handed_in: 0 }
    }

    fn get(&self, at: u64, path: &str) -> Response {
        let mut connection = Connection::open(&self.cluster.http(at), PATIENCE).unwrap();
        connection.ask("GET", path, None, Instant::now() + PATIENCE).unwrap()
    }

    fn job(&self, at: u64, id: u64) -> Value {
        self.get(at, &format!("/v1/jobs/{id}")).json()
    }

    /// Hands in two programs for each worker and waits until all have begun; those of each.
    fn begin(&mut self, at: u64) -> BTreeMap<u64, Vec<u64>> {
        let mut jobs = Jobs::new(vec![self.cluster.http(at)]);
        let body = json!({
            "language": "shell", "source": PROGRAM, "args": [self.signs.path()], "limits": {"wall_ms": 120_000},
        });
        let ids: Vec<u64> = (0..6).map(|_| jobs.submit(&body, Instant::now() + PATIENCE).unwrap()).collect();
        self.handed_in += ids.len();
        let begun = |id: &u64| self.signs.path().join(format!("begun-{id}-1")).exists();
        self.cluster.wait_until("all have begun", PATIENCE, || ids.iter().all(begun).then_some(())).unwrap();
        let mut of: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for id in ids {
            let job = self.job(at, id);
            assert_eq!((&job["state"], &job["attempt"]), (&json!("running"), &json!(1)), "{job}");
            of.entry(job["worker"].as_u64().unwrap()).or_default().push(id);
        }
        assert!(of.len() == 3 && of.values().all(|ids| ids.len() == 2), "two for each worker: {of:?}");
        of
    }

    /// Tells an attempt to end.
    fn end(&self, id: u64, attempt: u64) {
        std::fs::write(self.signs.path().join(format!("go-{id}-{attempt}")), "").unwrap();
    }

    /// Waits until jobs are run by others than `lost`, as some node sees it.
    fn run_elsewhere(&self, at: u64, ids: &[u64], lost: u64) {
        for id in ids {
            self.cluster
                .wait_until(&format!("job {id} is run elsewhere"), PATIENCE, || {
                    let job = self.job(at, *id);
                    let (worker, attempt) = (job["worker"].as_u64()?, job["attempt"].as_u64()?);
                    let begun = self.signs.path().join(format!("begun-{id}-{attempt}"));
                    (worker != lost && attempt > 1 && begun.exists()).then_some(())
                })
                .unwrap();
        }
    }

    /// Has jobs end, whoever runs them; how each did.
    fn all_end(&self, at: u64, ids: &[u64]) -> Vec<Value> {
        let end = |id: &u64| {
            self.cluster.wait_until(&format!("job {id} has ended"), PATIENCE, || {
                let job = self.job(at, *id);
                if let ("running", Some(attempt)) = (job["state"].as_str()?, job["attempt"].as_u64()) {
                    self.end(*id, attempt);
                }
                job["ended_ms"].is_u64().then_some(job)
            })
        };
        let ends: Vec<Value> = ids.iter().map(|id| end(id).unwrap()).collect();
        for job in &ends {
            let said = format!("end of {}-{}\n", job["id"], job["attempt"]);
            assert_eq!((&job["state"], &job["stdout"]), (&json!("finished"), &json!(said)), "{job}");
        }
        ends
    }

    fn says(&self, node: u64, line: &str) {
        let what = format!("node {node} says {line:?}");
        self.cluster.wait_until(&what, PATIENCE, || self.cluster.log(node).contains(line).then_some(())).unwrap();
    }

    /// All nodes know these ends and no other jobs, no attempt was begun twice, and `back` is given new jobs.
    fn all_is_well(&mut self, ends: &[Value], back: u64) {
        self.cluster.settle().unwrap();
        wait_workers(&self.cluster, 3).unwrap();
        for node in 1..=3 {
            let page = self.get(node, "/v1/jobs?limit=1000&level=eventual").json();
            assert_eq!(page["jobs"].as_array().unwrap().len(), self.handed_in, "node {node}");
            for end in ends {
                let job = self.get(node, &format!("/v1/jobs/{}?level=eventual", end["id"])).json();
                assert_eq!(&job, end, "node {node}");
            }
        }
        for sign in std::fs::read_dir(self.signs.path()).unwrap().map(|row| row.unwrap().path()) {
            let text = std::fs::read_to_string(&sign).unwrap();
            assert!(text.lines().count() <= 1, "{} was begun {} times", sign.display(), text.lines().count());
        }
        let mut jobs = Jobs::new(vec![self.cluster.http(back)]);
        let mut count = 0;
        self.cluster
            .wait_until("it is given jobs again", PATIENCE, || {
                let soon = Instant::now() + PATIENCE;
                let id = jobs.submit(&json!({"language": "shell", "source": "echo again"}), soon).unwrap();
                count += 1;
                let job = jobs.ended(id, soon).unwrap();
                assert_eq!(job["stdout"], "again\n", "{job}");
                (job["worker"] == back).then_some(())
            })
            .unwrap();
        self.handed_in += count;
    }

    /// Takes away the way of all that a node sends, or gives it back.
    fn cut(&self, verb: &str, node: u64) {
        let user = USERS + node;
        let rule = format!("ip rule {verb} pref 100 uidrange {user}-{user} unreachable");
        assert!(Command::new("sh").args(["-c", &rule]).status().unwrap().success(), "{rule}");
        let address: SocketAddr = self.cluster.http(node).parse().unwrap();
        let answer = TcpStream::connect_timeout(&address, Duration::from_millis(500));
        assert_eq!(answer.is_err(), verb == "add", "the fault did not happen, or has not ended: {answer:?}");
    }
}

impl Led {
    /// Takes away the way to and from the other nodes only: a node's own clients reach it.
    fn cut_from_nodes(&self, verb: &str, node: u64) {
        let user = USERS + node;
        let port = |id: u64| self.cluster.peer(id).rsplit(':').next().unwrap().to_string();
        let others = (1..=3).filter(|id| *id != node).map(|id| format!("dport {}", port(id)));
        for ports in others.chain([format!("sport {}", port(node))]) {
            for protocol in ["tcp", "udp"] {
                let rule =
                    format!("ip rule {verb} pref 100 uidrange {user}-{user} ipproto {protocol} {ports} unreachable");
                assert!(Command::new("sh").args(["-c", &rule]).status().unwrap().success(), "{rule}");
            }
        }
    }

    fn sql(&self, at: u64, path: &str, body: Option<&Value>) -> Response {
        let mut connection = Connection::open(&self.cluster.http(at), PATIENCE).unwrap();
        let method = if body.is_some() { "POST" } else { "GET" };
        connection.ask(method, path, body, Instant::now() + PATIENCE).unwrap()
    }

    fn rows(&self, at: u64, level: &str) -> Response {
        self.sql(at, &format!("/db/query?level={level}&q=SELECT+count(*)+FROM+t"), None)
    }
}

#[test]
fn a_node_that_is_cut_off_refuses_its_sql_clients_and_replays_what_it_missed() {
    if !is_apart("a_node_that_is_cut_off_refuses_its_sql_clients_and_replays_what_it_missed") {
        return;
    }
    let them = Led::start(&json!({"jobs_enabled": false, "request_timeout_ms": 1500}));
    assert_eq!(
        them.sql(1, "/db/execute", Some(&json!(["CREATE TABLE t (n PRIMARY KEY)", "CREATE TABLE maybe (n)"]))).status,
        200
    );
    let mut count = 0;
    for is_leaders_turn in [false, true] {
        let leader = them.cluster.settle().unwrap();
        let lost = (1..=3).find(|id| (*id == leader) == is_leaders_turn).unwrap();
        let witness = (1..=3).find(|id| *id != lost).unwrap();
        let seen = |at: u64| them.rows(at, "none").json()["results"][0]["values"][0][0].clone();
        them.cluster.wait_until("it has all", PATIENCE, || (seen(lost) == count).then_some(())).unwrap();
        them.cut_from_nodes("add", lost);
        // A leader believes for a moment that it is one: what it takes in then may be done later.
        let refused = || {
            let answer = them.sql(lost, "/db/execute", Some(&json!(["INSERT INTO maybe VALUES(1)"])));
            assert_ne!(answer.status, 200, "a minority acknowledged a write: {}", answer.text());
            (answer.status == 503 && answer.json()["outcome"] == "refused").then_some(())
        };
        them.cluster.wait_until("a write there is refused", PATIENCE, refused).unwrap();
        let read = them.rows(lost, "linearizable");
        assert_eq!((read.status, &read.json()["outcome"]), (503, &json!("refused")), "{}", read.text());
        assert_eq!(seen(lost), count, "reads at level none go on");
        let stale = them.rows(lost, "none&freshness=100ms");
        assert_eq!(stale.status, 503, "{}", stale.text());
        for _ in 0..40 {
            let insert = json!([["INSERT OR IGNORE INTO t VALUES(?)", count]]);
            let done = || (them.sql(witness, "/db/execute", Some(&insert)).status == 200).then_some(());
            them.cluster.wait_until("the others go on", PATIENCE, done).unwrap();
            count += 1;
        }
        assert!(seen(lost) != count, "the fault did not happen");
        them.cut_from_nodes("del", lost);
        them.cluster.wait_until("it has what it missed", PATIENCE, || (seen(lost) == count).then_some(())).unwrap();
        let replayed = format!("node {lost} replayed ");
        them.says(lost, &replayed);
        let events = them.get(lost, "/v1/events").text();
        assert!(events.contains(&replayed) && events.contains("\"recovery\""), "{events}");
        them.cluster.settle().unwrap();
        let digests = || {
            let of = |id: u64| them.get(id, "/db/digest").json();
            let all = [of(1), of(2), of(3)];
            (all[0]["tables"] == all[1]["tables"] && all[1]["tables"] == all[2]["tables"]).then_some(())
        };
        them.cluster.wait_until("all tables are the same", PATIENCE, digests).unwrap();
    }
}

#[test]
fn a_worker_that_is_cut_off_has_its_jobs_run_elsewhere() {
    if !is_apart("a_worker_that_is_cut_off_has_its_jobs_run_elsewhere") {
        return;
    }
    let mut them = Led::start(&json!({}));
    for is_leaders_turn in [false, true] {
        let leader = them.cluster.settle().unwrap();
        let lost = (1..=3).find(|id| (*id == leader) == is_leaders_turn).unwrap();
        let witness = (1..=3).find(|id| *id != lost).unwrap();
        let of = them.begin(witness);
        let its = &of[&lost];
        them.cut("add", lost);
        them.run_elsewhere(witness, its, lost);
        // One of its programs ends now, which it cannot tell anybody; the other runs on until it hears what has happened.
        them.end(its[0], 1);
        them.says(lost, &format!("job {} attempt 1 ended: finished", its[0]));
        assert_eq!(them.job(witness, its[0])["state"], "running", "an end that nobody has heard of counts");
        let ends = them.all_end(witness, &of.values().flatten().copied().collect::<Vec<_>>());
        for job in ends.iter().filter(|job| its.contains(&job["id"].as_u64().unwrap())) {
            assert!(job["worker"] != lost && job["attempt"].as_u64() > Some(1), "{job}");
        }
        them.cut("del", lost);
        them.says(lost, &format!("job {} attempt 1 was stopped", its[1]));
        them.all_is_well(&ends, lost);
    }
}

#[test]
fn a_worker_that_is_given_a_snapshot_drops_what_is_not_its_own() {
    if !is_apart("a_worker_that_is_given_a_snapshot_drops_what_is_not_its_own") {
        return;
    }
    let mut them = Led::start(&json!({"snapshot_every_mb": 1}));
    let leader = them.cluster.settle().unwrap();
    let lost = (1..=3).find(|id| *id != leader).unwrap();
    let of = them.begin(leader);
    let its = &of[&lost];
    them.cut("add", lost);
    them.run_elsewhere(leader, its, lost);
    let ends = them.all_end(leader, &of.values().flatten().copied().collect::<Vec<_>>());
    // One of its programs has ended and one has not when it hears of all that it missed.
    them.end(its[0], 1);
    them.says(lost, &format!("job {} attempt 1 ended: finished", its[0]));
    for part in 0..12 {
        let mut connection = Connection::open(&them.cluster.http(leader), PATIENCE).unwrap();
        connection.send_bytes("PUT", &format!("/v1/kv/part-{part}"), "", Some(&[b'x'; 1 << 20])).unwrap();
        let answer = connection.answer(Instant::now() + PATIENCE).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for node in (1..=3).filter(|id| *id != lost) {
        them.says(node, "snapshot index=");
    }
    let stopped = format!("job {} attempt 1 was stopped", its[1]);
    assert!(!them.cluster.log(lost).contains(&stopped), "it heard of the loss by other ways than a snapshot");
    them.cut("del", lost);
    let sent = format!("snapshot sent peer=n{lost}");
    let is_sent = || (1..=3).any(|id| them.cluster.log(id).contains(&sent)).then_some(());
    them.cluster.wait_until("it was given a snapshot", PATIENCE, is_sent).unwrap();
    them.says(lost, &stopped);
    them.all_is_well(&ends, lost);
}
