//! Loading a database file through the log: its pieces, the preparation, and the step that puts it in place.
//!
//! Each node prepares the file beside its log and reports that with its heartbeats. The last step is proposed when the
//! leader, whose `apply` answers clients, and a majority are ready, and after some more time for the others. A node
//! that is not ready then waits when it applies the step, and is behind for that time.
//! Not here: what a node does with these commands (`services/sql/load_commands.rs`).

use crate::cluster::witness;
use crate::lock::lock;
use crate::node::handle::Handle;
use crate::node::shared::Shared;
use crate::node::shared::cluster_state::is_member_online;
use crate::node::sql::handle::Sql;
use crate::node::sql::reader_pool::ReaderPool;
use crate::outcome::{Outcome, Reason};
use crate::services::sessions::Tag;
use crate::services::sql::commands::Bytes;
use crate::services::sql::{Answer, Command};
use crate::types::{Index, NodeId};
use std::time::{Duration, Instant};

/// Time between two checks for which nodes are ready.
const CHECK_EVERY: Duration = Duration::from_millis(20);
/// How long a majority that is ready waits for the others, beyond as long as it took itself.
const OTHERS_MIN: Duration = Duration::from_secs(10);
/// Longest that one small command of a load may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// A file of which all pieces were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentFile {
    /// A random number that identifies the load.
    pub load: u64,
    pub bytes: u64,
    /// CRC-32 of all of it.
    pub crc: u32,
}

/// Putting a database file in place of all tables.
pub trait SqlFiles {
    /// Sends a piece of a file, which begins at `offset`. It changes no table.
    fn sql_stage(&self, load: u64, offset: u64, piece: &[u8]) -> Outcome<(Index, Answer)>;
    /// Has all nodes prepare a file, and puts it in place of all tables. `tag`: for this last step, if the client sent
    /// an `Idempotency-Key`.
    fn sql_put_in_place(&self, file: SentFile, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, Answer)>;
    /// Removes the pieces of a file, and of other loads that failed, in small steps, so that no request waits for it.
    fn sql_unstage(&self, load: u64);
}

impl SqlFiles for Handle {
    fn sql_stage(&self, load: u64, offset: u64, piece: &[u8]) -> Outcome<(Index, Answer)> {
        self.load_step(&Command::Stage { load, offset, bytes: Bytes::from(piece) })
    }

    fn sql_put_in_place(&self, file: SentFile, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, Answer)> {
        let SentFile { load, bytes, crc } = file;
        match self.load_step(&Command::Prepare { load, bytes, crc, seed: load }) {
            Outcome::Done((_, Answer::Done)) => {}
            other => return other,
        }
        if let Err(why) = wait_until_prepared(self.shared(), load, deadline) {
            return Outcome::Refused(why);
        }
        self.sql_write(&Command::PutInPlace { load, bytes, crc, seed: load }, tag, deadline)
    }

    fn sql_unstage(&self, load: u64) {
        while let Outcome::Done((_, Answer::More)) = self.load_step(&Command::Unstage { load }) {}
    }
}

impl Handle {
    fn load_step(&self, command: &Command) -> Outcome<(Index, Answer)> {
        match self.sql_write(command, None, Instant::now() + COMMAND_MAX) {
            Outcome::Unknown(why) => Outcome::Refused(Reason::NothingChanged(why)),
            other => other,
        }
    }
}

fn wait_until_prepared(shared: &Shared, load: u64, deadline: Instant) -> Result<(), Reason> {
    let begun = Instant::now();
    let mut enough_at = begun;
    loop {
        let (is_enough, is_all) = who_is_prepared(shared, load);
        if !is_enough {
            enough_at = Instant::now();
        }
        let others_max = enough_at.duration_since(begun).max(OTHERS_MIN);
        if is_all || (is_enough && enough_at.elapsed() >= others_max) {
            return Ok(());
        }
        if shared.is_stopping() || Instant::now() >= deadline {
            return Err(Reason::NotPrepared);
        }
        std::thread::sleep(CHECK_EVERY);
    }
}

/// Whether the leader and a majority of the voters have prepared a file, and whether all members have that are online.
fn who_is_prepared(shared: &Shared, load: u64) -> (bool, bool) {
    let view = shared.view();
    let membership = &view.raft.membership;
    let now_ms = shared.now_ms();
    let nodes = shared.directory();
    let gossip = lock(&shared.gossip);
    let own = shared.sql.as_ref().map_or(0, ReaderPool::prepared_load);
    let is_ready = |id: &NodeId| match *id == shared.me.id {
        true => own == load,
        false => gossip.row(now_ms, *id).is_some_and(|(row, _)| row.prepared_load == load),
    };
    let is_online = |id: &NodeId| is_member_online(&gossip, membership, shared.me.id, *id);
    // A witness prepares nothing, and waits for nothing.
    let witnesses = witness::members(membership, &nodes);
    let is_ready = |id: &NodeId| is_ready(id) || (witnesses.contains(id) && is_online(id));
    let ready = membership.voters.keys().filter(|id| is_ready(id)).count();
    let is_leader_ready = view.raft.leader.as_ref().is_some_and(is_ready);
    let is_all = membership.voters.keys().chain(membership.learners.keys()).filter(|id| is_online(id)).all(is_ready);
    let is_enough = is_leader_ready && ready > membership.voters.len() / 2;
    (is_enough, is_enough && is_all)
}
