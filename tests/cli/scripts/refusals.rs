//! What is in the way of a start is named, and nothing is left behind; hosts and arguments of every kind.

use super::{ScriptRunner, WITHIN, is_alive, said};
use phalanx::lab::poll::wait_explained;
use phalanx::lab::{wait_until, web};
use std::net::TcpListener;

#[test]
fn a_taken_port_is_named_and_nothing_is_started() {
    let runner = ScriptRunner::new();
    let port = runner.block.http_base() + 3;
    let _guest = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let refused = runner.run(&["start", "--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains(&format!("{port} (node 3, HTTP)")), "{}", said(&refused));
    assert!(said(&refused).contains("Nothing was started"), "{}", said(&refused));
    assert!(runner.pids().is_empty());
}

#[test]
fn a_data_folder_that_cannot_be_written_is_named() {
    let mut runner = ScriptRunner::new();
    // A file stands where the folder should be: not even root can write into it.
    let blocked = runner.dir.path().join("blocked");
    std::fs::write(&blocked, "").unwrap();
    runner.set("PHALANX_DATA_DIR", &blocked.to_string_lossy());
    let refused = runner.run(&["start", "--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("cannot write to the data folder"), "{}", said(&refused));
    assert!(said(&refused).contains(&*blocked.to_string_lossy()), "{}", said(&refused));
}

/// What nodes listen on, what they tell, and how that stands in URLs.
#[test]
fn every_kind_of_host_works_in_the_scripts() {
    const PASSWORD: &str = "open sesame";
    for (host, advertised, shown) in [
        ("::1", None, "[::1]"),
        ("localhost", None, "localhost"),
        ("0.0.0.0", None, "127.0.0.1"),
        ("::", None, "[::1]"),
        ("::", Some("localhost"), "localhost"),
    ] {
        if host.contains(':') && TcpListener::bind((host, 0)).is_err() {
            eprintln!("skipped: {host}, this system has no IPv6");
            continue;
        }
        let mut runner = ScriptRunner::new();
        runner.set("PHALANX_HOST", host);
        runner.set("PHALANX_CLUSTER_SECRET", "abracadabra-abracadabra");
        runner.set("PHALANX_CLIENT_PASSWORD", PASSWORD);
        if let Some(advertised) = advertised {
            runner.set("PHALANX_ADVERTISE_HOST", advertised);
        }
        let output = runner.run(&["--terminal", "none", "--nodes", "2"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{host}: {}", said(&output));
        for (what, port) in
            [("Front door:", runner.block.front()), ("monitor of node 2:", runner.block.http_base() + 2)]
        {
            let url = format!("http://{shown}:{port}/");
            assert!(text.lines().any(|line| line.contains(what) && line.contains(&url)), "{host} {what} {url}: {text}");
        }
        let told = format!("\"ip\": \"{}\"", shown.trim_matches(['[', ']']));
        let names_both = || {
            let config = std::fs::read_to_string(runner.dir.path().join("config.json")).unwrap();
            if config.matches(&told).count() == 2 { Ok(()) } else { Err(format!("{host} {told}: {config}")) }
        };
        wait_explained("config.json names both nodes", WITHIN, names_both).unwrap();
        // The front door of this host, and where it sends a client.
        let front = format!("{shown}:{}", runner.block.front());
        let redirect = web::ask_with(Some(PASSWORD), &front, "GET", "/x", None, WITHIN).unwrap();
        let to = redirect.header("location").unwrap_or_default().to_string();
        assert!(to.starts_with(&format!("http://{shown}:")), "{host}: {redirect:?}");
        let seen = runner.run(&["status"]);
        assert!(
            said(&seen).contains("node 2 leads") || said(&seen).contains("node 1 leads"),
            "{host}: {}",
            said(&seen)
        );
        let stopped = runner.run(&["stop"]);
        assert_eq!(stopped.status.code(), Some(0), "{host}: {}", said(&stopped));
    }
}

#[test]
fn a_node_that_ends_at_once_takes_the_others_down_with_a_reason() {
    let runner = ScriptRunner::new();
    // The data folder of node 2 holds damaged state: it refuses to start.
    let damaged = runner.dir.path().join("data/node-2");
    std::fs::create_dir_all(&damaged).unwrap();
    std::fs::write(damaged.join("identity.json"), "not an identity").unwrap();
    // A front door that opens before node 2 has ended would hide it: five nodes are slower than that.
    let refused = runner.run(&["start", "--terminal", "none"]);
    if refused.status.success() {
        wait_until("node 2 has ended", WITHIN, || runner.pid(2).filter(|pid| !is_alive(*pid))).unwrap();
    } else {
        assert!(said(&refused).contains("node 2 ended at once"), "{}", said(&refused));
        assert!(said(&refused).contains("identity.json"), "its own words are shown: {}", said(&refused));
        assert!(runner.pids().is_empty(), "nothing half-started");
    }
}

#[test]
fn wrong_arguments_are_exit_code_2_and_help_is_0() {
    let runner = ScriptRunner::new();
    for args in [&["frobnicate"][..], &["--nodes"], &["--nodes", "0"], &["--nodes", "x"], &["--terminal", "vt100"]] {
        let output = runner.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
    }
    let output = runner.run(&["--help"]);
    assert!(output.status.success() && said(&output).contains("--terminal"), "{}", said(&output));
}
