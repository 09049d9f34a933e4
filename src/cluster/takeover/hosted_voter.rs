//! One voter of a dead process, run by the node that holds the lock of its folder: its raft and its store, no services.
//!
//! All in one turn: what a step writes is synced before the turn ends, and promises leave after that. It never applies
//! an entry, answers no client, and sends and receives no snapshot: a voter that would need one stays behind.
//!
//! Invariants: V1 no promise leaves before the sync of what it promises. V2 after an error nothing is done any more: the
//! caller drops the voter.
//! Not here: the lock (`folder_claims.rs`), when it ends (`rule.rs`).

use crate::raft::{Config, Durable, Effects, Event, Input, Message, Raft, Role, Token};
use crate::store::{Store, StoreError};
use crate::types::{Identity, Index, NodeId};
use fastrand::Rng;

/// Why a hosted voter ends.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// As for any follower: to follow would lose what is committed.
    #[error("node {leader} leads with another entry {index} than the committed one in this folder")]
    LeaderForgot { leader: NodeId, index: Index },
}

/// What a turn does, in its order, for a checker.
pub enum Observed<'a> {
    /// A step was taken, and its effects follow.
    Step(&'a Raft, &'a Effects),
    /// Everything up to this persist is on the disk.
    Synced(u64),
    /// The message may leave.
    Sent(&'a Message),
}

/// A voter that another node hosts.
pub struct HostedVoter {
    pub who: Identity,
    raft: Raft,
    store: Store,
    next_token: u64,
    /// Answers to snapshots that raft asked for: none is sent.
    unsent: Vec<NodeId>,
}

impl HostedVoter {
    /// A voter with what its folder holds, as after a restart.
    pub fn new(config: Config, store: Store, durable: Durable) -> HostedVoter {
        let who = config.me;
        let raft = Raft::new(Config { leads_only_to_pass_on: true, preempt: false, ..config }, durable);
        HostedVoter { who, raft, store, next_token: 0, unsent: Vec::new() }
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Handles `inputs` and what follows from them; returns the messages that leave.
    ///
    /// # Errors
    /// See [`HostedError`]; nothing leaves then.
    pub fn turn(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        rng: &mut Rng,
        observe: &mut dyn FnMut(Observed<'_>),
    ) -> Result<Vec<Message>, HostedError> {
        let unsent = std::mem::take(&mut self.unsent).into_iter().map(|to| Input::SnapshotSent { to, ok: false });
        let mut inputs: Vec<Input> = unsent.chain(inputs).collect();
        let mut leaving = Vec::new();
        while !inputs.is_empty() {
            let (mut promises, mut written) = (Vec::new(), None);
            for input in std::mem::take(&mut inputs) {
                let mut effects = Effects::default();
                self.raft.step(input, rng, &mut effects);
                observe(Observed::Step(&self.raft, &effects));
                let forgot = effects.events.iter().find_map(|event| match event {
                    Event::LeaderForgot { leader, index } => Some((*leader, *index)),
                    _ => None,
                });
                if let Some((leader, index)) = forgot {
                    return Err(HostedError::LeaderForgot { leader, index });
                }
                leaving.extend(effects.send_now.into_iter().inspect(|message| observe(Observed::Sent(message))));
                if let Some(persist) = &effects.persist {
                    self.store.write(persist)?;
                    written = Some(persist.seq);
                }
                promises.extend(effects.after_sync);
                self.unsent.extend(effects.send_snapshot.iter().map(|to| to.id));
            }
            let Some(seq) = written else { break };
            self.store.sync()?;
            observe(Observed::Synced(seq));
            leaving.extend(promises.into_iter().inspect(|message| observe(Observed::Sent(message))));
            inputs.push(Input::Synced { seq });
        }
        Ok(leaving)
    }

    /// If this voter leads, because its log is newer than its host's: the request to give the lead to the host.
    pub fn transfer_to(&mut self, host: NodeId) -> Option<Input> {
        if self.raft.role() != Role::Leader {
            return None;
        }
        self.next_token += 1;
        Some(Input::Transfer { token: Token(self.next_token), to: Some(host) })
    }
}
