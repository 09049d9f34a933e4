//! What the `core` thread owns.
//!
//! Not here: what it does with it (`turns.rs` and what that calls).

use super::leadership_events::LossHints;
use super::outbox::Outbox;
use super::pending_requests::PendingRequests;
use super::round_trips::RoundTrips;
use crate::cluster::departures::Departures;
use crate::cluster::worker_liveness::WorkerLiveness;
use crate::node::shared::Shared;
use crate::node::shared::link::Link;
use crate::node::shared::messages::{ApplyJob, CoreInput, DiskJob};
use crate::node::shared::state::CoreView;
use crate::node::snapshots::schedule::SnapshotSchedule;
use crate::raft::{Change, Raft, Token};
use crate::types::{Addresses, Identity, Index, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

pub struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) raft: Raft,
    pub(super) rng: fastrand::Rng,
    pub(super) disk: Outbox<DiskJob>,
    pub(super) apply: Outbox<ApplyJob>,
    pub(super) links: BTreeMap<NodeId, Link>,
    pub(super) peer_addresses: BTreeMap<NodeId, Addresses>,
    /// Nodes that are connected to this one, by their own handshakes.
    pub(super) met: BTreeMap<NodeId, Identity>,
    /// Who answered last under a number where another was expected.
    pub(super) answering: BTreeMap<NodeId, Identity>,
    /// The same of unknown nodes, and where they say they are: it counts when they are vouched for.
    pub(super) unknown_peers: BTreeMap<Identity, Addresses>,
    /// Addresses that members with a link have stated, if they differ: used when the link is lost.
    pub(super) claimed: BTreeMap<NodeId, Addresses>,
    pub(super) requests: PendingRequests,
    /// Highest index handed to `apply`.
    pub(super) sent_to_apply: Index,
    /// `apply` was asked to say when it has applied that.
    pub(super) is_notified: bool,
    pub(super) next_token: u64,
    pub(super) autopilot_token: Option<Token>,
    pub(super) autopilot_logged: Option<Change>,
    pub(super) last_housekeeping: Instant,
    pub(super) links_watched: Instant,
    /// Datagrams of some link may be due again soon.
    pub(super) is_link_waiting: bool,
    pub(super) is_view_stale: bool,
    pub(super) last_publish: Instant,
    /// Followers to which a snapshot is on its way.
    pub(super) streaming: BTreeSet<NodeId>,
    pub(super) hints: LossHints,
    /// No entry behind it has changed the membership.
    pub(super) membership_index: Index,
    pub(super) worker_liveness: WorkerLiveness,
    /// The data folder is older than what peers remember of it: this node says nothing more.
    pub(super) is_outdated: bool,
    /// Reasons to leave the lead to others.
    pub(super) is_disk_low: bool,
    pub(super) is_corrupt: bool,
    /// Bytes of entries handed to `apply` since the last snapshot was begun.
    pub(super) snapshot_schedule: SnapshotSchedule,
    pub(super) round_trips: RoundTrips,
    /// Members that are witnesses, as raft was told.
    pub(super) witnesses: BTreeSet<NodeId>,
    /// Nodes that stop, this one among them.
    pub(super) departures: Departures,
}

impl Core {
    /// A core around a recovered raft; `peer_addresses` says where peers were last seen, `applied` what the services
    /// hold.
    pub fn new(shared: Arc<Shared>, raft: Raft, peer_addresses: BTreeMap<NodeId, Addresses>, applied: Index) -> Core {
        let snapshot_schedule = SnapshotSchedule::new(&shared.settings, shared.me.id);
        let mut core = Core {
            requests: PendingRequests::new(Arc::clone(&shared)),
            raft,
            rng: fastrand::Rng::new(),
            disk: Outbox::new(shared.inboxes.disk.clone()),
            apply: Outbox::new(shared.inboxes.apply.clone()),
            links: BTreeMap::new(),
            peer_addresses,
            met: BTreeMap::new(),
            answering: BTreeMap::new(),
            unknown_peers: BTreeMap::new(),
            claimed: BTreeMap::new(),
            sent_to_apply: applied,
            is_notified: false,
            next_token: 0,
            autopilot_token: None,
            autopilot_logged: None,
            last_housekeeping: Instant::now(),
            links_watched: Instant::now(),
            is_link_waiting: false,
            is_view_stale: true,
            last_publish: Instant::now(),
            streaming: BTreeSet::new(),
            hints: LossHints::default(),
            membership_index: Index(0),
            worker_liveness: WorkerLiveness::default(),
            is_outdated: false,
            is_disk_low: false,
            is_corrupt: false,
            snapshot_schedule,
            round_trips: RoundTrips::default(),
            witnesses: BTreeSet::new(),
            departures: Departures::default(),
            shared,
        };
        if core.shared.integrity.is_corrupt() {
            core.on(CoreInput::Corrupt(true));
        }
        core.update_links();
        core.publish();
        core
    }

    /// Publishes the state of raft.
    pub(super) fn publish(&mut self) {
        self.is_view_stale = false;
        self.last_publish = Instant::now();
        let leaving = self.departures.leaving(self.shared.uptime_ms());
        self.shared.set_view(CoreView { raft: self.raft.view(), known: self.raft.known(), leaving });
    }
}
