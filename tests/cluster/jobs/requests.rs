//! What clients of jobs are told, over HTTP and by the command line.

use super::{PATIENCE, ask, cluster, get, jobs_of, post, running, shell, shell_only, soon};
use crate::EXE;
use phalanx::lab::Cluster;
use phalanx::lab::web::Connection;
use serde_json::{Value, json};
use std::io::Read as _;
use std::process::{Command, Output, Stdio};

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
        (json!({"language": "shell", "source": "x", "limits": {"wall_ms": 0}}), "limits.wall_ms must be 1 to 600000"),
        (json!({"language": "shell", "source": "x", "limit": {}}), "unknown field"),
        (json!({"language": "shell", "files": [{"name": "../x", "content": ""}]}), "is not a valid file name"),
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
    let stopped = format!("job {long} attempt 1 was stopped");
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

#[test]
fn output_of_a_cancelled_attempt_is_kept() {
    let cluster = cluster(3, &shell_only());
    let mut jobs = jobs_of(&cluster, 3);
    let job = jobs.submit(&shell("echo begun; echo trouble >&2; sleep 60"), soon()).unwrap();
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

#[test]
fn jobs_can_be_off() {
    let cluster = Cluster::ready(EXE, 1, &json!({"jobs_enabled": false})).unwrap();
    let refused = post(&cluster, 1, "/v1/jobs", &shell("true"));
    assert!(refused.status == 403 && refused.text().contains("jobs_enabled"), "{}", refused.text());
    assert_eq!(get(&cluster, 1, "/v1/runtimes").json()["runtimes"], json!([]));
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
    let wanted = "no node has the runtime shell; node 1: none of the configured runtimes was found";
    assert!(refused.status == 503 && refused.text().contains(wanted), "{}", refused.text());
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
fn a_request_that_waits_too_long_names_its_job_and_a_repeated_one_joins_it() {
    // The shell stands in for a compiler of Java, which not every machine has.
    let java =
        json!({"language": "java", "file_name": "Main.java", "probe": ["sh", "-c", "true"], "run": ["sh", "{file}"]});
    let cluster = cluster(3, &json!({"runtimes": [java]}));
    let keyed = |node: u64, path: &str, media: &str, body: &str| {
        let headers = format!("Content-Type: {media}\r\nIdempotency-Key: early\r\n");
        ask(&cluster, node, "POST", path, &headers, Some(body))
    };
    let java = |node, path| keyed(node, path, "text/x-java-source", "sleep 1; echo late");
    let early = java(1, "/compileandrun?wait=1ms");
    let job = early.header("x-phalanx-job").unwrap().to_string();
    assert_eq!((early.status, early.header("location")), (202, Some(format!("/v1/jobs/{job}").as_str())));
    let late = java(2, "/compileandrun");
    assert_eq!((late.status, late.text().as_str(), late.header("x-phalanx-job")), (200, "late\n", Some(&*job)));

    let body = json!({"language": "java", "source": "sleep 2; echo later"}).to_string();
    let json = |node, path| keyed(node, path, "application/json", &body);
    let early = json(1, "/v1/jobs?wait=1s");
    assert_eq!((early.status, &early.json()["state"]), (202, &json!("running")), "{}", early.text());
    let late = json(3, "/v1/jobs?wait=600s");
    assert_eq!((late.status, &late.json()["stdout"]), (200, &json!("later\n")), "{}", late.text());
    assert_eq!(late.json()["id"], early.json()["id"]);
}

#[test]
fn the_command_line_goes_on_when_its_node_and_its_worker_die() {
    let mut cluster = cluster(3, &shell_only());
    std::fs::write(cluster.dir().join("long.sh"), "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.3; done").unwrap();
    let endpoints = (1..=3).map(|id| cluster.http(id)).collect::<Vec<_>>().join(",");
    let mut command = Command::new(EXE);
    command.args(["job", "run", "long.sh", "-e", &endpoints]).current_dir(cluster.dir()).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (worker, _) = running(&cluster, 3, 1);
    // It follows the first attempt only once it has printed some of it; a restart before that is none of its concern.
    let mut first = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    // The first address is the one it speaks to; now and then the job is there as well.
    cluster.kill(1).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([&first[..], &output.stdout].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said.ends_with("1\n2\n3\n4\n5\n6\n7\n8\n"), "{said}");
    match worker {
        1 => assert!(String::from_utf8_lossy(&output.stderr).contains("its worker was lost"), "{output:?}"),
        _ => assert_eq!(said.lines().count(), 8, "nothing twice: {said}"),
    }
}
