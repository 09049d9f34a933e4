//! Running a program within namespaces of its own.
//!
//! Within a network and a process namespace of its own, the machine sees nothing of a program's network, several of
//! them run at once, and the kernel removes everything when the program ends, however it ends.
//! Not here: the hosts within (`hosts/mod.rs`), which program is run (`tests/cluster/hosts/`, `bench/failover/`).

use std::ffi::OsStr;
use std::process::Command;

/// Set in a program that has namespaces of its own.
const APART: &str = "LAB_HOSTS_APART";

/// Whether this program has been run by [`within`].
pub fn is_apart() -> bool {
    std::env::var_os(APART).is_some()
}

/// A command that runs a program, with its arguments, within namespaces of its own. The kernel kills it with the program
/// that starts it.
pub fn within<S: AsRef<OsStr>>(words: &[S]) -> Command {
    // `setpriv` asks for the end with this program; `unshare` kills the first process of the process namespace when it
    // ends, and the kernel all others with that.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).args(words).env(APART, "1");
    command
}

/// Whether this machine lets this user make hosts.
///
/// # Errors
/// What they need and is missing, in words.
pub fn check() -> Result<(), String> {
    let needs = "needs root on Linux, setpriv and unshare (Debian package util-linux), ip (iproute2), python3 and \
                 /dev/net/tun";
    if !rustix::process::geteuid().is_root() {
        return Err(format!("{needs}: this user is not root"));
    }
    let trial = within(&["python3", "-c", "import os; os.open('/dev/net/tun', os.O_RDWR)"]).output();
    match trial {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("{needs}: {}", text.trim_end().lines().last().unwrap_or("a trial failed").escape_debug()))
        }
        Err(e) => Err(format!("{needs}: setpriv: {e}")),
    }
}
