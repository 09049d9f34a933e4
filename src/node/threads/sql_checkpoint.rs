//! The `checkpoint` thread: moves SQLite's log into the database file.
//!
//! Not here: a single pass (`services/sql/storage/checkpoint.rs`).

use crate::node::shared::Shared;
use crate::services::sql::Checkpointer;
use log::warn;
use std::path::PathBuf;
use std::time::Duration;

/// Between two passes; what is written in between is read from SQLite's log.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);

/// Body of the thread; ends when the node stops.
pub fn run(shared: &Shared) {
    let Some(pool) = &shared.sql else { return };
    let mut open: Option<(PathBuf, Checkpointer)> = None;
    let mut is_well = true;
    while !shared.is_stopping() {
        std::thread::sleep(CHECKPOINT_EVERY);
        let path = pool.files.path();
        let done = match open.take().filter(|(of, _)| *of == path) {
            Some(open) => Ok(open),
            None => {
                pool.close_old(&path);
                Checkpointer::open(&path).map(|checkpointer| (path, checkpointer))
            }
        };
        let done = done.and_then(|(path, checkpointer)| {
            let done = checkpointer.pass();
            open = Some((path, checkpointer));
            done
        });
        if let Err(e) = &done
            && is_well
        {
            warn!("SQLite WAL checkpoint failed: {e}");
        }
        is_well = done.is_ok();
    }
}
