//! The database on real clusters: any node takes any request, and what was acknowledged outlives whoever dies.
//!
//! [`requests`]: each endpoint and its parameters; [`crashes`]: nodes that die and come back while rows are inserted;
//! [`loads`]: files that are loaded meanwhile.
//!
//! A [`Spray`] inserts numbered rows through whichever node answers, each under an Idempotency-Key, so that a row sent
//! twice is there once. At the end all tables are the same on all nodes, and hold what was acknowledged.

mod crashes;
mod loads;
mod requests;

use crate::EXE;
use phalanx::lab::web::{Connection, Response};
use phalanx::lab::{Cluster, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const JSON: &str = "Content-Type: application/json\r\n";
const FILE: &str = "Content-Type: application/octet-stream\r\n";

fn cluster(n: u64) -> Result<Cluster> {
    cluster_with(n, &json!({}))
}

fn cluster_with(n: u64, settings: &Value) -> Result<Cluster> {
    let cluster = Cluster::ready(EXE, n, settings)?;
    cluster.settle()?;
    Ok(cluster)
}

fn ask(address: &str, method: &str, path: &str, headers: &str, body: Option<&[u8]>) -> std::io::Result<Response> {
    let mut connection = Connection::open(address, PATIENCE)?;
    connection.send_bytes(method, path, headers, body)?;
    connection.answer(Instant::now() + PATIENCE)
}

/// A request with a JSON body that must succeed.
fn post(cluster: &Cluster, id: u64, path: &str, body: &Value) -> Value {
    let answer = ask(&cluster.http(id), "POST", path, JSON, Some(body.to_string().as_bytes())).unwrap();
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
    answer.json()
}

fn get(cluster: &Cluster, id: u64, path: &str) -> Response {
    ask(&cluster.http(id), "GET", path, "", None).unwrap()
}

/// The only value of the only row.
fn scalar(cluster: &Cluster, id: u64, sql: &str) -> Value {
    let answer = get(cluster, id, &format!("/db/query?q={}", sql.replace(' ', "+")));
    answer.json()["results"][0]["values"][0][0].clone()
}

/// Creates the table of the sprays.
fn prepare(cluster: &Cluster) {
    let answer = post(cluster, 1, "/db/execute", &json!(["CREATE TABLE t (id TEXT, n INTEGER, pad TEXT)"]));
    assert_eq!(answer, json!({"results": [{}]}));
}

/// Inserts rows until it is told to finish, or so many.
struct Spray {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<BTreeSet<String>>>,
}

impl Spray {
    /// As many threads as there are names of nodes; each begins at its node and goes on with the others.
    fn start(cluster: &Cluster, name: &str, at: &[u64], each_max: usize, pad: usize) -> Spray {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = at.iter().enumerate().map(|(number, id)| {
            let mut addresses: Vec<String> = cluster.addresses();
            let first = cluster.http(*id);
            addresses.sort_by_key(|address| *address != first);
            let (stop, acked, name) = (Arc::clone(&stop), Arc::clone(&acked), format!("{name}-{number}"));
            std::thread::spawn(move || spray(&addresses, &name, each_max, pad, &stop, &acked))
        });
        Spray { threads: threads.collect(), stop, acked }
    }

    fn acked(&self) -> usize {
        self.acked.load(SeqCst)
    }

    /// Waits for so many more acknowledged rows.
    fn goes_on(&self, cluster: &Cluster, more: usize) -> Result<()> {
        let before = self.acked();
        cluster.wait_until("writes go on", Duration::from_secs(30), || (self.acked() >= before + more).then_some(()))
    }

    /// The rows that were acknowledged, when all has been sent.
    fn join(self) -> BTreeSet<String> {
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }

    /// The rows that were acknowledged until now.
    fn finish(self) -> BTreeSet<String> {
        self.stop.store(true, SeqCst);
        self.join()
    }
}

fn spray(
    addresses: &[String],
    name: &str,
    each_max: usize,
    pad: usize,
    stop: &AtomicBool,
    acked: &AtomicUsize,
) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    let (mut at, mut connection) = (0, None);
    for number in 0..each_max {
        let id = format!("{name}-{number}");
        let insert = json!([["INSERT INTO t VALUES (?, random(), ?)", id, "x".repeat(pad)]]).to_string();
        let headers = format!("{JSON}Idempotency-Key: {id}\r\n");
        loop {
            if stop.load(SeqCst) {
                return rows;
            }
            let one = connection.take().map_or_else(|| Connection::open(&addresses[at], Duration::from_secs(1)), Ok);
            let answer = one.and_then(|mut one| {
                one.send_bytes("POST", "/db/execute", &headers, Some(insert.as_bytes()))?;
                let answer = one.answer(Instant::now() + Duration::from_secs(8))?;
                connection = Some(one);
                Ok(answer)
            });
            match answer {
                Ok(answer) if answer.status == 200 => {
                    let result = answer.json()["results"][0].clone();
                    assert_eq!(result["rows_affected"], 1, "{id}: {}", answer.text());
                    rows.insert(id);
                    acked.fetch_add(1, SeqCst);
                    break;
                }
                Ok(answer) => assert!(matches!(answer.status, 503 | 504), "{id}: {}", answer.text()),
                // Its node is down: the next one.
                Err(_) => at = (at + 1) % addresses.len(),
            }
        }
    }
    rows
}

/// Compares all tables of all nodes, and with what was acknowledged.
fn compare(cluster: &Cluster, ids: &[u64], acked: &BTreeSet<String>) -> Result<()> {
    cluster.wait_explained("all tables are the same on all nodes", Duration::from_secs(20), || {
        let digests: Vec<Value> = ids.iter().map(|id| get(cluster, *id, "/db/digest").json()).collect();
        let is_same = digests.iter().all(|one| *one == digests[0] && one["tables"]["t"].is_string());
        if is_same { Ok(()) } else { Err(format!("{digests:?}")) }
    })?;
    for id in ids {
        let answer = get(cluster, *id, "/db/query?level=none&q=SELECT+id+FROM+t").json();
        let rows = answer["results"][0]["values"].as_array().cloned().unwrap_or_default();
        let there: BTreeSet<String> = rows.iter().map(|row| row[0].as_str().unwrap().to_string()).collect();
        assert_eq!(there.len(), rows.len(), "node {id}: a row is there twice");
        let lost: Vec<&String> = acked.difference(&there).collect();
        assert!(lost.is_empty(), "node {id} lost {lost:?}");
    }
    Ok(())
}

/// All files below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
