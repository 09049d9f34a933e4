//! Clients that talk: each has an account, says things in a room and to each other, takes some back, and says some again.
//!
//! To say it again is a new command with the same client id, as from a client that went to another node: it must be delivered
//! once. The whole state is in the digest that all nodes must share; here stands what the answers promise. Rules: `ChatOnce` (one
//! client id, one message), `ChatNumber` (one number of a conversation, one message).
//! Not here: who asks which node (`clients.rs`), what a command does (`services/chat/`).

use super::clients::Wish;
use crate::services::chat::{Answer, Command, ConversationId, Name, Target};
use crate::sim::checks::raft_checker::{Judged, violation};
use crate::sim::world::World;
use std::collections::BTreeMap;

/// Conversations that are spoken of: there are few, so that people meet.
const TALKS: u64 = 4;

/// What a client remembers of its talking.
#[derive(Clone, Debug, Default)]
pub struct Mouth {
    is_member: bool,
    /// Number of its newest message.
    said: u64,
    /// That message.
    last: Option<(u64, Command)>,
}

/// What clients were told.
#[derive(Default)]
pub struct Ear {
    by_id: BTreeMap<(u64, u64), (ConversationId, u64)>,
    by_number: BTreeMap<(ConversationId, u64), (u64, u64)>,
}

impl Ear {
    /// A client was told what became of what it said.
    pub fn on_said(&mut self, who: u64, id: u64, reply: &[u8]) -> Judged {
        let Some(Answer::Sent { conversation, number, .. }) = Answer::decode(reply) else { return Ok(()) };
        let place = (conversation, number);
        if let Some(known) = self.by_id.insert((who, id), place).filter(|known| *known != place) {
            return violation("ChatOnce", format!("message {id} of client {who} is {known:?} and {place:?}"));
        }
        match self.by_number.insert(place, (who, id)).filter(|known| *known != (who, id)) {
            Some(other) => violation("ChatNumber", format!("{place:?} is message {id} of client {who}, and {other:?}")),
            None => Ok(()),
        }
    }
}

fn name(text: String) -> Name {
    Name { key: text.clone(), shown: text }
}

impl World {
    /// Whether a client's next operation is to talk, and what it does then.
    pub fn wish_to_talk(&mut self, client: usize) -> Option<(Wish, Command)> {
        if self.plan.talk == 0.0 || self.rng.f64() >= self.plan.talk {
            return None;
        }
        let (dice, room) = (self.rng.u8(0..20), self.rng.u64(1..=TALKS));
        let (number, other) = (self.rng.u64(1..8), self.rng.usize(0..self.clients.len()));
        let it = &mut self.clients[client];
        let (who, token) = (it.id, [it.id as u8; 32]);
        let mouth = &mut it.mouth;
        if !std::mem::replace(&mut mouth.is_member, true) {
            let create =
                Command::Create { name: name(format!("c{who}")), hash: "h".to_string(), token, token_ms: 1 << 40 };
            return Some((Wish::Chat, create));
        }
        let command = match dice {
            0 => Command::MakeRoom { token, name: name("tea".to_string()) },
            1..4 => Command::Join { token, room },
            4 => Command::Leave { token, room },
            5..8 => Command::Erase { token, conversation: room, number },
            8..10 => Command::Mark { token, conversation: room, number },
            10..13 if mouth.last.is_some() => {
                let (id, again) = mouth.last.clone()?;
                return Some((Wish::Say { who, id }, again));
            }
            _ => {
                mouth.said += 1;
                let id = mouth.said;
                let to = match dice {
                    13..16 => Target::Account(format!("c{other}")),
                    _ => Target::Room("tea".to_string()),
                };
                let say =
                    Command::Send { token, to, text: format!("{who} says {id}"), client_id: Some(id.to_string()) };
                mouth.last = Some((id, say.clone()));
                return Some((Wish::Say { who, id }, say));
            }
        };
        Some((Wish::Chat, command))
    }
}
