//! `phalanx sim sweep --planted`: how many seeds it takes until the simulator finds each planted bug.
//!
//! Known mistakes are built in with the feature `planted-bugs` only, so that no other build carries one.
//! Not here: the mistakes (`src/planted_bugs.rs`), how the simulator is aimed at each (`sim/planted_bugs/`).

use super::sweep::Seeds;
use crate::cli::fault::{Fault, code};
use crate::cli::sql::interrupt::Interrupts;
use crate::cli::term;
use crate::node::spawn;
use crate::progress::Progress;
use crate::sim::planted_bugs::{ALL, Planted};
use crate::sim::{Failure, Options};
use crossbeam_channel::bounded;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What was found of a bug: the seeds tried, and the violation.
type Found = Option<(u64, Box<Failure>)>;

/// The options of a run with the planted bug of this name.
pub fn options(name: &str) -> Option<Options> {
    ALL.iter().find(|planted| planted.name == name).map(Planted::options)
}

/// Looks for every planted bug and prints a table.
pub fn sweep(seeds: Seeds, threads: u64) -> u8 {
    let progress = Progress::new();
    progress.count(ALL.len() as u64);
    let found = match find_all(seeds, threads, &progress) {
        Ok(found) => found,
        Err(e) => return Fault::new(code::FAILED, format!("cannot start a thread: {e}"), "").report(),
    };
    drop(progress);
    let name_width = ALL.iter().map(|planted| planted.name.len()).max().unwrap_or(0);
    term::line(&format!("{:name_width$}  {:>5}  {:>5}  {:>10}  rule", "planted bug", "seeds", "limit", "seed"));
    for (at, planted) in ALL.iter().enumerate() {
        let row = match found.get(&at) {
            Some(Some((tries, failure))) => {
                format!("{tries:>5}  {:>5}  {:>10}  {}", planted.seeds_max, failure.seed, failure.violation.rule)
            }
            Some(None) => {
                format!("{:>5}  {:>5}  {:>10}  not found in {} seeds", "-", planted.seeds_max, "-", seeds.count)
            }
            None => "interrupted".to_string(),
        };
        term::line(&format!("{:name_width$}  {row}", planted.name));
    }
    let count = found.values().flatten().count();
    let most = found.values().flatten().map(|(tries, _)| *tries).max().unwrap_or(0);
    term::line(&format!("{count} of {} planted bugs found, each within {most} seeds", ALL.len()));
    if count == ALL.len() { 0 } else { code::VIOLATION }
}

/// One bug a thread at a time.
fn find_all(seeds: Seeds, threads: u64, progress: &Progress) -> std::io::Result<BTreeMap<usize, Found>> {
    let interrupts = Interrupts::catch();
    let (next, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (sender, inbox) = bounded::<(usize, Found)>(ALL.len());
    for number in 0..threads.min(ALL.len() as u64) {
        let (sender, next, is_over) = (sender.clone(), Arc::clone(&next), Arc::clone(&is_over));
        spawn::spawn_with_stack(&format!("sim-{number}"), super::sweep::STACK_BYTES, move || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(planted) = ALL.get(at) else { return };
                let goes_on = || !is_over.load(Ordering::Relaxed);
                let found = planted.first(seeds.from, seeds.count, goes_on);
                // What was interrupted is not "not found".
                if (found.is_none() && !goes_on()) || sender.send((at, found)).is_err() {
                    return;
                }
            }
        })?;
    }
    drop(sender);
    let mut all = BTreeMap::new();
    loop {
        match inbox.recv_timeout(std::time::Duration::from_millis(200)) {
            Ok((at, found)) => {
                all.insert(at, found);
                progress.advance(1);
            }
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Ok(all),
        }
        if interrupts.as_ref().is_some_and(Interrupts::came) {
            is_over.store(true, Ordering::Relaxed);
        }
    }
}
