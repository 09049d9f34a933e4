//! What `run.sh` builds and when, what `test.sh` installs, and that both pass shellcheck.

use super::{ScriptRunner, path_without, said};
use crate::EXE;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A clone whose program is older than its source is built again, before the user's eyes; another one is not.
#[test]
fn run_sh_shows_the_build_and_only_when_there_is_one() {
    let mut runner = ScriptRunner::new();
    let clone = runner.dir.path().join("clone");
    for folder in ["src", "static", "crates", "target/release"] {
        std::fs::create_dir_all(clone.join(folder)).unwrap();
    }
    for name in ["run.sh", "run-unix.sh", "Cargo.toml", "Cargo.lock"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), clone.join(name)).unwrap();
    }
    std::fs::write(clone.join("src/main.rs"), "fn main() {}").unwrap();
    let program = clone.join("target/release/phalanx");
    std::fs::copy(EXE, &program).unwrap();
    runner.envs.retain(|(n, _)| n != "PHALANX_TEST_BINARY");
    runner.stand_in("cargo", "echo '   Compiling phalanx v0.1.0' >&2");
    let status = |runner: &ScriptRunner| {
        said(&runner.run_script(&clone.join("run.sh"), &["start", "--nodes", "1", "--terminal", "none"]))
    };
    let quiet = status(&runner);
    assert!(quiet.contains("Phalanx is up") && runner.heard("cargo").is_empty(), "{quiet}");
    let pulled = std::fs::OpenOptions::new().append(true).open(clone.join("src/main.rs")).unwrap();
    pulled.set_modified(std::time::SystemTime::now() + Duration::from_secs(1)).unwrap();
    let built = status(&runner);
    assert!(built.contains("Building Phalanx (its source has changed; "), "{built}");
    assert!(built.contains("   Compiling phalanx v0.1.0"), "{built}");
    assert_eq!(runner.heard("cargo"), ["build --release"]);
    runner.run_script(&clone.join("run.sh"), &["stop"]);
}

#[test]
fn test_sh_installs_what_is_missing_and_does_without_nextest() {
    let mut runner = ScriptRunner::new();
    let clone = runner.dir.path().join("clone");
    std::fs::create_dir_all(&clone).unwrap();
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("test.sh"), clone.join("test.sh")).unwrap();
    runner.stand_in("cargo", "case $1 in nextest | install) exit 1 ;; test) echo 'test result: ok. 3 passed' ;; esac");
    runner.stand_in("apt-get", "");
    runner.stand_in("python3", "[ \"$2\" != pip ]");
    runner.stand_in("id", "echo 0");
    let output = runner.run_script(&clone.join("test.sh"), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let last = runner.heard("cargo").into_iter().filter(|line| !line.starts_with("nextest")).collect::<Vec<_>>();
    let expected = [
        "fmt --all --check",
        "clippy --quiet --all-targets -- -D warnings",
        "install --locked cargo-nextest",
        "test --no-fail-fast -- --test-threads=1",
    ];
    assert_eq!(last, expected, "{}", said(&output));
    let installed = runner.heard("apt-get").join(" ");
    assert!(installed.contains("python3-pip"), "{installed}");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("test result: ok. 3 passed\n"), "{}", said(&output));
}

#[test]
fn a_missing_cargo_and_wrong_settings_are_explained() {
    let mut runner = ScriptRunner::new();
    // A clone of the project that was never built, on a machine without Rust.
    let clone = runner.dir.path().join("clone");
    std::fs::create_dir_all(clone.join("src")).unwrap();
    for name in ["run.sh", "run-unix.sh", "settings.json", "Cargo.toml"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), clone.join(name)).unwrap();
    }
    let bare = path_without(&runner, &["cargo"]);
    let (path, home) = (std::env::var("PATH").unwrap(), runner.dir.path().to_string_lossy().into_owned());
    runner.envs.retain(|(n, _)| n != "PHALANX_TEST_BINARY");
    runner.set("PATH", &bare);
    runner.set("HOME", &home);
    runner.set("CARGO_HOME", &home);
    let refused = runner.run_script(&clone.join("run.sh"), &["--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("cargo is missing") && said(&refused).contains("rustup.rs"), "{}", said(&refused));

    runner.set("PATH", &path);
    runner.set("PHALANX_TEST_BINARY", EXE);
    runner.set("PHALANX_VOTERS_MIN", "many");
    let refused = runner.run(&["start", "--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).to_lowercase().contains("voters_min"), "{}", said(&refused));
    runner.envs.retain(|(n, _)| n != "PHALANX_VOTERS_MIN");
}

/// A cron job or a unit has no HOME, and a clone may have been built before.
#[test]
fn a_built_clone_starts_without_home_and_cargo() {
    let mut runner = ScriptRunner::new();
    let clone = runner.dir.path().join("clone");
    std::fs::create_dir_all(clone.join("target/release")).unwrap();
    for name in ["run.sh", "run-unix.sh", "settings.json", "Cargo.toml"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), clone.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(EXE, clone.join("target/release/phalanx")).unwrap();
    let bare = path_without(&runner, &["cargo"]);
    runner.envs.retain(|(n, _)| n != "PHALANX_TEST_BINARY");
    runner.set("PATH", &bare);
    runner.has_no_home = true;
    let output = runner.run_script(&clone.join("run.sh"), &["--terminal", "none", "--nodes", "1"]);
    runner.assert_up(&output, 1);
    let stopped = runner.run_script(&clone.join("run.sh"), &["stop"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", said(&stopped));
    runner.set("PHALANX_TEST_BINARY", EXE); // for the end of the test
}

#[test]
fn scripts_pass_shellcheck() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = ["run.sh", "run-unix.sh", "test.sh", ".ci/run"];
    match Command::new("shellcheck").arg("-x").args(scripts).current_dir(root).output() {
        Ok(output) => assert!(output.status.success(), "{}", said(&output)),
        Err(_) => eprintln!("shellcheck is not installed; ./test.sh installs it"),
    }
}
