//! Chat clients: each has an account, sends messages to a room and to other clients, deletes some, and sends some
//! again.
//!
//! Sending again is a new command with the same client id, as from a client that continues on another node: the message
//! must be delivered once. The digest covers the whole state; the rules here concern the answers: `ChatOnce` (one
//! message per client id), `ChatNumber` (one message per number of a conversation).
//! Not here: who asks which node (`clients.rs`), what a command does (`services/chat/`).

use crate::services::chat::{Command, Name, Target};
use crate::sim::model::operations::OperationKind;
use crate::sim::world::World;

/// Number of conversations: few, so that clients meet.
const TALKS: u64 = 4;

fn name(text: String) -> Name {
    Name { key: text.clone(), shown: text }
}

impl World {
    /// Whether a client's next operation is a chat command, and which.
    pub fn maybe_chat(&mut self, client: usize) -> Option<(OperationKind, Command)> {
        if self.plan.talk == 0.0 || self.rng.f64() >= self.plan.talk {
            return None;
        }
        let (dice, room) = (self.rng.u8(0..20), self.rng.u64(1..=TALKS));
        let (number, other) = (self.rng.u64(1..8), self.rng.usize(0..self.clients.len()));
        let it = &mut self.clients[client];
        let (who, token) = (it.id, [it.id as u8; 32]);
        let chat = &mut it.chat;
        if !std::mem::replace(&mut chat.is_member, true) {
            let create =
                Command::Create { name: name(format!("c{who}")), hash: "h".to_string(), token, token_ms: 1 << 40 };
            return Some((OperationKind::Chat, create));
        }
        let command = match dice {
            0 => Command::MakeRoom { token, name: name("tea".to_string()) },
            1..4 => Command::Join { token, room },
            4 => Command::Leave { token, room },
            5..8 => Command::Erase { token, conversation: room, number },
            8..10 => Command::Mark { token, conversation: room, number },
            10..13 if chat.last.is_some() => {
                let (id, again) = chat.last.clone()?;
                return Some((OperationKind::Say { who, id }, again));
            }
            _ => {
                chat.said += 1;
                let id = chat.said;
                let to = match dice {
                    13..16 => Target::Account(format!("c{other}")),
                    _ => Target::Room("tea".to_string()),
                };
                let say =
                    Command::Post { token, to, text: format!("{who} says {id}"), client_id: Some(id.to_string()) };
                chat.last = Some((id, say.clone()));
                return Some((OperationKind::Say { who, id }, say));
            }
        };
        Some((OperationKind::Chat, command))
    }
}
