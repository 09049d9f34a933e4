//! Has the C library's allocator give large pieces back to the system when they are freed.
//!
//! By itself glibc raises the size from which a piece is mapped and unmapped by itself to that of the largest one that was ever
//! freed, up to 32 MiB. From then on the megabytes of requests and replies lie in heaps, one for some threads each, and what is
//! freed between two pieces in use stays with the process: under clients that hold a transaction open a node had half as much
//! again as the memory budget (`node/shared/memory.rs`) says. A size that is named keeps glibc from raising it. It can be named
//! in the environment alone without unsafe code, and glibc reads that before `main`: the program runs itself once more, as the
//! same process.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The variable, as glibc reads it.
const NAME: &str = "MALLOC_MMAP_THRESHOLD_";
/// Bytes from which a piece is mapped by itself: what is smaller would cost more system calls than it saves memory.
const BYTES: &str = "524288";

/// Begins the program anew if the allocator has not been told yet; otherwise, and where that fails, it returns.
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
    // The node works all the same, with more memory.
    eprintln!(
        "warning: freed memory may not be returned to the system, because the program could not restart itself with \
            MALLOC_MMAP_THRESHOLD_ set: {failed}"
    );
}
