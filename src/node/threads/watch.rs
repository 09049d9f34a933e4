//! The `watch` thread: notifies clients that wait for a key to change, without polling by the clients.
//!
//! When something was applied, it reads the revisions of all watched keys with one query, at most fifty times a second:
//! so watchers of busy keys do not cost `apply` a round of look-ups for each entry. On a quiet cluster a watcher is
//! notified within a millisecond.
//!
//! Invariants: W1 a change that is applied after a watcher arrived is followed by a check: the watcher is counted
//! before it is sent to this thread, and `apply` wakes this thread whenever the count is not zero. W2 no watcher waits
//! beyond its deadline or the node's stop.
//! Not here: what a watcher is answered (`http/api/kv.rs` reads the key again).

use crate::node::shared::Shared;
use crate::node::shared::messages::WatchInput;
use crate::node::shared::request::{Level, Operation};
use crate::outcome::Outcome;
use crate::services::Replicated;
use crate::services::Reply;
use crate::services::kv::Store;
use crate::services::kv::{Batch, BatchReply, Bytes, Op, Value};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Shortest time between two checks.
const CHECK_GAP: Duration = Duration::from_millis(20);
/// Time between two checks for watchers whose time is up.
const PRUNE_EVERY: Duration = Duration::from_secs(1);
/// Time for the services to answer one check.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Keys, and bytes of keys, in one query.
const QUERY_MAX: (usize, usize) = (1000, 1 << 20);

#[derive(Debug)]
struct Watcher {
    revision: u64,
    deadline: Instant,
    changed: Sender<()>,
}

/// The watchers of each key; a key without watchers is not in it.
type Watchers = BTreeMap<Bytes, Vec<Watcher>>;

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<WatchInput>) {
    let mut table = Watchers::new();
    let (mut last_check, mut last_prune) = (None::<Instant>, Instant::now());
    let mut check_at = None;
    loop {
        if check_at.is_some_and(|at| at <= Instant::now()) {
            notify_watchers(shared, &mut table);
            last_check = Some(Instant::now());
            check_at = None;
        }
        match inbox.recv_deadline(check_at.unwrap_or_else(|| Instant::now() + PRUNE_EVERY)) {
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(WatchInput::Stop) if shared.is_stopped() => return,
            // From now on no client waits. The thread itself runs until all clients have gone: without it, a message
            // would stay in the inbox, and its sender would wait.
            Ok(WatchInput::Stop) => table.clear(),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(WatchInput::Watch { .. }) if shared.is_stopping() => {}
            Ok(input) => {
                if let WatchInput::Watch { key, revision, deadline, changed } = input {
                    table.entry(key).or_default().push(Watcher { revision, deadline, changed });
                }
                if !table.is_empty() {
                    let now = Instant::now();
                    check_at.get_or_insert(last_check.map_or(now, |last| now.max(last + CHECK_GAP)));
                }
            }
        }
        if last_prune.elapsed() >= PRUNE_EVERY {
            last_prune = Instant::now();
            prune(&mut table, last_prune);
            // In case the inbox was full when the stop was sent.
            if shared.is_stopped() {
                return;
            }
            if shared.is_stopping() {
                table.clear();
            }
        }
    }
}

/// Removes watchers whose deadline has passed; they have given up by themselves.
fn prune(table: &mut Watchers, now: Instant) {
    table.retain(|_, watchers| {
        watchers.retain(|watcher| watcher.deadline > now);
        !watchers.is_empty()
    });
}

/// Reads the revision of every watched key and notifies the watchers that know another one.
fn notify_watchers(shared: &Shared, table: &mut Watchers) {
    let mut queries: Vec<(usize, Vec<Bytes>)> = Vec::new();
    for key in table.keys() {
        match queries.last_mut() {
            Some((bytes, keys)) if keys.len() < QUERY_MAX.0 && *bytes + key.len() <= QUERY_MAX.1 => {
                *bytes += key.len();
                keys.push(key.clone());
            }
            _ => queries.push((key.len(), vec![key.clone()])),
        }
    }
    for (_, keys) in queries {
        let query = Store::encode_command(&Batch { watched: Vec::new(), ops: vec![Op::Revisions(keys.clone())] });
        let operation = Operation::Query { query, level: Level::Eventual };
        if let Outcome::Done((_, Reply::Ok(bytes))) = shared.inboxes.ask(operation, Instant::now() + ANSWER_WITHIN)
            && let Some(BatchReply::Values(values)) = BatchReply::decode(&bytes)
            && let [Value::List(revisions)] = &values[..]
        {
            for (key, revision) in keys.iter().zip(revisions) {
                notify(table, key, revision);
            }
        }
    }
}

fn notify(table: &mut Watchers, key: &Bytes, revision: &Value) {
    let Some(watchers) = table.get_mut(key) else { return };
    watchers.retain(|watcher| {
        let is_news = *revision != Value::Int(i64::try_from(watcher.revision).unwrap_or(i64::MAX));
        if is_news {
            // The channel's one place is free: each watcher is notified once. An error means that the watcher has given
            // up meanwhile, and is ignored.
            let _ = watcher.changed.try_send(());
        }
        !is_news
    });
    if watchers.is_empty() {
        table.remove(key);
    }
}

/// Waits until a key's revision is another than this one; false at the deadline, or when the node stops.
pub fn wait(shared: &Shared, key: &[u8], revision: u64, deadline: Instant) -> bool {
    // W1: counted first. Sequential consistency orders this against the count that `apply` reads after it has applied.
    let _counted = WatcherCount::new(shared);
    let (changed, news) = crossbeam_channel::bounded(1);
    let watch = WatchInput::Watch { key: Bytes::from(key), revision, deadline, changed };
    shared.inboxes.watch(watch, deadline) && news.recv_deadline(deadline).is_ok()
}

/// Counts one watcher for as long as it waits.
struct WatcherCount<'a>(&'a Shared);

impl WatcherCount<'_> {
    fn new(shared: &Shared) -> WatcherCount<'_> {
        shared.watchers.fetch_add(1, Ordering::SeqCst);
        WatcherCount(shared)
    }
}

impl Drop for WatcherCount<'_> {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}
