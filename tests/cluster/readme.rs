//! The console blocks of README.md, run in one shell on a real cluster in the order in which they are printed.
//!
//! Compared is the shape of what each command prints: numbers, times and spacing may differ, words and lines may not, and
//! a line `...` stands for any number of lines. The commands are the printed ones; only the default ports in them are
//! replaced by free ones. Not here: blocks marked `sh` or `text`, which are not run.

use crate::EXE;
use phalanx::lab::ports::Block;
use phalanx::lab::wait_until;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// All blocks take about 75 s, most of it the pauses that README prints.
const WITHIN: Duration = Duration::from_secs(240);
/// The folder that README's output names.
const FOLDER: &str = "/tmp/phalanx";
/// Begins the line before each command's output.
const MARK: &str = "@@ command ";

/// One command of a console block and the output printed below it.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    line: usize,
    command: String,
    output: Vec<String>,
}

/// The steps of all console blocks. A command begins with `$ ` and goes on in the next line if it ends with a backslash.
fn steps(markdown: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_inside = false;
    for (n, text) in markdown.lines().enumerate() {
        if text.starts_with("```") {
            is_inside = text == "```console";
        } else if !is_inside {
        } else if let Some(command) = text.strip_prefix("$ ") {
            steps.push(Step { line: n + 1, command: command.to_string(), output: Vec::new() });
        } else {
            let step = steps.last_mut().expect("a console block begins with a command");
            match step.output.is_empty() && step.command.ends_with('\\') {
                true => step.command += &format!("\n{text}"),
                false => step.output.push(text.to_string()),
            }
        }
    }
    steps
}

/// A line without what may differ from run to run. `412 ms` and `2.5 s` become `TIME`, other numbers `N`, and each run of
/// blanks or of a table's frame becomes one.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut rest = line.trim();
    while let Some(c) = rest.chars().next() {
        if c.is_ascii_digit() {
            let end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            rest = &rest[end(rest)..];
            while rest.starts_with(['.', ':']) && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
                rest = &rest[1 + end(&rest[1..])..];
            }
            shape.push('N');
        } else if c.is_whitespace() || c == '─' {
            rest = rest.trim_start_matches(c);
            shape.push(if c == '─' { c } else { ' ' });
        } else {
            rest = &rest[c.len_utf8()..];
            shape.push(c);
        }
    }
    let unit_of_time = |word: &str| ["ms", "s", "ms,", "s,"].contains(&word);
    let mut words: Vec<&str> = Vec::new();
    for word in shape.split(' ') {
        match unit_of_time(word) && words.last() == Some(&"N") {
            true => *words.last_mut().unwrap() = "TIME",
            false => words.push(word),
        }
    }
    words.join(" ").replace("terminal: tmux", "terminal: none")
}

/// The shapes of all lines but empty ones. Which of the nodes leads may differ: neighbouring rows of a table of nodes are
/// sorted.
fn shapes<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut shapes: Vec<String> = lines.into_iter().map(shape).filter(|line| !line.is_empty()).collect();
    let is_row = |line: &String| ["N ONLINE ", "N LEADER ", "N OFFLINE "].iter().any(|start| line.starts_with(start));
    for rows in shapes.chunk_by_mut(|a, b| is_row(a) && is_row(b)) {
        rows.sort();
    }
    shapes
}

/// Whether the lines are the printed ones, `...` being any number of lines.
fn fits(printed: &[String], lines: &[String]) -> bool {
    match printed.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "..." => (0..=lines.len()).any(|skip| fits(rest, &lines[skip..])),
        Some((first, rest)) => lines.first() == Some(first) && fits(rest, &lines[1..]),
    }
}

/// The folder that README is run in, with ports of its own.
struct Folder {
    dir: TempDir,
    block: Block,
}

impl Folder {
    fn new() -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["run.sh", "run-unix.sh", "settings.json"] {
            symlink(source.join(name), dir.path().join(name)).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("target/release")).unwrap();
        symlink(EXE, dir.path().join("target/release/phalanx")).unwrap();
        Folder { dir, block: Block::take().unwrap() }
    }

    /// A command with free ports in place of the default ones. `670$1` is the HTTP port of the node in `$1`.
    fn with_ports(&self, command: &str) -> String {
        let (http, kv) = (self.block.http_base(), self.block.kv_base());
        let mut command = command.replace("670$1", &format!("$(({http} + $1))"));
        for id in 1..=9 {
            command = command.replace(&format!("670{id}"), &(http + id).to_string());
            command = command.replace(&format!("770{id}"), &(kv + id).to_string());
        }
        command.replace("8080", &self.block.front().to_string())
    }

    fn bash(&self, script: &Path) -> Command {
        let mut command = Command::new("bash");
        for name in ["DISPLAY", "WAYLAND_DISPLAY", "TMUX", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        command.env("PHALANX_LEADER_PORT_BASE", self.block.peer_base().to_string());
        command.env("PHALANX_SERVICE_PORT_BASE", self.block.http_base().to_string());
        command.env("PHALANX_KV_PORT_BASE", self.block.kv_base().to_string());
        command.env("PHALANX_SERVICE_PORT", self.block.front().to_string());
        command.env("PHALANX_TEST_BINARY", EXE).env("TMUX_TMPDIR", self.dir.path());
        command.arg(script).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs the commands one after another in one shell; what each printed on standard output and standard error.
    fn run(&self, steps: &[Step]) -> Vec<String> {
        let mut script = String::new();
        for (n, step) in steps.iter().enumerate() {
            script += &format!("printf '\\n{MARK}{n}\\n'\n{}\n", self.with_ports(&step.command));
        }
        let (path, printed) = (self.dir.path().join("readme.sh"), self.dir.path().join("printed"));
        std::fs::write(&path, script).unwrap();
        let out = File::create(&printed).unwrap();
        let mut bash = self.bash(&path);
        let mut bash = bash.stderr(out.try_clone().unwrap()).stdout(out).process_group(0).spawn().unwrap();
        let ended = wait_until("all blocks have run", WITHIN, || bash.try_wait().unwrap());
        let printed = String::from_utf8_lossy(&std::fs::read(&printed).unwrap()).into_owned();
        if ended.is_err() {
            let group = rustix::process::Pid::from_child(&bash);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = bash.wait();
            panic!("not all blocks have run within {WITHIN:?}:\n{printed}");
        }
        let printed = printed.replace(&*self.dir.path().to_string_lossy(), FOLDER);
        let mark = format!("\n{MARK}");
        let outputs = printed.split(&mark).skip(1);
        outputs.map(|output| output.split_once('\n').map_or("", |(_, output)| output).to_string()).collect()
    }

    fn logs(&self) -> Vec<PathBuf> {
        (1..=5).map(|id| self.dir.path().join(format!("data/node-{id}/node.log"))).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self.bash(Path::new("run.sh")).arg("stop").output();
        let _ = Command::new("tmux").arg("kill-server").env("TMUX_TMPDIR", self.dir.path()).output();
        if std::thread::panicking() {
            for log in self.logs() {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {}\n{}", log.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}

#[test]
fn each_console_block_of_the_readme_prints_what_stands_below_it() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let steps = steps(&readme);
    let has = |part: &str| steps.iter().any(|step| step.command.contains(part));
    assert!(has("./run.sh") && has("kill -9") && has("kill -STOP") && has("./run.sh stop"), "{steps:#?}");
    let folder = Folder::new();
    let outputs = folder.run(&steps);
    let mut report = String::new();
    for (n, step) in steps.iter().enumerate() {
        let output = outputs.get(n).map_or("(not run)", String::as_str);
        if !fits(&shapes(step.output.iter().map(String::as_str)), &shapes(output.lines())) {
            let printed = step.output.join("\n");
            report += &format!("README.md:{}: $ {}\n--- printed in README\n{printed}", step.line, step.command);
            report += &format!("\n--- printed now\n{output}\n");
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn a_different_shape_is_found() {
    let same = |a: &str, b: &str| fits(&shapes(a.lines()), &shapes(b.lines()));
    assert!(same(
        "node 5 leads in term 2 (http://127.0.0.1:6705/)",
        "node 4 leads in term 13 (http://127.0.0.1:21004/)"
    ));
    assert!(!same("node 5 leads in term 2", "node 5 led in term 2"));
    assert!(!same("node 5 leads in term 2", "node 5 leads in term 2\nand more"));
    assert!(same(
        "as of 12:04:07.5, 412 ms\n│  1 │ ann │\n├────┼─────┤",
        "as of 3:04:07, 2.5 s\n│ 1 │ ann │\n├───┼─────┤"
    ));
    assert!(!same(" 200 in 0.4 s", " 503 after 0.4 s"));
    assert!(same("a\n...\nb", "a\nb") && same("...\nb", "1\n2\nb") && !same("a\n...\nb", "a\nc"));
    let (up, swapped) = ("1 ONLINE follower\n2 LEADER leader", "1 LEADER leader\n2 ONLINE follower");
    assert!(same(up, swapped) && !same(up, "1 ONLINE follower\n2 ONLINE follower"));
}

#[test]
fn console_blocks_are_taken_apart() {
    let markdown = "text\n```console\n$ one \\\n  more\nout\n\n$ two\n```\n```sh\n$ three\n```\n";
    let step = |line, command: &str, output: &[&str]| Step {
        line,
        command: command.into(),
        output: output.iter().map(|line| line.to_string()).collect(),
    };
    assert_eq!(steps(markdown), [step(3, "one \\\n  more", &["out", ""]), step(7, "two", &[])]);
}
