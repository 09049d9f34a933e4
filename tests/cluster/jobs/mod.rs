//! Jobs on real clusters with real compilers.
//!
//! Not here: workers that are cut off (`partition.rs`).

mod failover;
mod requests;
mod sandbox;

use crate::EXE;
use phalanx::bench::job_rates::wait_workers;
use phalanx::lab::Cluster;
use phalanx::lab::jobs::Jobs;
use phalanx::lab::web::{Connection, Response};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// `n` nodes whose workers have joined.
fn cluster(n: u64, more: &Value) -> Cluster {
    let mut settings = json!({"jobs_enabled": true});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let cluster = Cluster::ready(EXE, n, &settings).unwrap();
    wait_workers(&cluster, n).unwrap();
    cluster
}

/// Only the shell: what tests of other things than compilers need, found in no time.
fn shell_only() -> Value {
    let shell =
        json!({"language": "shell", "file_name": "main.sh", "probe": ["sh", "-c", "true"], "run": ["sh", "{file}"]});
    json!({"runtimes": [shell]})
}

fn ask(cluster: &Cluster, id: u64, method: &str, path: &str, headers: &str, body: Option<&str>) -> Response {
    let mut connection = Connection::open(&cluster.http(id), PATIENCE).unwrap();
    connection.send_bytes(method, path, headers, body.map(str::as_bytes)).unwrap();
    connection.answer(soon()).unwrap()
}

fn post(cluster: &Cluster, id: u64, path: &str, body: &Value) -> Response {
    ask(cluster, id, "POST", path, "Content-Type: application/json\r\n", Some(&body.to_string()))
}

fn get(cluster: &Cluster, id: u64, path: &str) -> Response {
    ask(cluster, id, "GET", path, "", None)
}

fn shell(source: &str) -> Value {
    json!({"language": "shell", "source": source})
}

fn jobs_of(cluster: &Cluster, n: u64) -> Jobs {
    Jobs::new((1..=n).map(|id| cluster.http(id)).collect())
}

/// Waits until a job is a worker's; the worker and the attempt.
fn running(cluster: &Cluster, at: u64, job: u64) -> (u64, u64) {
    cluster
        .wait_until(&format!("job {job} runs"), PATIENCE, || {
            let job = get(cluster, at, &format!("/v1/jobs/{job}")).json();
            Some((job["worker"].as_u64()?, job["attempt"].as_u64()?)).filter(|_| job["state"] == "running")
        })
        .unwrap()
}
