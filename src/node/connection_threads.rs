//! The threads of client connections. One whose connection has ended waits for the next one: for clients that connect
//! for a single request, starting and ending a thread would take longer than the request.
//!
//! Invariants: T1 a connection never waits for a thread: if none is idle, one is started. T2 at most [`IDLE_MAX`] threads
//! of one name are idle, each for [`IDLE_FOR`] at most, so what a crowd leaves behind is bounded. T3 a job given to a
//! thread is run, also if the thread is giving up at that moment.
//! Not here: how many connections there may be (`handle.rs`), starting threads (`spawn.rs`).

use super::shared::inbox;
use super::spawn;
use crate::limits::CONNECTION_STACK_BYTES;
use crate::lock::{Mutex, lock};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Idle threads of one name. More: a thread ends with its connection. Each keeps some pages of its stack, about 20 KiB.
const IDLE_MAX: usize = 64;
/// Time after which an idle thread ends.
const IDLE_FOR: Duration = Duration::from_secs(5);

/// A connection, from its first byte to its last.
pub type Job = Box<dyn FnOnce() + Send>;

/// The idle threads by name, each with the channel that gives it its next connection: of one place, because it gets
/// one job and is then no longer listed. The last to become idle is used first, for its stack is still in the
/// processor's cache.
#[derive(Debug, Default)]
pub struct ConnectionThreads(Mutex<BTreeMap<&'static str, Vec<Sender<Job>>>>);

impl ConnectionThreads {
    /// Runs a job in an idle thread of this name, or in a new one.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn run(self: &Arc<ConnectionThreads>, name: &'static str, job: Job) -> io::Result<()> {
        let idle = lock(&self.0).get_mut(name).and_then(Vec::pop);
        let job = match idle {
            Some(thread) => match thread.send(job) {
                Ok(()) => return Ok(()),
                Err(unsent) => unsent.into_inner(),
            },
            None => job,
        };
        let threads = Arc::clone(self);
        spawn::spawn_with_stack(name, CONNECTION_STACK_BYTES, move || threads.serve(name, job)).map(|_| ())
    }

    /// Body of a thread.
    fn serve(&self, name: &'static str, first: Job) {
        let (give, take) = bounded(1);
        let mut job = first;
        loop {
            job();
            if !self.enlist(name, &give) {
                return;
            }
            let next = inbox::park(&take, Instant::now() + IDLE_FOR).ok();
            match next.or_else(|| self.give_up(name, &give, &take)) {
                Some(next) => job = next,
                None => return,
            }
        }
    }

    /// Lists a thread as idle, unless there are enough.
    fn enlist(&self, name: &'static str, thread: &Sender<Job>) -> bool {
        let mut all = lock(&self.0);
        let idle = all.entry(name).or_default();
        let has_room = idle.len() < IDLE_MAX;
        if has_room {
            idle.push(thread.clone());
        }
        has_room
    }

    /// Removes a thread from the list. If it is not there, a job was just given to it, which is returned (T3).
    fn give_up(&self, name: &'static str, thread: &Sender<Job>, take: &Receiver<Job>) -> Option<Job> {
        let is_listed = {
            let mut all = lock(&self.0);
            let idle = all.entry(name).or_default();
            let before = idle.len();
            idle.retain(|other| !other.same_channel(thread));
            idle.len() < before
        };
        if is_listed { None } else { take.recv().ok() }
    }
}

#[cfg(test)]
mod tests {
    use crate::node::connection_threads::*;
    use std::collections::BTreeSet;
    use std::thread::{self, ThreadId};

    /// Runs so many jobs at once, all of which have begun before any ends; the threads that ran them.
    fn run_at_once(threads: &Arc<ConnectionThreads>, count: usize) -> BTreeSet<String> {
        let (tell, told) = bounded::<ThreadId>(count);
        let (open, gate) = bounded::<()>(0);
        for _ in 0..count {
            let (tell, gate) = (tell.clone(), gate.clone());
            let job = move || {
                tell.send(thread::current().id()).unwrap();
                let _ = gate.recv();
            };
            threads.run("test-conn", Box::new(job)).unwrap();
        }
        let ran = (0..count).map(|_| format!("{:?}", told.recv().unwrap())).collect();
        drop(open);
        ran
    }

    fn wait_idle(threads: &ConnectionThreads, count: usize) {
        let begun = Instant::now();
        loop {
            let idle = lock(&threads.0).get("test-conn").map_or(0, Vec::len);
            assert!(idle <= IDLE_MAX, "{idle} idle threads");
            if idle == count {
                return;
            }
            assert!(begun.elapsed() < 4 * IDLE_FOR, "{:?}", lock(&threads.0));
            thread::yield_now();
        }
    }

    #[test]
    fn a_thread_serves_one_connection_after_another() {
        let threads = Arc::new(ConnectionThreads::default());
        let first = run_at_once(&threads, 1);
        wait_idle(&threads, 1);
        assert_eq!(run_at_once(&threads, 1), first);
        wait_idle(&threads, 1);
        // Connections that are there at the same time have a thread each, the idle one among them.
        let three = run_at_once(&threads, 3);
        assert!(three.len() == 3 && three.is_superset(&first), "{first:?} {three:?}");
        wait_idle(&threads, 3);
        assert_eq!(run_at_once(&threads, 3), three);
    }

    #[test]
    fn a_crowd_leaves_few_threads_and_those_end() {
        let threads = Arc::new(ConnectionThreads::default());
        assert_eq!(run_at_once(&threads, IDLE_MAX + 20).len(), IDLE_MAX + 20);
        wait_idle(&threads, IDLE_MAX);
        wait_idle(&threads, 0);
        let begun = Instant::now();
        while Arc::strong_count(&threads) > 1 {
            assert!(begun.elapsed() < IDLE_FOR, "a thread that is not listed still waits");
            thread::yield_now();
        }
    }

    #[test]
    fn a_job_that_comes_when_its_thread_gives_up_is_run() {
        let threads = ConnectionThreads::default();
        let (give, take) = bounded::<Job>(1);
        assert!(threads.enlist("test-conn", &give));
        assert!(threads.give_up("test-conn", &give, &take).is_none(), "nobody has taken it from the list");
        assert!(threads.enlist("test-conn", &give));
        let taken = lock(&threads.0).get_mut("test-conn").and_then(Vec::pop).unwrap();
        taken.send(Box::new(|| {})).unwrap();
        assert!(threads.give_up("test-conn", &give, &take).is_some());
    }
}
