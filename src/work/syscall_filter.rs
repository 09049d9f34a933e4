//! The seccomp filter of a job: system calls that reach what the sandbox's namespaces do not isolate are refused.
//!
//! A process can trace other processes of its user, including the first one of the sandbox, whose end kills all others.
//! Kernel keyrings and some address families have no namespace. Memory in System V segments, queues and secret mappings
//! is not accounted to a process, so it cannot be measured. All these calls fail with `ENOSYS`, as on a system without
//! them, which libraries handle.
//! Not here: installing the filter (`sandbox.rs`: bubblewrap does it, from a file in the scratch folder).

use seccompiler::{TargetArch, compile_from_json};
use serde_json::json;
use std::sync::LazyLock;

/// The refused system calls, grouped by reason.
const REFUSED: [&str; 26] = [
    // Access to other processes of the job, including the sandbox's first.
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kcmp",
    // Access to keys of the node's session, and keys that outlive the job.
    "keyctl",
    "add_key",
    "request_key",
    // Memory that is not accounted to a process.
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
/// Address families that network namespaces isolate: `AF_UNIX`, `AF_INET`, `AF_INET6` and `AF_NETLINK`. Others, such as
/// `AF_VSOCK`, bypass them.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];
/// `ENOSYS`.
const NOT_IMPLEMENTED: u32 = 38;

/// Returns the filter as an array of `struct sock_filter`, `None` if there is none for this processor architecture.
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
