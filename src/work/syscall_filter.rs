//! System calls that a job may not make: those that reach what the sandbox's namespaces do not separate.
//!
//! A process may trace others of its user, also the first one of the sandbox, with which all others end; keys of the
//! kernel's keyrings and some address families belong to no namespace; memory in segments, queues and secret mappings
//! belongs to no process, so it cannot be measured. All of these fail as if the system did not have them (`ENOSYS`),
//! which libraries expect.
//! Not here: who installs it (`sandbox.rs`: bubblewrap does, from a file in the scratch folder).

use seccompiler::{TargetArch, compile_from_json};
use serde_json::json;
use std::sync::LazyLock;

/// What each system call that is refused would be good for.
const REFUSED: [&str; 26] = [
    // Other processes of the job, among them the sandbox's first.
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kcmp",
    // Keys of the node's session, and keys that outlive the job.
    "keyctl",
    "add_key",
    "request_key",
    // Memory that is in no process's account.
    "shmget",
    "shmat",
    "shmctl",
    "semget",
    "msgget",
    "memfd_create",
    "memfd_secret",
    // Kernel interfaces that jobs do not need, and that bypass this filter.
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "setns",
    "unshare",
    "open_by_handle_at",
    "quotactl",
    "fanotify_init",
];
/// Address families that stay within the sandbox: `AF_UNIX`, `AF_INET`, `AF_INET6` and `AF_NETLINK`. Others, as
/// `AF_VSOCK`, know no network namespace.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];
/// `ENOSYS`.
const NOT_IMPLEMENTED: u32 = 38;

/// The filter as the kernel reads it, `struct sock_filter` after `struct sock_filter`; `None`: this processor has none.
pub fn bytes() -> Option<&'static [u8]> {
    static BYTES: LazyLock<Option<Vec<u8>>> = LazyLock::new(compile);
    BYTES.as_deref()
}

fn compile() -> Option<Vec<u8>> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().ok()?;
    let others: Vec<_> =
        FAMILIES.iter().map(|family| json!({"index": 0, "type": "dword", "op": "ne", "val": family})).collect();
    let sockets = ["socket", "socketpair"].map(|name| json!({"syscall": name, "args": others}));
    let refused: Vec<_> = REFUSED.iter().map(|name| json!({"syscall": name})).chain(sockets).collect();
    let filter = json!({"job": {
        "mismatch_action": "allow",
        "match_action": {"errno": NOT_IMPLEMENTED},
        "filter": refused,
    }});
    let text = filter.to_string();
    let programs =
        compile_from_json(text.as_bytes(), arch).expect("every name is known for every processor, as a test shows");
    let steps = programs.into_values().next().unwrap_or_default().into_iter();
    Some(steps.flat_map(|it| [&it.code.to_ne_bytes()[..], &[it.jt, it.jf], &it.k.to_ne_bytes()].concat()).collect())
}

#[cfg(test)]
mod tests {
    use crate::work::syscall_filter::*;

    #[test]
    fn the_filter_compiles_here() {
        let bytes = bytes().expect("x86_64 and aarch64 have filters");
        assert_eq!(bytes.len() % 8, 0);
        assert!(bytes.len() / 8 > REFUSED.len(), "{} steps", bytes.len() / 8);
    }
}
