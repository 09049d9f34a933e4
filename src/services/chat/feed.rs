//! The events since a position: for all readers of a conversation, and for one account.
//!
//! Nothing is stored for each reader. The events after a position are derived from the state: messages by their
//! positions, and of repeatable events (reading, joining and leaving) the newest. So a reader that returns after a year
//! receives what holds now, and two readers at one position receive the same events on any node.
//!
//! Each event has a position of its own among those that one account receives, and they come in that order: a reader
//! that remembers the position of its newest event continues after it and neither misses nor repeats an event.
//! Not here: waiting readers (`node/threads/chat.rs`), the form of a line (`node/views/chat_lines.rs`).

use super::accounts::ConversationMembership;
use super::commands::{AccountId, ConversationId};
use super::conversation::{Message, Talk};
use super::state::Chat;
use std::sync::Arc;

/// An event that a reader of the feed receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Message(u64, Arc<Message>),
    /// The message of this number was deleted.
    Erased(u64),
    /// The conversation has so many members now.
    Members(u64),
    /// Messages up to this number, sent after the position, are no longer kept.
    Missed(u64),
    /// The account is in the conversation now.
    Joined,
    Left,
    /// The account has read up to this number, perhaps on another device.
    Read(u64),
}

/// An event with its position and its conversation.
pub type PositionedEvent = (u64, ConversationId, Event);

impl Chat {
    /// All events of all conversations after a position, in order; `None` if there are more than `most`.
    pub fn happened_after(&self, position: u64, most: usize) -> Option<Vec<PositionedEvent>> {
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

    /// The events for an account after a position, in order, at most `most`; and the position from which to continue.
    pub fn events_after(&self, who: AccountId, position: u64, most: usize) -> (Vec<PositionedEvent>, u64) {
        let mut events = Vec::new();
        let Some(account) = self.accounts.get(who) else { return (events, self.position) };
        for (id, ConversationMembership { is_in, since, read, read_at }) in &account.talks {
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

    /// Whether an event that concerns this account alone happened after a position.
    pub fn is_touched_after(&self, who: AccountId, position: u64) -> bool {
        self.accounts.get(who).is_none_or(|account| account.touched > position)
    }

    /// Whether an account is in a conversation.
    pub fn is_in(&self, who: AccountId, id: ConversationId) -> bool {
        self.accounts.get(who).is_some_and(|account| account.is_in(id))
    }
}

/// The events of one conversation: at most `most` messages, and at most `most` deletions.
fn happened_in(id: ConversationId, talk: &Talk, position: u64, most: usize, events: &mut Vec<PositionedEvent>) {
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
