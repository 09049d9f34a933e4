//! Several hosts: real nodes in networks of their own (`phalanx::lab::hosts`), whose links are cut, slow and lossy.
//!
//! [`is_apart`] runs a test again within namespaces of its own, which the hosts need.

use phalanx::lab::hosts::namespaces;

mod config_files;
mod datagrams;
mod dispatch;
mod links;
mod random_faults;
mod recorded_clients;
mod slow_links;

/// Whether this process has namespaces of its own. If not, the test (its name with its module) has been run in a
/// process that has, or there is a line that says what is missing.
pub fn is_apart(test: &str) -> bool {
    if namespaces::is_apart() {
        return true;
    }
    if let Err(missing) = namespaces::check() {
        eprintln!("skipped: {missing}");
        return false;
    }
    let exe = std::env::current_exe().unwrap();
    let words = [exe.to_str().unwrap(), test, "--exact", "--include-ignored", "--nocapture"];
    let again = namespaces::within(&words).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    print!("{out}");
    eprint!("{err}");
    assert!(again.status.success() && out.contains(" 1 passed"), "the test failed in its own network");
    false
}
