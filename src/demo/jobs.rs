//! The play of `phalanx demo jobs`: seven nodes and a gateway, requests, two deaths, and an account of every answer.
//!
//! It starts its own processes on free ports, tells each step in plain words, and believes nothing: every answer is compared
//! with what its request must give, and the list of jobs with the requests that were made.
//! Not here: printing and the exit code (`cli/lab/demo.rs`).

use crate::client::{Client, Fault, Request, Response};
use crate::lab::cluster::Cluster;
use crate::lab::jobs::Jobs;
use crate::lab::{LabError, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Nodes that vote and work.
const NODES: u64 = 7;
/// The gateway's number.
const GATEWAY: u64 = NODES + 1;
/// Requests in each row.
const REQUESTS: usize = 9;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug)]
pub struct Account {
    /// What is not as it must be; empty if all is well.
    pub faults: Vec<String>,
    /// Where logs and heartbeats are kept.
    pub folder: PathBuf,
}

/// One request and what was answered.
struct Exchange {
    name: String,
    wanted: String,
    response: std::result::Result<Response, Fault>,
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

/// How requests are put: Java if there is a compiler, else a language that is available.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tongue {
    Java,
    Shell,
}

impl Tongue {
    fn ask(self, address: &str, number: usize) -> Exchange {
        let wanted = format!("Hello world {number}!");
        let begun = Instant::now();
        let response = self.send(address, number, &wanted);
        Exchange { name: format!("request {number:>2}"), wanted, response, took: begun.elapsed() }
    }

    fn send(self, address: &str, number: usize, wanted: &str) -> std::result::Result<Response, Fault> {
        let mut request = match self {
            Tongue::Java => {
                let source = format!(
                    "package demo;\n\npublic class HelloWorld {{\n    public String run() {{\n        return \"{wanted}\";\n    }}\n}}\n"
                );
                let request = Request::once("POST", "/compileandrun?wait=60s", Some(source.into_bytes()));
                Request { media: Some("text/x-java-source"), ..request }
            }
            Tongue::Shell => {
                let body = json!({"language": "shell", "source": format!("sleep 0.3; printf '{wanted}'")});
                Request::change("POST", "/v1/jobs?wait=60s", &body)
            }
        };
        // Where a node dies in the middle, this is the same request once more, and is known as such.
        request.key = Some(format!("demo-{number}"));
        let mut client = Client::new(vec![address.to_string()]);
        // The gateway is asked once: it is to drop nothing.
        (client.patience, client.within) = (PATIENCE, None);
        let mut response = client.answer(&request)?;
        if self == Tongue::Shell
            && let Some(output) = response.json()["stdout"].as_str()
        {
            response.body = output.as_bytes().to_vec();
        }
        Ok(response)
    }
}

/// Plays it; `say` gets each line as it happens.
///
/// # Errors
/// Processes do not start, or the cluster does not come to what a step needs.
pub fn play(exe: PathBuf, say: &mut dyn FnMut(&str)) -> Result<Account> {
    let settings = json!({"jobs_enabled": true, "voters_max": NODES, "cluster_name": "demo jobs"});
    let mut cluster = Cluster::prepare(exe, &settings)?;
    cluster.keep = true; // unless all is well at the end
    let mut faults = Vec::new();
    let mut exchanges = Vec::new();

    say(&format!("1. {NODES} nodes and a gateway start, in {}", cluster.dir().display()));
    for id in 1..=NODES {
        cluster.spawn(id, &[])?;
    }
    cluster.spawn(GATEWAY, &["--gateway"])?;
    let leader = cluster.settle_as(NODES as usize)?;
    let gateway = cluster.http(GATEWAY);
    let tongue = choose(&cluster, say)?;
    say(&format!("   They have elected node {leader}. The gateway replicates the log and does not vote:"));
    tell_roles(&cluster, say)?;

    say(&format!("2. {REQUESTS} requests to the gateway, one after another"));
    for number in 1..=REQUESTS {
        let exchange = tongue.ask(&gateway, number);
        say(&exchange.line());
        exchanges.push(exchange);
    }

    // The lowest number that does not lead: the leader's turn comes next.
    let lowest = (1..=NODES).find(|id| *id != leader).unwrap_or(1);
    say(&format!("3. kill -9 of node {lowest}; the logs of the others"));
    cluster.kill(lowest)?;
    let sign = format!("no heartbeat from node {lowest}: failed");
    for id in (1..=GATEWAY).filter(|id| *id != lowest) {
        let line = cluster.wait_until(&format!("node {id} notices"), PATIENCE, || {
            cluster.log(id).lines().find(|line| line.contains(&sign)).map(str::to_string)
        })?;
        say(&format!("   {line}"));
    }

    say(&format!("4. {REQUESTS} requests at once, and kill -9 of the leader, node {leader}, while they run"));
    let asking: Vec<_> =
        (REQUESTS + 1..=2 * REQUESTS).map(|number| ask_aside(tongue, &gateway, number)).collect::<Result<_>>()?;
    cluster.wait_until("a worker has some of them", PATIENCE, || {
        cluster.status(GATEWAY).ok().filter(|status| status.jobs.running > 0).map(|_| ())
    })?;
    cluster.kill(leader)?;
    let next = cluster.wait_other_leader(leader)?;
    if let Some(failover) = cluster.status(next)?.failovers.first() {
        say(&format!("   node {next} leads now, {} ms later ({})", failover.leaderless_ms, failover.cause));
    }

    say("5. All requests with their answers");
    for answer in asking {
        let exchange = answer.recv().map_err(|_| LabError::Answer("a request's thread has died".to_string()))?;
        say(&exchange.line());
        exchanges.push(exchange);
    }

    say("6. One more");
    let exchange = tongue.ask(&gateway, 2 * REQUESTS + 1);
    say(&exchange.line());
    exchanges.push(exchange);

    for exchange in exchanges.iter().filter(|exchange| !exchange.is_right()) {
        faults.push(format!("{} must give {:?} and gave {:?}", exchange.name, exchange.wanted, exchange.answer()));
    }
    faults.extend(count(&gateway, &exchanges)?);

    say("7. The heartbeats that each node has received, from GET /v1/gossip");
    for id in cluster.running() {
        let path = cluster.dir().join(format!("heartbeats-{id}.json"));
        let heard = cluster.get(id, "/v1/gossip")?;
        say(&format!("   node {id}: {}", heard_from(&heard.json())));
        std::fs::write(&path, heard.body).map_err(LabError::io(format!("write {}", path.display())))?;
    }

    say("8. Stopping the nodes");
    faults.extend(cluster.stop_orderly(PATIENCE)?);
    say("   all processes have stopped");
    cluster.keep = !faults.is_empty();
    Ok(Account { faults, folder: cluster.dir().to_path_buf() })
}

/// Java as soon as a worker has it; what there is, if none says that it has within the time that probing takes.
fn choose(cluster: &Cluster, say: &mut dyn FnMut(&str)) -> Result<Tongue> {
    let workers = cluster.wait_explained("every node has joined as a worker", PATIENCE, || {
        let workers = cluster.status(GATEWAY).map_err(|e| e.to_string())?.jobs.workers;
        let here = workers.iter().filter(|worker| worker.is_here).count();
        if here == NODES as usize { Ok(workers) } else { Err(format!("{here} of {NODES} have")) }
    })?;
    if let Some(trouble) = workers.iter().find_map(|worker| worker.trouble.clone()) {
        return Err(LabError::Answer(trouble));
    }
    if workers.iter().all(|worker| worker.runtimes.iter().any(|language| language == "java")) {
        return Ok(Tongue::Java);
    }
    say("   This machine has no Java compiler: the requests are shell scripts instead.");
    Ok(Tongue::Shell)
}

fn tell_roles(cluster: &Cluster, say: &mut dyn FnMut(&str)) -> Result<()> {
    for row in cluster.status(GATEWAY)?.nodes {
        let role = match row.is_gateway {
            true => "gateway".to_string(),
            false => format!("{:?}", row.role).to_lowercase(),
        };
        let standing = format!("{:?}", row.membership).to_lowercase();
        say(&format!("   node {}  {role:<9} {standing:<8} http://{}", row.id.0, row.http));
    }
    Ok(())
}

/// Whose heartbeats a node has, each with its age.
fn heard_from(gossip: &Value) -> String {
    let rows = gossip["rows"].as_array().into_iter().flatten();
    let told = rows.map(|row| match row["status"] == "ONLINE" {
        true => format!("node {} {} ms ago", row["id"], row["heartbeat_age_ms"]),
        false => format!("node {} is offline", row["id"]),
    });
    told.collect::<Vec<_>>().join(", ")
}

fn ask_aside(tongue: Tongue, gateway: &str, number: usize) -> Result<crossbeam_channel::Receiver<Exchange>> {
    let (to, answer) = crossbeam_channel::bounded(1);
    let gateway = gateway.to_string();
    crate::node::spawn::spawn("asker", move || drop(to.send(tongue.ask(&gateway, number))))
        .map_err(LabError::io("start a thread"))?;
    Ok(answer)
}

/// The jobs of the log against the requests: as many, each ended, each named by one answer.
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
