//! `phalanx lock run NAME -- COMMAND`: a command that runs on one machine at a time, as far as clocks allow.
//!
//! Three processes: the runner (this one) acquires the lock, starts the others and releases the lock; the guardian
//! (`guardian.rs`) renews it each third of its time to live; the command runs in the guardian's process group. Runner
//! or guardian ends that whole group, with SIGTERM and then SIGKILL, before another client can acquire the lock: when
//! it cannot be renewed, and when the other of the two is gone. The clock also counts while the machine is suspended.
//!
//! What cannot be guaranteed: after a suspension, or when guardian and runner are stopped or killed at the same time,
//! the command may run for a moment too long; a process that leaves the process group (`setsid`) is not found. So the
//! resource that the command writes to must check the fencing token, which is in `PHALANX_LOCK_TOKEN` and grows each
//! time the lock is acquired.
//!
//! Invariants: L1 the time to live counts from before the request that acquired or renewed the lock was sent, so this
//! side always gives up first. L2 a lock that is not lost is released on every exit but a crash. L3 it is released only
//! when no process is left in the command's process group.
//! Not here: locks themselves (`services/kv/state/locks.rs`), HTTP (`http/api/locks.rs`), the process group
//! (`process_group.rs`).

pub(crate) mod guardian;
pub(crate) mod lease;
pub(crate) mod process_group;
use self::lease::GRACE_MAX;
use self::process_group::{CommandState, Group, GuardianReport};
use super::client::{ClientArgs, ClusterClient};
use super::fault::{Fault, code};
use super::kv::parse_time;
use super::term;
use crate::cli::lock::lease::{Lease, since_boot};
use crate::lab::poll;
use crate::node::process::signals;
use crate::text::percent_encode;
use crate::time::parse_duration;
use crossbeam_channel::{Receiver, bounded};
use rustix::process::Signal;
use serde_json::json;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Between two checks of the command.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Signals that wait to be forwarded; more are dropped.
const SIGNALS_MAX: usize = 16;
/// A shorter time to live leaves no time to end a command.
const TTL_MIN: Duration = Duration::from_millis(500);
/// Between two tries while no node has a quorum.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Exit code of a shell when a command is not found.
const NOT_FOUND: u8 = 127;
/// Exit code of a shell when a command cannot be executed.
const NOT_RUN: u8 = 126;

/// Arguments of `phalanx lock`.
#[derive(Clone, Debug, clap::Args)]
pub struct LockArgs {
    #[command(subcommand)]
    command: LockCommand,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum LockCommand {
    /// Acquire a lock, run a command, release the lock
    #[command(
        after_help = "The environment of the command has the fencing token in PHALANX_LOCK_TOKEN and the lock's name \
        in PHALANX_LOCK_NAME.\n\nExit code: that of the command (128 + N if signal N killed it; 127 not found, 126 not \
        executable); 1 if the lock was not free in time or was lost while the command ran; 4 if no node has a quorum.\n\n\
        The whole process group of the command is killed when the command ends, and before another client can \
        acquire the lock: no background processes are left.\n\n\
        Example: phalanx lock run nightly-backup --wait 0 -- ./backup.sh"
    )]
    Run {
        /// Name of the lock
        name: OsString,
        /// How long the lock stays held if this process dies (500ms, 30s, 5m)
        #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_time)]
        ttl: Duration,
        /// How long to wait for the lock; 0 does not wait [default: no limit]
        #[arg(long, value_name = "TIME", value_parser = parse_wait)]
        wait: Option<Duration>,
        /// Command to run, with its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Internal: the process that renews the lock for `run`
    #[command(hide = true)]
    Keep,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    if parse_duration(text) == Some(Duration::ZERO) { Ok(Duration::ZERO) } else { parse_time(text) }
}

pub fn run(args: &LockArgs) -> Result<(), Fault> {
    match &args.command {
        LockCommand::Keep => guardian::run(),
        LockCommand::Run { name, ttl, wait, command } => run_command(name, *ttl, *wait, &args.client, command),
    }
}

fn run_command(
    name: &OsString,
    ttl: Duration,
    wait: Option<Duration>,
    client: &ClientArgs,
    command: &[OsString],
) -> Result<(), Fault> {
    if ttl < TTL_MIN {
        return Err(Fault::new(code::USAGE, "--ttl is below the minimum of 500ms", "give 1s or more"));
    }
    let patient = ClusterClient::new(client)?;
    let lease = Lease {
        endpoints: patient.endpoints(),
        password: patient.password(),
        // A renewal that hangs must leave time for others.
        patience: Duration::from_secs_f64(client.timeout.unwrap_or(3.0)).min(ttl / 3),
        path: format!("/v1/lock/{}", percent_encode(name.as_bytes())),
        name: name.to_string_lossy().into_owned(),
        ttl,
        token: 0,
        held_from: since_boot(),
    };
    let (tell, signals) = bounded(SIGNALS_MAX);
    // If this fails, a signal ends the runner and the lock expires.
    let _ = signals::listen(move |signal| _ = tell.try_send(signal));
    let mut lock = Lock::new(lease, signals);
    lock.acquire(&patient, wait.map(|wait| Instant::now() + wait))?;
    let mut group = match Group::start(command, &lock.lease) {
        Ok(group) => group,
        Err(e) => {
            lock.release();
            let code = if e.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
            return Err(Fault::new(code, format!("cannot run {}: {e}", command[0].to_string_lossy()), ""));
        }
    };
    match attend(&mut group, &mut lock) {
        Ok(()) => {
            let by = since_boot() + GRACE_MAX;
            let Some(status) = group.end(by.min(lock.lease.kill_at())) else {
                return Err(stays(&group));
            };
            lock.release();
            match u8::try_from(exit_code(status)).unwrap_or(u8::MAX) {
                0 => Ok(()),
                code => Err(Fault::new(code, "", "")),
            }
        }
        Err(Lost { why, kill_at }) => {
            eprintln!(
                "{} lock {:?} is lost: {}",
                term::paint_err("error:", term::Colour::Red),
                lock.lease.name,
                term::plain_err(&why)
            );
            group.signal(Signal::TERM);
            group.signal(Signal::CONT);
            let Some(status) = group.end(kill_at) else {
                return Err(stays(&group));
            };
            let message = format!("the command was ended because its lock was lost ({status})");
            Err(Fault::new(
                code::FAILED,
                message,
                "check what it left unfinished; a longer --ttl tolerates longer interruptions",
            ))
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn stays(group: &Group) -> Fault {
    let message = format!("processes of the command are still running after SIGKILL: see ps -g {}", group.id());
    Fault::new(code::FAILED, message, "the lock was not released; it expires after its --ttl")
}

struct Lock {
    client: ClusterClient,
    lease: Lease,
    signals: Receiver<signals::Signal>,
}

impl Lock {
    fn new(lease: Lease, signals: Receiver<signals::Signal>) -> Lock {
        let client = ClusterClient::to(lease.endpoints.clone(), lease.patience).with_password(lease.password.clone());
        Lock { client, lease, signals }
    }

    /// Tries until the lock is held or the deadline has passed; `None`: no deadline.
    fn acquire(&mut self, patient: &ClusterClient, deadline: Option<Instant>) -> Result<(), Fault> {
        let body = json!({"ttl_ms": self.lease.ttl.as_millis() as u64});
        let mut request = self.lease.post("acquire", &body);
        let mut has_said = false;
        let mut say = |text: String| {
            if !std::mem::replace(&mut has_said, true) {
                eprintln!("{}", term::plain_err(&text));
            }
        };
        self.lease.held_from = since_boot();
        loop {
            let (fault, pause) = match patient.exchange(&request) {
                Ok(raw) if raw.status == 200 => {
                    self.lease.token = raw.json()["token"].as_u64().unwrap_or(0);
                    // A late answer may belong to an attempt that has expired since: then the lock is not held.
                    if self.lease.age() < self.lease.ttl / 2 {
                        return Ok(());
                    }
                    self.release();
                    let message =
                        format!("the response took {:?}, but --ttl is {:?}", self.lease.age(), self.lease.ttl);
                    (Fault::new(code::FAILED, message, "use a longer --ttl"), Duration::ZERO)
                }
                Ok(raw) if raw.status == 409 => {
                    say(format!("waiting for lock {:?}", self.lease.name));
                    let retry_ms = raw.json()["retry_after_ms"].as_u64().unwrap_or(100);
                    let message = format!("lock {:?} is held by another client", self.lease.name);
                    // A holder that ends early releases it early: do not wait for its whole time to live.
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
            request = self.lease.post("acquire", &body);
            self.lease.held_from = since_boot();
        }
    }

    fn is_waiting(&self, deadline: Option<Instant>) -> bool {
        deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    fn pause(&self, span: Duration) -> Result<(), Fault> {
        let until = Instant::now() + span;
        while Instant::now() < until {
            if self.signals.try_recv().is_ok() {
                return Err(Fault::failed(format!("interrupted while waiting for lock {:?}", self.lease.name)));
            }
            poll::pause(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn release(&self) {
        match self.client.exchange(&self.lease.post("release", &json!({"token": self.lease.token}))) {
            Ok(raw) if raw.status == 200 => {}
            Ok(raw) if raw.status == 409 => {
                eprintln!("warning: lock {:?} expired before it was released", self.lease.name)
            }
            Ok(raw) => {
                let why = term::plain_err(&raw.fault().message);
                eprintln!("warning: lock {:?} was not released: {why}", self.lease.name)
            }
            Err(fault) => eprintln!(
                "warning: lock {:?} was not released and expires after its --ttl: {}",
                self.lease.name,
                term::plain_err(&fault.message)
            ),
        }
    }
}

/// Why the lock is lost, and when the last process of the command must have ended.
struct Lost {
    why: String,
    kill_at: Duration,
}

/// Waits for the end of the command, and forwards signals to it.
fn attend(group: &mut Group, lock: &mut Lock) -> Result<(), Lost> {
    loop {
        let kill_at = lock.lease.kill_at();
        let lost = |why: String, kill_at| Err(Lost { why, kill_at });
        match group.step() {
            Ok(CommandState::Ended) => return Ok(()),
            Ok(CommandState::Runs) => {}
            Err(e) => return lost(format!("cannot wait for the command: {e}"), kill_at),
        }
        while let Ok(signal) = lock.signals.try_recv() {
            group.signal(match signal {
                signals::Signal::Interrupt => Signal::INT,
                signals::Signal::Terminate => Signal::TERM,
                signals::Signal::HangUp => Signal::HUP,
            });
        }
        match group.hear(LOOK_EVERY) {
            // Checked only when no message is left: after a pause of this process, renewals may be unread.
            None if since_boot() >= lock.lease.term_at() => {
                return lost(format!("it could not be renewed for {:.1?}", lock.lease.age()), kill_at);
            }
            None => {}
            Some(GuardianReport::Kept(held_from)) => lock.lease.held_from = lock.lease.held_from.max(held_from),
            Some(GuardianReport::Lost) => {
                let why = "it expired, and another client may have acquired it".to_string();
                // Immediately: another client may hold the lock.
                return lost(why, Duration::ZERO);
            }
            Some(GuardianReport::Gone) => {
                return lost("the process that renews it (guardian) has exited".to_string(), kill_at);
            }
        }
    }
}
