//! Jobs on real clusters with real compilers, while workers and leaders are killed, frozen and stopped: each job ends once,
//! with the right output.

use crate::EXE;
use phalanx::bench::job_rates::wait_workers;
use phalanx::lab::Cluster;
use phalanx::lab::jobs::Jobs;
use phalanx::lab::web::{Connection, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
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

/// A program that takes a while and says what nobody else says, in the languages of this machine by turns; and what it says.
fn program(number: usize, known: &[String]) -> (Value, String) {
    const SOURCES: [(&str, &str); 7] = [
        ("shell", "p=1; i=1; while [ $i -le N ]; do p=$((p * i % 1000003)); i=$((i+1)); done; sleep 0.5; printf $p"),
        ("python", "import math, time\ntime.sleep(0.5)\nprint(math.factorial(N) % 1000003, end='')"),
        (
            "c",
            "#include <stdio.h>\n#include <unistd.h>\nint main() { long p = 1; for (int i = 1; i <= N; i++) \
             p = p * i % 1000003; usleep(500000); printf(\"%ld\", p); }",
        ),
        (
            "java",
            "public class P { public String run() throws Exception { long p = 1; for (int i = 1; i <= N; i++) \
             p = p * i % 1000003; Thread.sleep(300); return \"\" + p; } }",
        ),
        (
            "javascript",
            "let p = 1; for (let i = 1; i <= N; i++) p = p * i % 1000003; \
             setTimeout(() => process.stdout.write('' + p), 500)",
        ),
        (
            "cpp",
            "#include <cstdio>\n#include <unistd.h>\nint main() { long long p = 1; for (int i = 1; i <= N; i++) \
             p = p * i % 1000003; usleep(300000); std::printf(\"%lld\", p); }",
        ),
        (
            "rust",
            "fn main() { let p = (1..=Nu64).fold(1, |p, i| p * i % 1000003); \
             std::thread::sleep(std::time::Duration::from_millis(300)); print!(\"{p}\"); }",
        ),
    ];
    let turn = SOURCES[number % SOURCES.len()];
    let is_known = known.iter().any(|language| language == turn.0);
    if !is_known {
        eprintln!("this machine has no {}: shell in its place", turn.0);
    }
    let (language, source) = if is_known { turn } else { SOURCES[0] };
    let n = number as u64 + 10;
    let wanted = (1..=n).fold(1, |p, i| p * i % 1_000_003);
    let source = source.replace("<= N", &format!("<= {n}")).replace("(N)", &format!("({n})"));
    let source = source.replace("-le N", &format!("-le {n}")).replace("Nu64", &format!("{n}u64"));
    (json!({"language": language, "source": source}), wanted.to_string())
}

#[test]
fn fifty_jobs_end_once_while_workers_and_leaders_are_killed() {
    let mut cluster = cluster(5, &json!({}));
    let known = cluster.status(1).unwrap().jobs.workers[0].runtimes.clone();
    let mut jobs = jobs_of(&cluster, 5);
    let mut wanted: BTreeMap<u64, String> = BTreeMap::new();
    let (mut down, mut kills) = (None, 0);
    for number in 0..50 {
        let (body, output) = program(number, &known);
        jobs.go_to(number);
        wanted.insert(jobs.hand_in(&body, soon()).unwrap(), output);
        if number % 10 == 7 {
            // Turn by turn the leader, and a worker that has something to lose.
            if let Some(id) = down.take() {
                cluster.restart(id).unwrap();
                cluster.settle().unwrap();
            }
            let leader = cluster.wait_leader().unwrap();
            let victim = match kills % 2 {
                0 => leader,
                _ => cluster
                    .wait_until("another than the leader has a job", PATIENCE, || {
                        let workers = cluster.status(leader).ok()?.jobs.workers;
                        let row = workers.iter().find(|row| row.id.0 != leader && !row.running.is_empty())?;
                        Some(row.id.0)
                    })
                    .unwrap(),
            };
            cluster.kill(victim).unwrap();
            (down, kills) = (Some(victim), kills + 1);
        }
    }
    assert_eq!((kills, wanted.len()), (5, 50), "each request is a job of its own");
    let mut attempts = 0;
    for (id, output) in &wanted {
        let job = jobs.ended(*id, soon() + PATIENCE).unwrap();
        assert_eq!((&job["state"], &job["exit_code"]), (&json!("finished"), &json!(0)), "{job}");
        assert_eq!(job["stdout"], **output, "{job}");
        attempts += job["attempt"].as_u64().unwrap();
    }
    assert!(attempts > 50, "no kill hit a job that ran");
    if let Some(id) = down {
        cluster.restart(id).unwrap();
    }
    cluster.settle().unwrap();
    // Every node tells the same end, and there are no other jobs.
    for id in 1..=5 {
        let page = get(&cluster, id, "/v1/jobs?limit=1000&level=eventual").json();
        let all = page["jobs"].as_array().unwrap();
        assert_eq!(all.len(), 50, "node {id}");
        for job in all {
            let same = get(&cluster, 1, &format!("/v1/jobs/{}", job["id"])).json();
            assert_eq!((&job["ended_ms"], &job["attempt"]), (&same["ended_ms"], &same["attempt"]), "node {id}");
        }
    }
}

#[test]
fn a_lost_worker_s_job_begins_elsewhere_and_one_that_comes_back_drops_it() {
    let mut cluster = cluster(3, &shell_only());
    let mut jobs = jobs_of(&cluster, 3);
    let leader = cluster.wait_leader().unwrap();
    // Until some job is with a follower: the leader's own is another story.
    let (job, worker) = loop {
        let job = jobs.hand_in(&shell("echo begun; sleep 4; echo done"), soon()).unwrap();
        let (worker, _) = running(&cluster, leader, job);
        if worker != leader {
            break (job, worker);
        }
    };
    cluster
        .wait_until("its node has heard it", PATIENCE, || {
            get(&cluster, leader, &format!("/v1/jobs/{job}/output")).text().contains("begun").then_some(())
        })
        .unwrap();
    cluster.freeze(worker).unwrap();
    let (elsewhere, attempt) = cluster
        .wait_until("its job is begun elsewhere", PATIENCE, || {
            let now = get(&cluster, leader, &format!("/v1/jobs/{job}")).json();
            Some((now["worker"].as_u64()?, now["attempt"].as_u64()?)).filter(|(_, attempt)| *attempt > 1)
        })
        .unwrap();
    assert_ne!(elsewhere, worker);
    cluster.thaw(worker).unwrap();
    let dropped = format!("job {job} was stopped here, attempt 1");
    cluster
        .wait_until("it drops what is not its own", PATIENCE, || cluster.log(worker).contains(&dropped).then_some(()))
        .unwrap();
    let end = jobs.ended(job, soon()).unwrap();
    assert_eq!((&end["state"], &end["stdout"]), (&json!("finished"), &json!("begun\ndone\n")));
    assert_eq!((end["attempt"].as_u64(), end["worker"].as_u64()), (Some(attempt), Some(elsewhere)));
    // What the lost attempt had printed is told by its worker, and kept.
    cluster
        .wait_until("the first attempt's words are kept", PATIENCE, || {
            let earlier = &get(&cluster, leader, &format!("/v1/jobs/{job}")).json()["earlier"][0];
            (earlier["worker"] == worker && earlier["stdout"] == "begun\n").then_some(())
        })
        .unwrap();
    wait_workers(&cluster, 3).unwrap();
}

#[test]
fn a_node_that_stops_gives_its_jobs_away_at_once() {
    let mut cluster = cluster(3, &shell_only());
    let mut jobs = jobs_of(&cluster, 3);
    let job = jobs.hand_in(&shell("echo begun; sleep 3; echo done"), soon()).unwrap();
    let (worker, _) = running(&cluster, 1, job);
    let witness = (1..=3).find(|id| *id != worker).unwrap();
    cluster.interrupt(worker).unwrap();
    let begun = Instant::now();
    cluster
        .wait_until("its job is begun elsewhere", PATIENCE, || {
            (get(&cluster, witness, &format!("/v1/jobs/{job}")).json()["attempt"] == 2).then_some(())
        })
        .unwrap();
    assert!(cluster.process(worker).unwrap().wait(PATIENCE).unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "an orderly stop takes no longer: {:?}", begun.elapsed());
    jobs.go_to(witness as usize - 1);
    assert_eq!(jobs.ended(job, soon()).unwrap()["stdout"], "begun\ndone\n");
}

#[test]
fn what_a_killed_process_had_goes_on_although_its_node_is_back_at_once() {
    let mut cluster = cluster(1, &shell_only());
    let mut jobs = jobs_of(&cluster, 1);
    let job = jobs.hand_in(&shell("echo begun; sleep 2; echo done"), soon()).unwrap();
    running(&cluster, 1, job);
    cluster.kill(1).unwrap();
    // The node is back, and leads; but it runs no jobs any more, and nobody can be asked to believe that its old process does.
    cluster.spawn(1, &["--set", "jobs_enabled=false"]).unwrap();
    cluster.settle().unwrap();
    cluster
        .wait_until("the job waits again", PATIENCE, || {
            (get(&cluster, 1, &format!("/v1/jobs/{job}")).json()["state"] == "queued").then_some(())
        })
        .unwrap();
    cluster.restart(1).unwrap();
    let end = jobs.ended(job, soon()).unwrap();
    assert_eq!((&end["stdout"], &end["attempt"]), (&json!("begun\ndone\n"), &json!(2)), "{end}");
}

#[test]
fn queued_jobs_survive_the_death_of_all() {
    let mut cluster = cluster(3, &shell_only());
    let mut jobs = jobs_of(&cluster, 3);
    let mut wanted = BTreeMap::new();
    for number in 0..200 {
        jobs.go_to(number);
        wanted.insert(jobs.hand_in(&shell(&format!("sleep 0.05; echo {number}")), soon()).unwrap(), number);
    }
    let queued = cluster.status(1).unwrap().jobs.queued;
    assert!(queued > 20, "only {queued} were waiting");
    for id in 1..=3 {
        cluster.kill(id).unwrap();
    }
    for id in 1..=3 {
        cluster.spawn(id, &[]).unwrap();
    }
    cluster.settle().unwrap();
    for (id, number) in &wanted {
        let end = jobs.ended(*id, soon()).unwrap();
        assert_eq!((&end["state"], &end["stdout"]), (&json!("finished"), &json!(format!("{number}\n"))), "{end}");
    }
    assert_eq!(jobs.all(soon()).unwrap().len(), 200);
}

#[test]
fn a_gateway_serves_holds_and_never_votes() {
    let mut cluster = Cluster::prepare(EXE, &{
        let mut settings = shell_only();
        settings["jobs_enabled"] = true.into();
        settings
    })
    .unwrap();
    // It may come first: it waits for somebody to found a cluster.
    cluster.spawn(4, &["--gateway"]).unwrap();
    cluster
        .wait_until("it says what it waits for", PATIENCE, || {
            cluster.log(4).contains("it is a gateway; start the nodes").then_some(())
        })
        .unwrap();
    for id in 1..=3 {
        cluster.spawn(id, &[]).unwrap();
    }
    let leader = cluster.settle_as(3).unwrap();
    wait_workers(&cluster, 3).unwrap();
    let status = cluster.status(leader).unwrap();
    assert_eq!(status.cluster.voters.len(), 3, "five may vote, and the gateway does not");
    let row = status.nodes.iter().find(|row| row.id.0 == 4).unwrap();
    assert!(row.is_gateway && status.jobs.workers.iter().all(|worker| worker.id.0 != 4));
    let refused = post(&cluster, 4, "/v1/members/4", &json!({"action": "promote"}));
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("is a gateway, which never votes"), "{}", refused.text());

    // Requests that come while there is no leader wait, and are served in order.
    cluster.kill((1..=3).find(|id| *id != leader).unwrap()).unwrap();
    cluster.kill(leader).unwrap();
    let asking: Vec<_> = (1..=9)
        .map(|number| {
            let mut connection = Connection::open(&cluster.http(4), PATIENCE).unwrap();
            let body = shell(&format!("echo {number}")).to_string();
            connection
                .send_bytes("POST", "/v1/jobs?wait=60s", "Content-Type: application/json\r\n", Some(body.as_bytes()))
                .unwrap();
            // One after another: the first line of the answer of a second question on another connection says that the
            // gateway has seen this one.
            assert_eq!(get(&cluster, 4, "/livez").status, 200);
            connection
        })
        .collect();
    cluster.spawn(leader, &[]).unwrap();
    let mut ids = Vec::new();
    for (number, mut connection) in (1..=9).zip(asking) {
        let answer = connection.answer(soon()).unwrap();
        assert_eq!(answer.json()["stdout"], format!("{number}\n"), "{}", answer.text());
        ids.push(answer.json()["id"].as_u64().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, (ids[0]..ids[0] + 9).collect::<Vec<_>>(), "each is one job");

    // A voter cannot be turned into one.
    let voter = (1..=3).find(|id| cluster.is_running(*id)).unwrap();
    cluster.kill(voter).unwrap();
    cluster.spawn(voter, &["--gateway"]).unwrap();
    let status = cluster.process(voter).unwrap().wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(cluster.log(voter).contains("is a voter, and a gateway never votes"), "{}", cluster.log(voter));
}

#[test]
fn the_doors_of_jobs_answer_as_promised() {
    let cluster = cluster(3, &json!({}));
    let known = cluster.status(1).unwrap().jobs.workers[0].runtimes.clone();
    // Handed in on one node, looked at on another.
    let taken = post(
        &cluster,
        1,
        "/v1/jobs",
        &json!({
            "language": "shell", "args": ["a b", "c"], "stdin": "in\n", "limits": {"wall_ms": 5000},
            "files": [{"name": "main.sh", "content": "cat; printf '%s|' \"$@\"; cat lib/x >&2; exit 3"},
                      {"name": "lib/x", "content": "AP8=", "encoding": "base64"}],
        }),
    );
    assert_eq!(taken.status, 202, "{}", taken.text());
    let id = taken.json()["id"].as_u64().unwrap();
    assert_eq!(taken.header("location"), Some(format!("/v1/jobs/{id}").as_str()));
    let end = get(&cluster, 2, &format!("/v1/jobs/{id}?wait=30s")).json();
    for (name, value) in [
        ("state", json!("finished")),
        ("exit_code", json!(3)),
        ("signal", Value::Null),
        ("stdout", json!("in\na b|c|")),
        ("stderr", json!("AP8=")),
        ("stderr_encoding", json!("base64")),
        ("attempt", json!(1)),
        ("args", json!(["a b", "c"])),
    ] {
        assert_eq!(end[name], value, "{name} of {end}");
    }
    assert_eq!(end["limits"]["wall_ms"], 5000);

    // What is wrong is said, and makes no job.
    for (body, said) in [
        (json!({"language": "cobol", "source": "x"}), "no node has the runtime cobol; there are: "),
        (json!({"language": "shell"}), "give source, or files"),
        (json!({"language": "shell", "source": "x", "files": []}), "give source, or files"),
        (json!({"language": "shell", "source": "x", "limits": {"wall_ms": 0}}), "limits.wall_ms is 1 to 600000"),
        (json!({"language": "shell", "source": "x", "limit": {}}), "unknown field"),
        (json!({"language": "shell", "files": [{"name": "../x", "content": ""}]}), "is no name for a file"),
        (json!({"language": "shell", "files": [{"name": "x", "content": "!", "encoding": "base64"}]}), "not base64"),
    ] {
        let refused = post(&cluster, 2, "/v1/jobs", &body);
        assert_eq!(refused.status, 400, "{body}: {}", refused.text());
        assert!(refused.text().contains(said), "{body}: {}", refused.text());
    }
    let form = "Content-Type: text/plain\r\nSec-Fetch-Site: same-origin\r\n";
    assert_eq!(ask(&cluster, 1, "POST", "/v1/jobs", form, Some("{}")).status, 415, "no form of a page is taken");
    assert_eq!(get(&cluster, 1, "/v1/jobs/99").status, 404);
    assert_eq!(get(&cluster, 1, "/v1/jobs/x").status, 400);
    assert_eq!(get(&cluster, 1, "/v1/jobs?limit=0").status, 400);

    // One key is one job, however often and on whichever node.
    let keyed = |node: u64, wait: &str| {
        let headers = "Content-Type: application/json\r\nIdempotency-Key: one\r\n";
        ask(&cluster, node, "POST", &format!("/v1/jobs{wait}"), headers, Some(&shell("echo once").to_string())).json()["id"].clone()
    };
    let first = keyed(1, "");
    assert!(first.is_u64() && first == keyed(2, "") && first == keyed(3, "?wait=20s"));

    // Taken back: what waits, what runs, and not what has ended.
    let long = post(&cluster, 1, "/v1/jobs", &shell("sleep 60")).json()["id"].as_u64().unwrap();
    let (worker, _) = running(&cluster, 1, long);
    let cancel = |id: u64| ask(&cluster, 2, "DELETE", &format!("/v1/jobs/{id}"), "", None);
    assert_eq!(cancel(long).json()["state"], "cancelled");
    assert_eq!(get(&cluster, 3, &format!("/v1/jobs/{long}?wait=30s")).json()["state"], "cancelled");
    let stopped = format!("job {long} was stopped here");
    cluster
        .wait_until("its program is stopped", PATIENCE, || cluster.log(worker).contains(&stopped).then_some(()))
        .unwrap();
    assert_eq!((cancel(long).status, cancel(99).status), (409, 404));

    // Pages of the list, newest first, without output.
    let page = get(&cluster, 3, "/v1/jobs?limit=2").json();
    assert_eq!(page["jobs"][0]["id"], long);
    assert!(page["jobs"][0]["stdout"].is_null());
    let next = get(&cluster, 3, &format!("/v1/jobs?limit=2&before={}", page["next"])).json();
    assert_eq!(next["jobs"][0]["id"], id, "{next}");

    // A limit is told by its name.
    let slow = post(
        &cluster,
        1,
        "/v1/jobs?wait=30s",
        &json!({"language": "shell", "source": "sleep 9", "limits": {"wall_ms": 200}}),
    );
    assert_eq!(slow.json()["state"], "timed_out", "{}", slow.text());

    let runtimes = get(&cluster, 2, "/v1/runtimes").json();
    let listed: Vec<&str> =
        runtimes["runtimes"].as_array().unwrap().iter().filter_map(|row| row["language"].as_str()).collect();
    assert_eq!(listed, known);
    assert_eq!(runtimes["runtimes"][0]["nodes"].as_array().unwrap().len(), 3);

    if known.iter().any(|language| language == "java") {
        let java = |source: &str| {
            ask(&cluster, 1, "POST", "/compileandrun", "Content-Type: text/x-java-source\r\n", Some(source))
        };
        let right = java("package a; public class Hi { public String run() { return \"Hello world!\"; } }");
        assert_eq!((right.status, right.text().as_str()), (200, "Hello world!"));
        for name in ["x-phalanx-job", "x-phalanx-worker", "x-phalanx-attempt"] {
            assert!(right.header(name).is_some(), "{name}");
        }
        let wrong = java("public class Hi { public String run() { return 1 } }");
        assert!(wrong.status == 400 && wrong.text().contains("';' expected"), "{}", wrong.text());
        let thrown = java("public class Hi { public String run() { throw new IllegalStateException(\"no\"); } }");
        assert!(thrown.status == 400 && thrown.text().contains("IllegalStateException: no"), "{}", thrown.text());
        let form = "Content-Type: text/plain\r\nSec-Fetch-Site: same-origin\r\n";
        assert_eq!(ask(&cluster, 1, "POST", "/compileandrun", form, Some("class A {}")).status, 415);
    }
}

#[test]
fn output_is_live_on_every_node_and_whole_in_the_end() {
    let mut cluster = cluster(3, &shell_only());
    let job = post(
        &cluster,
        1,
        "/v1/jobs",
        &shell("echo one; echo two >&2; sleep 1; while [ ! -e go ]; do sleep 0.05; echo tick; done"),
    );
    let id = job.json()["id"].as_u64().unwrap();
    let (worker, _) = running(&cluster, 1, id);
    let witness = (1..=3).find(|id| *id != worker).unwrap();
    // Each node passes it on while it runs, and says so line by line.
    let open = |node: u64, query: &str| {
        let mut connection = Connection::open(&cluster.http(node), PATIENCE).unwrap();
        connection.send("GET", &format!("/v1/jobs/{id}/output?{query}"), None).unwrap();
        let head = connection.head(soon()).unwrap();
        assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
        connection
    };
    let mut streams: Vec<Connection> = (1..=3).map(|node| open(node, "follow&format=ndjson")).collect();
    let read_until = |connection: &mut Connection, wanted: &str| {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            let chunk = connection.chunk(soon()).unwrap().unwrap_or_else(|| panic!("ended after {seen}"));
            seen += &String::from_utf8_lossy(&chunk);
        }
        seen
    };
    for stream in &mut streams {
        let seen = read_until(stream, "tick");
        assert!(seen.contains("\"stream\":\"stderr\",\"text\":\"two\\n\""), "{seen}");
    }
    let mut plain = open(witness, "follow&stream=stdout");
    assert!(read_until(&mut plain, "tick\n").starts_with("one\n"));
    assert!(
        get(&cluster, witness, &format!("/v1/jobs/{id}/output")).text().starts_with("one\n"),
        "what was said so far"
    );

    // Its worker dies: whoever listens elsewhere hears that it begins anew.
    cluster.kill(worker).unwrap();
    for (_, stream) in streams.iter_mut().enumerate().filter(|(at, _)| *at as u64 + 1 != worker) {
        let seen = read_until(stream, "\"attempt\":2,\"why\":\"lost\",\"worker\":");
        assert!(!seen.contains("\"state\""), "{seen}");
        assert!(read_until(stream, "two").contains("one"));
    }
    assert!(read_until(&mut plain, "attempt 2 begins").contains("its worker was lost"));
    assert_eq!(ask(&cluster, witness, "DELETE", &format!("/v1/jobs/{id}"), "", None).status, 200);
    for (_, stream) in streams.iter_mut().enumerate().filter(|(at, _)| *at as u64 + 1 != worker) {
        assert!(read_until(stream, "\"state\":\"cancelled\"").ends_with("}\n"));
        assert!(stream.chunk(soon()).unwrap().is_none(), "a proper end");
    }
    let whole = post(&cluster, witness, "/v1/jobs?wait=30s", &shell("echo out; echo err >&2")).json()["id"].clone();
    assert_eq!(get(&cluster, witness, &format!("/v1/jobs/{whole}/output?follow")).text(), "out\nerr\n");
    assert_eq!(get(&cluster, witness, &format!("/v1/jobs/{whole}/output?stream=stderr")).text(), "err\n");
    assert_eq!(get(&cluster, witness, "/v1/jobs/999/output").status, 404);
    assert_eq!(get(&cluster, witness, "/v1/jobs/1/output?stream=x").status, 400);
}

fn phalanx(cluster: &Cluster, args: &[&str]) -> Output {
    let endpoints = (1..=3).map(|id| cluster.http(id)).collect::<Vec<_>>().join(",");
    let mut command = Command::new(EXE);
    command.args(args).args(["-e", &endpoints]).current_dir(cluster.dir()).stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn the_command_line_runs_programs() {
    let cluster = cluster(3, &shell_only());
    let write = |name: &str, text: &str| std::fs::write(cluster.dir().join(name), text).unwrap();
    write("hello.sh", "echo hello $1; echo oops >&2; cat; exit 7");
    write("in.txt", "from a file\n");
    let ran = run_with_args(&cluster, &["job", "run", "hello.sh", "--stdin", "in.txt"], &["you"]);
    assert_eq!(
        (ran.status.code(), String::from_utf8_lossy(&ran.stdout).as_ref()),
        (Some(7), "hello you\nfrom a file\n"),
        "{ran:?}"
    );
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "oops\n");

    write("killed.sh", "kill -SEGV $$");
    assert_eq!(phalanx(&cluster, &["job", "run", "killed.sh"]).status.code(), Some(139));
    write("slow.sh", "echo begun; sleep 30");
    let slow = phalanx(&cluster, &["job", "run", "slow.sh", "--limit", "wall_ms=300"]);
    assert_eq!((slow.status.code(), String::from_utf8_lossy(&slow.stdout).as_ref()), (Some(1), "begun\n"));
    assert!(String::from_utf8_lossy(&slow.stderr).contains("timed out"), "{slow:?}");

    let submitted = phalanx(&cluster, &["job", "submit", "slow.sh"]);
    let id = String::from_utf8_lossy(&submitted.stdout).trim().to_string();
    assert!(phalanx(&cluster, &["job", "show", &id]).status.success());
    assert!(phalanx(&cluster, &["job", "cancel", &id]).status.success());
    assert_eq!(phalanx(&cluster, &["job", "cancel", &id]).status.code(), Some(1));
    let list = phalanx(&cluster, &["job", "list"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains("cancelled") && list.contains("timed_out") && list.contains("slow.sh"), "{list}");
    let logs = phalanx(&cluster, &["job", "logs", "1", "-f"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "hello you\nfrom a file\n");
    assert!(String::from_utf8_lossy(&phalanx(&cluster, &["job", "runtimes"]).stdout).contains("shell"));

    write("what.xyz", "x");
    assert_eq!(phalanx(&cluster, &["job", "run", "what.xyz"]).status.code(), Some(2));
    assert_eq!(phalanx(&cluster, &["job", "run", "nothing.sh"]).status.code(), Some(2));
    let cobol = phalanx(&cluster, &["job", "run", "what.xyz", "-l", "cobol"]);
    assert!(
        cobol.status.code() == Some(1) && String::from_utf8_lossy(&cobol.stderr).contains("there are: shell"),
        "{cobol:?}"
    );
}

fn run_with_args(cluster: &Cluster, args: &[&str], of_program: &[&str]) -> Output {
    let mut command = Command::new(EXE);
    command.args(args).args(["-e", &cluster.http(2), "--"]).args(of_program);
    command.current_dir(cluster.dir()).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_command_line_goes_on_when_its_node_and_its_worker_die() {
    let mut cluster = cluster(3, &shell_only());
    std::fs::write(cluster.dir().join("long.sh"), "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.3; done").unwrap();
    let endpoints = (1..=3).map(|id| cluster.http(id)).collect::<Vec<_>>().join(",");
    let mut command = Command::new(EXE);
    command.args(["job", "run", "long.sh", "-e", &endpoints]).current_dir(cluster.dir()).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (worker, _) = running(&cluster, 3, 1);
    // The first address is the one it speaks to; now and then the job is there as well.
    cluster.kill(1).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said.ends_with("1\n2\n3\n4\n5\n6\n7\n8\n"), "{said}");
    match worker {
        1 => assert!(String::from_utf8_lossy(&output.stderr).contains("its worker was lost"), "{output:?}"),
        _ => assert_eq!(said.lines().count(), 8, "nothing twice: {said}"),
    }
}

#[test]
fn where_programs_cannot_be_caged_jobs_are_refused_with_the_cure() {
    // A place of its own where bubblewrap cannot be started.
    let folder = tempfile::tempdir().unwrap();
    let exe = folder.path().join("phalanx");
    let hide = "mount --bind /dev/null $(command -v bwrap) && exec \"$0\" \"$@\"";
    let map = if rustix::process::geteuid().is_root() { "" } else { "--map-root-user" };
    let script = format!("#!/bin/sh\nexec unshare {map} --mount sh -c '{hide}' {EXE} \"$@\"\n");
    std::fs::write(&exe, script).unwrap();
    std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (cage, works) in [("full", false), ("limits", true)] {
        let mut settings = shell_only();
        settings["jobs_enabled"] = true.into();
        settings["jobs_cage"] = cage.into();
        let mut cluster = Cluster::prepare(&exe, &settings).unwrap();
        cluster.spawn(1, &[]).unwrap();
        cluster.wait_leader().unwrap();
        let answer = post(&cluster, 1, "/v1/jobs?wait=30s", &shell("echo fine"));
        if works {
            assert_eq!(answer.json()["stdout"], "fine\n", "{}", answer.text());
            assert!(
                cluster.log(1).contains("jobs_cage is \"limits\": every client may read and change"),
                "{}",
                cluster.log(1)
            );
        } else {
            assert_eq!(answer.status, 503, "{}", answer.text());
            let said = answer.text();
            assert!(said.contains("could not be caged") && said.contains("apt-get install bubblewrap"), "{said}");
        }
    }
}

/// Programs give way to nodes, and to the threads of nodes that watch them: else a fork bomb is noticed late.
#[test]
fn programs_have_ten_more_than_their_node_of_what_nice_adds() {
    let cluster = cluster(1, &shell_only());
    let own = Command::new("nice").output().unwrap().stdout;
    let own: i32 = String::from_utf8_lossy(&own).trim().parse().unwrap();
    let end = post(&cluster, 1, "/v1/jobs?wait=30s", &shell("nice")).json();
    assert_eq!(end["stdout"], format!("{}\n", (own + 10).min(19)), "{end}");
}

#[test]
fn a_compiler_that_hangs_is_missing_and_holds_no_node_up() {
    let mut settings = shell_only();
    let stuck = json!({"language": "stuck", "file_name": "x", "probe": ["sleep", "600"], "run": ["true"]});
    settings["runtimes"].as_array_mut().unwrap().insert(0, stuck);
    settings["jobs_enabled"] = true.into();
    let begun = Instant::now();
    let cluster = Cluster::ready(EXE, 1, &settings).unwrap();
    cluster.note("meanwhile", "it serves").unwrap();
    let workers = cluster.status(1).unwrap().jobs.workers;
    assert!(workers.is_empty(), "the look for compilers was over, nothing was proved: {workers:?}");
    let early = post(&cluster, 1, "/v1/jobs", &shell("true"));
    assert_eq!(early.status, 503, "{}", early.text());
    assert!(early.text().contains("no worker has joined yet"), "{}", early.text());
    wait_workers(&cluster, 1).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "10 s are what a look may take: {:?}", begun.elapsed());
    let runtimes = get(&cluster, 1, "/v1/runtimes").json();
    assert_eq!(
        (runtimes["runtimes"].as_array().unwrap().len(), &runtimes["runtimes"][0]["language"]),
        (1, &json!("shell"))
    );
    let refused = post(&cluster, 1, "/v1/jobs", &json!({"language": "stuck", "source": ""}));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("no node has the runtime stuck; there are: shell"), "{}", refused.text());
    assert_eq!(post(&cluster, 1, "/v1/jobs?wait=30s", &shell("echo fine")).json()["stdout"], "fine\n");
}

#[test]
fn a_node_whose_data_is_closed_runs_jobs_elsewhere_and_leaves_nothing_there() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root's slots have users of their own");
    }
    let mut settings = shell_only();
    settings["jobs_enabled"] = true.into();
    let mut cluster = Cluster::prepare(EXE, &settings).unwrap();
    std::fs::set_permissions(cluster.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    cluster.spawn(1, &[]).unwrap();
    cluster.settle().unwrap();
    wait_workers(&cluster, 1).unwrap();
    let folder = Path::new("/run/phalanx-jobs").join(cluster.status(1).unwrap().node.uuid.simple().to_string());
    let mut jobs = jobs_of(&cluster, 1);
    let job = jobs.hand_in(&shell("id -u; pwd; while [ ! -e go ]; do sleep 0.02; done; cat go"), soon()).unwrap();
    running(&cluster, 1, job);
    let attempt = folder.join(format!("{job}-1")).join("job");
    cluster.wait_until("it has its folder there", PATIENCE, || attempt.join("main.sh").exists().then_some(())).unwrap();
    std::fs::write(attempt.join("went"), "gone on\n").unwrap();
    std::fs::set_permissions(attempt.join("went"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::rename(attempt.join("went"), attempt.join("go")).unwrap();
    let end = jobs.ended(job, soon()).unwrap();
    let said = end["stdout"].as_str().unwrap();
    assert!(said.ends_with("/job\ngone on\n") && !said.starts_with("0\n"), "{end}");
    cluster.wait_until("its folder is gone", PATIENCE, || (!attempt.exists()).then_some(())).unwrap();
    cluster.interrupt(1).unwrap();
    assert!(cluster.process(1).unwrap().wait(PATIENCE).unwrap().success());
    assert!(!folder.exists(), "a stopped node leaves nothing below /run");
}

#[test]
fn jobs_can_be_off() {
    let cluster = Cluster::ready(EXE, 1, &json!({"jobs_enabled": false})).unwrap();
    let refused = post(&cluster, 1, "/v1/jobs", &shell("true"));
    assert!(refused.status == 403 && refused.text().contains("jobs_enabled"), "{}", refused.text());
    assert_eq!(get(&cluster, 1, "/v1/runtimes").json()["runtimes"], json!([]));
}

#[test]
fn the_demo_of_jobs_passes_its_own_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(EXE);
    command.args(["demo", "jobs"]).env("TMPDIR", folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("VERDICT: passed."), "{said}");
    assert_eq!(said.lines().filter(|line| line.trim_start().starts_with("ok ")).count(), 19, "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("no heartbeat from node 1: failed")).count(), 7, "{said}");
    let left: Vec<String> =
        std::fs::read_dir(folder.path()).unwrap().map(|row| row.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.starts_with("phalanx-lab-locks-")), "{left:?} is left");
}

const BOMB: &str = include_str!("fork_bomb.sh");
/// Threads that a desktop session has.
const OTHER_THREADS: usize = 400;

/// As an ordinary user and, where the tests run as root, as root too.
#[test]
fn innocent_jobs_are_untouched_by_fork_bombs_and_by_other_threads_of_root() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: not root; the same test runs as an ordinary user");
    }
    innocent_jobs_are_untouched(Path::new(EXE));
}

/// Root runs this test once more as a user without rights, with copies of both programs that this user may read.
#[test]
fn innocent_jobs_are_untouched_by_fork_bombs_and_by_other_threads_of_an_ordinary_user() {
    const NAME: &str = "jobs::innocent_jobs_are_untouched_by_fork_bombs_and_by_other_threads_of_an_ordinary_user";
    if !rustix::process::geteuid().is_root() {
        let copy = std::env::var("PHALANX_TEST_COPY").unwrap_or_else(|_| EXE.to_string());
        return innocent_jobs_are_untouched(Path::new(&copy));
    }
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let (tests, exe, scratch) = (dir.path().join("tests"), dir.path().join("phalanx"), dir.path().join("scratch"));
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    std::fs::copy(EXE, &exe).unwrap();
    std::fs::create_dir(&scratch).unwrap();
    for (path, mode) in
        [(dir.path(), 0o755), (tests.as_path(), 0o755), (exe.as_path(), 0o755), (scratch.as_path(), 0o777)]
    {
        open(path, mode);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=-all"]);
    command.arg(&tests).args([NAME, "--exact", "--nocapture"]).current_dir("/").env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TMPDIR", &scratch).env("PHALANX_TEST_COPY", &exe);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(" 1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Three nodes of this user, who runs many threads besides.
fn innocent_jobs_are_untouched(exe: &Path) {
    let idle: Vec<_> = (0..OTHER_THREADS)
        .map(|_| {
            let (let_go, wait) = std::sync::mpsc::sync_channel::<()>(1);
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    let _ = wait.recv();
                })
                .unwrap();
            let_go
        })
        .collect();
    let mut settings = shell_only();
    settings["jobs_enabled"] = true.into();
    settings["job_slots"] = 2.into();
    let cluster = Cluster::ready(exe, 3, &settings).unwrap();
    wait_workers(&cluster, 3).unwrap();
    let mut jobs = jobs_of(&cluster, 3);
    let (mut innocent, mut bombs) = (BTreeMap::new(), Vec::new());
    for number in 0..36 {
        jobs.go_to(number);
        if number % 6 == 1 {
            bombs.push(jobs.hand_in(&shell(BOMB), soon()).unwrap());
        }
        let source = format!("for i in 1 2 3 4; do (sleep 0.05; echo {number}) & done; wait");
        innocent.insert(jobs.hand_in(&shell(&source), soon()).unwrap(), format!("{number}\n").repeat(4));
    }
    for (id, output) in &innocent {
        let end = jobs.ended(*id, soon()).unwrap();
        let is_right = end["state"] == "finished" && end["exit_code"] == 0 && end["stdout"] == **output;
        assert!(is_right, "{end}");
    }
    for id in bombs {
        let end = jobs.ended(id, soon()).unwrap();
        assert_eq!(end["state"], "processes_exceeded", "{end}");
    }
    // Nor does a job see what its node keeps.
    let data = cluster.dir().join("data");
    let look = format!(
        "ls {0} && cat {0}/node-1/identity.json {1}",
        data.display(),
        cluster.dir().join("settings.json").display()
    );
    let end = post(&cluster, 1, "/v1/jobs?wait=30s", &shell(&look)).json();
    assert_eq!((&end["stdout"], &end["state"]), (&json!(""), &json!("finished")), "{end}");
    drop(idle);
}

/// A program for nodes whose bubblewrap fails as long as a file is there, as where there is no room for namespaces any more.
struct Breakable {
    _folder: tempfile::TempDir,
    exe: PathBuf,
    broken: PathBuf,
}

impl Breakable {
    /// `nodes`: a shell pattern for the command lines of the nodes that it is about.
    fn new(nodes: &str) -> Breakable {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken");
        let script = format!(
            "#!/bin/sh\nif [ -e {} ]; then echo 'bwrap: Creating new namespace failed' >&2; exit 1; fi\nexec /opt/bwrap \"$@\"\n",
            broken.display()
        );
        let (fake, exe) = (folder.path().join("bwrap"), folder.path().join("phalanx"));
        std::fs::write(&fake, script).unwrap();
        let map = if rustix::process::geteuid().is_root() { "" } else { "--map-root-user" };
        let hide = format!(
            "mount -t tmpfs none /opt && cp -p $(command -v bwrap) /opt/bwrap && chmod 755 /opt && mount --bind {} \
             $(command -v bwrap) && exec \"$0\" \"$@\"",
            fake.display()
        );
        let start = format!(
            "#!/bin/sh\ncase \" $* \" in {nodes}) exec unshare {map} --mount sh -c '{hide}' {EXE} \"$@\";; *) exec {EXE} \"$@\";; esac\n"
        );
        std::fs::write(&exe, start).unwrap();
        let open = |path: &Path| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        [folder.path(), fake.as_path(), exe.as_path()].into_iter().for_each(open);
        Breakable { _folder: folder, exe, broken }
    }

    fn break_it(&self) {
        std::fs::write(&self.broken, "").unwrap();
    }

    fn mend(&self) {
        std::fs::remove_file(&self.broken).unwrap();
    }
}

/// Runs `phalanx job ...` against node 1; its output, and what it said on standard error.
fn job_command(cluster: &Cluster, args: &[&str]) -> Child {
    let mut command = Command::new(EXE);
    command.arg("job").args(args).args(["-e", &cluster.http(1)]).current_dir(cluster.dir()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_sandbox_that_stops_working_gives_its_jobs_to_others_until_it_works_again() {
    let breakable = Breakable::new("*\" --id 1 \"*");
    let mut settings = shell_only();
    settings["jobs_enabled"] = true.into();
    settings["job_slots"] = 2.into();
    let mut cluster = Cluster::ready(&breakable.exe, 1, &settings).unwrap();
    wait_workers(&cluster, 1).unwrap();
    assert_eq!(post(&cluster, 1, "/v1/jobs?wait=30s", &shell("echo fine")).json()["stdout"], "fine\n");
    breakable.break_it();
    std::fs::write(cluster.dir().join("late.sh"), "echo late").unwrap();
    let mut jobs = jobs_of(&cluster, 1);
    // Both are taken in before the node knows: it tries to start a sandbox for a while.
    let mut late = job_command(&cluster, &["run", "late.sh"]);
    let mut said = BufReader::new(late.stderr.take().unwrap()).lines().map(Result::unwrap);
    running(&cluster, 1, 2);
    let job = jobs.hand_in(&shell("echo fine"), soon()).unwrap();
    cluster
        .wait_until("the node says that it is no worker", PATIENCE, || {
            let workers = cluster.status(1).ok()?.jobs.workers;
            workers[0].trouble.as_ref().is_some_and(|why| why.contains("Creating new namespace failed")).then_some(())
        })
        .unwrap();
    let waiting = cluster
        .wait_until("the job waits again, and says why", PATIENCE, || {
            let now = get(&cluster, 1, &format!("/v1/jobs/{job}")).json();
            now["waiting"].as_str().is_some_and(|why| why.contains("Creating new namespace")).then_some(now)
        })
        .unwrap();
    assert_eq!(
        (&waiting["state"], &waiting["earlier"][0]["why"]),
        (&json!("queued"), &json!("not_started")),
        "{waiting}"
    );
    let why = waiting["waiting"].as_str().unwrap();
    assert!(why.starts_with("no worker offers shell; node 1: jobs are refused here"), "{why}");
    let shown = job_command(&cluster, &["show", &job.to_string()]).wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("waiting          \"no worker offers shell; node 1: "), "{shown}");
    let line = said.find(|line| line.starts_with("waiting: ")).unwrap();
    assert!(line.starts_with("waiting: no worker offers shell; node 1: "), "{line}");
    let refused = post(&cluster, 1, "/v1/jobs", &shell("true"));
    assert!(refused.status == 503 && refused.text().contains("shell; node 1: jobs are refused"), "{}", refused.text());
    breakable.mend();
    let end = jobs.ended(job, soon()).unwrap();
    assert_eq!((&end["state"], &end["stdout"]), (&json!("finished"), &json!("fine\n")), "{end}");
    let late = late.wait_with_output().unwrap();
    assert_eq!((late.status.code(), &late.stdout[..]), (Some(0), &b"late\n"[..]));
    let rest: Vec<String> = said.collect();
    assert!(
        rest.len() == 1 && rest[0].starts_with("its sandbox did not start: begun anew on node 1"),
        "once: {rest:?}"
    );
    let is_well = || cluster.status(1).ok()?.jobs.workers[0].trouble.is_none().then_some(());
    cluster.wait_until("the node is a worker again", PATIENCE, is_well).unwrap();

    // With a node beside it whose sandboxes start, nothing waits: what node 1 gives back, node 2 does.
    cluster.spawn(2, &[]).unwrap();
    cluster.settle().unwrap();
    wait_workers(&cluster, 2).unwrap();
    breakable.break_it();
    let given: Vec<u64> = (0..8).map(|_| jobs.hand_in(&shell("sleep 2; echo fine"), soon()).unwrap()).collect();
    let ends: Vec<Value> = given.into_iter().map(|job| jobs.ended(job, soon()).unwrap()).collect();
    for end in &ends {
        let how = (&end["state"], &end["stdout"], &end["worker"]);
        assert_eq!(how, (&json!("finished"), &json!("fine\n"), &json!(2)), "{end}");
    }
    let is_given_back = |end: &&Value| end["earlier"][0]["why"] == "not_started" && end["earlier"][0]["worker"] == 1;
    assert!(ends.iter().any(|end| is_given_back(&end)), "node 1 was given none: {ends:?}");
}

#[test]
fn a_node_that_starts_without_a_sandbox_is_a_worker_once_one_can_be_built() {
    let breakable = Breakable::new("*");
    breakable.break_it();
    let mut settings = shell_only();
    settings["jobs_enabled"] = true.into();
    let cluster = Cluster::ready(&breakable.exe, 2, &settings).unwrap();
    let both = "nodes 1, 2: jobs are refused here";
    cluster
        .wait_until("both say what is wrong", PATIENCE, || {
            let said = get(&cluster, 1, "/v1/runtimes").json();
            said["troubles"][0].as_str().is_some_and(|why| why.starts_with(both)).then_some(())
        })
        .unwrap();
    let listed = job_command(&cluster, &["runtimes"]).wait_with_output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(listed.starts_with(both), "{listed}");
    let refused = post(&cluster, 1, "/v1/jobs", &shell("true"));
    assert!(refused.status == 503 && refused.text().contains(both), "{}", refused.text());
    breakable.mend();
    cluster
        .wait_until("the shell is offered", PATIENCE, || {
            let runtimes = get(&cluster, 1, "/v1/runtimes").json();
            let nodes = runtimes["runtimes"][0]["nodes"].as_array()?.len();
            (nodes == 2 && runtimes["troubles"] == json!([])).then_some(())
        })
        .unwrap();
    assert_eq!(post(&cluster, 1, "/v1/jobs?wait=30s", &shell("echo fine")).json()["stdout"], "fine\n");
}

/// Nothing is wrong with the node, and it finds none of what its settings name.
#[test]
fn a_worker_without_runtimes_is_not_said_to_be_missing() {
    let mut settings =
        json!({"runtimes": [{"language": "none", "file_name": "x", "probe": ["false"], "run": ["true"]}]});
    settings["jobs_enabled"] = true.into();
    let cluster = Cluster::ready(EXE, 1, &settings).unwrap();
    let is_there = || (cluster.status(1).ok()?.jobs.workers.len() == 1).then_some(());
    cluster.wait_until("the worker has joined", PATIENCE, is_there).unwrap();
    let refused = post(&cluster, 1, "/v1/jobs", &shell("true"));
    let wanted = "no node has the runtime shell; node 1: none of the runtimes of the settings was found";
    assert!(refused.status == 503 && refused.text().contains(wanted), "{}", refused.text());
}

#[test]
fn what_a_cancelled_attempt_had_printed_is_kept() {
    let cluster = cluster(3, &shell_only());
    let mut jobs = jobs_of(&cluster, 3);
    let job = jobs.hand_in(&shell("echo begun; echo trouble >&2; sleep 60"), soon()).unwrap();
    let path = format!("/v1/jobs/{job}/output");
    cluster
        .wait_until("it has said both", PATIENCE, || {
            let said = get(&cluster, 1, &path).text().to_string();
            (said.contains("begun") && said.contains("trouble")).then_some(())
        })
        .unwrap();
    assert_eq!(ask(&cluster, 2, "DELETE", &format!("/v1/jobs/{job}"), "", None).status, 200);
    for id in 1..=3 {
        cluster
            .wait_until("its end has both", PATIENCE, || {
                let end = get(&cluster, id, &format!("/v1/jobs/{job}")).json();
                (end["state"] == "cancelled" && end["stdout"] == "begun\n" && end["stderr"] == "trouble\n")
                    .then_some(())
            })
            .unwrap();
    }
    assert_eq!(get(&cluster, 1, &format!("{path}?stream=stdout")).text(), "begun\n");
}
