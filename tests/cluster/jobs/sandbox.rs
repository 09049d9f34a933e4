//! Workers whose sandboxes or compilers fail, and programs that take more than their share.
//!
//! Not here: a sandbox by itself (`src/work/tests.rs`).

use super::{PATIENCE, cluster, get, jobs_of, post, running, shell, shell_only, soon};
use crate::EXE;
use phalanx::bench::job_rates::wait_workers;
use phalanx::lab::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOMB: &str = include_str!("fork_bomb.sh");
/// Threads that a desktop session has.
const OTHER_THREADS: usize = 400;

#[test]
fn jobs_are_refused_with_advice_without_a_sandbox() {
    // A place of its own where bubblewrap cannot be started.
    let folder = tempfile::tempdir().unwrap();
    let exe = folder.path().join("phalanx");
    let hide = "mount --bind /dev/null $(command -v bwrap) && exec \"$0\" \"$@\"";
    let map = if rustix::process::geteuid().is_root() { "" } else { "--map-root-user" };
    let script = format!("#!/bin/sh\nexec unshare {map} --mount sh -c '{hide}' {EXE} \"$@\"\n");
    std::fs::write(&exe, script).unwrap();
    std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (sandbox, works) in [("full", false), ("limits", true)] {
        let mut settings = shell_only();
        settings["jobs_enabled"] = true.into();
        settings["jobs_sandbox"] = sandbox.into();
        let mut cluster = Cluster::prepare(&exe, &settings).unwrap();
        cluster.spawn(1, &[]).unwrap();
        cluster.wait_leader().unwrap();
        let answer = post(&cluster, 1, "/v1/jobs?wait=30s", &shell("echo fine"));
        if works {
            assert_eq!(answer.json()["stdout"], "fine\n", "{}", answer.text());
            assert!(
                cluster.log(1).contains("jobs_sandbox is \"limits\": jobs can read and change"),
                "{}",
                cluster.log(1)
            );
        } else {
            assert_eq!(answer.status, 503, "{}", answer.text());
            let said = answer.text();
            assert!(
                said.contains("cannot run programs in a sandbox") && said.contains("apt-get install bubblewrap"),
                "{said}"
            );
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
    cluster.put("meanwhile", "it serves").unwrap();
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
    let job = jobs.submit(&shell("id -u; pwd; while [ ! -e go ]; do sleep 0.02; done; cat go"), soon()).unwrap();
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
    const NAME: &str =
        "jobs::sandbox::innocent_jobs_are_untouched_by_fork_bombs_and_by_other_threads_of_an_ordinary_user";
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
            bombs.push(jobs.submit(&shell(BOMB), soon()).unwrap());
        }
        let source = format!("for i in 1 2 3 4; do (sleep 0.05; echo {number}) & done; wait");
        innocent.insert(jobs.submit(&shell(&source), soon()).unwrap(), format!("{number}\n").repeat(4));
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

/// A program for nodes whose bubblewrap fails as long as a file is there, as where there is no room for namespaces any
/// more.
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
        // Only root may mount: another user is root for that, and then a user again, so that jobs run as for any user.
        let (map, back) = match rustix::process::geteuid().is_root() {
            true => ("", ""),
            false => ("--map-root-user", "unshare --user --map-user=1000 --map-group=1000"),
        };
        let hide = format!(
            "mount -t tmpfs none /opt && cp --preserve=mode $(command -v bwrap) /opt/bwrap && chmod 755 /opt && mount --bind {} \
             $(command -v bwrap) && exec {back} \"$0\" \"$@\"",
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
    let job = jobs.submit(&shell("echo fine"), soon()).unwrap();
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
    assert!(rest.len() == 1 && rest[0].starts_with("its sandbox did not start: restarted on node 1"), "once: {rest:?}");
    let is_well = || cluster.status(1).ok()?.jobs.workers[0].trouble.is_none().then_some(());
    cluster.wait_until("the node is a worker again", PATIENCE, is_well).unwrap();

    // With a node beside it whose sandboxes start, nothing waits: what node 1 gives back, node 2 does.
    cluster.spawn(2, &[]).unwrap();
    cluster.settle().unwrap();
    wait_workers(&cluster, 2).unwrap();
    breakable.break_it();
    let given: Vec<u64> = (0..8).map(|_| jobs.submit(&shell("sleep 1; echo fine"), soon()).unwrap()).collect();
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
