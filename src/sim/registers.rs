//! The service that virtual nodes run: a few registers, and sessions that make a command take effect once.
//!
//! Small on purpose: its whole state is hashed after every command. Every write is numbered by the simulator, so a lost
//! or doubled effect is seen at once. Clients open a session (an id that the log gives them) and number their writes;
//! a number that was seen before gets the old reply; a session that was not used for long is forgotten, and its
//! commands fail from then on rather than run twice.
//!
//! The real services run beside it: every write is a note in the real registry as well, whose state is part of the
//! digest and of the snapshot.
//!
//! Not here: who proposes what (`client.rs`).

use crate::services::registry::{Registry, directory_command, encode_batch};
use crate::services::sessions::Tag;
use crate::services::{Reply, Service, directory};
use crate::types::{Index, Stamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use uuid::Uuid;

/// What a client asks of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Which attempt of which operation this is: unique in a run. The service never looks at it.
    pub attempt: u64,
    /// Leader time.
    pub at_ms: u64,
    /// What to do.
    pub what: What,
}

/// The commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Begin a session; the reply is its id.
    Open,
    /// Set a register, as number `sequence` of a session.
    Write {
        /// From `Open`.
        session: u64,
        /// Grows by one with each operation of the session.
        sequence: u64,
        /// Which register.
        key: u8,
        /// Unique in a run.
        value: u64,
    },
}

impl Command {
    /// The bytes that go into the log.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a command has no unknown length")
    }

    /// Reads them back.
    pub fn decode(bytes: &[u8]) -> Option<Command> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Mistakes that a service can make, for the simulator to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceFlaws {
    /// The session table is no part of the snapshot.
    pub sessions_left_out_of_snapshot: bool,
    /// `apply` looks at the node's own clock.
    pub local_clock_in_apply: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    sequence: u64,
    reply: Vec<u8>,
    used_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    values: BTreeMap<u8, u64>,
    sessions: BTreeMap<u64, Session>,
    /// Log time: the newest leader time, never going back.
    now_ms: u64,
    /// Commands that took effect.
    effects: u64,
}

/// The service.
#[derive(Default)]
pub struct Registers {
    state: State,
    registry: Registry,
    /// How long an unused session is kept, in log time.
    pub session_ms: u64,
    /// The (session, sequence) that the newest command changed the state for, if it did.
    pub effect: Option<(u64, u64)>,
    /// Mistakes in force.
    pub flaws: ServiceFlaws,
    /// The node's own clock: nothing that `apply` may look at.
    pub local_ms: u64,
}

impl Registers {
    /// An empty service.
    pub fn new(session_ms: u64, flaws: ServiceFlaws) -> Registers {
        Registers { session_ms, flaws, ..Registers::default() }
    }

    /// A fingerprint of the whole state.
    pub fn digest(&self) -> u64 {
        let mut hash = super::ghost::Hash::new(self.state.now_ms);
        hash.add(u64::from(self.registry.digest()));
        hash.add(self.state.effects);
        for (&key, &value) in &self.state.values {
            hash.add(u64::from(key));
            hash.add(value);
        }
        for (&id, session) in &self.state.sessions {
            hash.add(id);
            hash.add(session.sequence);
            hash.add(session.used_ms);
        }
        hash.end()
    }

    /// Moves past an entry without a command.
    pub fn skip(&mut self, index: Index) {
        self.registry.skip(index);
        self.effect = None;
    }

    /// What a register holds.
    pub fn value(&self, key: u8) -> Option<u64> {
        self.state.values.get(&key).copied()
    }
}

impl Service for Registers {
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply {
        self.effect = None;
        let Some(command) = Command::decode(command) else {
            self.registry.skip(at.index);
            return Reply::Failed("not a command".into());
        };
        let mut commands = Vec::new();
        if let What::Write { session, sequence, key, value } = &command.what {
            let note = directory::Command::Note { id: key.to_string(), text: value.to_string() };
            // The real table of tags runs beside the service's own sessions, on the same copies.
            let tag = Tag { origin: Uuid::from_u128(u128::from(*session)), number: *sequence, done_below: *sequence };
            commands.push((tag, directory_command(&note)));
        }
        let commands = commands.iter().map(|(tag, command)| (*tag, command.as_slice()));
        let real = self.registry.apply(at.index, &encode_batch(at.at_ms, commands));
        let state = &mut self.state;
        state.now_ms = state.now_ms.max(at.at_ms);
        let now_ms = if self.flaws.local_clock_in_apply { self.local_ms } else { state.now_ms };
        let session_ms = self.session_ms;
        state.sessions.retain(|_, session| session.used_ms + session_ms >= now_ms);
        match command.what {
            What::Open => {
                let id = at.index.0;
                state.sessions.insert(id, Session { used_ms: now_ms, ..Session::default() });
                Reply::Ok(id.to_le_bytes().to_vec())
            }
            What::Write { session: id, sequence, key, value } => {
                let Some(session) = state.sessions.get_mut(&id) else { return Reply::Failed("session expired".into()) };
                session.used_ms = now_ms;
                let effect_at = real.first().map(|(index, _)| *index);
                if sequence == session.sequence {
                    assert!(effect_at < Some(at.index), "the real services ran {id}.{sequence} again at {}", at.index);
                }
                if sequence <= session.sequence {
                    return if sequence == session.sequence {
                        Reply::Ok(session.reply.clone())
                    } else {
                        Reply::Failed("sequence is past".into())
                    };
                }
                assert!(effect_at == Some(at.index), "the real services did not run {id}.{sequence}: {effect_at:?}");
                session.sequence = sequence;
                state.effects += 1;
                state.values.insert(key, value);
                session.reply = state.effects.to_le_bytes().to_vec();
                self.effect = Some((id, sequence));
                Reply::Ok(session.reply.clone())
            }
        }
    }

    fn query(&self, _at: Stamp, query: &[u8]) -> Reply {
        let value = query.first().and_then(|&key| self.value(key));
        Reply::Ok(value.map_or(Vec::new(), |value| value.to_le_bytes().to_vec()))
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut state = self.state.clone();
        if self.flaws.sessions_left_out_of_snapshot {
            state.sessions.clear();
        }
        out.write_all(&postcard::to_stdvec(&state).map_err(io::Error::other)?)?;
        self.registry.snapshot(out)
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let (state, mut rest) = postcard::take_from_bytes(&bytes).map_err(io::Error::other)?;
        self.state = state;
        self.registry.restore(&mut rest)?;
        self.effect = None;
        Ok(())
    }
}

/// The session id in the reply to `Open`, or the number in the reply to a write.
pub fn number(reply: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(reply.try_into().ok()?))
}
