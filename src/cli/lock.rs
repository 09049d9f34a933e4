//! `phalanx lock run NAME -- COMMAND`: a command that runs on one machine at a time, as far as clocks allow.
//!
//! The lock is taken with a time to live and renewed at a third of it. If it cannot be renewed in time, the command is
//! told to end (SIGTERM, then SIGKILL) before the time runs out, by this machine's clock. A command that a sleeping
//! machine resumes too late cannot be stopped by anyone: what it writes to must check the fencing token, which it finds in
//! `PHALANX_LOCK_TOKEN` and which grows with every lock that is taken.
//!
//! Invariants: L1 the time to live counts from before the request was sent that took or renewed the lock, so this side
//! always gives up first. L2 a lock that is not lost is given back on every way out but a crash.
//! Not here: locks themselves (`services/kv/locks.rs`), HTTP (`http/locks.rs`).

use super::ClientArgs;
use super::client::{Client, Request};
use super::fault::{Fault, code};
use super::kv::{escape_path, parse_time};
use super::term;
use crate::lab::poll;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at the command.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Between two tries while no node has a quorum.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// What a shell answers when a command is not found, or cannot be run.
const NOT_FOUND: u8 = 127;
/// See [`NOT_FOUND`].
const NOT_RUN: u8 = 126;

/// Signals to end that this process got.
static SIGNALS: AtomicUsize = AtomicUsize::new(0);

/// Arguments of `phalanx lock`.
#[derive(Clone, Debug, clap::Args)]
pub struct LockArgs {
    #[command(subcommand)]
    command: LockCommand,
}

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
enum LockCommand {
    /// Take a lock, run a command, give the lock back
    #[command(after_help = "The command finds the fencing token in PHALANX_LOCK_TOKEN and the lock's name in \
        PHALANX_LOCK_NAME.\n\nExit code: that of the command (128 + N if signal N ended it; 127 not found, 126 not \
        runnable); 1 if the lock was not free in time, or was lost while the command ran; 4 if no node has a quorum.\n\n\
        Example: phalanx lock run nightly-backup --wait 0 -- ./backup.sh")]
    Run {
        /// Name of the lock
        name: OsString,
        /// How long the lock outlives this process if it dies (500ms, 30s, 5m)
        #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_time)]
        ttl: Duration,
        /// How long to wait for the lock; 0: not at all [default: as long as it takes]
        #[arg(long, value_name = "TIME", value_parser = parse_wait)]
        wait: Option<Duration>,
        #[command(flatten)]
        client: ClientArgs,
        /// What to run
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_time(text) }
}

/// Runs.
pub fn run(args: &LockArgs) -> Result<(), Fault> {
    let LockCommand::Run { name, ttl, wait, client, command } = &args.command;
    if *ttl < Duration::from_millis(100) {
        return Err(Fault::new(code::USAGE, "--ttl below 100ms cannot be kept up", "give 1s or more"));
    }
    let patient = Client::new(client)?;
    let mut lock = Lock {
        // A renewal that hangs must leave time for others.
        client: patient.waiting(Duration::from_secs_f64(client.timeout.unwrap_or(3.0)).min(*ttl / 3)),
        path: format!("/v1/lock/{}", escape_path(name.clone().into_vec())),
        name: name.to_string_lossy().into_owned(),
        ttl: *ttl,
        token: 0,
        held_from: Instant::now(),
    };
    let _ = ctrlc::set_handler(|| _ = SIGNALS.fetch_add(1, Ordering::Relaxed)); // without it, the lock's time runs out
    lock.acquire(&patient, wait.map(|wait| Instant::now() + wait))?;
    let mut child = match start(command, &lock) {
        Ok(child) => child,
        Err(e) => {
            lock.release();
            let code = if e.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
            return Err(Fault::new(code, format!("cannot run {}: {e}", command[0].to_string_lossy()), ""));
        }
    };
    match attend(&mut child, &mut lock) {
        Ok(status) => {
            lock.release();
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            match u8::try_from(code).unwrap_or(u8::MAX) {
                0 => Ok(()),
                code => Err(Fault::new(code, "", "")),
            }
        }
        Err(why) => {
            eprintln!("{} lock {:?} is lost: {why}", term::paint_err("error:", term::Colour::Red), lock.name);
            let how = end(&mut child);
            let message = format!("the command was ended because its lock was lost ({how})");
            Err(Fault::new(code::FAILED, message, "see what it left half done; a longer --ttl outlives longer pauses"))
        }
    }
}

struct Lock {
    client: Client,
    path: String,
    name: String,
    ttl: Duration,
    token: u64,
    /// When the request was sent that took it or kept it last (L1).
    held_from: Instant,
}

impl Lock {
    fn post(&self, action: &str, body: &serde_json::Value) -> Request {
        Request::once("POST", format!("{}/{action}", self.path), Some(body.to_string().into_bytes()))
    }

    /// Tries until it is held, or the deadline (`None`: none) has passed.
    fn acquire(&mut self, patient: &Client, deadline: Option<Instant>) -> Result<(), Fault> {
        let body = json!({"ttl_ms": self.ttl.as_millis() as u64});
        let mut request = self.post("acquire", &body);
        let mut has_said = false;
        let mut say = |text: String| {
            if !std::mem::replace(&mut has_said, true) {
                eprintln!("{text}");
            }
        };
        self.held_from = Instant::now();
        loop {
            let (fault, pause) = match patient.exchange(&request) {
                Ok(raw) if raw.status == 200 => {
                    self.token = raw.json()["token"].as_u64().unwrap_or(0);
                    // An answer that comes late may be that of a copy whose time has run out: this one is void then.
                    if self.held_from.elapsed() < self.ttl / 2 {
                        return Ok(());
                    }
                    self.release();
                    let message =
                        format!("the answer took {:?}, and the lock {:?}", self.held_from.elapsed(), self.ttl);
                    (Fault::new(code::FAILED, message, "give a longer --ttl"), Duration::ZERO)
                }
                Ok(raw) if raw.status == 409 => {
                    say(format!("waiting for lock {:?}", self.name));
                    let retry_ms = raw.json()["retry_after_ms"].as_u64().unwrap_or(100);
                    let message = format!("lock {:?} is held by somebody else", self.name);
                    // A holder that ends early gives it back early: nobody waits for the whole of its time.
                    let pause = Duration::from_millis(retry_ms.min(200) / 2 + fastrand::u64(0..=retry_ms.min(200) / 2));
                    (Fault::new(code::FAILED, message, "wait longer with --wait"), pause)
                }
                Ok(raw) => return Err(raw.fault()),
                Err(fault) if matches!(fault.code, code::UNREACHABLE | code::UNKNOWN) => {
                    say(format!("waiting for the cluster: {}", fault.message));
                    let is_unknown = fault.code == code::UNKNOWN;
                    let so_far = (fault, RETRY_EVERY);
                    if is_unknown && self.is_waiting(deadline) {
                        // The same request again: if it did take the lock, the answer is its token.
                        self.pause(so_far.1)?;
                        continue;
                    }
                    so_far
                }
                Err(fault) => return Err(fault),
            };
            if !self.is_waiting(deadline) {
                return Err(fault);
            }
            self.pause(pause)?;
            request = self.post("acquire", &body);
            self.held_from = Instant::now();
        }
    }

    fn is_waiting(&self, deadline: Option<Instant>) -> bool {
        deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    fn pause(&self, span: Duration) -> Result<(), Fault> {
        let until = Instant::now() + span;
        while Instant::now() < until {
            if SIGNALS.load(Ordering::Relaxed) > 0 {
                return Err(Fault::new(
                    code::FAILED,
                    format!("interrupted while waiting for lock {:?}", self.name),
                    "",
                ));
            }
            poll::pause(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Keeps it for another time to live: whether it is still ours, or `None` if nobody could say.
    fn renew(&mut self) -> Option<bool> {
        let begun = Instant::now();
        let body = json!({"token": self.token, "ttl_ms": self.ttl.as_millis() as u64});
        let raw = self.client.exchange(&self.post("renew", &body)).ok()?;
        match raw.status {
            200 => {
                self.held_from = begun;
                Some(true)
            }
            409 => Some(false),
            _ => None,
        }
    }

    fn release(&self) {
        match self.client.exchange(&self.post("release", &json!({"token": self.token}))) {
            Ok(raw) if raw.status == 200 => {}
            Ok(raw) if raw.status == 409 => {
                eprintln!("warning: lock {:?} had run out before it was given back", self.name)
            }
            Ok(raw) => eprintln!("warning: lock {:?} was not given back: {}", self.name, raw.fault().message),
            Err(fault) => eprintln!(
                "warning: lock {:?} was not given back, its time runs out by itself: {}",
                self.name, fault.message
            ),
        }
    }
}

fn start(command: &[OsString], lock: &Lock) -> io::Result<Child> {
    Command::new(&command[0])
        .args(&command[1..])
        .env("PHALANX_LOCK_TOKEN", lock.token.to_string())
        .env("PHALANX_LOCK_NAME", &lock.name)
        .spawn()
}

/// Keeps the lock while the command runs; `Err` says why the lock is lost.
fn attend(child: &mut Child, lock: &mut Lock) -> Result<ExitStatus, String> {
    let mut next_renewal = lock.held_from + lock.ttl / 3;
    let mut signals = 0;
    // On a terminal Ctrl+C has reached the command as well; else it is told. A second one is always passed on.
    let mut is_told = io::stdin().is_terminal();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(e) => return Err(format!("the command cannot be watched: {e}")),
        }
        let now_signals = SIGNALS.load(Ordering::Relaxed);
        if now_signals > signals {
            signals = now_signals;
            if !std::mem::replace(&mut is_told, false) {
                tell(child, Signal::TERM);
            }
        }
        // A tenth of its time is left for the command to end.
        if lock.held_from.elapsed() >= lock.ttl * 9 / 10 {
            return Err(format!("it could not be renewed for {:?}", lock.held_from.elapsed()));
        }
        if Instant::now() >= next_renewal {
            match lock.renew() {
                Some(true) => next_renewal = lock.held_from + lock.ttl / 3,
                Some(false) => return Err("somebody else has it, or had it: its time had run out".to_string()),
                None => next_renewal = Instant::now() + lock.ttl / 10,
            }
        }
        poll::pause(LOOK_EVERY);
    }
}

fn tell(child: &Child, signal: Signal) {
    // One that has just ended is fine; it is not reaped yet, so its pid is nobody else's.
    let _ = kill_process(Pid::from_child(child), signal);
}

/// Ends the command; how it ended, in words.
fn end(child: &mut Child) -> String {
    tell(child, Signal::TERM);
    let by = Instant::now() + GRACE;
    while Instant::now() < by {
        if let Ok(Some(status)) = child.try_wait() {
            return status.to_string();
        }
        poll::pause(LOOK_EVERY);
    }
    tell(child, Signal::KILL);
    child.wait().map_or_else(|e| e.to_string(), |status| status.to_string())
}
