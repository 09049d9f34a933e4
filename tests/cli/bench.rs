//! `phalanx bench failover`, quickly: each part measures what its name says, and what a machine does not allow is skipped.

use crate::EXE;
use phalanx::lab::hosts::namespaces;
use serde_json::{Value, json};
use std::process::{Command, Output};

fn failover(args: &[&str]) -> Output {
    Command::new(EXE).args(["bench", "failover", "--rounds", "1", "--json"]).args(args).output().unwrap()
}

fn number(figure: &Value, name: &str) -> f64 {
    figure[name].as_f64().unwrap_or_else(|| panic!("{name} of {figure}"))
}

#[test]
fn bench_drives_leaders_away_on_one_host_and_on_several() {
    let output = failover(&["--only", "stop,transfer,vanished,slow-links", "--links", "25ms", "--writes", "1"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |part: &str| -> Vec<&Value> {
        found["figures"].as_array().unwrap().iter().filter(|figure| figure["part"] == part).collect()
    };
    // Silence alone tells: no election timeout is shorter than 200 ms, and the last word is at most 50 ms older.
    let is_silent = |figure: &Value| {
        assert!(number(figure, "median") > 145.0, "{figure}");
        assert_eq!(figure["samples"].as_array().unwrap().len(), 1, "{figure}");
        assert!(number(figure, "p90") <= number(figure, "worst"), "{figure}");
        assert!(figure["warm"]["rounds"].as_u64().is_some(), "{figure}");
    };
    is_silent(of("stop")[0]);
    assert_eq!((of("transfer").len(), &of("transfer")[0]["warm"]), (1, &Value::Null));
    if let Err(missing) = namespaces::check() {
        let skipped = ["vanished", "slow-links"].map(|part| json!({"part": part, "why": missing}));
        assert_eq!(found["skipped"], json!(skipped));
        assert!(errors.contains(&format!("vanished skipped: {missing}")), "{errors}");
        return;
    }
    assert_eq!(found["skipped"], json!([]));
    assert_eq!(of("vanished").len(), 1);
    is_silent(of("vanished")[0]);
    let slow = of("slow-links");
    assert!(slow.iter().all(|figure| figure["what"].as_str().unwrap().starts_with("25 ms each way: ")), "{slow:?}");
    let [start, write, _elections, killed, vanished] = slow[..] else { panic!("{slow:?}") };
    assert!(number(start, "median") > 50.0, "{start}");
    let writes = write["samples"].as_array().unwrap();
    // There and back at least, and for four of five nodes twice.
    assert!(writes.iter().all(|ms| ms.as_f64().unwrap() >= 50.0) && number(write, "median") >= 100.0, "{write}");
    // Its host refuses at once, or is silent. A campaign takes two round trips.
    assert!(number(killed, "median") >= 100.0, "{killed}");
    assert!(number(vanished, "median") >= 245.0, "{vanished}");
}

#[test]
fn a_part_that_needs_more_rights_is_skipped_with_the_reason() {
    let output = Command::new(EXE)
        .args(["bench", "failover", "--only", "vanished,slow-links"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "nothing was measured: {errors}");
    assert!(errors.contains("vanished skipped: needs root on Linux, "), "{errors}");
    assert!(errors.contains("slow-links skipped: needs root on Linux, "), "{errors}");
    assert!(errors.contains("nothing was measured"), "{errors}");
}

#[test]
fn a_link_that_cannot_be_is_refused_with_an_example() {
    let output = failover(&["--links", "25"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("25ms") && errors.contains("90%"), "{errors}");
}
