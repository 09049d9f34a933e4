//! `phalanx bench failover`, quickly: each part measures what its name says, and what a machine does not allow is skipped.

use crate::EXE;
use phalanx::lab::Cluster;
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
    let output = failover(&["--only", "stop,transfer,witness,vanished,slow-links", "--links", "25ms", "--writes", "1"]);
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
    // Its process refuses at once, and the witness grants its vote to the one that is left.
    let witness = of("witness")[0];
    assert!(number(witness, "median") < 20_000.0 && witness["warm"]["rounds"].as_u64().is_some(), "{witness}");
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

/// The password is in the settings or the environment, as for every command that asks running nodes.
#[test]
fn running_nodes_that_require_a_password_get_it() -> phalanx::lab::Result<()> {
    const PASSWORD: &str = "a password for a bench";
    let cluster = Cluster::ready(EXE, 1, &json!({"client_password": PASSWORD}))?;
    let bench = |what: &str, address: &str, password: Option<&str>| {
        let mut command = Command::new(EXE);
        command.args(["bench", what, "--endpoint", address, "--clients", "2", "--seconds", "0.2", "--json"]);
        command.current_dir(cluster.dir()).env_remove("PHALANX_CLIENT_PASSWORD");
        password.map(|password| command.env("PHALANX_CLIENT_PASSWORD", password));
        command.output().unwrap()
    };
    for (what, address) in [("front", cluster.front()), ("sql", cluster.http(1)), ("kv", cluster.kv(1))] {
        let output = bench(what, &address, Some(PASSWORD));
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        for rate in found["rates"].as_array().unwrap() {
            assert!(rate["errors"] == 0 && number(rate, "per_second") > 1.0, "{what}: {rate}");
        }
    }
    let output = bench("front", &cluster.front(), Some("another password"));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let first_error = &found["rates"][0]["first_error"];
    assert!(first_error.as_str().is_some_and(|it| it.starts_with("401") || it.starts_with("429")), "{found}");
    Ok(())
}
