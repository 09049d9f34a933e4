//! `phalanx sim` as a script sees it: exit codes, one line that runs a seed again, and the same output whatever the
//! number of threads.
//!
//! Not here: what the simulator finds (`src/sim/`).

use crate::EXE;
use std::process::{Command, Output};

fn sim(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(EXE).arg("sim").args(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_sweep_finds_the_same_on_any_number_of_threads() {
    let rows = |threads: &str| {
        let (code, out, err) = sim(&["sweep", "--seeds", "12", "--from", "100", "--threads", threads]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        assert!(out.starts_with("12 of 12 seeds from 100 passed in "), "{out}");
        // The first line says how long it took.
        out.split_once('\n').unwrap().1.to_string()
    };
    assert_eq!(rows("1"), rows("3"));
    for wrong in [&["sweep", "--threads", "0"][..], &["sweep", "--seeds", "0"], &["run", "--nodes", "8"]] {
        assert_eq!(sim(wrong).0, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_restricted_run_is_traced_up_to_a_tick() {
    let (code, out, err) = sim(&["run", "--seed", "7", "--nodes", "5", "--trace", "--until", "100"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("plan: Plan { voters: 5, spares: 0,"), "{out}");
    let (code, out, _) = sim(&["replay", "7", "--to", "100", "--without", "loss,crashes", "--clients", "1"]);
    assert_eq!((code, out.lines().count()), (Some(0), 41), "{out}");
    assert!(out.ends_with("no violation up to tick 100\n") || out.ends_with("no violation up to tick 99\n"), "{out}");
    let (code, _, err) = sim(&["replay", "7", "--without", "nonsense"]);
    assert!(code == Some(2) && err.contains("nonsense"), "{err}");
}

#[test]
fn a_run_is_drawn_as_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.html");
    let (code, out, err) = sim(&["run", "--seed", "7", "--html", path.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("leader in term"), "{page}");
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    let (code, _, err) = sim(&["run", "--seed", "7", "--html", folder.path().to_str().unwrap()]);
    assert!(code == Some(1) && err.contains("cannot write "), "{err}");
    assert_eq!(sim(&["run", "--seed", "7", "--from-tick", "3"]).0, Some(2));
}

#[test]
fn an_ordinary_build_has_no_planted_bugs() {
    let (code, out, err) = sim(&["sweep", "--planted"]);
    if cfg!(feature = "planted-bugs") {
        assert!(out.contains("forget_vote_on_step_down"), "{out}");
    } else {
        assert_eq!((code, out.as_str()), (Some(2), ""));
        assert!(err.contains("--features planted-bugs"), "{err}");
        assert_eq!(sim(&["replay", "1", "--planted", "commit_old_term"]).0, Some(2));
    }
}
