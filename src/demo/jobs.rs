//! The scenario of `phalanx demo jobs`: seven nodes and a gateway, requests, two node failures, and a check of every
//! answer.
//!
//! It starts its own processes on free ports, reports each step, and verifies the result: every answer is compared with
//! the expected one, and the list of jobs with the requests.
//! Not here: printing and the exit code (`cli/lab/demo.rs`).

use crate::client::{Client, ClientError, Request, Response};
use crate::lab::cluster::Cluster;
use crate::lab::jobs::Jobs;
use crate::lab::{LabError, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Nodes that vote and work.
const NODES: u64 = 7;
const GATEWAY: u64 = NODES + 1;
/// Requests in each step.
const REQUESTS: usize = 9;
/// Longest wait for each step.
const PATIENCE: Duration = Duration::from_secs(60);

/// The result of a demonstration.
#[derive(Debug)]
pub struct Account {
    /// What is wrong; empty if nothing is.
    pub faults: Vec<String>,
    /// The folder with the logs and heartbeats.
    pub folder: PathBuf,
}

/// One request and its answer.
struct Exchange {
    name: String,
    wanted: String,
    response: std::result::Result<Response, ClientError>,
    took: Duration,
}

impl Exchange {
    fn answer(&self) -> String {
        match &self.response {
            Ok(response) if response.status == 200 => response.text(),
            Ok(response) => format!("{} {}", response.status, response.text()),
            Err(e) => format!("no answer: {e}"),
        }
    }

    fn is_right(&self) -> bool {
        self.response.as_ref().is_ok_and(|response| response.status == 200 && response.text() == self.wanted)
    }

    fn line(&self) -> String {
        let header = |name| self.response.as_ref().ok().and_then(|response| response.header(name)).unwrap_or("?");
        let again = match header("x-phalanx-attempt") {
            "1" | "?" => String::new(),
            attempt => format!(", attempt {attempt}"),
        };
        let mark = if self.is_right() { "ok " } else { "BAD" };
        format!(
            "  {mark} {} -> {:?}  (job {} on node {}{again}, {} ms)",
            self.name,
            self.answer(),
            header("x-phalanx-job"),
            header("x-phalanx-worker"),
            self.took.as_millis()
        )
    }
}

/// The language of the requests: Java if there is a compiler, else shell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    Java,
    Shell,
}

impl Language {
    fn ask(self, address: &str, number: usize) -> Exchange {
        let wanted = format!("Hello world {number}!");
        let begun = Instant::now();
        let response = self.send(address, number, &wanted);
        Exchange { name: format!("request {number:>2}"), wanted, response, took: begun.elapsed() }
    }

    fn send(self, address: &str, number: usize, wanted: &str) -> std::result::Result<Response, ClientError> {
        let mut request = match self {
            Language::Java => {
                let source = format!(
                    "package demo;\n\npublic class HelloWorld {{\n    public String run() {{\n        return \"{wanted}\";\n    }}\n}}\n"
                );
                let request = Request::once("POST", "/compileandrun?wait=60s", Some(source.into_bytes()));
                Request { media: Some("text/x-java-source"), ..request }
            }
            Language::Shell => {
                let body = json!({"language": "shell", "source": format!("sleep 0.3; printf '{wanted}'")});
                Request::change("POST", "/v1/jobs?wait=60s", &body)
            }
        };
        // If a node dies meanwhile, the gateway sends the request again under this key.
        request.key = Some(format!("demo-{number}"));
        let mut client = Client::new(vec![address.to_string()]);
        // The gateway is asked once: it must not drop a request.
        (client.patience, client.within) = (PATIENCE, None);
        let mut response = client.answer(&request)?;
        if self == Language::Shell
            && let Some(output) = response.json()["stdout"].as_str()
        {
            response.body = output.as_bytes().to_vec();
        }
        Ok(response)
    }
}

/// Runs it; `print_line` gets each line as it happens.
///
/// # Errors
/// Processes do not start, or the cluster does not reach the state that a step needs.
pub fn play(exe: PathBuf, print_line: &mut dyn FnMut(&str)) -> Result<Account> {
    let settings = json!({"jobs_enabled": true, "voters_max": NODES, "cluster_name": "demo jobs"});
    let mut cluster = Cluster::prepare(exe, &settings)?;
    // Reset at the end if nothing is wrong.
    cluster.keep = true;
    let mut faults = Vec::new();
    let mut exchanges = Vec::new();

    print_line(&format!("1. {NODES} nodes and a gateway start, in {}", cluster.dir().display()));
    for id in 1..=NODES {
        cluster.spawn(id, &[])?;
    }
    cluster.spawn(GATEWAY, &["--gateway"])?;
    let leader = cluster.settle_as(NODES as usize)?;
    let gateway = cluster.http(GATEWAY);
    let language = choose(&cluster, print_line)?;
    print_line(&format!("   They have elected node {leader}. The gateway replicates the log and does not vote:"));
    print_roles(&cluster, print_line)?;

    print_line(&format!("2. {REQUESTS} requests to the gateway, one after another"));
    for number in 1..=REQUESTS {
        let exchange = language.ask(&gateway, number);
        print_line(&exchange.line());
        exchanges.push(exchange);
    }

    // The leader is killed in the next step.
    let lowest = (1..=NODES).find(|id| *id != leader).unwrap_or(1);
    print_line(&format!("3. kill -9 of node {lowest}; the logs of the others"));
    cluster.kill(lowest)?;
    let sign = format!("no heartbeat from node {lowest}: failed");
    for id in (1..=GATEWAY).filter(|id| *id != lowest) {
        let line = cluster.wait_until(&format!("node {id} notices"), PATIENCE, || {
            cluster.log(id).lines().find(|line| line.contains(&sign)).map(str::to_string)
        })?;
        print_line(&format!("   {line}"));
    }

    print_line(&format!("4. {REQUESTS} requests at once, and kill -9 of the leader, node {leader}, while they run"));
    let asking: Vec<_> = (REQUESTS + 1..=2 * REQUESTS)
        .map(|number| ask_in_background(language, &gateway, number))
        .collect::<Result<_>>()?;
    cluster.wait_until("a worker has some of them", PATIENCE, || {
        cluster.status(GATEWAY).ok().filter(|status| status.jobs.running > 0).map(|_| ())
    })?;
    cluster.kill(leader)?;
    let next = cluster.wait_other_leader(leader)?;
    if let Some(failover) = cluster.status(next)?.failovers.first() {
        print_line(&format!("   node {next} leads now, {} ms later ({})", failover.leaderless_ms, failover.cause));
    }

    print_line("5. All requests with their answers");
    for answer in asking {
        let exchange =
            answer.recv().map_err(|_| LabError::Answer("the thread of a request has panicked".to_string()))?;
        print_line(&exchange.line());
        exchanges.push(exchange);
    }

    print_line("6. One more");
    let exchange = language.ask(&gateway, 2 * REQUESTS + 1);
    print_line(&exchange.line());
    exchanges.push(exchange);

    for exchange in exchanges.iter().filter(|exchange| !exchange.is_right()) {
        faults.push(format!("{} must give {:?} and gave {:?}", exchange.name, exchange.wanted, exchange.answer()));
    }
    faults.extend(count(&gateway, &exchanges)?);

    print_line("7. The heartbeats that each node has received, from GET /v1/gossip");
    for id in cluster.running() {
        let path = cluster.dir().join(format!("heartbeats-{id}.json"));
        let heard = cluster.get(id, "/v1/gossip")?;
        print_line(&format!("   node {id}: {}", heard_from(&heard.json())));
        std::fs::write(&path, heard.body).map_err(LabError::io(format!("write {}", path.display())))?;
    }

    print_line("8. Stopping the nodes");
    faults.extend(cluster.stop_orderly(PATIENCE)?);
    print_line("   all processes have stopped");
    cluster.keep = !faults.is_empty();
    Ok(Account { faults, folder: cluster.dir().to_path_buf() })
}

/// Java if all workers have it when they have joined, else shell.
fn choose(cluster: &Cluster, print_line: &mut dyn FnMut(&str)) -> Result<Language> {
    let workers = cluster.wait_explained("every node has joined as a worker", PATIENCE, || {
        let workers = cluster.status(GATEWAY).map_err(|e| e.to_string())?.jobs.workers;
        let here = workers.iter().filter(|worker| worker.is_here).count();
        if here == NODES as usize { Ok(workers) } else { Err(format!("{here} of {NODES} have")) }
    })?;
    if let Some(trouble) = workers.iter().find_map(|worker| worker.trouble.clone()) {
        return Err(LabError::Answer(trouble));
    }
    if workers.iter().all(|worker| worker.runtimes.iter().any(|language| language == "java")) {
        return Ok(Language::Java);
    }
    print_line("   This machine has no Java compiler: the requests are shell scripts instead.");
    Ok(Language::Shell)
}

fn print_roles(cluster: &Cluster, print_line: &mut dyn FnMut(&str)) -> Result<()> {
    for row in cluster.status(GATEWAY)?.nodes {
        let role = match row.is_gateway {
            true => "gateway".to_string(),
            false => format!("{:?}", row.role).to_lowercase(),
        };
        let standing = format!("{:?}", row.membership).to_lowercase();
        print_line(&format!("   node {}  {role:<9} {standing:<8} http://{}", row.id.0, row.http));
    }
    Ok(())
}

/// The nodes whose heartbeats a node has received, with their age.
fn heard_from(gossip: &Value) -> String {
    let rows = gossip["rows"].as_array().into_iter().flatten();
    let texts = rows.map(|row| match row["status"] == "ONLINE" {
        true => format!("node {} {} ms ago", row["id"], row["heartbeat_age_ms"]),
        false => format!("node {} is offline", row["id"]),
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn ask_in_background(
    language: Language,
    gateway: &str,
    number: usize,
) -> Result<crossbeam_channel::Receiver<Exchange>> {
    let (to, answer) = crossbeam_channel::bounded(1);
    let gateway = gateway.to_string();
    crate::node::spawn::spawn("asker", move || drop(to.send(language.ask(&gateway, number))))
        .map_err(LabError::io("start a thread"))?;
    Ok(answer)
}

/// Compares the jobs in the log with the requests: there must be as many, all finished, each named by one answer.
fn count(gateway: &str, exchanges: &[Exchange]) -> Result<Vec<String>> {
    let all = Jobs::new(vec![gateway.to_string()]).all(Instant::now() + PATIENCE)?;
    let mut faults = Vec::new();
    if all.len() != exchanges.len() {
        faults.push(format!("{} requests made {} jobs", exchanges.len(), all.len()));
    }
    for job in all.iter().filter(|job| job["state"] != "finished") {
        faults.push(format!("job {} is {}", job["id"], job["state"]));
    }
    let named = |job: &Value| {
        let id = job["id"].to_string();
        let names = |exchange: &&Exchange| {
            exchange.response.as_ref().is_ok_and(|response| response.header("x-phalanx-job") == Some(&id))
        };
        exchanges.iter().filter(names).count()
    };
    for job in all.iter().filter(|job| named(job) != 1) {
        faults.push(format!("job {} is the answer to {} requests", job["id"], named(job)));
    }
    Ok(faults)
}
