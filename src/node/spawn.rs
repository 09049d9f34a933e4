//! The one file that starts threads, each with a name.
//!
//! A panic in any thread is a bug; it ends the process with its message (exit 101), because a node with one thread
//! missing would be worse. Threads of client connections have small stacks, because there may be thousands of them.
//! Not here: what any thread does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

/// What a thread of low priority adds to its `nice` value: beside one busy thread it gets a tenth of a processor.
#[cfg(target_os = "linux")]
const PATIENCE: i32 = 10;
/// Stack of the node's own threads, in bytes.
const OWN_STACK_BYTES: usize = 1 << 20;

/// Starts one of the node's own threads. `name` has 15 bytes at most, what Linux shows of it.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    spawn_with_stack(name, OWN_STACK_BYTES, run)
}

/// Starts one of the node's own threads for work that is not urgent: threads that a client waits for are scheduled
/// first.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn_with_retries(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    spawn(name, || {
        give_way();
        run();
    })
}

/// Lowers the priority of the calling thread, and of all that it starts from now on.
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
pub fn spawn_with_stack(
    name: &str,
    stack_bytes: usize,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    assert!(name.len() <= 15, "thread name {name} is longer than 15 bytes");
    Builder::new().name(name.to_string()).stack_size(stack_bytes).spawn(move || {
        // The panic hook has printed the message by the time we get here.
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            std::process::exit(101);
        }
    })
}
