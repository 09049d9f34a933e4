//! Finds out why no sandbox can be set up on this machine, and what the operator can do about it.
//!
//! Not here: setting one up to test whether it works (`sandbox.rs`).

use std::fs;
use std::ops::Range;

/// The advice to run jobs without a full sandbox. Every client can then do what the node's user can do.
const LIMITS: &str = "set jobs_sandbox to \"limits\" if every client is trusted";
/// System settings that forbid unprivileged user namespaces: path below `/proc/sys`, the value that forbids them, and
/// the `sysctl` assignment that allows them.
const FORBIDDING: [(&str, &str, &str); 3] = [
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
];

/// Returns the message for missing programs.
pub(crate) fn of_missing(programs: &[&str]) -> String {
    let packages = "they are part of bubblewrap, util-linux and coreutils (Debian: apt-get install bubblewrap \
        util-linux coreutils)";
    match programs {
        ["bwrap"] => format!("bwrap is not installed: apt-get install bubblewrap (Debian, Ubuntu), or {LIMITS}"),
        programs => format!("{} not installed: {packages}", programs.join(", ")),
    }
}

/// Returns the advice for a bubblewrap that is installed but does not start a command. `said` is its output.
pub(crate) fn of_failed_start(said: &str) -> String {
    if ["prlimit", "Resource temporarily unavailable", "Too many open files"].iter().any(|sign| said.contains(sign)) {
        return format!("raise the limits of the node's process (ulimit -n, -u, -t; see ulimit -a), or {LIMITS}");
    }
    let value = |path: &str| fs::read_to_string(format!("/proc/sys/{path}")).unwrap_or_default().trim().to_string();
    let forbidding = FORBIDDING.into_iter().filter(|(path, bad, _)| value(path) == *bad);
    let settings: Vec<&str> = forbidding.map(|(_, _, advice)| advice).collect();
    match settings.is_empty() {
        true => format!("let users make namespaces (in a container, allow it there), or {LIMITS}"),
        false => format!("let users make namespaces (sysctl {}), or {LIMITS}", settings.join(" ")),
    }
}

/// Returns the message if root cannot switch to all of these user ids, `None` if no obstacle is found.
pub(crate) fn of_users(users: Range<u32>) -> Option<String> {
    let map = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    of_maps(users, &map("uid_map"), &map("gid_map"))
}

/// In a container of an unprivileged user, root is mapped to that user; other ids exist only if the container was given
/// some.
fn of_maps(users: Range<u32>, uid_map: &str, gid_map: &str) -> Option<String> {
    let (name, map) =
        [("uid_map", uid_map), ("gid_map", gid_map)].into_iter().find(|(_, map)| !has_room(&users, map))?;
    let ids: Vec<String> = ranges(map).map(|ids| format!("{} to {}", ids.start, ids.end - 1)).collect();
    Some(format!(
        "jobs of root run as users {} to {}, but /proc/self/{name} maps only {}; give the container 65536 ids \
         (for rootless podman or docker a line in /etc/subuid and in /etc/subgid), run the node as another user than root, or {LIMITS}",
        users.start,
        users.end - 1,
        ids.join(", ")
    ))
}

/// Whether a map contains all of these ids; ranges in a map never overlap. A map that could not be read (empty) passes.
fn has_room(users: &Range<u32>, map: &str) -> bool {
    let (start, end) = (u64::from(users.start), u64::from(users.end));
    let mapped = ranges(map).map(|ids| ids.end.min(end).saturating_sub(ids.start.max(start)));
    map.trim().is_empty() || mapped.sum::<u64>() == end - start
}

/// Returns the id ranges of this namespace in a map. Each line has the first id inside, the first id outside, and the
/// count.
fn ranges(map: &str) -> impl Iterator<Item = Range<u64>> {
    map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
        let (first, count) = (numbers.next()?, numbers.nth(1)?);
        Some(first..first + count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_process_are_not_taken_for_missing_namespaces() {
        for said in [
            "prlimit: failed to set the NOFILE resource limit: Operation not permitted",
            "bwrap: Creating new namespace failed: Resource temporarily unavailable",
        ] {
            let advice = of_failed_start(said);
            assert!(advice.contains("ulimit") && !advice.contains("sysctl"), "{advice}");
        }
        assert!(
            of_failed_start("bwrap: No permissions to create new namespace").starts_with("let users make namespaces")
        );
    }

    #[test]
    fn full_user_maps_are_reported() {
        let whole = "         0          0 4294967295\n";
        let given = "         0       1000          1\n         1     100000      65536\n";
        let alone = "         0       1000          1\n";
        let users = || 60_000..65_000;
        let split = "0 1000 1\n1 100000 61000\n61001 300000 4000\n";
        for (uids, gids) in [(whole, whole), (given, given), ("", ""), (given, whole), (split, split)] {
            assert_eq!(of_maps(users(), uids, gids), None, "{uids}{gids}");
        }
        let why = of_maps(users(), alone, alone).unwrap();
        assert!(why.contains("60000 to 64999, but /proc/self/uid_map maps only 0 to 0; give the container"), "{why}");
        assert!(of_maps(users(), "0 1000 1\n1 100000 61000\n", given).is_some(), "a part is not enough");
        assert!(of_maps(users(), given, alone).unwrap().contains("/proc/self/gid_map"));
    }
}
