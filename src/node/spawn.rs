//! The one file that starts threads: named, counted, and never lost in silence.
//!
//! A panic in any thread is a bug of ours; it ends the process with its message (exit 101) rather than leave a node
//! that is half alive. Threads of client connections have small stacks, because there may be thousands of them.
//! Not here: what any thread does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

/// What a patient thread adds to its `nice` value: beside one busy thread it gets a tenth of a processor.
#[cfg(target_os = "linux")]
const PATIENCE: i32 = 10;
/// Stack of the node's own threads, in bytes.
const OWN_STACK_BYTES: usize = 1 << 20;

/// Starts one of the node's own threads. `name` has 15 bytes at most, what Linux shows of it.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    start(name, OWN_STACK_BYTES, run)
}

/// Starts one of the node's own threads for work that is not urgent: threads that a client waits for are scheduled
/// first.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn_patient(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    spawn(name, || {
        give_way();
        run();
    })
}

/// Makes the thread that calls it, and what it starts from now on, a patient one.
pub fn give_way() {
    // Linux keeps this number for each thread; elsewhere it would slow the whole process down.
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::nice(PATIENCE) {
        log::debug!("a thread keeps its priority err={e}");
    }
}

/// Starts a thread with a stack of its own size, for client and peer connections.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn_small(
    name: &str,
    stack_bytes: usize,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    start(name, stack_bytes, run)
}

fn start(name: &str, stack_bytes: usize, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    assert!(name.len() <= 15, "thread name {name} is longer than 15 bytes");
    Builder::new().name(name.to_string()).stack_size(stack_bytes).spawn(move || {
        // The panic hook has printed the message by the time we get here.
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            std::process::exit(101);
        }
    })
}
