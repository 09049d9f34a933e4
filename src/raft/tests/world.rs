//! A small deterministic cluster: real cores, model disks, a network that delivers at once unless told otherwise.
//!
//! After every step each core checks its invariants, and the world asserts what only an onlooker can see: one leader
//! per term, and committed entries that never change.

use crate::planted_bugs::RaftBugs;
use crate::raft::*;
use crate::types::{Identity, Index, NodeId, Term, Ticks};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use uuid::Uuid;

/// One virtual process and its disk.
pub(crate) struct Node {
    pub(crate) me: Identity,
    pub(crate) raft: Option<Raft>,
    /// Frozen: takes no input; what is sent to it waits.
    pub(crate) is_frozen: bool,
    /// Hung: nothing reaches the disk.
    pub(crate) is_hung: bool,
    disk: VecDeque<(Persist, Vec<Message>)>,
    pub(crate) durable: Durable,
    rng: fastrand::Rng,
    /// Which incarnation of the id's data folder this is.
    life: u64,
}

/// All of them, and the network between.
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) config: Config,
    /// Directed links that carry nothing.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    wire: VecDeque<Message>,
    /// Kinds of message that are kept back, and those kept.
    pub(crate) hold: BTreeSet<&'static str>,
    pub(crate) held: Vec<Message>,
    snapshots: Vec<(Identity, Identity)>,
    pub(crate) hold_snapshots: bool,
    pub(crate) out: String,
    pub(crate) is_traced: bool,
    /// Voters without services.
    witnesses: BTreeSet<NodeId>,
    /// Voters that another node hosts, and which.
    hosted: BTreeMap<NodeId, NodeId>,
    next_token: u64,
    leaders: BTreeMap<Term, NodeId>,
    /// Copies of disks, to be put back later.
    images: BTreeMap<NodeId, Durable>,
    committed: BTreeMap<Index, Entry>,
}

pub(crate) fn identity(id: u64, life: u64) -> Identity {
    Identity { id: NodeId(id), uuid: Uuid::from_u128(u128::from(id) << 96 | u128::from(life)) }
}

fn config() -> Config {
    Config {
        me: identity(0, 0),
        heartbeat_ticks: Ticks(5),
        election_timeout_ticks: Ticks(20),
        election_timeout_min_ticks: Ticks(20),
        election_timeout_max_ticks: Ticks(20),
        rank_delay_ticks: Ticks(3),
        highest_id_first: true,
        preempt: false,
        disk_stall_ticks: Ticks(15),
        append_bytes_max: 200,
        inflight_bytes_max: 1000,
        uncommitted_bytes_max: 2000,
        leads_only_to_pass_on: false,
        bugs: RaftBugs::default(),
    }
}

/// Name of a message's kind, as scripts call it.
pub(crate) fn kind(body: &Body) -> &'static str {
    match body {
        Body::PreVote { .. } => "pre-vote",
        Body::PreVoteReply { .. } => "pre-vote-reply",
        Body::Vote { .. } => "vote",
        Body::VoteReply { .. } => "vote-reply",
        Body::Append { .. } => "append",
        Body::AppendReply { .. } => "append-reply",
        Body::Heartbeat { .. } => "heartbeat",
        Body::HeartbeatReply { .. } => "heartbeat-reply",
        Body::ReadIndex { .. } => "read-index",
        Body::ReadIndexReply { .. } => "read-index-reply",
        Body::TimeoutNow { .. } => "timeout-now",
        Body::TransferMe => "transfer-me",
    }
}

/// All kinds, to turn a script's word into a `&'static str`.
pub(crate) const KINDS: [&str; 12] = [
    "pre-vote",
    "pre-vote-reply",
    "vote",
    "vote-reply",
    "append",
    "append-reply",
    "heartbeat",
    "heartbeat-reply",
    "read-index",
    "read-index-reply",
    "timeout-now",
    "transfer-me",
];

/// One entry in a few characters: `3@2:put` is index 3, term 2.
pub(crate) fn entry(entry: &Entry) -> String {
    let payload = match &entry.payload {
        Payload::Noop => "-".into(),
        Payload::Command(command) => String::from_utf8_lossy(command).into_owned(),
        Payload::Membership(membership) => members(membership),
    };
    format!("{}@{}:{payload}", entry.index, entry.term)
}

/// Voters, and learners behind a plus; a second life of an id wears a prime.
pub(crate) fn members(membership: &Membership) -> String {
    let name = |(id, uuid): (&NodeId, &Uuid)| format!("{id}{}", "'".repeat((uuid.as_u128() & 0xff) as usize));
    let mut text = membership.voters.iter().map(name).collect::<Vec<_>>().join(",");
    if !membership.learners.is_empty() {
        text += &format!("+{}", membership.learners.iter().map(name).collect::<Vec<_>>().join(","));
    }
    text
}

impl World {
    pub(crate) fn new() -> World {
        World {
            nodes: BTreeMap::new(),
            config: config(),
            cut: BTreeSet::new(),
            wire: VecDeque::new(),
            hold: BTreeSet::new(),
            held: Vec::new(),
            snapshots: Vec::new(),
            hold_snapshots: false,
            out: String::new(),
            is_traced: false,
            witnesses: BTreeSet::new(),
            hosted: BTreeMap::new(),
            next_token: 0,
            images: BTreeMap::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
        }
    }

    /// Adds a node whose disk holds `durable`.
    pub(crate) fn add(&mut self, id: u64, life: u64, durable: Durable) {
        let rng = fastrand::Rng::with_seed(id);
        let disk = VecDeque::new();
        let me = identity(id, life);
        let node = Node { me, raft: None, is_frozen: false, is_hung: false, disk, durable, rng, life };
        self.nodes.insert(NodeId(id), node);
        self.start(NodeId(id));
    }

    /// Starts a node from its disk.
    pub(crate) fn start(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let leads_only_to_pass_on = self.witnesses.contains(&id);
        let config = Config { me: node.me, leads_only_to_pass_on, ..self.config.clone() };
        node.raft = Some(Raft::new(config, node.durable.clone()));
        (node.is_frozen, node.is_hung) = (false, false);
        if !self.witnesses.is_empty() {
            self.step(id, Input::Witnesses(self.witnesses.clone()));
        }
    }

    /// Starts all nodes again, and these as witnesses.
    pub(crate) fn have_witnesses(&mut self, witnesses: BTreeSet<NodeId>) {
        self.witnesses = witnesses;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.kill(id);
            self.start(id);
        }
    }

    /// Starts a dead node's voter in the process of `at`: no other node reaches it.
    pub(crate) fn host(&mut self, id: NodeId, at: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let config = Config { me: node.me, leads_only_to_pass_on: true, ..self.config.clone() };
        node.raft = Some(Raft::new(config, node.durable.clone()));
        self.hosted.insert(id, at);
        for other in self.nodes.keys().copied().filter(|other| *other != at && *other != id) {
            let is_there = self.hosted.get(&other) == Some(&at);
            for link in [(id, other), (other, id)] {
                _ = if is_there { self.cut.remove(&link) } else { self.cut.insert(link) };
            }
        }
        self.step(at, Input::LinkUp { peer: id, round_trip: Ticks(0) });
    }

    /// Ends a process: what has not reached the disk is gone.
    pub(crate) fn kill(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.raft = None;
        node.disk.clear();
        self.wire.retain(|message| message.to.id != id);
    }

    /// The data folder is lost: same id, new identity, nothing on disk.
    pub(crate) fn wipe(&mut self, id: NodeId) {
        let life = self.nodes[&id].life + 1;
        self.kill(id);
        self.add(id.0, life, Durable::default());
    }

    /// Copies what a node's disk holds.
    pub(crate) fn image(&mut self, id: NodeId) {
        self.images.insert(id, self.nodes[&id].durable.clone());
    }

    /// Starts a node from the copy of its disk, under its old identity. What was committed since may be gone: the world
    /// no longer asserts that it stays.
    pub(crate) fn restore(&mut self, id: NodeId) -> Result<(), &'static str> {
        self.kill(id);
        self.nodes.get_mut(&id).ok_or("no such node")?.durable = self.images.get(&id).ok_or("no image")?.clone();
        self.committed.clear();
        self.start(id);
        Ok(())
    }

    pub(crate) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    /// The live leader of the highest term.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let rafts = self.nodes.iter().filter(|(_, node)| !node.is_frozen);
        let leaders = rafts.filter_map(|(id, node)| node.raft.as_ref().map(|raft| (raft, *id)));
        let leaders = leaders.filter(|(raft, _)| raft.role() == Role::Leader);
        leaders.max_by_key(|(raft, _)| raft.term()).map(|(_, id)| id)
    }

    /// One tick for everyone, then all messages.
    pub(crate) fn tick(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.step(id, Input::Tick);
        }
        self.deliver();
    }

    /// Delivers until nothing is on the way.
    pub(crate) fn deliver(&mut self) {
        for _ in 0..10_000 {
            if !self.deliver_one() {
                return;
            }
        }
        panic!("messages without end");
    }

    fn deliver_one(&mut self) -> bool {
        if let Some(message) = self.wire.pop_front() {
            let (from, to) = (message.from.id, message.to.id);
            let is_cut = self.cut.contains(&(from, to));
            if self.hold.contains(kind(&message.body)) && !is_cut {
                self.held.push(message);
            } else if !is_cut {
                self.step(to, Input::Message(message));
            }
            return true;
        }
        if self.hold_snapshots || self.snapshots.is_empty() {
            return false;
        }
        let (from, to) = self.snapshots.remove(0);
        self.stream(from, to);
        true
    }

    /// A snapshot that was asked for earlier arrives now.
    pub(crate) fn ship(&mut self, from: NodeId, to: NodeId) {
        self.stream(self.nodes[&from].me, self.nodes[&to].me);
        self.deliver();
    }

    fn stream(&mut self, from: Identity, to: Identity) {
        let ok = !self.cut.contains(&(from.id, to.id)) && self.nodes[&to.id].raft.is_some();
        let meta = self.nodes[&from.id].durable.snapshot.clone().expect("a snapshot to send");
        let term = self.nodes[&from.id].raft.as_ref().map_or(Term(0), Raft::term);
        writeln!(self.out, "{} streams snapshot {}@{} to {}", from.id, meta.index, meta.term, to.id).unwrap();
        if ok {
            self.step(to.id, Input::SnapshotReceived { from, term, meta });
        }
        self.step(from.id, Input::SnapshotSent { to: to.id, ok });
    }

    /// Lets held messages go.
    pub(crate) fn release(&mut self) {
        self.hold.clear();
        self.wire.extend(std::mem::take(&mut self.held));
        self.deliver();
    }

    /// Delivers these, though their kind is still held back.
    pub(crate) fn pass(&mut self, messages: Vec<Message>) {
        for message in messages {
            self.step(message.to.id, Input::Message(message));
        }
        self.deliver();
    }

    /// One input for one node, with its effects carried out.
    pub(crate) fn step(&mut self, id: NodeId, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(raft) = &mut node.raft else { return };
        if node.is_frozen {
            return;
        }
        if let Input::Message(message) = &input {
            // The nodes of a script trust each other: what unknown senders meet is in `tests/guard.rs`.
            raft.step(Input::Introduce(message.from), &mut node.rng, &mut Effects::default());
        }
        if self.is_traced
            && let Input::Message(message) = &input
        {
            let Message { from, to, term, body } = message;
            writeln!(self.out, "  {}->{} t{term} {}", from.id, to.id, trace(body)).unwrap();
        }
        let mut fx = Effects::default();
        raft.step(input, &mut node.rng, &mut fx);
        raft.check();
        assert!(fx.after_sync.is_empty() || fx.persist.is_some(), "promises without a persist");
        self.wire.extend(fx.send_now);
        let me = node.me;
        self.snapshots.extend(fx.send_snapshot.iter().map(|to| (me, *to)));
        if let Some(meta) = fx.install {
            writeln!(self.out, "{id} installs snapshot {}@{} [{}]", meta.index, meta.term, members(&meta.membership))
                .unwrap();
        }
        for event in fx.events {
            self.record_event(id, &event);
        }
        for (token, answer) in fx.answers {
            let text = match answer {
                Answer::Appended { index, term } => format!("appended {index}@{term}"),
                Answer::ReadAt(index) => format!("read at {index}"),
                Answer::TransferStarted { to } => format!("hands over to {to}"),
                Answer::Refused(why) => format!("refused: {why}"),
            };
            writeln!(self.out, "{id} answers #{}: {text}", token.0).unwrap();
        }
        if fx.commit.is_some() {
            self.check_commit(id);
        }
        if let Some(persist) = fx.persist {
            self.nodes.get_mut(&id).unwrap().disk.push_back((persist, fx.after_sync));
            self.sync(id);
        }
    }

    /// The disk takes what waits for it, unless it hangs.
    pub(crate) fn sync(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.is_hung {
            return;
        }
        while let Some((persist, promises)) = self.nodes.get_mut(&id).unwrap().disk.pop_front() {
            let seq = persist.seq;
            write(&mut self.nodes.get_mut(&id).unwrap().durable, persist);
            self.wire.extend(promises);
            self.step(id, Input::Synced { seq });
        }
    }

    /// The services of a node saved a snapshot of all it has committed.
    pub(crate) fn save_snapshot(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let raft = node.raft.as_ref().unwrap();
        let meta = raft.snapshot_meta(raft.commit_index()).expect("the commit index is in the log");
        let index = meta.index;
        node.durable.entries.retain(|entry| entry.index > index);
        node.durable.snapshot = Some(meta);
        self.step(id, Input::SnapshotSaved { index });
    }

    fn record_event(&mut self, id: NodeId, event: &Event) {
        let text = match event {
            Event::Following { term, leader } => format!("follows {leader} in term {term}"),
            Event::LeaderLost { term, leader, cause } => format!("lost leader {leader} of term {term}: {cause:?}"),
            Event::Campaigning { term } => format!("campaigns for term {term}"),
            Event::BecameLeader { term } => {
                let first = *self.leaders.entry(*term).or_insert(id);
                assert!(first == id, "two leaders in term {term}: {first} and {id}");
                format!("leads term {term}")
            }
            Event::SteppedDown { term, cause } => format!("steps down in term {term}: {cause:?}"),
            Event::Membership { index, membership } => format!("membership at {index}: {}", members(membership)),
            Event::TransferStarted { to } => format!("begins leadership transfer to {to}"),
            Event::TransferAborted { to } => format!("gives up leadership transfer to {to}"),
            Event::FollowerForgot { who, matched } => {
                format!("finds that {} forgot what it had up to {matched}", who.id)
            }
            Event::LeaderForgot { leader, index } => format!("refuses {leader}, whose log differs at {index}"),
        };
        writeln!(self.out, "{id} {text}").unwrap();
    }

    /// What is committed never changes.
    fn check_commit(&mut self, id: NodeId) {
        let raft = self.nodes[&id].raft.as_ref().unwrap();
        for entry in raft.entries(Index(1), raft.commit_index()) {
            if !self.images.is_empty() {
                continue;
            }
            let committed = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
            assert!(committed == entry, "{id} commits {entry:?}, committed before: {committed:?}");
        }
    }
}

/// A model disk takes one persist.
fn write(durable: &mut Durable, persist: Persist) {
    if let Some(meta) = persist.install {
        durable.snapshot = Some(meta);
        durable.entries.clear();
    }
    if let Some(hard_state) = persist.hard_state {
        durable.hard_state = hard_state;
    }
    if let Some(first) = persist.entries.first().map(|entry| entry.index) {
        durable.entries.retain(|entry| entry.index < first);
        durable.entries.extend(persist.entries);
    }
}

/// A message's body in a few words.
fn trace(body: &Body) -> String {
    match body {
        Body::PreVote { last_index, last_term } => format!("pre-vote log={last_index}@{last_term}"),
        Body::Vote { last_index, last_term, is_transfer } => {
            format!("vote log={last_index}@{last_term}{}", if *is_transfer { " leadership transfer" } else { "" })
        }
        Body::PreVoteReply { is_granted } | Body::VoteReply { is_granted } => {
            format!("{} {}", kind(body), if *is_granted { "yes" } else { "no" })
        }
        Body::Append { prev_index, prev_term, commit, entries, .. } => {
            let list: Vec<String> = entries.iter().map(entry).collect();
            format!("append after {prev_index}@{prev_term} commit={commit} [{}]", list.join(" "))
        }
        Body::AppendReply { result: Ok(matched), .. } => format!("append-reply matched={matched}"),
        Body::AppendReply { result: Err(c), .. } => {
            format!("append-reply conflict at {} hint={}@{}", c.prev_index, c.hint_index, c.hint_term)
        }
        Body::Heartbeat { round, commit } => format!("heartbeat round={round} commit={commit}"),
        Body::HeartbeatReply { round } => format!("heartbeat-reply round={round}"),
        Body::ReadIndexReply { index, .. } => format!("read-index-reply {index:?}"),
        Body::TimeoutNow { last_index } => format!("timeout-now last={last_index}"),
        Body::ReadIndex { .. } | Body::TransferMe => kind(body).into(),
    }
}
