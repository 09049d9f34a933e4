//! The guardian of a command under a lock: renews the lock, and ends the command's process group when that fails or
//! when the process that started it is gone.
//!
//! It leads that group, so the group can be signalled as long as the guardian lives; the guardian itself ignores
//! signals to the group. It receives the lease and `done` on its standard input, whose end means that the runner is
//! gone, and writes `kept MS` for each renewal (and once at the start) and `lost`.
//! Not here: the runner (`mod.rs`), the group as the runner sees it (`process_group.rs`).

use super::lease::{Lease, since_boot};
use crate::cli::client::ClusterClient;
use crate::cli::fault::{Fault, code};
use crate::node::process::signals;
use crate::node::spawn;
use crossbeam_channel::{Sender, bounded};
use rustix::process::{Signal, kill_current_process_group};
use std::io::{self, BufRead};
use std::time::Duration;

/// From SIGTERM to SIGKILL when the runner is gone and cannot wait for the command any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// How often the clock is read: one long wait would not end earlier when the machine was suspended meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

enum Event {
    Renewed(Duration),
    Lost,
    Dismissed,
    RunnerGone,
}

/// Keeps the lease that arrives on standard input.
///
/// # Errors
/// No lease arrives, or threads or signal handlers cannot be set up.
pub fn run() -> Result<(), Fault> {
    let failed = |e: io::Error| Fault::new(code::FAILED, format!("the lock cannot be renewed: {e}"), "");
    signals::ignore_signals().map_err(failed)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(failed)?;
    let mut lease: Lease = serde_json::from_str(&line).map_err(|e| failed(e.into()))?;
    // A stopped runner does not read: a guardian that blocked on writing to it would neither renew the lock nor kill
    // the command.
    rustix::io::ioctl_fionbio(io::stdout(), true).map_err(|e| failed(e.into()))?;
    write_event(&format!("kept {}", lease.held_from.as_millis()));
    let (tell, events) = bounded(4);
    let (runner_events, renewing) = (tell.clone(), lease.clone());
    spawn::spawn("runner", move || await_runner(&runner_events)).map_err(failed)?;
    spawn::spawn("renewal", move || renew(renewing, &tell)).map_err(failed)?;
    let mut kill_at = lease.kill_at();
    let mut is_orphan = false;
    loop {
        match events.recv_timeout(kill_at.saturating_sub(since_boot()).min(LOOK_EVERY)) {
            Ok(Event::Renewed(held_from)) => {
                lease.held_from = held_from;
                if !is_orphan {
                    kill_at = lease.kill_at();
                }
                write_event(&format!("kept {}", held_from.as_millis()));
            }
            Ok(Event::Dismissed) => return Ok(()),
            Ok(Event::RunnerGone) => {
                is_orphan = true;
                kill_at = kill_at.min(since_boot() + ORPHAN_GRACE);
                let _ = kill_current_process_group(Signal::TERM);
                let _ = kill_current_process_group(Signal::CONT);
            }
            Ok(Event::Lost) => {
                write_event("lost");
                kill_at = Duration::ZERO;
            }
            Err(_) if since_boot() >= kill_at => {
                // Ends this process as well.
                let _ = kill_current_process_group(Signal::KILL);
            }
            Err(_) => {}
        }
    }
}

/// Writes a word without blocking, or drops it: the end of standard input reports a runner that is gone, and a runner
/// that was stopped for thousands of renewals considers its lock lost when it continues.
fn write_event(word: &str) {
    let _ = rustix::io::write(io::stdout(), format!("{word}\n").as_bytes());
}

fn await_runner(tell: &Sender<Event>) {
    let mut word = String::new();
    let heard = io::stdin().lock().read_line(&mut word);
    let event = if heard.is_ok() && word == "done\n" { Event::Dismissed } else { Event::RunnerGone };
    let _ = tell.send(event);
}

fn renew(mut lease: Lease, tell: &Sender<Event>) {
    let client = ClusterClient::to(lease.endpoints.clone(), lease.patience).with_password(lease.password.clone());
    let mut next = lease.renew_at();
    loop {
        std::thread::sleep(next.saturating_sub(since_boot()));
        let event = match lease.renew(&client) {
            Some(true) => {
                next = lease.renew_at();
                Event::Renewed(lease.held_from)
            }
            Some(false) => Event::Lost,
            None => {
                next = since_boot() + lease.ttl / 10;
                continue;
            }
        };
        if tell.send(event).is_err() {
            return;
        }
    }
}
