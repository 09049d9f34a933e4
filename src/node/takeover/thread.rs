//! The loop of the `takeover` thread: tries when a leader is missing, runs the hosted voters, and releases them.
//!
//! Not here: one try (`attempt.rs`), the rules (`cluster/takeover/rule.rs`).

use super::attempt::{Hosting, attempt};
use crate::cluster::takeover::{HostedVoter, rule};
use crate::limits::TICK_MS;
use crate::node::shared::Shared;
use crate::node::shared::messages::{CoreInput, TakeoverInput};
use crate::node::ticks::TickClock;
use crate::node::views::events::Author;
use crate::raft::{Config, Input, Message, Role, View};
use crate::types::{Identity, NodeKind};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{info, warn};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Least time between two checks whether a try is due.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// Most time between them, for a setting of some minutes: the node may have become a voter.
const CHECK_WITHIN: Duration = Duration::from_secs(1);
/// Least and most time before a try: two survivors that try at the same moment get some folders each, and neither a
/// majority.
const FIRST_TRY_MS: (u64, u64) = (0, 100);
const NEXT_TRY_MS: (u64, u64) = (200, 600);
/// How many of the longest election timeouts hosted voters have to elect a leader: a newer log may have to be sent first.
const LEADER_WITHIN_TIMEOUTS: u32 = 2;
/// Rounds of messages among the voters that are hosted here, in one turn.
const ROUNDS_MAX: usize = 16;

/// Body of the thread. `config`: raft's choices of this node.
pub fn run(shared: &Arc<Shared>, config: Config, inbox: &Receiver<TakeoverInput>) {
    let now = Instant::now();
    let (hosted, unusable) = (BTreeMap::new(), BTreeSet::new());
    let rng = fastrand::Rng::new();
    let (since, clock) = (now, TickClock::new(now));
    let mut takeover =
        Takeover { shared: Arc::clone(shared), config, hosted, unusable, rng, since, clock, next_try: None };
    loop {
        let pause = if takeover.hosted.is_empty() { takeover.until_due() } else { Duration::from_millis(TICK_MS) };
        let first = match inbox.recv_timeout(pause) {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut messages = Vec::new();
        for input in first.into_iter().chain(inbox.try_iter()) {
            match input {
                TakeoverInput::Message(message) => messages.push(message),
                TakeoverInput::Stop => return takeover.release(takeover.ids()),
            }
        }
        if shared.is_stopped() {
            return takeover.release(takeover.ids());
        }
        match takeover.hosted.is_empty() {
            true => takeover.maybe_try(),
            false => takeover.turn(messages),
        }
    }
}

struct Takeover {
    shared: Arc<Shared>,
    config: Config,
    hosted: BTreeMap<Identity, Hosting>,
    /// Voters whose folders have failed: this process does not try them again.
    unusable: BTreeSet<Identity>,
    rng: fastrand::Rng,
    /// When the present takeover was begun.
    since: Instant,
    /// Of the hosted voters.
    clock: TickClock,
    /// `None`: there was a leader when it was last checked.
    next_try: Option<Instant>,
}

impl Takeover {
    fn ids(&self) -> BTreeSet<Identity> {
        self.hosted.keys().copied().collect()
    }

    fn is_unfit(&self) -> bool {
        self.shared.is_stopping()
            || self.shared.kind != NodeKind::Full
            || self.shared.is_disk_low()
            || self.shared.integrity.is_corrupt()
    }

    fn draw(&mut self, (least, most): (u64, u64)) -> Instant {
        Instant::now() + Duration::from_millis(self.rng.u64(least..=most))
    }

    /// The setting; `None`: never.
    fn after(&self) -> Option<Duration> {
        let after_ms = self.shared.settings.takeover_after_ms;
        (after_ms > 0).then(|| Duration::from_millis(after_ms))
    }

    /// How long no try can be due.
    fn until_due(&self) -> Duration {
        match (self.after(), self.shared.leader_age()) {
            (Some(after), Some(age)) => after.saturating_sub(age).clamp(CHECK_EVERY, CHECK_WITHIN),
            _ => CHECK_WITHIN,
        }
    }

    /// Tries if it is time.
    fn maybe_try(&mut self) {
        let view = self.shared.view();
        let situation = rule::TakeoverSituation {
            me: self.shared.me,
            view: &view.raft,
            leader_age: self.shared.leader_age(),
            after: self.after(),
            is_unfit: self.is_unfit(),
        };
        if !rule::is_due(&situation) {
            self.next_try = None;
            if view.raft.leader.is_some() {
                self.set_note(None);
            }
            return;
        }
        let at = match self.next_try {
            Some(at) => at,
            None => self.draw(FIRST_TRY_MS),
        };
        self.next_try = Some(at);
        if Instant::now() < at {
            return;
        }
        match attempt(&self.shared, &view.raft.membership, &self.config, &self.unusable) {
            Ok(hosted) => self.begin(&view.raft, hosted),
            Err(why) => self.set_note(Some(format!("dead voters cannot be hosted: {why}"))),
        }
        self.next_try = Some(self.draw(NEXT_TRY_MS));
    }

    /// A new reason, for the log and the health.
    fn set_note(&self, note: Option<String>) {
        if self.shared.hosted.set_note(note.clone())
            && let Some(note) = note
        {
            warn!("{note}");
            self.shared.inboxes.wake_monitor();
        }
    }

    fn begin(&mut self, view: &View, hosted: Vec<Hosting>) {
        self.since = Instant::now();
        self.clock = TickClock::new(self.since);
        self.hosted = hosted.into_iter().map(|hosting| (hosting.voter.who, hosting)).collect();
        let ids = self.ids();
        let text = format!("node {} hosts the voters of dead processes: {}", self.shared.me.id.0, numbers(&ids));
        info!("{text}");
        self.shared.history_event(Author::Noticer, "takeover", Some(self.shared.me.id), text);
        self.log_hosted();
        // A voter that is behind may not know this node yet.
        let known = || std::iter::once(self.shared.me).chain(view.membership.members()).map(Input::Introduce).collect();
        let inputs = ids.iter().map(|who| (*who, known())).collect();
        self.run_voters(inputs);
        for who in ids {
            self.shared.inboxes.to_core(CoreInput::Hosting(who));
        }
    }

    fn log_hosted(&self) {
        let ids = self.ids();
        let note = format!("node {} hosts the voters of dead processes: {}", self.shared.me.id.0, numbers(&ids));
        self.shared.hosted.set_note((!ids.is_empty()).then_some(note));
        self.shared.inboxes.wake_monitor();
    }

    /// Gives the hosted voters their messages and ticks, and releases those that are no longer needed.
    fn turn(&mut self, messages: Vec<Message>) {
        let mut inputs: BTreeMap<Identity, Vec<Input>> = BTreeMap::new();
        for message in messages {
            inputs.entry(message.to).or_default().push(Input::Message(message));
        }
        for _ in 0..self.clock.due_after_inputs(Instant::now()) {
            for (who, hosting) in &mut self.hosted {
                let inputs = inputs.entry(*who).or_default();
                inputs.push(Input::Tick);
                inputs.extend(hosting.voter.transfer_to(self.shared.me.id));
            }
        }
        self.run_voters(inputs);
        self.maybe_release();
    }

    /// Turns of the hosted voters, until they have nothing to say to each other.
    fn run_voters(&mut self, mut inputs: BTreeMap<Identity, Vec<Input>>) {
        for _ in 0..ROUNDS_MAX {
            let mut failed = BTreeSet::new();
            let mut leaving = Vec::new();
            for (who, inputs) in std::mem::take(&mut inputs) {
                let Some(hosting) = self.hosted.get_mut(&who) else { continue };
                match hosting.voter.turn(inputs, &mut self.rng, &mut |_| {}) {
                    Ok(messages) => leaving.extend(messages),
                    Err(e) => {
                        warn!("the voter of node {} is no longer hosted: {e}", who.id.0);
                        failed.insert(who);
                    }
                }
            }
            self.unusable.extend(&failed);
            self.release(failed);
            for message in leaving {
                if message.to == self.shared.me {
                    self.shared.inboxes.to_core(CoreInput::Raft(message));
                } else if self.hosted.contains_key(&message.to) {
                    inputs.entry(message.to).or_default().push(Input::Message(message));
                }
            }
            if inputs.is_empty() {
                return;
            }
        }
    }

    fn maybe_release(&mut self) {
        let view = self.shared.view();
        let leads = |voter: &HostedVoter| voter.raft().role() == Role::Leader;
        let hosted_leads = self.hosted.values().any(|hosting| leads(&hosting.voter));
        let settings = &self.shared.settings;
        let timeout_ms = settings.election_timeout_max_ms.max(settings.election_timeout_ms);
        let is_overdue = self.since.elapsed() > Duration::from_millis(timeout_ms) * LEADER_WITHIN_TIMEOUTS;
        if is_overdue && view.raft.role != Role::Leader {
            let newer = self.hosted.values().filter(|hosting| hosting.voter.raft().refused_older_log());
            let newer: BTreeSet<Identity> = newer.map(|hosting| hosting.voter.who).collect();
            self.set_note(Some(match newer.is_empty() {
                true => "dead voters were hosted, and no leader was elected in time".to_string(),
                false => format!(
                    "the log of {} is newer than this node's and could not be fetched: start it",
                    numbers(&newer)
                ),
            }));
        }
        let released = match self.shared.is_stopping() {
            true => self.ids(),
            false => rule::released(&view.raft, &self.ids(), hosted_leads, is_overdue),
        };
        self.release(released);
    }

    /// Ends hosted voters; their processes may start again.
    fn release(&mut self, released: BTreeSet<Identity>) {
        if released.is_empty() {
            return;
        }
        for who in &released {
            // What it has said is in the inbox of `core` already, and it says nothing more.
            self.hosted.remove(who);
            self.shared.inboxes.to_core(CoreInput::Released(*who));
        }
        info!("no longer hosted: {}", numbers(&released));
        if self.hosted.is_empty() && self.shared.view().raft.leader.is_some() {
            self.shared.hosted.set_note(None);
        } else if !self.hosted.is_empty() {
            self.log_hosted();
        }
        self.shared.inboxes.wake_monitor();
    }
}

fn numbers(ids: &BTreeSet<Identity>) -> String {
    let ids: Vec<String> = ids.iter().map(|who| who.id.0.to_string()).collect();
    format!("{} {}", if ids.len() == 1 { "node" } else { "nodes" }, ids.join(", "))
}
