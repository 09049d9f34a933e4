//! What happened since a position: for all readers of a conversation, and for one account.
//!
//! Nothing is written for each reader. What came after a position follows from the state: messages by their positions, and of
//! what can happen again and again (reading on, joining and leaving) the newest. So a reader that comes back after a year is told
//! what holds now, and two readers of one position are told the same on any node.
//!
//! Each event has a position of its own among those that one account is told, and they come in that order: whoever remembers
//! the newest one that it got goes on behind it and misses and repeats nothing.
//! Not here: who waits for it (`node/threads/chat.rs`), how it is written (`node/views/chat_lines.rs`).

use super::accounts::Membership;
use super::commands::{AccountId, ConversationId};
use super::conversation::{Message, Talk};
use super::state::Chat;
use std::sync::Arc;

/// Something that a reader is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something was said.
    Message(u64, Arc<Message>),
    /// The message of this number was taken back.
    Erased(u64),
    /// So many are in the conversation now.
    Members(u64),
    /// Messages up to this number, said since the position, are not kept any more.
    Missed(u64),
    /// The account is in the conversation now.
    Joined,
    /// The account has left.
    Left,
    /// The account has read up to this number, on another device perhaps.
    Read(u64),
}

/// An event with its position and where it happened.
pub type Placed = (u64, ConversationId, Event);

impl Chat {
    /// Everything that happened in any conversation after a position, in order; `None` if that is more than `most`.
    pub fn happened_after(&self, position: u64, most: usize) -> Option<Vec<Placed>> {
        let mut events = Vec::new();
        for (_, id) in self.order.range(position.saturating_add(1)..) {
            let talk = self.talks.get(id).expect("C2: what is in order exists");
            happened_in(*id, talk, position, most + 1, &mut events);
            if events.len() > most {
                return None;
            }
        }
        events.sort_by_key(|(at, ..)| *at);
        Some(events)
    }

    /// What an account is told after a position, in order, at most `most`; and the position from which to go on.
    pub fn told_after(&self, who: AccountId, position: u64, most: usize) -> (Vec<Placed>, u64) {
        let mut events = Vec::new();
        let Some(account) = self.accounts.get(who) else { return (events, self.position) };
        for (id, Membership { is_in, since, read, read_at }) in &account.talks {
            if *since > position {
                events.push((*since, *id, if *is_in { Event::Joined } else { Event::Left }));
            }
            let Some(talk) = self.talks.get(id).filter(|_| *is_in) else { continue };
            if *read_at > position {
                events.push((*read_at, *id, Event::Read(*read)));
            }
            if talk.head.touched > position {
                happened_in(*id, talk, position.max(*since), most + 1, &mut events);
            }
        }
        events.sort_by_key(|(at, ..)| *at);
        let is_cut = events.len() > most;
        events.truncate(most);
        let until = if is_cut { events.last().map_or(position, |(at, ..)| *at) } else { self.position.max(position) };
        (events, until)
    }

    /// Whether something that concerns this account alone happened after a position.
    pub fn is_touched_after(&self, who: AccountId, position: u64) -> bool {
        self.accounts.get(who).is_none_or(|account| account.touched > position)
    }

    /// Whether an account is in a conversation.
    pub fn is_in(&self, who: AccountId, id: ConversationId) -> bool {
        self.accounts.get(who).is_some_and(|account| account.is_in(id))
    }
}

/// What happened in one conversation; `most` messages at most, and as many that were taken back.
fn happened_in(id: ConversationId, talk: &Talk, position: u64, most: usize, events: &mut Vec<Placed>) {
    let head = &talk.head;
    if head.dropped_at > position {
        events.push((head.dropped_at, id, Event::Missed(talk.oldest() - 1)));
    }
    events.extend(talk.beyond(position).take(most).map(|(number, message)| {
        let event = Event::Message(number, Arc::clone(message));
        (message.position, id, event)
    }));
    if head.erased_at > position {
        let mut erased: Vec<_> = head.erased.iter().filter(|(_, at)| **at > position).collect();
        erased.sort_by_key(|(_, at)| **at);
        events.extend(erased.into_iter().take(most).map(|(number, at)| (*at, id, Event::Erased(*number))));
    }
    if head.members_at > position {
        events.push((head.members_at, id, Event::Members(head.members.len() as u64)));
    }
}
