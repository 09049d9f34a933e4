//! Jobs while workers and leaders are killed, frozen and stopped: each ends once, with the right output.

use super::{PATIENCE, cluster, get, jobs_of, post, running, shell, shell_only, soon};
use crate::EXE;
use phalanx::bench::job_rates::wait_workers;
use phalanx::lab::Cluster;
use phalanx::lab::web::Connection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A program that takes a while and says what nobody else says, in the languages of this machine by turns; and what it
/// says.
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
        wanted.insert(jobs.submit(&body, soon()).unwrap(), output);
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
        let job = jobs.submit(&shell("echo begun; sleep 4; echo done"), soon()).unwrap();
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
    let dropped = format!("job {job} attempt 1 was stopped");
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
    let job = jobs.submit(&shell("echo begun; sleep 3; echo done"), soon()).unwrap();
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
fn jobs_of_a_killed_worker_continue_even_if_it_returns_at_once() {
    let mut cluster = cluster(1, &shell_only());
    let mut jobs = jobs_of(&cluster, 1);
    let job = jobs.submit(&shell("echo begun; sleep 2; echo done"), soon()).unwrap();
    running(&cluster, 1, job);
    cluster.kill(1).unwrap();
    // The node is back, and leads; but it runs no jobs any more, and nobody can be asked to believe that its old
    // process does.
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
        wanted.insert(jobs.submit(&shell(&format!("sleep 0.05; echo {number}")), soon()).unwrap(), number);
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
        // One voter of three is to wait for a second.
        settings["takeover_after_ms"] = 0.into();
        settings
    })
    .unwrap();
    // It may come first: it waits until a node creates a cluster.
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
    assert!(refused.text().contains("is a gateway, which cannot vote"), "{}", refused.text());

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
    assert!(cluster.log(voter).contains("is a voter, and a gateway cannot vote"), "{}", cluster.log(voter));
}

#[test]
fn the_demo_of_jobs_passes_its_own_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(EXE);
    command.args(["demo", "jobs"]).env("TMPDIR", folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("RESULT: passed."), "{said}");
    assert_eq!(said.lines().filter(|line| line.trim_start().starts_with("ok ")).count(), 19, "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("no heartbeat from node 1: failed")).count(), 7, "{said}");
    let left: Vec<String> =
        std::fs::read_dir(folder.path()).unwrap().map(|row| row.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.starts_with("phalanx-lab-locks-")), "{left:?} is left");
}
