//! A cluster whose clients need a password: the command line, the Redis port, the nodes among themselves, and a secret
//! that is too short.
//!
//! HTTP in detail is in `tests/http/access.rs`, rqlite's libraries in `rqlite_clients.rs`.

use crate::EXE;
use crate::redis::{Peer, Reply};
use phalanx::lab::{Cluster, Result, web};
use serde_json::json;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PASSWORD: &str = "open sesame: the door";
const SOON: Duration = Duration::from_secs(10);

/// The program as a user runs it against node 1, with this password in the environment.
fn phalanx(cluster: &Cluster, password: Option<&str>, args: &[&str]) -> Output {
    let folder = cluster.dir().join("user");
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = Command::new(EXE);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PHALANX_")) {
        command.env_remove(name);
    }
    command.envs(password.map(|it| ("PHALANX_CLIENT_PASSWORD", it))).env("XDG_STATE_HOME", &folder);
    // The address before what is for another program.
    let (first, rest) = args.split_first().unwrap();
    command.arg(first).args(["-e", &cluster.http(1)]).args(rest);
    command.current_dir(&folder).stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_command_presents_the_password_of_its_settings() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"client_password": PASSWORD, "jobs_enabled": true}))?;
    let script = cluster.dir().join("hello.sh");
    std::fs::write(&script, "echo hello from a job\n").unwrap();
    phalanx::bench::job_rates::wait_workers(&cluster, 3)?;
    let script = script.to_string_lossy().into_owned();
    let commands: [(&[&str], &str); 12] = [
        (&["status"], "can lose 1 more"),
        (&["events"], "membership"),
        (&["leader"], "node "),
        (&["member", "list"], "voter"),
        (&["kv", "put", "a", "b"], ""),
        (&["kv", "get", "a"], "b"),
        (&["sql", "-c", "SELECT 40 + 2"], "42"),
        (&["job", "run", &script], "hello from a job"),
        (&["job", "logs", "1"], "hello from a job"),
        (&["lock", "run", "l", "--", "echo", "under a lock"], "under a lock"),
        (&["chat", "rooms"], ""),
        (&["check", "digest"], ""),
    ];
    for (args, said) in commands {
        if args[0] == "chat" {
            // A log-in of the chat is another thing, beside the password.
            let mut chat = phalanx::client::Chat::new(cluster.addresses());
            chat.client.password = Some(PASSWORD.to_string());
            chat.sign_up("ann", "correct horse").unwrap();
            chat.post("rooms", &json!({"name": "tea"})).unwrap();
            let mut stream = chat.follow(Some(0));
            assert!(stream.next(std::time::Instant::now() + SOON).unwrap().is_some(), "the stream needs both");
            continue;
        }
        let right = phalanx(&cluster, Some(PASSWORD), args);
        assert!(right.status.success() && text(&right).contains(said), "{args:?}: {}", text(&right));
        let none = phalanx(&cluster, None, args);
        assert!(!none.status.success(), "{args:?}: {}", text(&none));
        assert!(text(&none).contains("client_password"), "{args:?}: {}", text(&none));
    }
    // The settings of the folder are of something else, and --endpoints makes them unnecessary; the password is not.
    let invalid = cluster.dir().join("user/settings.json");
    std::fs::write(&invalid, "{").unwrap();
    let output = phalanx(&cluster, Some(PASSWORD), &["status"]);
    assert!(output.status.success(), "{}", text(&output));
    std::fs::remove_file(invalid).unwrap();
    // From a settings file, as nodes have it.
    let file = cluster.settings_path().to_string_lossy().into_owned();
    let output = phalanx(&cluster, None, &["status", "--settings", &file]);
    assert!(output.status.success(), "{}", text(&output));
    // Output of a job that runs elsewhere comes from that node, over its own port.
    for node in 1..=3 {
        let answer = cluster.get(node, "/v1/jobs/1/output")?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello from a job\n"));
    }
    // All of it goes on when a node has died.
    let leader = cluster.wait_leader()?;
    cluster.kill(leader)?;
    cluster.put("c", "d")?;
    assert_eq!(web::get(&cluster.http(leader % 3 + 1), "/v1/kv/c", SOON).unwrap().status, 401);
    Ok(())
}

#[test]
fn redis_clients_present_the_password_and_never_the_secret_of_the_nodes() -> Result<()> {
    let secret = "for the phalanx and nobody else";
    let cluster = Cluster::ready(EXE, 1, &json!({"cluster_secret": secret, "client_password": PASSWORD}))?;
    let mut peer = Peer::tcp(&cluster.kv(1));
    let refused = peer.call(&[b"AUTH", secret.as_bytes()]).text();
    assert!(refused.starts_with("WRONGPASS ") && refused.contains("client_password"), "{refused}");
    // Until then it is no load, by which front doors choose.
    let metrics = || web::get(&cluster.http(1), "/metrics", SOON).unwrap().text();
    let is_load = || metrics().contains("phalanx_sessions_by_kind{kind=\"redis\"} 1\n");
    assert!(!is_load());
    assert_eq!(peer.call(&[b"AUTH", b"default", PASSWORD.as_bytes()]), Reply::Simple("OK".into()));
    cluster.wait_until("its session counts", SOON, || is_load().then_some(()))?;
    assert_eq!(peer.ask("SET k v"), Reply::Simple("OK".into()));

    // Who guesses must wait, on both ports together; who is connected goes on.
    let mut guesser = Peer::tcp(&cluster.kv(1));
    let answers: Vec<String> = (0..20).map(|n| guesser.call(&[b"AUTH", format!("{n}").as_bytes()]).text()).collect();
    assert!(answers.iter().filter(|it| it.starts_with("WRONGPASS")).count() < 8, "{answers:?}");
    assert!(answers[19].starts_with("ERR too many wrong passwords from this address"), "{answers:?}");
    assert_eq!(cluster.get(1, "/v1/kv/k")?.status, 429);
    assert_eq!(peer.ask("GET k"), Reply::Bulk(b"v".to_vec()));
    let lines = cluster.log(1).lines().filter(|line| line.contains("wrong client_password from 127.0.0.1")).count();
    assert_eq!(lines, 1, "{}", cluster.log(1));
    cluster.wait_until("the right password is right again", SOON * 2, || {
        (cluster.get(1, "/v1/kv/k").ok()?.status == 200).then_some(())
    })?;
    let metrics = metrics();
    assert!(metrics.contains("\nphalanx_wrong_passwords_total "), "{metrics}");
    Ok(())
}

#[test]
fn without_a_password_the_secret_of_the_nodes_opens_nothing() -> Result<()> {
    let secret = "for the phalanx and nobody else";
    let cluster = Cluster::ready(EXE, 1, &json!({"cluster_secret": secret}))?;
    let mut peer = Peer::tcp(&cluster.kv(1));
    let refused = peer.call(&[b"AUTH", secret.as_bytes()]).text();
    assert!(refused.contains("without any password configured") && refused.contains("client_password"), "{refused}");
    assert_eq!(peer.ask("SET k v"), Reply::Simple("OK".into()));
    Ok(())
}

#[test]
fn a_short_secret_is_refused_and_a_new_one_is_accepted() -> Result<()> {
    const SECRET: &str = "PHALANX_CLUSTER_SECRET";
    let mut cluster = Cluster::prepare(EXE, &json!({}))?;
    cluster.set_env(SECRET, "for the phalanx");
    cluster.spawn(1, &[])?;
    let ended = cluster.process(1)?.wait(SOON)?;
    let log = cluster.log(1);
    assert_eq!(ended.code(), Some(2), "{log}");
    assert!(log.contains("too short to hold 128 random bits") && log.contains("`phalanx secret new`"), "{log}");
    assert!(log.contains("stop all nodes") && !log.contains("for the phalanx"), "{log}");

    let new = Command::new(EXE).args(["secret", "new"]).output().unwrap();
    let secret = String::from_utf8(new.stdout).unwrap().trim_end().to_string();
    assert!(secret.len() >= 26 && secret.bytes().all(|it| it.is_ascii_alphanumeric()), "{secret:?}");
    let as_json = Command::new(EXE).args(["secret", "new", "--json"]).output().unwrap();
    let as_json: serde_json::Value = serde_json::from_slice(&as_json.stdout).unwrap();
    assert_ne!(as_json["secret"].as_str().unwrap(), secret);
    cluster.set_env(SECRET, &secret);
    for id in 1..=2 {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    Ok(())
}
