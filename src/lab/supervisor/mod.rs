//! The parent process of a node in a lab: it does to the node what the node cannot do to itself.
//!
//! `phalanx node --lab` runs this program, which runs the node as its child, in the same terminal. It kills, freezes and
//! starts the node on request, keeps the node's faults while the node is dead, and ends them in time. The child is not
//! reaped before its signals have been sent, so that no other process can get one. What a terminal sends to this process
//! (lines, Ctrl+C, Ctrl+Z) goes on to the node.
//!
//! - `server.rs` takes requests (`faults/control.rs`); `child.rs` is the node's process; `disk.rs` damages its folder;
//!   `state.rs` is what the node has, and until when.
//! - This file has the one thread that owns all of that.
//!
//! Invariants: V1 an action is answered after the kernel or the node has confirmed it, or with what was not confirmed.
//! V2 when this process ends, its node ends.
//! Not here: what a fault does within the node (`faults/switch.rs`).

mod child;
mod disk;
mod server;
mod state;

pub use self::child::Supervised;
use self::child::{CONFIRM_WITHIN, Child};
use self::server::{Input, Question, Server};
use self::state::{Due, State};
use super::LabError;
use crate::faults::control::{Action, Answer, LabNode, ProcessState};
use crate::node::process::signals;
use crate::node::spawn;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::process::Signal;
use std::io::{BufRead, IsTerminal};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How often the child is looked at while nothing else happens.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A node that does not end within this time after Ctrl+C is killed.
const STOP_WITHIN: Duration = Duration::from_secs(8);
/// Inputs that wait for the owner at most; then whoever sends one waits.
const INPUTS_MAX: usize = 64;

/// Runs a node until it ends by itself or by a signal to this process; returns its exit code.
///
/// # Errors
/// The supervisor cannot listen, or the node cannot be started.
pub fn run(node: Supervised) -> super::Result<u8> {
    let (to, inputs) = bounded(INPUTS_MAX);
    let server = Server::start(&node.data_dir, node.id, to.clone())?;
    pass_on_signals(&to)?;
    let mut supervisor = Supervisor {
        child: Child::new(&node),
        state: State::new(node.id),
        node,
        waiting: Vec::new(),
        expected: None,
        stop: None,
    };
    supervisor.child.start()?;
    pass_on_lines(to)?;
    let code = supervisor.until_ended(&inputs);
    drop(server);
    Ok(code)
}

/// Sends signals to this process to the owner.
fn pass_on_signals(to: &Sender<Input>) -> super::Result<()> {
    let to = to.clone();
    signals::listen(move |signal| {
        let _ = to.send(Input::Signal(match signal {
            signals::Signal::Interrupt => Signal::INT,
            signals::Signal::Terminate => Signal::TERM,
            signals::Signal::HangUp => Signal::HUP,
        }));
    })
    .map_err(LabError::io("listen for signals"))
}

/// Sends what is typed to the owner. The thread waits for a terminal that may never send anything again, so it is not
/// joined.
fn pass_on_lines(to: Sender<Input>) -> super::Result<()> {
    let read = move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if to.send(Input::Line(line)).is_err() {
                return;
            }
        }
        let _ = to.send(Input::NoMoreLines);
    };
    spawn::spawn("lines", read).map(drop).map_err(LabError::io("start a thread"))
}

/// Something that is awaited before a question is answered.
enum Awaited {
    Ended,
    Frozen,
    Running,
    /// The node has these faults in force.
    Obeyed(u64),
}

/// A question whose action is not confirmed yet.
struct Waiting {
    question: Question,
    awaited: Awaited,
    done: String,
    until: Instant,
}

struct Supervisor {
    node: Supervised,
    child: Child,
    state: State,
    waiting: Vec<Waiting>,
    /// The lab has the node end: when it does, this process stays.
    expected: Option<&'static str>,
    /// This process was told to end: when the node is killed if it does not end.
    stop: Option<Instant>,
}

impl Supervisor {
    fn until_ended(&mut self, inputs: &Receiver<Input>) -> u8 {
        loop {
            match inputs.recv_timeout(LOOK_EVERY) {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if let Some(due) = self.state.due(Instant::now()) {
                self.on_due(due);
            }
            if let Some(status) = self.child.ended()
                && let Some(code) = self.on_end(status)
            {
                return code;
            }
            if self.stop.is_some_and(|at| Instant::now() >= at) {
                self.child.signal(Signal::KILL);
            }
            self.answer_confirmed();
            if self.stop.is_some() && !self.child.is_alive() {
                return 0;
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Signal(signal) => {
                let is_second = self.stop.replace(Instant::now() + STOP_WITHIN).is_some();
                // A frozen node would take the signal only when it continues.
                self.child.signal(if is_second { Signal::KILL } else { signal });
                self.child.signal(Signal::CONT);
            }
            Input::Line(line) => self.child.type_line(&line),
            Input::NoMoreLines => self.child.close_input(),
            Input::Follower(stream) => self.state.followed_by(stream),
            Input::Obeyed(number) => self.state.obeyed(number),
            Input::Asked(question) => self.on_asked(question),
        }
    }

    fn on_asked(&mut self, question: Question) {
        let begun = self.act(&question.action);
        match begun {
            Ok((done, Some(awaited))) => {
                self.waiting.push(Waiting { question, awaited, done, until: Instant::now() + CONFIRM_WITHIN });
            }
            Ok((done, None)) => question.answer(Answer::Done(self.shown(done))),
            Err(why) => question.answer(Answer::Refused(why)),
        }
    }

    /// Begins an action; returns what it is, and what confirms it.
    fn act(&mut self, action: &Action) -> Result<(String, Option<Awaited>), String> {
        let now = Instant::now();
        let is_alive = self.child.is_alive();
        let must_run =
            || if is_alive { Ok(()) } else { Err("it does not run: phalanx chaos restart starts it".to_string()) };
        match action {
            Action::Show | Action::Follow => Ok((String::new(), None)),
            Action::Kill { for_ms } => {
                must_run()?;
                let pid = self.kill("killed");
                self.state.later(Due::Start, *for_ms, now);
                Ok((format!("killed (SIGKILL, pid {pid})"), Some(Awaited::Ended)))
            }
            Action::Stop { for_ms } => {
                must_run()?;
                self.expected = Some("stopped");
                self.child.signal(Signal::INT);
                self.child.signal(Signal::CONT);
                self.state.later(Due::Start, *for_ms, now);
                Ok(("stopped as by Ctrl+C".into(), Some(Awaited::Ended)))
            }
            Action::Freeze { for_ms } => {
                must_run()?;
                self.child.signal(Signal::STOP);
                self.state.later(Due::Thaw, *for_ms, now);
                Ok(("frozen (SIGSTOP)".into(), Some(Awaited::Frozen)))
            }
            Action::Thaw => {
                must_run()?;
                self.thaw();
                Ok(("continues (SIGCONT)".into(), Some(Awaited::Running)))
            }
            Action::Start => self.start_again().map(|what| (what, None)),
            Action::Wipe | Action::DamageLog => self.damage(action == &Action::Wipe).map(|what| (what, None)),
            Action::Add { faults, for_ms } => {
                for fault in faults {
                    fault.check()?;
                }
                let number = self.state.add(faults, *for_ms, now)?;
                let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
                Ok((text.join("; "), self.obedience(number)))
            }
            Action::HealLinks { to } => {
                let number = self.state.heal_links(to);
                Ok(("healed".into(), self.obedience(number)))
            }
            Action::Heal { kind } => {
                let number = self.state.heal(*kind);
                if kind.is_none() {
                    self.heal_process()?;
                }
                Ok(("healed".into(), self.obedience(number)))
            }
        }
    }

    /// What confirms that faults are in force: a node that is dead has them when it starts, and a frozen one is silent
    /// anyway.
    fn obedience(&mut self, number: u64) -> Option<Awaited> {
        (self.child.process_state() == ProcessState::Running && self.state.has_follower())
            .then_some(Awaited::Obeyed(number))
    }

    fn kill(&mut self, why: &'static str) -> u32 {
        self.expected = Some(why);
        let pid = self.child.pid().unwrap_or_default();
        self.child.signal(Signal::KILL);
        pid
    }

    fn thaw(&mut self) {
        self.state.forget_due();
        self.child.signal(Signal::CONT);
    }

    fn heal_process(&mut self) -> Result<(), String> {
        match self.child.process_state() {
            ProcessState::Frozen => self.thaw(),
            ProcessState::Ended => _ = self.start_again()?,
            ProcessState::Running => {}
        }
        Ok(())
    }

    fn start_again(&mut self) -> Result<String, String> {
        self.state.forget_due();
        self.kill_and_reap()?;
        self.state.unfollowed();
        self.child.start().map_err(|e| e.to_string())?;
        Ok(format!("started (pid {})", self.child.pid().unwrap_or_default()))
    }

    fn kill_and_reap(&mut self) -> Result<(), String> {
        if self.child.is_alive() {
            self.kill("killed");
            self.child.reap(CONFIRM_WITHIN).map_err(|e| e.to_string())?;
        }
        self.expected = None;
        Ok(())
    }

    fn damage(&mut self, is_all: bool) -> Result<String, String> {
        self.state.forget_due();
        self.kill_and_reap()?;
        let what = match is_all {
            true => disk::wipe(&self.node.node_dir)?,
            false => disk::flip_a_bit(&self.node.node_dir)?,
        };
        Ok(format!("killed, and {what}"))
    }

    fn on_due(&mut self, due: Due) {
        match due {
            Due::Start if !self.child.is_alive() => {
                if let Err(e) = self.start_again() {
                    self.say(&format!("cannot be started again: {e}"));
                }
            }
            // It is still stopping: as soon as it has ended.
            Due::Start => self.state.later(Due::Start, Some(LOOK_EVERY.as_millis() as u64), Instant::now()),
            Due::Thaw => self.child.signal(Signal::CONT),
        }
    }

    /// The node has ended; returns the exit code if this process ends with it.
    fn on_end(&mut self, status: ExitStatus) -> Option<u8> {
        self.state.unfollowed();
        let expected = self.expected.take();
        if expected.is_none() && (self.stop.is_some() || status.code().is_some_and(|code| code <= 2)) {
            // Ctrl+C, quit, or it could not start.
            return Some(status.code().map_or(1, |code| code.clamp(0, 255) as u8));
        }
        if self.stop.is_some() {
            return Some(0);
        }
        let what = expected.map_or_else(|| format!("ended ({status})"), ToString::to_string);
        self.say(&format!(
            "{what}; phalanx chaos restart {} starts it again, Ctrl+C ends this program",
            self.node.id.0
        ));
        None
    }

    fn say(&self, text: &str) {
        let id = self.node.id.0;
        let bold = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        eprintln!("{on}lab: node {id} {text}{off}");
    }

    fn answer_confirmed(&mut self) {
        let now = Instant::now();
        let process = self.child.process_state();
        for waiting in std::mem::take(&mut self.waiting) {
            let is_confirmed = match waiting.awaited {
                Awaited::Ended => process == ProcessState::Ended,
                Awaited::Frozen => process == ProcessState::Frozen,
                Awaited::Running => process == ProcessState::Running,
                Awaited::Obeyed(number) => self.state.is_obeyed(number) || process != ProcessState::Running,
            };
            if is_confirmed {
                let answer = Answer::Done(self.shown(waiting.done));
                waiting.question.answer(answer);
            } else if now >= waiting.until {
                let why = format!("{}: not confirmed within {} s", waiting.done, CONFIRM_WITHIN.as_secs());
                waiting.question.answer(Answer::Refused(why));
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    fn shown(&mut self, done: String) -> LabNode {
        let now = Instant::now();
        LabNode {
            node: self.node.id,
            pid: self.child.pid(),
            process: self.child.process_state(),
            left_ms: self.state.left_ms(now),
            faults: self.state.shown(now),
            done,
        }
    }
}
