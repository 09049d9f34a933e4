//! Figures for `/metrics`: what this node knows of itself, one row each.
//!
//! Not here: the text format (`http/api/health.rs`).

use crate::cluster::health::Health;
use crate::limits::TICK_MS;
use crate::lock::lock;
use crate::node::datagrams;
use crate::node::process::log_queue;
use crate::node::quota;
use crate::node::shared::clock::now_ms;
use crate::node::shared::{Shared, link};
use crate::node::views::latency::{CoarseRecorder, Recorder};
use crate::raft::Role;
use crate::services::chat::Chat;
use crate::store;
use crate::wire::PROTOCOL;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the files of each part of a node's data lie in its folder.
const DATA_PARTS: [(&str, &str); 3] = [("log", "wal"), ("snapshots", "snapshots"), ("database", "sql")];

/// One figure of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metric {
    /// `phalanx_...`
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Label pairs.
    pub labels: Vec<(&'static str, String)>,
    /// Value, with its kind.
    pub value: MetricValue,
}

/// What a figure counts or shows.
#[derive(Clone, Debug)]
pub enum MetricValue {
    /// Only grows while the process runs; the metric's name ends with `_total`.
    Counter(f64),
    /// The present value.
    Gauge(f64),
    /// Durations since the start.
    Histogram {
        /// Sum in seconds.
        sum: f64,
        /// Upper bounds in seconds, ascending to infinity, and the durations between a bound and the one before it.
        buckets: Vec<(f64, u64)>,
    },
}

/// All rows, in the order in which `/metrics` shows them.
pub fn all(shared: &Shared) -> Vec<Metric> {
    let mut rows = of_consensus(shared);
    rows.extend(of_state(shared));
    rows.extend(of_clients(shared));
    rows.extend(of_log(shared));
    rows.extend(of_peers(shared));
    rows.extend(of_clocks(shared));
    rows.extend(by_label(shared));
    rows.extend(sizes(shared));
    for quota in quota::all(&shared.settings, &shared.sizes()) {
        let labels = vec![("quota", quota.name.setting().to_string())];
        let used = gauge("phalanx_quota_used", "Bytes or jobs that a quota counts", quota.used);
        let most = gauge("phalanx_quota_max", "Where a quota is reached", quota.most);
        rows.extend([Metric { labels: labels.clone(), ..used }, Metric { labels, ..most }]);
    }
    rows
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn of_consensus(shared: &Shared) -> Vec<Metric> {
    let view = shared.view();
    let raft = &view.raft;
    let is_leader = u64::from(raft.role == Role::Leader);
    let online = lock(&shared.gossip).all(shared.now_ms()).iter().filter(|(_, is_online, _)| *is_online).count() + 1;
    let health = shared.health();
    let takes_writes = health.health != Health::Unavailable;
    let mut rows = vec![
        gauge("phalanx_term", "Current term", raft.term.0),
        gauge("phalanx_is_leader", "1 on the leader", is_leader),
        gauge("phalanx_has_leader", "1 while a leader is known", u64::from(raft.leader.is_some())),
        Metric {
            value: MetricValue::Gauge((raft.silence_timeout.0 * TICK_MS) as f64 / 1000.0),
            ..gauge(
                "phalanx_election_timeout_seconds",
                "Silence of a leader after which this node counts it as gone",
                0,
            )
        },
        gauge("phalanx_has_quorum", "1 while enough voters are reachable", u64::from(health.has_quorum)),
        gauge("phalanx_takes_writes", "1 while the cluster takes writes, as this node knows", u64::from(takes_writes)),
        gauge("phalanx_failure_tolerance", "Voters that may still fail", u64::from(health.failure_tolerance)),
        gauge("phalanx_disk_low", "1 while less than disk_reserve_mb is free", u64::from(shared.is_disk_low())),
        gauge("phalanx_nodes_online", "Nodes that are online, this one included", online as u64),
        gauge("phalanx_last_index", "Last index in the log", raft.last_index.0),
        gauge("phalanx_commit_index", "Commit index", raft.commit_index.0),
        gauge("phalanx_applied_index", "Index that the services have applied", shared.applied().0),
        gauge("phalanx_snapshot_index", "Index of the newest snapshot below the log", raft.snapshot_index.0),
        counter("phalanx_failovers_total", "Changes of leader seen", load(&shared.counters.failovers)),
    ];
    for peer in &raft.peers {
        rows.push(Metric {
            labels: vec![("peer", peer.who.id.0.to_string())],
            ..gauge("phalanx_peer_match_index", "Known equal and durable on a peer", peer.match_index.0)
        });
    }
    rows
}

/// Whether the nodes' states agree.
fn of_state(shared: &Shared) -> Vec<Metric> {
    let state = &shared.integrity;
    let agreed = state.findings().agreed.unwrap_or_default().0;
    vec![
        gauge("phalanx_state_corrupt", "1 while this node's state is known to be wrong", u64::from(state.is_corrupt())),
        gauge("phalanx_state_split", "1 while no majority of the voters agrees", u64::from(state.is_split())),
        gauge(
            "phalanx_state_checkpoint_index",
            "Newest index at which this node digested its state",
            state.checkpoint().0,
        ),
        gauge("phalanx_state_agreed_index", "Newest index at which a majority agreed in everything", agreed),
        counter("phalanx_state_digests_total", "Digests of the whole state taken", load(&state.digests)),
        counter("phalanx_state_differences_total", "Differences between nodes found", load(&state.differences)),
        Metric {
            value: MetricValue::Gauge(load(&state.digest_us) as f64 / 1e6),
            ..gauge("phalanx_state_digest_seconds", "How long the newest digest took, rests included", 0)
        },
    ]
}

fn of_clients(shared: &Shared) -> Vec<Metric> {
    let (rates, jobs) = (shared.activity.rates(), shared.jobs());
    vec![
        gauge("phalanx_sessions", "Client connections now", shared.sessions.count() as u64),
        counter("phalanx_sessions_opened_total", "Client connections ever", shared.sessions.opened_total()),
        gauge("phalanx_kv_keys", "Keys in the store, as this node has applied it", rates.keys),
        gauge("phalanx_kv_commands_per_second", "Commands answered in the last second", rates.kv_ops_per_s),
        counter("phalanx_kv_commands_total", "Commands answered", shared.activity.answers().count()),
        gauge("phalanx_jobs_queued", "Jobs that wait for a worker", jobs.status.queued as u64),
        gauge("phalanx_jobs_running", "Jobs that a worker has", jobs.status.running as u64),
        gauge("phalanx_jobs_running_here", "Jobs that this node has", jobs.mine.len() as u64),
        gauge("phalanx_workers", "Workers that are there", jobs.here.len() as u64),
        gauge("phalanx_memory_budget_bytes", "Bytes that connections may hold", shared.memory.bytes_max() as u64),
        gauge("phalanx_memory_used_bytes", "Bytes that connections hold now", shared.memory.used() as u64),
        counter("phalanx_memory_refused_total", "Times that a connection could not hold more", shared.memory.refused()),
        counter(
            "phalanx_pubsub_dropped_total",
            "Messages of PUBLISH that another node or a pattern did not get",
            shared.channels.dropped(),
        ),
        counter("phalanx_wrong_passwords_total", "Wrong client passwords", shared.access.wrong_total()),
        counter("phalanx_dispatched_total", "Redirects by the front door", load(&shared.counters.dispatched)),
    ]
}

/// Times of the log, and lines that were not logged.
fn of_log(shared: &Shared) -> Vec<Metric> {
    let counters = &shared.counters;
    vec![
        counter("phalanx_log_syncs_total", "Syncs of the log", counters.syncs.count()),
        histogram("phalanx_log_sync_duration_seconds", "Time of a sync of the log", &counters.syncs),
        histogram(
            "phalanx_commit_duration_seconds",
            "Time from the append of an entry to this leader's log until it was committed",
            &counters.commits,
        ),
        histogram("phalanx_apply_duration_seconds", "Time to apply an entry to the services", &counters.applies),
        histogram("phalanx_kv_command_duration_seconds", "Time to answer a command", shared.activity.answers()),
        counter(
            "phalanx_log_lines_dropped_total",
            "Log lines that a terminal, pipe or disk did not take fast enough",
            log_queue::dropped_total(),
        ),
        Metric {
            value: MetricValue::Counter(counters.syncs.sum_seconds()),
            ..counter("phalanx_log_sync_seconds_total", "Time spent in syncs of the log", 0)
        },
    ]
}

/// Frames and datagrams between nodes.
fn of_peers(shared: &Shared) -> Vec<Metric> {
    let counters = &shared.counters;
    let mut rows = vec![
        gauge(
            "phalanx_peer_frames_bytes",
            "Bytes of large frames of peers on their way in",
            shared.frame_memory.used() as u64,
        ),
        gauge(
            "phalanx_peers_relayed",
            "Peers that are reached through another node",
            shared.ways().relayed.len() as u64,
        ),
        counter(
            "phalanx_peer_frames_too_large_total",
            "Frames that were not sent because no node would take them",
            link::too_large_total(),
        ),
        counter("phalanx_peer_handshakes_failed_total", "Handshakes refused", load(&counters.peer_handshakes_failed)),
        counter("phalanx_datagrams_sent_total", "Datagrams sent to other nodes", datagrams::sent_total()),
        counter("phalanx_datagrams_received_total", "Datagrams taken", load(&shared.datagrams.counters.received)),
    ];
    let refused = [
        ("stranger", &counters.frames_of_unknown_senders),
        ("term", &counters.frames_with_absurd_term),
        ("malformed", &counters.frames_malformed),
    ];
    for (why, count) in refused {
        rows.push(Metric {
            labels: vec![("why", why.to_string())],
            ..counter("phalanx_peer_frames_refused_total", "Frames of other nodes that were not taken", load(count))
        });
    }
    let relayed = [
        ("sent", link::relayed_total()),
        ("passed_on", load(&counters.relays_passed_on)),
        ("received", load(&counters.relays_received)),
        ("dropped", load(&counters.relays_dropped)),
    ];
    for (what, count) in relayed {
        rows.push(Metric {
            labels: vec![("what", what.to_string())],
            ..counter("phalanx_relay_frames_total", "Frames between nodes by way of another node", count)
        });
    }
    rows
}

fn of_clocks(shared: &Shared) -> Vec<Metric> {
    let mut rows = Vec::new();
    for (id, ahead_ms) in lock(&shared.skews).all() {
        rows.push(Metric {
            labels: vec![("peer", id.0.to_string())],
            value: MetricValue::Gauge(ahead_ms as f64 / 1e3),
            ..gauge("phalanx_clock_skew_seconds", "How far a node's wall clock is ahead of this one's", 0)
        });
    }
    let off_ms = i128::from(shared.log_now_ms()) - i128::from(now_ms());
    rows.push(Metric {
        value: MetricValue::Gauge(off_ms as f64 / 1e3),
        ..gauge("phalanx_log_time_offset_seconds", "How far log time is ahead of this node's wall clock", 0)
    });
    rows
}

/// Figures with a row for each value of a label.
fn by_label(shared: &Shared) -> Vec<Metric> {
    let counters = &shared.counters;
    let (refused, unknown) = shared.activity.failed();
    let mut rows = vec![Metric {
        labels: vec![("version", env!("CARGO_PKG_VERSION").to_string()), ("protocol", PROTOCOL.to_string())],
        ..gauge("phalanx_build_info", "1, with the version of the program and of its peer protocol as labels", 1)
    }];
    for (outcome, count) in [("refused", refused), ("unknown", unknown)] {
        rows.push(Metric {
            labels: vec![("outcome", outcome.to_string())],
            ..counter("phalanx_kv_command_errors_total", "Commands that were not done, or not known to be done", count)
        });
    }
    let received = &shared.datagrams.counters;
    for (why, count) in
        [("unknown", &received.unknown), ("malformed", &received.malformed), ("repeated", &received.repeated)]
    {
        rows.push(Metric {
            labels: vec![("why", why.to_string())],
            ..counter("phalanx_datagrams_refused_total", "Datagrams that were not taken", count.load(Ordering::Relaxed))
        });
    }
    for (id, link) in shared.links().iter() {
        rows.push(Metric {
            labels: vec![("peer", id.0.to_string())],
            ..gauge(
                "phalanx_link_lossy",
                "1 while small messages to a peer go as datagrams",
                u64::from(link.is_lossy()),
            )
        });
    }
    for (action, times) in [
        ("save", &counters.snapshots_saved),
        ("send", &counters.snapshots_sent),
        ("install", &counters.snapshots_installed),
    ] {
        let help = "Time to save a snapshot, to send one to a follower, and to install a received one";
        rows.push(coarse("phalanx_snapshot_duration_seconds", help, ("action", action.to_string()), times));
    }
    for (id, times) in lock(&counters.round_trips).iter() {
        let help = "Time from a heartbeat of this leader until the answer of the peer";
        rows.push(coarse("phalanx_peer_round_trip_seconds", help, ("peer", id.0.to_string()), times));
    }
    for (kind, count) in shared.sessions.count_by_kind() {
        rows.push(Metric {
            labels: vec![("kind", kind.to_string())],
            ..gauge("phalanx_sessions_by_kind", "Client connections now, by what they are used for", count)
        });
    }
    rows
}

/// How much the services and the disk hold.
fn sizes(shared: &Shared) -> Vec<Metric> {
    let (sizes, chat, jobs) = (shared.sizes(), shared.chat.newest(), shared.jobs());
    let (accounts, conversations) = Chat::counts(&chat);
    let slots = jobs.status.workers.iter().filter(|worker| worker.is_here).map(|worker| worker.slots).sum();
    let reads = shared.sql.as_ref().map_or(0, |pool| pool.in_use());
    let mut rows = vec![
        gauge("phalanx_kv_bytes", "Bytes of keys, values and locks", sizes.kv_bytes),
        gauge("phalanx_database_bytes", "Bytes of the database that are in use", sizes.sql_bytes),
        gauge("phalanx_database_reads", "Reads of the database that are being executed", reads as u64),
        gauge("phalanx_chat_bytes", "Bytes of the messages of the chat", sizes.chat_bytes),
        gauge("phalanx_chat_accounts", "Accounts of the chat", accounts as u64),
        gauge("phalanx_chat_conversations", "Rooms and direct conversations of the chat", conversations as u64),
        gauge("phalanx_chat_readers", "Clients that follow the chat on this node", shared.chat.readers() as u64),
        counter("phalanx_chat_events_total", "Events of the chat since it was created", chat.position()),
        gauge("phalanx_jobs_kept", "Jobs in the log's state, those that have ended included", jobs.all.len() as u64),
        gauge("phalanx_jobs_bytes", "Bytes of the jobs that wait or run", sizes.jobs_bytes),
        gauge("phalanx_job_slots", "Jobs that all workers can run at once", slots),
        gauge("phalanx_disk_reserve_bytes", "Setting disk_reserve_mb", shared.settings.disk_reserve_mb << 20),
    ];
    if let Ok(free) = store::free_bytes(&shared.dir) {
        rows.push(gauge("phalanx_disk_free_bytes", "Free bytes on the disk of the data folder", free));
    }
    for (part, folder) in DATA_PARTS {
        rows.push(Metric {
            labels: vec![("part", part.to_string())],
            ..gauge(
                "phalanx_data_bytes",
                "Bytes of files in the data folder",
                store::file_bytes(&shared.dir.join(folder)),
            )
        });
    }
    rows
}

pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Metric {
    Metric { name, help, labels: Vec::new(), value: MetricValue::Gauge(value as f64) }
}

pub fn counter(name: &'static str, help: &'static str, value: u64) -> Metric {
    Metric { name, help, labels: Vec::new(), value: MetricValue::Counter(value as f64) }
}

fn histogram(name: &'static str, help: &'static str, times: &Recorder) -> Metric {
    let value = MetricValue::Histogram { sum: times.sum_seconds(), buckets: times.by_doubling() };
    Metric { name, help, labels: Vec::new(), value }
}

fn coarse(name: &'static str, help: &'static str, label: (&'static str, String), times: &CoarseRecorder) -> Metric {
    let value = MetricValue::Histogram { sum: times.sum_seconds(), buckets: times.by_factor_of_four() };
    Metric { name, help, labels: vec![label], value }
}
