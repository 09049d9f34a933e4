//! Files of the scripts and of nodes are for nobody else, whatever the umask, and the owner can read them.

use super::{ScriptRunner, WITHIN, said};
use phalanx::lab::{wait_until, web};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

/// What lies below a folder and others may read, write or enter. What programs of jobs see as theirs lies within a
/// folder that is closed; links have no rights of their own.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut open = Vec::new();
    for row in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = row.metadata() else { continue }; // gone since
        let path = row.path();
        if !meta.is_symlink() && meta.permissions().mode() & 0o077 != 0 {
            open.push(format!("{:o} {}", meta.permissions().mode() & 0o7777, path.display()));
        }
        let is_attempt = folder.file_name().is_some_and(|name| name == "jobs");
        if meta.is_dir() && !is_attempt {
            open.extend(open_to_others(&path));
        }
    }
    open
}

/// Whatever the umask, which takes nothing away here, and whoever makes the file: nodes that join, restart, take
/// snapshots, put a database in place and run jobs.
#[test]
fn nothing_that_nodes_make_is_open_to_others() {
    let mut runner = ScriptRunner::new();
    runner.umask = Some("000");
    runner.set("PHALANX_SNAPSHOT_EVERY_ENTRIES", "20");
    runner.set("PHALANX_JOBS_ENABLED", "true");
    let data = runner.dir.path().join("data");
    let started = runner.run(&["start", "--terminal", "none", "--nodes", "1"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    let at = format!("127.0.0.1:{}", runner.block.http_base() + 1);
    let ask = |method: &str, path: &str, kind: &str, body: &[u8]| {
        let mut connection = web::Connection::open(&at, WITHIN).unwrap();
        connection.send_bytes(method, path, &format!("Content-Type: {kind}\r\n"), Some(body)).unwrap();
        let answer = connection.answer(Instant::now() + WITHIN).unwrap();
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
        answer
    };
    let (json, any) = ("application/json", "application/octet-stream");
    ask("POST", "/db/execute", json, br#"["CREATE TABLE t(x)", "INSERT INTO t VALUES (1), (2)"]"#);
    let copy = ask("GET", "/db/backup", any, b"").body;
    ask("POST", "/db/load", any, &copy);
    ask("GET", "/db/query?q=SELECT+x+FROM+t+ORDER+BY+x", json, b"");
    ask("POST", "/v1/chat/accounts", json, br#"{"name": "ann", "password": "correct horse"}"#);
    for number in 0..60 {
        ask("PUT", &format!("/v1/kv/key-{number}"), any, b"value");
    }
    wait_until("a snapshot is there", WITHIN, || {
        std::fs::read_dir(data.join("node-1/snapshots")).ok()?.next().map(drop)
    })
    .unwrap();
    wait_until("jobs are run", WITHIN, || {
        let status = web::get(&at, "/v1/status", WITHIN).ok()?.json();
        status["jobs"]["workers"].as_array().filter(|workers| !workers.is_empty()).map(drop)
    })
    .unwrap();
    let job = ask(
        "POST",
        "/v1/jobs",
        json,
        br#"{"language": "shell", "source": "umask; echo x > y; stat -c %a y; sleep 60"}"#,
    );
    let job = job.json()["id"].as_u64().unwrap();
    let output = wait_until("the job runs", WITHIN, || {
        let text = web::get(&at, &format!("/v1/jobs/{job}/output"), WITHIN).ok()?.text();
        text.contains("644").then_some(text)
    });
    assert_eq!(output.unwrap(), "0022\n644\n", "programs make files as they do elsewhere");
    assert_eq!(open_to_others(&data), [""; 0]);
    if rustix::process::geteuid().is_root() {
        // The users of slots pass through, and see nothing.
        let jobs = Path::new("/run/phalanx-jobs");
        let own = std::fs::read_dir(jobs).unwrap().flatten().map(|row| row.path());
        for folder in own.chain([jobs.to_path_buf()]) {
            let mode = std::fs::metadata(&folder).map_or(0, |it| it.permissions().mode() & 0o777);
            assert_eq!(mode & 0o066, 0, "{} {mode:o}", folder.display());
        }
    }
    ask("DELETE", &format!("/v1/jobs/{job}"), any, b"");
    let started = runner.run(&["start", "--terminal", "none", "--nodes", "3"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    assert_eq!(open_to_others(&data), [""; 0]);
    runner.stop();
    assert_eq!(open_to_others(&data), [""; 0]);
    let mode = |name: &str| std::fs::metadata(runner.dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode("config.json")), (0o700, 0o666), "what is meant for others is as the user wants it");
}

/// A umask that takes all rights away, the owner's too: what a node makes it must read again.
#[test]
fn a_umask_of_777_leaves_the_owner_its_files() {
    let mut runner = ScriptRunner::new();
    runner.umask = Some("777");
    let started = runner.run(&["start", "--terminal", "none", "--nodes", "1"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    let mode = |name: &str| std::fs::metadata(runner.dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    wait_until("config.json is written", WITHIN, || runner.dir.path().join("config.json").exists().then_some(()))
        .unwrap();
    for name in
        ["config.json", "config.json.lock", "data/node-1/identity.json", "data/node-1/node.log", "data/node-1/lock"]
    {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for name in ["data", "data/node-1", "data/node-1/wal"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    runner.stop();
}

#[test]
fn files_of_run_sh_and_nodes_are_private() {
    let mut runner = ScriptRunner::new();
    runner.set("PHALANX_CLUSTER_SECRET", "nobody but nodes shall read it");
    let data = runner.dir.path().join("data");
    // As an older version left it, with the umask of most people.
    std::fs::create_dir_all(data.join("node-1")).unwrap();
    for folder in [&data, &data.join("node-1")] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let started = runner.run(&["start", "--terminal", "none", "--nodes", "2"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    let mode = |name: &str| std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
    for name in ["", "run", "node-1", "node-2", "node-1/wal", "run/node-1.sh"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    // The script narrows what it looks into; the rest is narrowed, and told of, by the node that comes first.
    let log = |id: u64| std::fs::read_to_string(data.join(format!("node-{id}/node.log"))).unwrap();
    let warned = format!("{} was accessible to other users (mode 755); access removed", data.display());
    assert!([1, 2].iter().any(|id| log(*id).contains(&warned)), "{warned}: {}", log(1));
    for name in ["node-1/node.log", "node-2/node.log", "node-1/identity.json", "node-1/sql/db.sqlite", "node-2/lock"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for pid in runner.pids() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains("nobody shall"), "what ps shows");
    }
    runner.stop();
}
