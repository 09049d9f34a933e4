//! Sentences about why a job waits, and why workers offer nothing, from what the workers have reported in the log.
//!
//! Not here: assigning jobs (`services/jobs/`), responses with these sentences (`jobs.rs`, `job_output.rs`).

use crate::node::views::status::WorkerRow;
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a job in this language waits. `None`: it can begin at once.
pub(crate) fn reason(language: &str, workers: &[Arc<WorkerRow>]) -> Option<String> {
    let offering: Vec<&WorkerRow> = online(workers).filter(|worker| offers(worker, language)).collect();
    if offering.is_empty() {
        return Some(format!("no worker offers {language}; {}", offered(language, workers)));
    }
    let is_full = |worker: &&WorkerRow| worker.running.len() as u64 >= worker.slots;
    offering.iter().all(is_full).then(|| {
        let ids: Vec<NodeId> = offering.iter().map(|worker| worker.id).collect();
        format!("all job slots of the workers that offer {language} are taken ({})", node_list(&ids))
    })
}

/// What the workers offer, where none that is online offers this language.
pub(crate) fn offered(language: &str, workers: &[Arc<WorkerRow>]) -> String {
    if workers.is_empty() {
        return "no worker has joined yet".to_string();
    }
    let mut words = problems(workers);
    let ready = online(workers).filter(|worker| worker.trouble.is_none());
    let runtimes_by_nodes = group_nodes(ready.map(|worker| (worker.id, worker.runtimes.as_slice())));
    words.extend(runtimes_by_nodes.into_iter().map(|(runtimes, ids)| match runtimes {
        [] => format!("{}: none of the configured runtimes was found", node_list(&ids)),
        runtimes => format!("{}: offers {}", node_list(&ids), runtimes.join(", ")),
    }));
    let gone = workers.iter().filter(|worker| !worker.is_here);
    let gone = gone.filter(|worker| words.is_empty() || offers(worker, language));
    for (had_it, ids) in group_nodes(gone.map(|worker| (worker.id, offers(worker, language)))) {
        let had = if had_it { format!("; offered {language}") } else { String::new() };
        words.push(format!("{}: offline{had}", node_list(&ids)));
    }
    words.join("; ")
}

/// Why workers that are online can run nothing: each problem once, with its nodes.
pub(crate) fn problems(workers: &[Arc<WorkerRow>]) -> Vec<String> {
    let all = group_nodes(online(workers).filter_map(|worker| Some((worker.id, worker.trouble.as_ref()?))));
    all.into_iter().map(|(trouble, ids)| format!("{}: {trouble}", node_list(&ids))).collect()
}

fn online(workers: &[Arc<WorkerRow>]) -> impl Iterator<Item = &WorkerRow> {
    workers.iter().map(Arc::as_ref).filter(|worker| worker.is_here)
}

fn offers(worker: &WorkerRow, language: &str) -> bool {
    worker.runtimes.iter().any(|runtime| runtime == language)
}

/// Nodes with the same value together, in the order of the first of each.
fn group_nodes<T: Ord + Clone>(rows: impl Iterator<Item = (NodeId, T)>) -> Vec<(T, Vec<NodeId>)> {
    let mut groups: BTreeMap<T, Vec<NodeId>> = BTreeMap::new();
    for (id, value) in rows {
        groups.entry(value).or_default().push(id);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, ids)| ids[0]);
    groups
}

fn node_list(ids: &[NodeId]) -> String {
    let numbers: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    format!("{} {}", if ids.len() == 1 { "node" } else { "nodes" }, numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use crate::http::api::job_wait_reason::*;

    fn worker(id: u64, runtimes: &[&str], trouble: Option<&str>) -> WorkerRow {
        WorkerRow {
            id: NodeId(id),
            is_here: true,
            slots: 1,
            running: Vec::new(),
            runtimes: runtimes.iter().map(|name| name.to_string()).collect(),
            trouble: trouble.map(str::to_string),
        }
    }

    fn shared(workers: Vec<WorkerRow>) -> Vec<Arc<WorkerRow>> {
        workers.into_iter().map(Arc::new).collect()
    }

    #[test]
    fn a_job_that_no_worker_can_run_shows_why() {
        assert_eq!(reason("c", &[]).as_deref(), Some("no worker offers c; no worker has joined yet"));
        let workers = shared(vec![
            worker(1, &[], Some("no bwrap")),
            worker(2, &["python", "shell"], None),
            worker(3, &[], Some("no bwrap")),
            worker(4, &[], None),
            WorkerRow { is_here: false, ..worker(5, &["c"], None) },
            WorkerRow { is_here: false, ..worker(6, &["shell"], Some("old")) },
        ]);
        let wanted = "no worker offers c; nodes 1, 3: no bwrap; node 2: offers python, shell; node 4: none of the \
            configured runtimes was found; node 5: offline; offered c";
        assert_eq!(reason("c", &workers).as_deref(), Some(wanted));
        assert_eq!(reason("shell", &workers), None);
        let gone = shared(vec![WorkerRow { is_here: false, ..worker(1, &["shell"], None) }]);
        assert_eq!(reason("c", &gone).as_deref(), Some("no worker offers c; node 1: offline"));
    }

    #[test]
    fn a_job_that_waits_for_its_turn_says_so() {
        let busy = |id| WorkerRow { running: vec![id], ..worker(id, &["c"], None) };
        let wanted = "all job slots of the workers that offer c are taken (nodes 1, 2)";
        assert_eq!(reason("c", &shared(vec![busy(1), busy(2), worker(3, &["shell"], None)])).as_deref(), Some(wanted));
        assert_eq!(reason("c", &shared(vec![busy(1), worker(2, &["c"], None)])), None);
    }

    #[test]
    fn each_trouble_is_named_once_with_all_its_nodes() {
        let workers = shared(vec![
            worker(1, &[], Some("no bwrap")),
            worker(2, &[], Some("no folder")),
            worker(3, &[], Some("no bwrap")),
            WorkerRow { is_here: false, ..worker(4, &[], Some("no bwrap")) },
        ]);
        assert_eq!(problems(&workers), ["nodes 1, 3: no bwrap", "node 2: no folder"]);
    }
}
