//! Many seeds side by side, one thread on each core, with the results in the order of the seeds.
//!
//! Ctrl+C ends a sweep with what is done so far: every thread finishes its seed. Not here: a run (`sim/`), what is
//! printed of it (`mod.rs`).

use crate::cli::sql::interrupt::Interrupts;
use crate::node::spawn;
use crate::sim::{self, Failure, Options, Report, Sweep};
use crossbeam_channel::{Receiver, bounded};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stack of a thread that runs seeds, in bytes: as the main thread's.
pub const STACK_BYTES: usize = 8 << 20;
/// Threads, at most.
pub const THREADS_MAX: u64 = 1_024;

/// The seeds from `from` on.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    pub from: u64,
    pub count: u64,
}

/// How many threads a sweep has unless the user says so.
pub fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, NonZero::get) as u64
}

type Outcome = (u64, Result<Report, Box<Failure>>);

/// Runs the seeds on so many threads; `each` is called after each seed, in their order. What was found before an
/// interrupt is given as well.
///
/// # Errors
/// When the system refuses a thread.
pub fn sweep(
    seeds: Seeds,
    threads: u64,
    options: Options,
    mut each: impl FnMut(Option<&Failure>),
) -> std::io::Result<Sweep> {
    let interrupts = Interrupts::catch();
    let next = Arc::new(AtomicU64::new(0));
    let results = start(seeds, threads.min(seeds.count), options, &next)?;
    let mut sweep = Sweep::default();
    let (mut expected, mut early) = (0, BTreeMap::new());
    for (at, result) in results {
        early.insert(at, result);
        while let Some(result) = early.remove(&expected) {
            expected += 1;
            each(result.as_ref().err().map(|failure| &**failure));
            sweep.add(result);
        }
        if interrupts.as_ref().is_some_and(Interrupts::came) {
            next.store(seeds.count, Ordering::Relaxed);
        }
    }
    Ok(sweep)
}

/// Starts the threads; the channel closes when the last one has no more seeds.
fn start(seeds: Seeds, threads: u64, options: Options, next: &Arc<AtomicU64>) -> std::io::Result<Receiver<Outcome>> {
    // A thread waits for the reader rather than running ahead of it.
    let (sender, results) = bounded::<Outcome>(2 * threads.max(1) as usize);
    for number in 0..threads {
        let (sender, next) = (sender.clone(), Arc::clone(next));
        spawn::spawn_with_stack(&format!("sim-{number}"), STACK_BYTES, move || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= seeds.count || sender.send((at, sim::run(seeds.from + at, &options))).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(results)
}
