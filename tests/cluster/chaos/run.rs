//! `phalanx chaos run`: its verdict on a cluster that keeps its promises, and on reads that promise nothing.

use crate::EXE;
use serde_json::Value;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Runs it with its temporary folders in `folder`.
fn chaos_run(folder: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(EXE);
    command.args(["chaos", "run"]).args(args).current_dir(folder.path()).env("TMPDIR", folder.path());
    command.env("NO_COLOR", "1").output().unwrap()
}

fn report(output: &Output) -> Value {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"))
}

#[test]
fn a_cluster_that_is_broken_keeps_its_promises() {
    let folder = TempDir::new().unwrap();
    let args = ["--duration", "40s", "--seed", "16", "--json", "--html", "run.html"];
    let output = chaos_run(&folder, &args);
    let (report, err) = (report(&output), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {report:#}\n{err}", output.status);
    assert_eq!((&report["verdict"], &report["lost"], &report["states_equal"]), (&"ok".into(), &0.into(), &true.into()));
    let faults = report["faults"].as_array().unwrap();
    let confirmed =
        faults.iter().filter(|it| it["confirmed"] == true && !it["command"].as_str().unwrap().starts_with("heal"));
    assert!(confirmed.count() >= 8, "{faults:#?}");
    let least = |name: &str, least: u64| assert!(report[name].as_u64().unwrap() >= least, "{name}: {report:#}");
    least("acknowledged", 1_000);
    least("keys", 60);
    assert!(!report["failovers"].as_array().unwrap().is_empty(), "the leader was never replaced: {report:#}");

    let page = std::fs::read_to_string(folder.path().join("run.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 1);
    for what in ["class=\"fault\"", "class=\"write\"", "class=\"p99\"", "Chaos run: <span class=\"verdict-ok\">ok"] {
        assert!(page.contains(what), "{what}");
    }
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("<script"),
        "it needs nothing else"
    );
    // Removed with the cluster, since nothing was wrong.
    let left = std::fs::read_dir(folder.path()).unwrap().flatten().map(|it| it.file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| !name.starts_with("phalanx-lab-locks")).collect();
    assert_eq!(left, ["run.html"]);
}

/// The judge is no yes-man: a node that is cut off answers such reads from its old state.
#[test]
fn stale_reads_are_found_where_they_are_allowed() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("plan"), "# the old leader is behind\n1s partition leader --for 4s\n").unwrap();
    let args = ["--plan", "plan", "--duration", "6s", "--nodes", "3", "--level", "eventual", "--json"];
    let output = chaos_run(&folder, &args);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(8), "{report:#}");
    assert!(report["not_linearizable"].as_u64().unwrap() > 0, "{report:#}");
    assert!(report["findings"].to_string().contains("no order explains Read"), "{report:#}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the nodes' logs and data are in"));
}

#[test]
fn a_wrong_plan_is_refused_before_anything_starts() {
    let folder = TempDir::new().unwrap();
    for (plan, why) in [
        ("kill leader\n", "is not a time"),
        ("1s kill\n", "<NODE>"),
        ("1s explode 1\n", "explode"),
        ("2s heal\n1s heal\n", "line 2"),
    ] {
        std::fs::write(folder.path().join("plan"), plan).unwrap();
        let output = chaos_run(&folder, &["--plan", "plan"]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && err.contains(why), "{plan:?}: {} {err}", output.status);
    }
    let both = chaos_run(&folder, &["--plan", "plan", "--seed", "1"]);
    assert_eq!(both.status.code(), Some(2));
}
