//! The `watch` thread: notifies clients that wait for a key to change, without polling by the clients.
//!
//! It looks when something was applied, at all keys that anyone waits for at once, with one question to the services, and
//! at most fifty times a second: a thousand watchers of busy keys cost `apply` a fiftieth of a second's worth of look-ups,
//! not one round for each entry. On a quiet cluster a watcher hears within a millisecond.
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

/// Shortest time between two looks.
const LOOK_GAP: Duration = Duration::from_millis(20);
/// Time between two checks for watchers whose time is up.
const PRUNE_EVERY: Duration = Duration::from_secs(1);
/// Time for the services to answer one look.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Keys, and bytes of keys, in one question.
const QUESTION_MAX: (usize, usize) = (1000, 1 << 20);

#[derive(Debug)]
struct Watcher {
    revision: u64,
    deadline: Instant,
    changed: Sender<()>,
}

/// Who waits for what. A key without watchers is not in it.
type Table = BTreeMap<Bytes, Vec<Watcher>>;

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<WatchInput>) {
    let mut table = Table::new();
    let (mut last_look, mut last_prune) = (None::<Instant>, Instant::now());
    let mut look_at = None;
    loop {
        if look_at.is_some_and(|at| at <= Instant::now()) {
            look(shared, &mut table);
            last_look = Some(Instant::now());
            look_at = None;
        }
        match inbox.recv_deadline(look_at.unwrap_or_else(|| Instant::now() + PRUNE_EVERY)) {
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(WatchInput::Stop) if shared.is_stopped() => return,
            // From now on no client is kept waiting. The thread itself runs until all clients have gone: a message in
            // an inbox without a reader would stay there, and its sender would wait.
            Ok(WatchInput::Stop) => table.clear(),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(WatchInput::Watch { .. }) if shared.is_stopping() => {}
            Ok(input) => {
                if let WatchInput::Watch { key, revision, deadline, changed } = input {
                    table.entry(key).or_default().push(Watcher { revision, deadline, changed });
                }
                if !table.is_empty() {
                    let now = Instant::now();
                    look_at.get_or_insert(last_look.map_or(now, |last| now.max(last + LOOK_GAP)));
                }
            }
        }
        if last_prune.elapsed() >= PRUNE_EVERY {
            last_prune = Instant::now();
            prune(&mut table, last_prune);
            // In case the word of the stop found the inbox full.
            if shared.is_stopped() {
                return;
            }
            if shared.is_stopping() {
                table.clear();
            }
        }
    }
}

/// Lets those go whose time is up; they have given up by themselves.
fn prune(table: &mut Table, now: Instant) {
    table.retain(|_, watchers| {
        watchers.retain(|watcher| watcher.deadline > now);
        !watchers.is_empty()
    });
}

/// Reads the revision of every watched key and notifies the watchers that know another one.
fn look(shared: &Shared, table: &mut Table) {
    let mut questions: Vec<(usize, Vec<Bytes>)> = Vec::new();
    for key in table.keys() {
        match questions.last_mut() {
            Some((bytes, keys)) if keys.len() < QUESTION_MAX.0 && *bytes + key.len() <= QUESTION_MAX.1 => {
                *bytes += key.len();
                keys.push(key.clone());
            }
            _ => questions.push((key.len(), vec![key.clone()])),
        }
    }
    for (_, keys) in questions {
        let query = Store::encode_command(&Batch { watched: Vec::new(), ops: vec![Op::Revisions(keys.clone())] });
        let operation = Operation::Query { query, level: Level::Eventual };
        if let Outcome::Done((_, Reply::Ok(bytes))) = shared.inboxes.ask(operation, Instant::now() + ANSWER_WITHIN)
            && let Some(BatchReply::Values(values)) = BatchReply::decode(&bytes)
            && let [Value::List(revisions)] = &values[..]
        {
            for (key, revision) in keys.iter().zip(revisions) {
                tell(table, key, revision);
            }
        }
    }
}

fn tell(table: &mut Table, key: &Bytes, revision: &Value) {
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
    let _counted = Counted::new(shared);
    let (changed, news) = crossbeam_channel::bounded(1);
    let watch = WatchInput::Watch { key: Bytes::from(key), revision, deadline, changed };
    shared.inboxes.watch(watch, deadline) && news.recv_deadline(deadline).is_ok()
}

/// Counts one watcher for as long as it waits.
struct Counted<'a>(&'a Shared);

impl Counted<'_> {
    fn new(shared: &Shared) -> Counted<'_> {
        shared.watchers.fetch_add(1, Ordering::SeqCst);
        Counted(shared)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}
