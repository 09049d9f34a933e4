//! Makes the C library's allocator return large allocations to the system when they are freed.
//!
//! By default, glibc raises its mmap threshold to the size of the largest allocation that was freed, up to 32 MiB. From
//! then on the megabytes of requests and replies are in heaps that threads share, and memory freed between two
//! allocations in use stays with the process: with clients that held a transaction open, a node used 1.5 times its
//! memory budget (`node/shared/memory.rs`). An explicit threshold is not raised. Without unsafe code it can be set only
//! in the environment, which glibc reads before `main`: so the program executes itself again, in the same process.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The variable, as glibc reads it.
const NAME: &str = "MALLOC_MMAP_THRESHOLD_";
/// The threshold in bytes: a smaller one would cost more system calls than it saves memory.
const BYTES: &str = "524288";

/// Executes the program again if the threshold is not set yet; returns otherwise, and if that fails.
pub fn bound() {
    if cfg!(not(target_env = "gnu")) || env::var_os(NAME).is_some() {
        return;
    }
    let (Ok(program), mut args) = (env::current_exe(), env::args_os()) else { return };
    let mut command = Command::new(program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    let failed = command.args(args).env(NAME, BYTES).exec();
    // The node works without it, with more memory.
    eprintln!(
        "warning: freed memory may not be returned to the system, because the program could not restart itself with \
            MALLOC_MMAP_THRESHOLD_ set: {failed}"
    );
}
