//! The guardian of a command under a lock: renews the lock, and ends the command's process group when that fails or
//! when the process that started it is gone.
//!
//! It leads that group, so that it can be signalled as long as the guardian lives; of signals to the group it minds none. It hears
//! the lease and `done` on its standard input, whose end says that the runner is gone, and says `kept MS` for each renewal (and
//! once as it begins) and `lost`.
//! Not here: the runner (`mod.rs`), the group as the runner sees it (`process_group.rs`).

use super::lease::{Lease, since_boot};
use crate::cli::client::Client;
use crate::cli::fault::{Fault, code};
use crate::node::process::signals;
use crate::node::spawn;
use crossbeam_channel::{Sender, bounded};
use rustix::process::{Signal, kill_current_process_group};
use std::io::{self, BufRead};
use std::time::Duration;

/// From SIGTERM to SIGKILL when the runner is gone; the runner cannot wait for the command any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// Between two looks at the time: a wait does not end earlier because the machine has slept meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

enum Event {
    Renewed(Duration),
    Lost,
    Dismissed,
    RunnerGone,
}

/// Keeps the lease that comes on standard input.
///
/// # Errors
/// There is none, or threads and signals cannot be had.
pub fn run() -> Result<(), Fault> {
    let failed = |e: io::Error| Fault::new(code::FAILED, format!("the lock cannot be renewed: {e}"), "");
    signals::withstand().map_err(failed)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(failed)?;
    let mut lease: Lease = serde_json::from_str(&line).map_err(|e| failed(e.into()))?;
    // A runner that is stopped does not read: whoever waited for it would neither renew nor kill.
    rustix::io::ioctl_fionbio(io::stdout(), true).map_err(|e| failed(e.into()))?;
    say(&format!("kept {}", lease.held_from.as_millis()));
    let (tell, events) = bounded(4);
    let (told, renewing) = (tell.clone(), lease.clone());
    spawn::spawn("runner", move || await_runner(&told)).map_err(failed)?;
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
                say(&format!("kept {}", held_from.as_millis()));
            }
            Ok(Event::Dismissed) => return Ok(()),
            Ok(Event::RunnerGone) => {
                is_orphan = true;
                kill_at = kill_at.min(since_boot() + ORPHAN_GRACE);
                let _ = kill_current_process_group(Signal::TERM);
                let _ = kill_current_process_group(Signal::CONT);
            }
            Ok(Event::Lost) => {
                say("lost");
                kill_at = Duration::ZERO;
            }
            Err(_) if since_boot() >= kill_at => {
                let _ = kill_current_process_group(Signal::KILL); // this process as well
            }
            Err(_) => {}
        }
    }
}

/// Says a word at once, or not at all: a runner that is gone is heard of by its end of the other pipe, and one that was stopped for
/// thousands of renewals takes its lock for lost when it goes on.
fn say(word: &str) {
    let _ = rustix::io::write(io::stdout(), format!("{word}\n").as_bytes()); // see above
}

fn await_runner(tell: &Sender<Event>) {
    let mut word = String::new();
    let heard = io::stdin().lock().read_line(&mut word);
    let event = if heard.is_ok() && word == "done\n" { Event::Dismissed } else { Event::RunnerGone };
    let _ = tell.send(event);
}

fn renew(mut lease: Lease, tell: &Sender<Event>) {
    let client = Client::to(lease.endpoints.clone(), lease.patience);
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
