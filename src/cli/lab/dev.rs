//! `phalanx dev`: a whole cluster in one terminal, with keys to break it.
//!
//! Every node is a child process with the settings in force, so `phalanx status` and the browser work as with
//! `./run.sh`. The nodes' log lines are printed here after the node's number. A key acts on the leader, or on the node
//! with the number that was pressed before it; keys may come from a pipe, whose end does not end the program. A
//! signal that a terminal or a shell sends to the whole process group must not reach the nodes: they would count this
//! program's own signal, which follows, as a second one and exit without a graceful stop. Not here: one terminal for
//! each node (`run.sh`), measuring (`bench.rs`).

use crate::cli::client::{self, ClusterClient};
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::faults::control::{self, Action, ProcessState};
use crate::lab::process::Process;
use crate::lab::{LabError, poll};
use crate::node::process::signals;
use crate::node::views::status::Status;
use crate::settings::Settings;
use crate::store;
use crate::types::NodeId;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often keys and logs are read.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time for a node to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(7);
/// Beyond this size, the part of a node's output file that was printed is truncated; the node itself keeps `node.log`.
const LOG_BYTES_MAX: u64 = 4 << 20;
const KEYS: &str = "keys: k kill -9, i Ctrl+C, f freeze or continue, r restart, l make leader, s status, q quit; \
    a key acts on the leader (f: on the node frozen last, if any is), or on the node whose number you press first";

/// The bytes of Ctrl+C and Ctrl+D from a terminal in raw mode.
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;

/// Set by SIGTERM and SIGHUP (Ctrl+C is read as a key).
static IS_TOLD_TO_STOP: AtomicBool = AtomicBool::new(false);

/// Arguments of `phalanx dev`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = format!(
    "{KEYS}\n\nThe nodes have the ports and the data folder of the settings, as with ./run.sh: stop that one first. Ctrl+C \
     or q stops them; the data stays.\n\nExamples:\n  phalanx dev -n 3\n  (sleep 5; echo k; sleep 60; echo q) | phalanx dev"
))]
pub struct DevArgs {
    /// Number of nodes
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Allow more faults on demand, from another terminal: phalanx chaos
    #[arg(long)]
    lab: bool,
    /// Settings file [default: settings.json in the current directory, if there is one]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// One node and how much of its output has been printed.
struct ShownNode {
    process: Process,
    log: PathBuf,
    read: u64,
    rest: String,
    /// Frozen by a key since then.
    frozen: Option<Instant>,
    has_ended: bool,
}

/// The running cluster.
struct Stage {
    exe: PathBuf,
    settings_file: Option<PathBuf>,
    settings: Settings,
    nodes: BTreeMap<u64, ShownNode>,
    chosen: Option<u64>,
    /// Each node has a supervisor, to which keys go.
    is_lab: bool,
}

/// Runs until `q`, Ctrl+C, or a signal.
pub fn run(args: &DevArgs) -> Result<(), Fault> {
    let settings = client::settings(args.settings.as_deref())?;
    let exe = super::own_program()?;
    let (in_use, others) = (ports_in_use(&settings, args.nodes), other_data(&settings, args.nodes));
    if !in_use.is_empty() {
        let next = "end the programs that use them (ss -ltnp lists them; ./run.sh stop ends a cluster that ./run.sh has \
            started), or choose other ports in settings.json";
        return Err(Fault::new(code::FAILED, format!("these ports are in use: {}", in_use.join(", ")), next));
    }
    if !others.is_empty() {
        term::line(&format!(
            "The data folder also has nodes {}, which are not started: as long as they are members, they count as offline.",
            others.join(" ")
        ));
    }
    let logs = settings.data_dir.join("dev");
    store::create_private_dir(&logs).map_err(|e| failed(format!("cannot create {}: {e}", logs.display())))?;
    // If this fails, `q` still works.
    let _ = signals::listen(|_| IS_TOLD_TO_STOP.store(true, Ordering::Relaxed));
    let (settings_file, is_lab) = (args.settings.clone(), args.lab);
    let mut stage = Stage { exe, settings_file, settings, nodes: BTreeMap::new(), chosen: None, is_lab };
    for id in 1..=args.nodes {
        stage.start(id).map_err(failed)?;
    }
    term::line(&format!("front door http://{}/", stage.settings.front_door()));
    let mut keyboard = Keyboard::open();
    if keyboard.is_terminal() {
        term::line(KEYS);
    }
    while !IS_TOLD_TO_STOP.load(Ordering::Relaxed) {
        stage.show_news();
        match keyboard.key() {
            Some(b'q' | CTRL_C | CTRL_D) => break,
            Some(b' ' | b'\n' | b'\r') => {}
            Some(key) => stage.on_key(key),
            None if !keyboard.is_terminal() && stage.nodes.values().all(|n| n.has_ended) => break,
            None => {}
        }
    }
    drop(keyboard);
    stage.stop_all();
    Ok(())
}

/// The addresses that other programs listen on.
fn ports_in_use(settings: &Settings, nodes: u64) -> Vec<String> {
    let mut wanted = vec![(settings.local_front_door(), "front door".to_string())];
    for id in 1..=nodes {
        let addresses = settings.local_addresses(NodeId(id));
        wanted.push((addresses.peer, format!("node {id}")));
        wanted.push((addresses.http, format!("node {id}, HTTP")));
        wanted.push((addresses.kv, format!("node {id}, Redis protocol")));
    }
    let is_in_use =
        |address: &str| TcpListener::bind(address).is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse);
    wanted.retain(|(address, _)| is_in_use(address));
    wanted.into_iter().map(|(address, what)| format!("{address} ({what})")).collect()
}

/// The nodes that have data here and a larger id.
fn other_data(settings: &Settings, nodes: u64) -> Vec<String> {
    let has_data = |id: &u64| settings.node_dir(NodeId(*id)).join("identity.json").exists();
    (nodes + 1..=NodeId::MAX).filter(has_data).map(|id| id.to_string()).collect()
}

fn failed(why: impl std::fmt::Display) -> Fault {
    Fault::new(code::FAILED, why, "run phalanx node --id 1 in its own terminal to see its messages")
}

impl Stage {
    fn start(&mut self, id: u64) -> Result<(), LabError> {
        let log = self.settings.data_dir.join("dev").join(format!("node-{id}.log"));
        // There may be one of an earlier run.
        let _ = std::fs::remove_file(&log);
        let mut args = vec!["node".to_string(), "--id".into(), id.to_string(), "--until-eof".into()];
        if let Some(file) = &self.settings_file {
            args.extend(["--settings".into(), file.to_string_lossy().into_owned()]);
        }
        args.extend(self.is_lab.then(|| "--lab".to_string()));
        let mut command = Command::new(&self.exe);
        command.args(args).process_group(0);
        command.envs(std::env::vars().filter(|(name, _)| name.starts_with("PHALANX_")));
        let process = Process::start(&mut command, &log)?;
        let shown = ShownNode { process, log, read: 0, rest: String::new(), frozen: None, has_ended: false };
        self.nodes.insert(id, shown);
        Ok(())
    }

    fn print_line(&self, id: u64, text: &str) {
        let colours = [31, 32, 33, 34, 35, 36, 91, 92, 93];
        let colour = colours[(id as usize - 1) % colours.len()];
        let prefix = if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            format!("\x1b[{colour}mn{id} |\x1b[0m")
        } else {
            format!("n{id} |")
        };
        term::line(&format!("{prefix} {text}"));
    }

    /// Prints the complete lines that nodes have written since the last call, and which nodes have ended.
    fn show_news(&mut self) {
        let mut news = Vec::new();
        for (id, node) in &mut self.nodes {
            let mut fresh = String::new();
            if let Ok(mut file) = std::fs::File::open(&node.log) {
                let mut bytes = Vec::new();
                let got = file.seek(SeekFrom::Start(node.read)).and_then(|_| file.read_to_end(&mut bytes));
                node.read += got.unwrap_or(0) as u64;
                fresh = String::from_utf8_lossy(&bytes).into_owned();
                if node.read > LOG_BYTES_MAX
                    && OpenOptions::new().write(true).open(&node.log).and_then(|file| file.set_len(0)).is_ok()
                {
                    // The node appends, so it continues at the new end.
                    node.read = 0;
                }
            }
            node.rest += &fresh;
            while let Some(end) = node.rest.find('\n') {
                let line: String = node.rest.drain(..=end).collect();
                news.push((*id, line.trim_end().to_string()));
            }
            if !node.has_ended
                && let Some(status) = node.process.exited()
            {
                node.has_ended = true;
                news.push((*id, format!("(exited: {status}; press {id} then r to start it again)")));
            }
        }
        for (id, line) in news {
            self.print_line(id, &line);
        }
    }

    fn on_key(&mut self, key: u8) {
        if (b'1'..=b'9').contains(&key) {
            let id = u64::from(key - b'0');
            self.chosen = self.nodes.contains_key(&id).then_some(id);
            return term::line(&match self.chosen {
                Some(id) => format!("node {id}: press k, i, f, r or l"),
                None => format!("there is no node {id}"),
            });
        }
        if key == b's' {
            let asked = self.client().get::<Status>("/v1/status");
            return term::line(
                &asked.map_or_else(|e| e.message, |a| crate::cli::cluster::status::render(&a.value, &a.from)),
            );
        }
        if !b"kifrl".contains(&key) {
            return term::line(KEYS);
        }
        let thawed = (key == b'f').then(|| self.frozen_last()).flatten();
        let Some(id) = self.chosen.take().or(thawed).or_else(|| self.leader()) else {
            return term::line("no leader now: press a node's number first");
        };
        if self.is_lab && key != b'l' {
            return self.inject(id, key);
        }
        let done = match key {
            b'r' => self.restart(id),
            _ => self.nodes.get_mut(&id).map_or(Ok(()), |node| match key {
                b'k' => node.process.signal(Signal::KILL),
                b'i' => node.process.signal(Signal::INT),
                b'l' => node.process.type_line("L"),
                _ => {
                    node.frozen = if node.frozen.is_none() { Some(Instant::now()) } else { None };
                    node.process.signal(if node.frozen.is_some() { Signal::STOP } else { Signal::CONT })
                }
            }),
        };
        let what = match key {
            b'k' => "killed (SIGKILL)",
            b'i' => "stopping (Ctrl+C)",
            b'l' => "asked to take the leadership",
            b'r' => "started again",
            _ if self.nodes.get(&id).is_some_and(|n| n.frozen.is_some()) => {
                "frozen (SIGSTOP); press f again to continue it"
            }
            _ => "continued (SIGCONT)",
        };
        self.print_line(id, &done.map_or_else(|e| format!("failed: {e}"), |()| format!("({what})")));
    }

    /// The same through the node's supervisor.
    fn inject(&mut self, id: u64, key: u8) {
        let is_frozen = self.nodes.get(&id).is_some_and(|node| node.frozen.is_some());
        let action = match key {
            b'k' => Action::Kill { for_ms: None },
            b'i' => Action::Stop { for_ms: None },
            b'r' => Action::Start,
            _ if is_frozen => Action::Thaw,
            _ => Action::Freeze { for_ms: None },
        };
        let answer = control::ask(&self.settings.data_dir, NodeId(id), &action);
        if let (Ok(state), Some(node)) = (&answer, self.nodes.get_mut(&id)) {
            node.frozen = (state.process == ProcessState::Frozen).then(Instant::now);
        }
        self.print_line(id, &answer.map_or_else(|e| format!("failed: {e}"), |state| format!("({})", state.done)));
    }

    /// The node that was frozen last and still is.
    fn frozen_last(&self) -> Option<u64> {
        let frozen = self.nodes.iter().filter(|(_, node)| !node.has_ended);
        frozen.filter_map(|(id, node)| Some((node.frozen?, *id))).max().map(|(_, id)| id)
    }

    fn restart(&mut self, id: u64) -> Result<(), LabError> {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.process.kill()?;
        }
        self.start(id)
    }

    fn client(&self) -> ClusterClient {
        let all = self.nodes.keys().map(|id| self.settings.local_addresses(NodeId(*id)).http).collect();
        ClusterClient::to(all, Duration::from_millis(500)).with_password(self.settings.client_password.clone())
    }

    fn leader(&self) -> Option<u64> {
        Some(self.client().get::<Status>("/v1/status").ok()?.value.cluster.leader?.0)
    }

    /// Signals all nodes at once and waits while they stop; a node that has not stopped within `STOP_WITHIN` is
    /// killed.
    fn stop_all(&mut self) {
        for node in self.nodes.values_mut() {
            // A frozen process would not receive the next signal.
            let _ = node.process.signal(Signal::CONT);
            let _ = node.process.signal(Signal::INT);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline && !self.nodes.values().all(|n| n.has_ended) {
            poll::pause(LOOK_EVERY);
            self.show_news();
        }
    }
}

/// The source of keys. A terminal delivers them one by one without echo; its previous mode is restored on drop.
struct Keyboard {
    /// `None`: standard input is not a terminal.
    before: Option<Termios>,
    has_ended: bool,
}

impl Keyboard {
    fn open() -> Keyboard {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin).ok().filter(|before| {
            let mut raw = before.clone();
            // Ctrl+C comes as a key, like the others.
            raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            // A read waits a tenth of a second at most.
            raw.special_codes[SpecialCodeIndex::VMIN] = 0;
            raw.special_codes[SpecialCodeIndex::VTIME] = 1;
            termios::tcsetattr(&stdin, OptionalActions::Now, &raw).is_ok()
        });
        Keyboard { before, has_ended: false }
    }

    fn is_terminal(&self) -> bool {
        self.before.is_some()
    }

    /// The next key; `None` when none arrived for a while.
    fn key(&mut self) -> Option<u8> {
        let stdin = std::io::stdin();
        if self.has_ended {
            poll::pause(LOOK_EVERY);
            return None;
        }
        if !self.is_terminal() {
            let wait = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.subsec_nanos().into() };
            let mut asked = [PollFd::new(&stdin, PollFlags::IN)];
            if !matches!(rustix::event::poll(&mut asked, Some(&wait)), Ok(1..)) {
                return None;
            }
        }
        let mut byte = [0];
        match rustix::io::read(&stdin, &mut byte) {
            Ok(1) => Some(byte[0]),
            // The end of a pipe only means that no more keys come, as at a node's console.
            Ok(_) => {
                self.has_ended = !self.is_terminal();
                None
            }
            Err(Errno::INTR) => None,
            // The terminal is gone, so no key can be pressed any more.
            Err(_) => Some(CTRL_D),
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}
