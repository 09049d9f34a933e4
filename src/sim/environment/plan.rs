//! Swarm: what one seed chooses. Each run draws its own subset of faults, rates, timeouts and sizes.
//!
//! A run with every fault at once explores little: nothing gets far enough to break. So each kind of fault is on in
//! some seeds only, and everything that a person could tune is drawn (Groce et al., "Swarm testing", 2012).
//! Times are virtual microseconds.
//!
//! Not here: carrying faults out (`sim/steps/faults.rs`).

use crate::types::Ticks;
use fastrand::Rng;

/// One raft tick of a node whose clock is right, in microseconds.
pub const TICK_US: u64 = 5_000;

/// What the network does to packets.
#[derive(Clone, Debug, Default)]
pub struct NetPlan {
    /// Part of packets that never arrive.
    pub loss: f64,
    /// Part of packets that arrive twice.
    pub duplicate: f64,
    /// Least and most delay.
    pub delay_us: (u64, u64),
    /// Part of packets that take up to `spike_us` longer.
    pub spike: f64,
    /// Delay of a spike in microseconds.
    pub spike_us: u64,
    /// Each directed link keeps its order, as TCP does.
    pub is_ordered: bool,
    /// Part of deliveries after which an old packet is replayed.
    pub replay: f64,
}

impl NetPlan {
    /// A network without faults.
    pub fn without_faults() -> NetPlan {
        NetPlan { delay_us: (200, 1_000), is_ordered: true, ..NetPlan::default() }
    }
}

/// The kinds of fault that strike at random times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A process dies, at some boundary between two effects or two operations of its disk.
    Crash,
    /// All die at once.
    RestartAll,
    /// One dies again and again.
    CrashLoop,
    /// A process is paused, then continues as if nothing had happened.
    Pause,
    /// The network is cut into a shape, for a while.
    Partition,
    /// One directed link is cut.
    OneWay,
    /// A link-lost signal without a reason.
    FalseLinkLost,
    /// A clock jumps ahead: many ticks at once.
    ClockJump,
    /// Writes or syncs fail: the node stops.
    DiskError,
    /// A bit flips in what was synced.
    FlipBit,
    /// Syncs do not end, for a while.
    DiskHang,
    /// Syncs take long, for a while.
    DiskSlow,
    /// The disk is full, for a while.
    DiskFull,
    /// A process cannot read its disk when it starts, for a while.
    ReadError,
    /// A node loses its disk and comes back as another identity.
    Wipe,
    /// A leadership transfer, to a random node or to one that the leader chooses.
    Transfer,
    /// A node campaigns.
    Campaign,
    /// A membership change.
    Member,
    /// A snapshot now, at some node.
    Snapshot,
}

impl FaultKind {
    /// For a picture.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Crash => "crash",
            FaultKind::RestartAll => "restart of all",
            FaultKind::CrashLoop => "crash loop",
            FaultKind::Pause => "pause",
            FaultKind::Partition => "partition",
            FaultKind::OneWay => "one-way cut",
            FaultKind::FalseLinkLost => "false link loss",
            FaultKind::ClockJump => "clock jump",
            FaultKind::DiskError => "disk error",
            FaultKind::FlipBit => "flipped bit",
            FaultKind::DiskHang => "disk hangs",
            FaultKind::DiskSlow => "slow disk",
            FaultKind::DiskFull => "full disk",
            FaultKind::ReadError => "read error",
            FaultKind::Wipe => "wiped disk",
            FaultKind::Transfer => "transfer",
            FaultKind::Campaign => "campaign",
            FaultKind::Member => "member change",
            FaultKind::Snapshot => "snapshot",
        }
    }
}

/// All kinds, with the mean time between two of them in election timeouts.
pub const FAULTS: [(FaultKind, u64); 19] = [
    (FaultKind::Crash, 4),
    (FaultKind::RestartAll, 15),
    (FaultKind::CrashLoop, 15),
    (FaultKind::Pause, 6),
    (FaultKind::Partition, 5),
    (FaultKind::OneWay, 5),
    (FaultKind::FalseLinkLost, 3),
    (FaultKind::ClockJump, 4),
    (FaultKind::DiskError, 8),
    (FaultKind::FlipBit, 15),
    (FaultKind::DiskHang, 8),
    (FaultKind::DiskSlow, 6),
    (FaultKind::DiskFull, 10),
    (FaultKind::ReadError, 10),
    (FaultKind::Wipe, 10),
    (FaultKind::Transfer, 3),
    (FaultKind::Campaign, 3),
    (FaultKind::Member, 2),
    (FaultKind::Snapshot, 4),
];

/// How a node stays broken when the faults stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFailure {
    /// Its process does not run.
    Down,
    /// It neither receives from nor reaches any node.
    CutOff,
    /// It reaches the others, and receives from no node.
    Deaf,
    /// It receives from the others, and reaches no node.
    Mute,
    /// Its syncs never end.
    HungDisk,
}

/// What one seed chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Voters at the start.
    pub voters: usize,
    /// Further nodes that wait to be added.
    pub spares: usize,
    /// Raft's own choices; see `raft::Config`.
    pub heartbeat_ticks: Ticks,
    pub election_timeout_ticks: Ticks,
    pub election_timeout_min_ticks: Ticks,
    pub election_timeout_max_ticks: Ticks,
    pub rank_delay_ticks: Ticks,
    pub highest_id_first: bool,
    pub preempt: bool,
    pub disk_stall_ticks: Ticks,
    pub append_bytes_max: usize,
    pub inflight_bytes_max: usize,
    pub uncommitted_bytes_max: usize,
    /// Bytes of the first log segment.
    pub segment_bytes_min: u64,
    /// Entries applied between two snapshots; `None`: only when the fault asks.
    pub snapshot_every: Option<u64>,
    /// When a node's state is altered without a log entry; `None`: never.
    pub alter_us: Option<u64>,
    /// Packets while faults are on.
    pub net: NetPlan,
    /// Tick length of each node relative to the right one.
    pub drift: Vec<f64>,
    /// Faults that are on, with the mean time between two, in microseconds.
    pub faults: Vec<(FaultKind, u64)>,
    /// How long faults strike.
    pub fault_us: u64,
    /// Least and most time for a sync.
    pub sync_us: (u64, u64),
    /// How long a committed entry may wait until the service sees it.
    pub apply_us: u64,
    /// Chance that a step's effects are cut off in the middle by a crash, when crashes are on.
    pub boundary_crash: f64,
    pub clients: usize,
    /// Operations that all clients begin together, at most; `None`: as many as there is time for.
    pub operations_max: Option<u64>,
    /// Time between two operations of one client, at most.
    pub think_us: u64,
    /// After this a client stops waiting for an attempt.
    pub deadline_us: u64,
    /// Part of operations that are reads.
    pub reads: f64,
    /// Registers.
    pub keys: u8,
    /// A client becomes a new one, with a new origin, after about so many writes.
    pub origin_writes: u64,
    /// Whether the other nodes learn of a crash (`LinkLost`), as from refused connections.
    pub link_signals: bool,
    /// Membership: a driver replaces lost identities and brings in new nodes.
    pub replaces_voters: bool,
    /// The real autopilot decides who votes.
    pub has_autopilot: bool,
    /// Jobs, if this seed has any.
    pub jobs: Option<JobsPlan>,
    /// Mean time between two times that nodes stop in order, in microseconds; `None`: they never do.
    pub departures_us: Option<u64>,
    /// Part of clients' operations that are about the database; 0: it is never opened.
    pub sql: f64,
    /// Part of clients' operations that are chat commands.
    pub talk: f64,
    /// Chance that a process that died finds an older copy of its disk.
    pub restores: f64,
    /// Messages of a hostile process in an election timeout; 0: there is none.
    pub hostile: f64,
    /// The cluster has a secret: every honest node proves to every other that it belongs.
    pub has_secret: bool,
    /// Which of the first voters are witnesses.
    pub witnesses: Vec<usize>,
    /// Nodes are killed until one is left, and survivors host the voters of the dead, if this seed has that.
    pub takeover: Option<TakeoverPlan>,
    /// How nodes stay broken at the end: the leader, then the others in order. `None`: drawn then.
    pub broken: Option<Vec<Option<DiskFailure>>>,
}

/// What one seed chose for takeovers.
#[derive(Clone, Debug)]
pub struct TakeoverPlan {
    /// A node without a leader for so long tries one.
    pub after_us: u64,
    /// Mean time between two times that all nodes but one are killed.
    pub strike_us: u64,
}

/// Languages of jobs. Every node has the last.
pub const LANGUAGES: [&str; 3] = ["java", "python", "sh"];

/// Voters and spares of the largest cluster.
pub const NODES_MAX: usize = 7;

/// What one seed chose for jobs and workers.
#[derive(Clone, Debug)]
pub struct JobsPlan {
    /// Part of clients' operations that are about jobs.
    pub share: f64,
    /// Part of those that cancel a job.
    pub cancels: f64,
    /// Clients submit nothing more while so many wait or run.
    pub open_max: usize,
    /// Slots and languages of each node.
    pub workers: Vec<(u64, Vec<&'static str>)>,
    /// Least and most time that an attempt takes.
    pub run_us: (u64, u64),
    /// How long ends are kept, in log time.
    pub keep_ms: u64,
    /// Longest silence of a worker that counts as present.
    pub fail_after_ticks: Ticks,
    /// Longest time until a process knows what it can run.
    pub ready_us: u64,
    /// Time between two tries to join, and to report an end.
    pub again_us: u64,
}

impl JobsPlan {
    pub fn draw(rng: &mut Rng, plan: &Plan) -> JobsPlan {
        let election_us = plan.election_timeout_ticks.0 * TICK_US;
        let worker = |rng: &mut Rng| {
            let mut languages = vec!["sh"];
            languages.extend(rng.bool().then(|| LANGUAGES[rng.usize(0..2)]));
            (rng.u64(1..=3), languages)
        };
        JobsPlan {
            share: *pick(rng, &[0.1, 0.3, 0.6]),
            cancels: *pick(rng, &[0.0, 0.1, 0.3]),
            open_max: rng.usize(2..=10),
            workers: (0..NODES_MAX).map(|_| worker(rng)).collect(),
            run_us: *pick(rng, &[(100, 5_000), (1_000, election_us / 2), (election_us / 4, election_us * 2)]),
            keep_ms: *pick(rng, &[0, 100, 1_000]),
            fail_after_ticks: Ticks(plan.election_timeout_ticks.0 * rng.u64(1..=4)),
            ready_us: *pick(rng, &[1_000, 100_000]),
            again_us: *pick(rng, &[3_000, 30_000]),
        }
    }
}

impl Plan {
    pub fn draw(rng: &mut Rng) -> Plan {
        let voters = [1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5][rng.usize(0..12)];
        let spares = [0, 0, 1, 1, 2][rng.usize(0..5)];
        let nodes = voters + spares;
        let election = rng.u64(8..=40);
        let election_us = election * TICK_US;
        let is_wild = rng.u8(0..4) == 0;
        let net = NetPlan {
            loss: *pick(rng, &[0.0, 0.0, 0.01, 0.05, 0.15]),
            duplicate: *pick(rng, &[0.0, 0.0, 0.02, 0.2]),
            delay_us: (rng.u64(100..1_000), *pick(rng, &[1_000, 3_000, 10_000, 30_000])),
            spike: *pick(rng, &[0.0, 0.0, 0.01, 0.1]),
            spike_us: election_us * rng.u64(1..=4),
            is_ordered: rng.bool(),
            replay: *pick(rng, &[0.0, 0.0, 0.01, 0.05]),
        };
        let mut faults = Vec::new();
        for (kind, mean) in FAULTS {
            if rng.u8(0..10) < 4 {
                let rate = *pick(rng, &[0.5, 1.0, 1.0, 2.0]);
                faults.push((kind, (mean as f64 * rate * election_us as f64) as u64));
            }
        }
        let drift = (0..nodes)
            .map(|_| match rng.u8(0..6) {
                0 if is_wild => 0.3 + rng.f64() * 2.0,
                0..=2 => 0.9 + rng.f64() * 0.2,
                _ => 1.0,
            })
            .collect();
        let has_crashes = faults.iter().any(|(kind, _)| *kind == FaultKind::Crash);
        Plan {
            voters,
            spares,
            heartbeat_ticks: Ticks(rng.u64(1..=(election / 4).max(1))),
            election_timeout_ticks: Ticks(election),
            election_timeout_min_ticks: Ticks(election.div_ceil(rng.u64(1..=2))),
            election_timeout_max_ticks: Ticks(election * *pick(rng, &[1, 2, 4])),
            rank_delay_ticks: Ticks(rng.u64(0..=(election / 4))),
            highest_id_first: rng.bool(),
            preempt: rng.u8(0..4) == 0,
            disk_stall_ticks: Ticks(election * rng.u64(1..=4)),
            append_bytes_max: *pick(rng, &[1, 100, 400, 1 << 20]),
            inflight_bytes_max: *pick(rng, &[1, 300, 2_000, 8 << 20]),
            uncommitted_bytes_max: *pick(rng, &[600, 4_000, 64 << 20, 64 << 20]),
            segment_bytes_min: *pick(rng, &[600, 2_048, 16_384]),
            alter_us: None,
            snapshot_every: *pick(rng, &[Some(3), Some(8), Some(8), Some(30), Some(100), None]),
            net,
            drift,
            faults,
            fault_us: election_us * rng.u64(20..=60),
            sync_us: *pick(rng, &[(50, 200), (100, 3_000), (1_000, 20_000)]),
            apply_us: *pick(rng, &[0, 0, 5_000, 50_000]),
            boundary_crash: if has_crashes { *pick(rng, &[0.0, 0.0005, 0.003]) } else { 0.0 },
            clients: rng.usize(1..=4),
            operations_max: None,
            think_us: *pick(rng, &[1_000, 10_000, 30_000]),
            deadline_us: election_us * rng.u64(1..=6),
            reads: *pick(rng, &[0.2, 0.5]),
            keys: rng.u8(1..=3),
            origin_writes: *pick(rng, &[1_000, 1_000, 20]),
            link_signals: rng.u8(0..4) > 0,
            replaces_voters: rng.bool(),
            has_autopilot: rng.u8(0..3) == 0,
            departures_us: None,
            jobs: None,
            sql: 0.0,
            talk: 0.0,
            restores: 0.0,
            hostile: 0.0,
            has_secret: true,
            witnesses: Vec::new(),
            takeover: None,
            broken: None,
        }
    }

    /// Whether this fault is on.
    pub fn has(&self, kind: FaultKind) -> bool {
        self.faults.iter().any(|(on, _)| *on == kind)
    }

    pub fn nodes(&self) -> usize {
        self.voters + self.spares
    }

    /// One election timeout of a right clock, in microseconds, with the delays that rank and chance add, on a network
    /// that is as fast as it can be.
    pub fn election_us(&self) -> u64 {
        (self.election_timeout_ticks.0 * 2 + self.rank_delay_ticks.0 * self.nodes() as u64) * TICK_US
    }

    /// The longest one that what a node has measured can lead to.
    pub fn longest_election_us(&self) -> u64 {
        let round_trip = 2 * self.net.delay_us.1 / TICK_US;
        let rank_delay = self.rank_delay_ticks.0.max(round_trip * 3 / 2);
        (self.election_timeout_max_ticks.0 * 2 + 2 * round_trip + rank_delay * self.nodes() as u64) * TICK_US
    }
}

/// One of several, each as likely.
pub fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(0..from.len())]
}
