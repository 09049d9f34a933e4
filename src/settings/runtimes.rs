//! How a language is compiled and run: the setting `runtimes`.
//!
//! A runtime is data: commands with placeholders. `{file}` is the first source file, `{files}` all of them, `{home}`
//! the folder that `home` prints, `{class}` the class that a Java source declares.
//! Not here: which of them a machine has, and replacing the placeholders (`work/runtimes.rs`).

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How a language is compiled and run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Its name in requests.
    pub language: String,
    /// Name of a source that comes without one.
    pub file_name: String,
    /// Prints the folder of the toolchain; empty: it is in the system's folders.
    #[serde(default)]
    pub home: Vec<String>,
    /// Succeeds if the runtime is installed; its first line of output is the version.
    pub probe: Vec<String>,
    /// Compiles the program; empty: nothing to compile.
    #[serde(default)]
    pub compile: Vec<String>,
    /// Runs the program.
    pub run: Vec<String>,
    /// Writable memory that the runtime maps but does not use, in MiB.
    #[serde(default)]
    pub reserves_mb: u64,
    /// Processes and threads that it needs for itself.
    #[serde(default)]
    pub threads: u64,
    /// Its programs keep what they print in a buffer of the C library while standard output is no terminal: `stdbuf`
    /// makes them write whole lines at once, where the system has it.
    #[serde(default)]
    pub line_buffered: bool,
}

/// How programs are isolated: the setting `jobs_sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxKind {
    /// bubblewrap and limits.
    #[default]
    Full,
    /// Limits only: a program can access what the node can access.
    Limits,
}

/// The default of the setting `runtimes`, as `settings.json` shows it.
pub fn known() -> Vec<Runtime> {
    let words = |line: &str| line.split(' ').filter(|word| !word.is_empty()).map(str::to_string).collect::<Vec<_>>();
    let runtime = |language: &str, file_name: &str, home: &str, probe: &str, compile: &str, run: &str| Runtime {
        language: language.to_string(),
        file_name: file_name.to_string(),
        home: words(home),
        probe: words(probe),
        compile: words(compile),
        run: words(run),
        reserves_mb: 0,
        threads: 0,
        line_buffered: false,
    };
    let java_run = "java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -cp classes PhalanxLauncher {class}";
    let rustc = "{home}/bin/rustc";
    vec![
        Runtime {
            line_buffered: true,
            ..runtime("c", "main.c", "", "cc --version", "cc -O1 -o program {files} -lm", "./program")
        },
        Runtime {
            line_buffered: true,
            ..runtime("cpp", "main.cpp", "", "c++ --version", "c++ -O1 -o program {files}", "./program")
        },
        Runtime {
            reserves_mb: 8192,
            threads: 64,
            ..runtime("java", "Main.java", "", "javac -version", "javac -d classes {files}", java_run)
        },
        Runtime {
            reserves_mb: 8192,
            threads: 32,
            ..runtime("javascript", "main.js", "", "node --version", "", "node {file}")
        },
        runtime("python", "main.py", "", "python3 --version", "", "python3 -u {file}"),
        Runtime {
            reserves_mb: 2048,
            threads: 32,
            ..runtime(
                "rust",
                "main.rs",
                "rustc --print sysroot",
                &format!("{rustc} --version"),
                &format!("{rustc} --edition 2021 -o program {{file}}"),
                "./program",
            )
        },
        runtime("shell", "main.sh", "", "sh -c true", "", "sh {file}"),
    ]
}

/// What is wrong with a list of runtimes, if anything is.
pub(crate) fn check(runtimes: &[Runtime]) -> Result<(), &'static str> {
    let mut languages = BTreeSet::new();
    for runtime in runtimes {
        let is_plain = |name: &str| {
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        };
        if !is_plain(&runtime.language) || !is_plain(&runtime.file_name) {
            return Err("language and file_name are 1 to 64 plain characters");
        }
        if runtime.run.is_empty() || runtime.probe.is_empty() {
            return Err("a runtime needs a run command and a probe");
        }
        if !languages.insert(&runtime.language) {
            return Err("two runtimes have the same language");
        }
    }
    Ok(())
}
