//! How a node that starts finds its cluster, joins it, or bootstraps a new one.
//!
//! A node with state resumes; it never bootstraps. A new node asks every address it knows for the leader, a bounded
//! number of times, and joins the leader that answers. If no node is in a cluster, the nodes that look take turns,
//! highest id first. A node whose turn it is takes the lock of `config.json`, reads it again, and bootstraps only if no
//! other node has meanwhile. So the lock decides; the turns only make the highest id the likely one. With `peers`
//! (other hosts, no shared file) a node bootstraps only when all of them answer, a majority looks for the same cluster
//! and grants it the right to (`claims.rs`), and none of these has a higher id. A host that does not answer may have the
//! data of an earlier cluster; one that answers and has none, but another secret, version or cluster name, does not keep
//! the majority waiting.
//!
//! Invariants: D1 a cluster is created under the exclusive lock alone, and not while `config.json` or a data folder
//! names another cluster that may still exist. D2 `config.json` is written before the node's own data, and the lock is
//! held until both are: a crash in between leaves a file without data, which the next new node renames with a warning.
//! D3 nothing is merged: data of one cluster beside a `config.json` of another is an error for a person. D4 no node
//! joins or bootstraps a cluster beside another one that uses this host's front door. D5 with `peers`, a node bootstraps
//! only with the grants of all nodes that agree with it, and only if they are a majority of the listed ones.
//!
//! The tour: `world.rs` has what discovery is given and may do, `error.rs` why it fails; `search.rs` asks the other
//! nodes, `resume.rs` compares a node's log with what they remember, `join.rs` and `bootstrap.rs` find out whether a new
//! node may do either, `claims.rs` keeps the right to bootstrap over several hosts, `earlier_clusters.rs` finds
//! existing data; this file goes through the rounds.
//! Not here: the sockets ([`World`] is the node's), what the leader does with a join (`node/`).

mod bootstrap;
mod claims;
pub(crate) mod earlier_clusters;
mod error;
mod join;
mod resume;
mod search;
#[cfg(test)]
mod tests;
mod world;

pub use claims::{Claims, Grant};
pub use error::DiscoveryError;
pub use world::{AskError, Decision, FrontOwner, JoinAnswer, Seeker, World};

use super::config::file::{Projection, read};
use search::{LONG_ROUND, Search};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How often a node checks whether `config.json` has changed while it waits for its next round.
const FILE_CHECK_EVERY: Duration = Duration::from_millis(20);
/// Duration of a round once a cluster is known and only its leader or the accepted join is missing.
const SHORT_ROUND: Duration = Duration::from_millis(50);
/// Number of such short rounds; afterwards, and if a bootstrap is not allowed, a round takes at least [`LONG_ROUND`].
const SHORT_ROUNDS: u32 = 40;

/// Decides how this node starts. May search for any length of time; only the duration of each round is bounded.
///
/// # Errors
/// Returns only errors that the operator must resolve.
pub fn discover(seeker: &Seeker, world: &dyn World) -> Result<Decision, DiscoveryError> {
    if let Some(ours) = seeker.cluster {
        let file = seeker.settings.config_file_path.clone();
        // The leader repairs an invalid or unreadable file; it does not contradict our data.
        if let Ok(Some(Projection { cluster_info, .. })) = read(&file)
            && cluster_info.id != ours
        {
            let data = seeker.settings.node_dir(seeker.me.id);
            return Err(DiscoveryError::OtherCluster { file, theirs: cluster_info.id, data, ours });
        }
        if let Some(owner) = world.front_owner(Some(ours)) {
            return Err(DiscoveryError::front_taken(seeker.settings, owner, ours));
        }
    }
    let (heard_of, logged) = (BTreeSet::new(), BTreeMap::new());
    let mut search =
        Search { seeker, world, heard_of, logged, joins_refused: 0, front_rounds: 0, patience: Duration::ZERO };
    match (seeker.cluster, seeker.has_log) {
        (Some(ours), true) => Ok(search.resume(ours)),
        _ => search.run(),
    }
}

impl Search<'_> {
    fn run(mut self) -> Result<Decision, DiscoveryError> {
        let settings = self.seeker.settings;
        let interval = Duration::from_millis(settings.discovery_interval_ms);
        let mut short_rounds_left = None;
        for round in 1u32.. {
            let stamp = stamp_of(&settings.config_file_path);
            let named = read(&settings.config_file_path).ok().flatten();
            // Checked before the other nodes are asked: a cluster that uses the front door now then also answers them.
            let front = if self.seeker.cluster.is_none() { self.world.front_owner(None) } else { None };
            self.patience = self.patience_of(round);
            let survey = self.survey(named.as_ref());
            self.allow_grants(&survey);
            let is_front_taken = front.is_some();
            let may_join = match front {
                Some(owner) => self.check_front_door(owner, &survey, named.as_ref())?,
                None => true,
            };
            if may_join && let Some(decision) = self.try_join(&survey, named.as_ref()) {
                return Ok(decision);
            }
            if !is_front_taken
                && round >= settings.connection_attempts
                && self.is_my_turn(&survey, named.as_ref(), round - settings.connection_attempts)
                && self.may_bootstrap()
                && let Some(decision) = self.try_bootstrap_as_granted(&survey)?
            {
                return Ok(decision);
            }
            // Another node has just bootstrapped, according to an answer or the file: it will accept this node soon.
            if !survey.clusters.is_empty() && short_rounds_left.is_none() {
                short_rounds_left = Some(SHORT_ROUNDS);
            }
            let pause = match &mut short_rounds_left {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    SHORT_ROUND.min(interval)
                }
                _ if round > settings.connection_attempts + SHORT_ROUNDS => LONG_ROUND.max(interval),
                _ => interval,
            };
            match self.wait_for_news(pause, stamp) {
                News::Stopping => return Ok(Decision::Stopping),
                News::Changed => short_rounds_left = Some(SHORT_ROUNDS),
                News::None => {}
            }
        }
        unreachable!("rounds are counted up to more than a lifetime")
    }

    /// Waits for the next round, or until `config.json` changes.
    fn wait_for_news(&self, pause: Duration, stamp: FileStamp) -> News {
        let mut left = pause;
        while !left.is_zero() {
            let slice = FILE_CHECK_EVERY.min(left);
            if !self.world.wait(slice) {
                return News::Stopping;
            }
            left -= slice;
            if stamp_of(&self.seeker.settings.config_file_path) != stamp {
                return News::Changed;
            }
        }
        News::None
    }
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    None,
    Changed,
    Stopping,
}

/// Modification time and size of a file, to detect a change; `None` if it does not exist.
type FileStamp = Option<(SystemTime, u64)>;

fn stamp_of(path: &Path) -> FileStamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}
