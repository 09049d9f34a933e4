//! Which terminal is taken, and what nodes in it look like.

use super::{ScriptRunner, WITHIN, is_alive, path_without, said};
use phalanx::lab::wait_until;
use std::path::Path;
use std::process::Command;

#[test]
fn real_tmux_gets_a_pane_per_node() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("tmux is not installed; ./test.sh installs it");
        return;
    }
    let mut runner = ScriptRunner::new();
    let home = runner.dir.path().to_string_lossy().into_owned();
    runner.set("HOME", &home);
    // What people have in theirs, each of which has closed, kept or renamed panes.
    let conf = "set -g base-index 1\nsetw -g pane-base-index 1\nset -g prefix C-a\nset -g remain-on-exit on\n\
        set -g default-command 'sleep 1'\nset -g destroy-unattached on\nset -g default-shell /bin/sh\n";
    std::fs::write(runner.dir.path().join(".tmux.conf"), conf).unwrap();
    let started = runner.run(&["start", "--nodes", "3", "--terminal", "tmux"]);
    runner.assert_up(&started, 3);
    assert!(said(&started).contains("tmux attach -t phalanx-"), "{}", said(&started));
    assert!(said(&started).contains("(C-a then arrow keys between them, C-a d to leave)"), "{}", said(&started));
    let tmux = |args: &[&str]| {
        let output = Command::new("tmux").args(args).env("TMUX_TMPDIR", runner.dir.path()).env_remove("TMUX").output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let titles = tmux(&["list-panes", "-a", "-F", "#{window_name}: #{pane_title}"]);
    assert_eq!(titles, "nodes 1 2 3: node 1\nnodes 1 2 3: node 2\nnodes 1 2 3: node 3\n");
    let panes = tmux(&["list-panes", "-a", "-F", "#{pane_id}"]);

    // Ctrl+C in a pane ends its node, and Enter starts it again: the terminal stays.
    let victim = runner.pid(1).unwrap();
    let pane = panes.lines().next().unwrap().to_string();
    tmux(&["send-keys", "-t", &pane, "C-c"]);
    wait_until("node 1 has ended", WITHIN, || (!is_alive(victim)).then_some(())).unwrap();
    wait_until("its terminal asks", WITHIN, || {
        tmux(&["capture-pane", "-p", "-t", &pane]).contains("Enter").then_some(())
    })
    .unwrap();
    tmux(&["send-keys", "-t", &pane, "Enter"]);
    wait_until("node 1 runs again", WITHIN, || runner.pid(1).filter(|p| *p != victim && is_alive(*p))).unwrap();
    runner.stop();
    let left = Command::new("tmux").arg("ls").env("TMUX_TMPDIR", runner.dir.path()).output().unwrap();
    assert!(!left.status.success(), "the session is still there: {}", said(&left));
}

#[test]
fn tmux_has_room_for_forty_nodes() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("tmux is not installed; ./test.sh installs it");
        return;
    }
    let runner = ScriptRunner::new();
    let (script, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("run-unix.sh"), runner.dir.path());
    std::fs::write(folder.join("launcher"), "exec sleep 300\n").unwrap();
    let all =
        "source \"$1\"; run_dir=$2 session=forty; for id in $(seq 40); do open_tmux $id \"$2/launcher\" || exit; done";
    let mut bash = Command::new("bash");
    bash.args(["-c", all, "bash"])
        .arg(script)
        .arg(folder)
        .env("TMUX_TMPDIR", folder)
        .env_remove("TMUX")
        .env("HOME", folder);
    let output = bash.output().unwrap();
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    let form = "#{pane_title} #{pane_height}";
    let list = Command::new("tmux").args(["list-panes", "-a", "-F", form]).env("TMUX_TMPDIR", folder).output().unwrap();
    let list = said(&list);
    let titles: Vec<&str> = list.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(titles, (1..=40).map(|id| format!("node {id}")).collect::<Vec<_>>());
    assert!(list.lines().all(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap() >= 15), "{list}");
}

/// Each graphical terminal: its stand-in, how it runs a command, and what it must have been told.
#[test]
fn every_graphical_terminal_is_opened_once_per_node() {
    // What a stand-in does with its arguments: everything after the mark is the command.
    let after = |mark: &str| {
        format!("while [ \"$1\" != {mark} ]; do shift; done; shift\nsetsid \"$@\" </dev/null >/dev/null 2>&1 &")
    };
    let apple =
        "script=${2#*do script \\\"}; script=${script%\\\"}\nsetsid bash -c \"$script\" </dev/null >/dev/null 2>&1 &";
    for (kind, program, body, expected) in [
        ("gnome", "gnome-terminal", after("--"), "--title=Phalanx node 2 -- bash "),
        ("konsole", "konsole", after("-e"), "tabtitle=Phalanx node 2 -e bash "),
        ("xterm", "xterm", after("-e"), " -T Phalanx node 2 -e bash "),
        ("mac", "osascript", apple.to_string(), "tell application \"Terminal\" to do script \"bash "),
    ] {
        let mut runner = ScriptRunner::new();
        runner.stand_in(program, &body);
        let started = runner.run(&["start", "--nodes", "2", "--terminal", kind]);
        runner.assert_up(&started, 2);
        let heard = runner.heard(program);
        assert_eq!(heard.len(), 2, "{kind}: {heard:?}");
        if kind == "xterm" {
            let mut places: Vec<&str> = heard.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
            places.sort_unstable();
            assert!(places[0].starts_with("80x24+0+") && places[0] != places[1], "side by side: {heard:?}");
        }
        assert!(heard.iter().any(|line| line.contains(expected)), "{kind}: {heard:?}");
        runner.stop();
    }
}

#[test]
fn auto_takes_a_window_with_a_display_and_none_without() {
    let mut runner = ScriptRunner::new();
    runner.stand_in(
        "gnome-terminal",
        "while [ \"$1\" != -- ]; do shift; done; shift\nsetsid \"$@\" </dev/null >/dev/null 2>&1 &",
    );
    runner.set("DISPLAY", ":99");
    // The runner removes DISPLAY from what it inherits; what it sets itself stays.
    let started = runner.run(&["start", "--nodes", "1"]);
    runner.assert_up(&started, 1);
    assert_eq!(runner.heard("gnome-terminal").len(), 1, "{}", said(&started));
    runner.stop();

    // No display and no tmux: background processes.
    let mut runner = ScriptRunner::new();
    let bare = path_without(&runner, &["tmux", "gnome-terminal", "konsole", "xterm"]);
    runner.set("PATH", &bare);
    let started = runner.run(&["start", "--nodes", "1"]);
    runner.assert_up(&started, 1);
    assert!(said(&started).contains("terminal: none"), "{}", said(&started));
    runner.stop();
}

#[test]
fn a_terminal_that_opens_no_window_is_given_up() {
    let mut runner = ScriptRunner::new();
    runner.stand_in("xterm", "exit 1");
    runner.set("PHALANX_TEST_START_WITHIN", "2");
    let refused = runner.run(&["start", "--nodes", "1", "--terminal", "xterm"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("no terminal opened"), "{}", said(&refused));
}
