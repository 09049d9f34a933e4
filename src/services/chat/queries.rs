//! Answers to queries, which change nothing.
//!
//! Every query needs a log-in, and shows the conversations that its account is in; names of accounts and rooms are
//! visible to all accounts.
//! Not here: the events since a position (`feed.rs`).

use super::accounts::ConversationMembership;
use super::commands::{
    AccountId, ConversationId, Listing, MessageView, Named, PAGE_MAX, Query, Refusal, Row, TokenHash, View,
};
use super::conversation::{ConversationKind, Message, Talk};
use super::state::Chat;
use crate::services::cost_within;
use crate::services::kv::glob;
use std::sync::Arc;

/// Approximate upper bound of a row's bytes beside the text of a message.
const ROW_BYTES: usize = 256;
/// What it costs to examine one message after a read mark, in bytes that could be copied meanwhile.
const UNREAD_BYTES: usize = 64;
/// Maximum number of steps for matching a pattern against names, because other long reads wait for the list.
const LIST_STEPS_MAX: u64 = 20_000_000;

impl Chat {
    pub(crate) fn answer(&self, query: Query) -> View {
        self.try_answer(query).unwrap_or_else(View::Refused)
    }

    /// About how many bytes are copied or examined to answer a query; not computed beyond `most`.
    pub(crate) fn cost(&self, query: &Query, most: usize) -> usize {
        let text = |message: &Message| ROW_BYTES + message.text.as_ref().map_or(0, |text| text.len());
        match query {
            Query::Me(_) => ROW_BYTES,
            Query::Inbox(token) => {
                let account = self.who(token).and_then(|who| self.accounts.get(who));
                let talks = account.into_iter().flat_map(|account| account.talks_in());
                let row = |(id, membership): (_, &ConversationMembership)| {
                    ROW_BYTES + self.talks.get(&id).map_or(0, |talk| row_cost(talk, membership.read))
                };
                cost_within(talks.map(row), most)
            }
            Query::One(token, id) => {
                let account = self.who(token).and_then(|who| self.accounts.get(who));
                let read = account.and_then(|account| account.talks.get(id)).map_or(0, |membership| membership.read);
                ROW_BYTES + self.talks.get(id).map_or(0, |talk| row_cost(talk, read))
            }
            Query::History { token, conversation, before, after, limit } => {
                let talk = self.who(token).and_then(|who| self.talk_of(who, *conversation).ok());
                let rows = talk.map(|talk| messages_of(talk, *before, *after, *limit)).unwrap_or_default();
                cost_within(rows.into_iter().map(|(_, message)| text(message)), most)
            }
            // All names may have to be matched against the pattern.
            Query::Accounts(_) | Query::Rooms(_) => usize::MAX,
            Query::Members { .. } => PAGE_MAX as usize * ROW_BYTES,
        }
    }

    fn try_answer(&self, query: Query) -> Result<View, Refusal> {
        match query {
            Query::Me(token) => {
                let account = self.accounts.who(&token)?;
                let name = self.name_of(account).unwrap_or_default();
                Ok(View::Me { account, name, position: self.position, revision: self.revision })
            }
            Query::Inbox(token) => {
                let who = self.accounts.who(&token)?;
                let account = self.accounts.get(who).ok_or(Refusal::NotLoggedIn)?;
                let talks =
                    account.talks_in().filter_map(|(id, membership)| Some((id, membership, self.talks.get(&id)?)));
                let mut talks: Vec<_> = talks.collect();
                talks.sort_by_key(|(_, _, talk)| std::cmp::Reverse(talk.head.touched));
                let rows = talks.into_iter().map(|(id, membership, talk)| self.row(who, id, membership, talk));
                Ok(View::Inbox { position: self.position, rows: rows.collect() })
            }
            Query::One(token, id) => {
                let who = self.accounts.who(&token)?;
                self.talk_of(who, id)?;
                let row = self.row_of(who, id).ok_or(Refusal::NoSuchConversation)?;
                Ok(View::Inbox { position: self.position, rows: vec![row] })
            }
            Query::History { token, conversation, before, after, limit } => {
                let who = self.accounts.who(&token)?;
                let talk = self.talk_of(who, conversation)?;
                let rows = messages_of(talk, before, after, limit);
                let messages = rows.into_iter().map(|(number, message)| self.message_view(*number, message)).collect();
                Ok(View::History { messages, oldest: talk.oldest(), newest: talk.newest() })
            }
            Query::Accounts(listing) => {
                self.accounts.who(&listing.token)?;
                self.list_accounts(&listing)
            }
            Query::Rooms(listing) => {
                let who = self.accounts.who(&listing.token)?;
                self.list_rooms(who, &listing)
            }
            Query::Members { token, room, after, limit } => self.members(&token, room, after, limit),
        }
    }

    /// An account's name; `None`: it was deleted.
    pub fn name_of(&self, id: AccountId) -> Option<String> {
        self.accounts.get(id).map(|account| account.name.shown.clone())
    }

    /// A conversation as one of its members sees it in the inbox.
    pub fn row_of(&self, who: AccountId, id: ConversationId) -> Option<Row> {
        let membership = self.accounts.get(who)?.talks.get(&id).filter(|membership| membership.is_in)?;
        Some(self.row(who, id, membership, self.talks.get(&id)?))
    }

    fn row(&self, who: AccountId, id: ConversationId, membership: &ConversationMembership, talk: &Talk) -> Row {
        let (name, with) = match talk.kind() {
            ConversationKind::Room(name) => (Some(name.shown.clone()), None),
            ConversationKind::Direct(a, b) => {
                let other = if *a == who { *b } else { *a };
                (self.name_of(other), Some(other))
            }
        };
        Row {
            id,
            name,
            with,
            members: talk.members().len() as u64,
            unread: talk.unread(who, membership.read).count() as u64,
            read: membership.read,
            newest: talk.newest(),
            last: talk.messages.get_max().map(|(number, message)| self.message_view(*number, message)),
        }
    }

    /// A message as readers see it.
    pub fn message_view(&self, number: u64, message: &Message) -> MessageView {
        let Message { at_ms, from, text, .. } = message;
        MessageView { number, at_ms: *at_ms, from: *from, name: self.name_of(*from), text: text.clone() }
    }

    fn list_accounts(&self, listing: &Listing) -> Result<View, Refusal> {
        let keys = self.accounts.keys_after(&listing.after);
        let mut steps = Some(LIST_STEPS_MAX);
        let found = keys.filter(|(key, _)| matches(&listing.pattern, key, &mut steps));
        let rows = found.filter_map(|(key, id)| {
            Some(Named { id, name: self.name_of(id)?, key: key.clone(), members: 0, is_mine: false })
        });
        let page = page(rows, listing.limit);
        steps.map(|_| page).ok_or_else(too_long)
    }

    fn list_rooms(&self, who: AccountId, listing: &Listing) -> Result<View, Refusal> {
        use std::ops::Bound::{Excluded, Unbounded};
        let keys = self.rooms.range::<_, str>((Excluded(listing.after.as_str()), Unbounded));
        let mut steps = Some(LIST_STEPS_MAX);
        let found = keys.filter(|(key, _)| matches(&listing.pattern, key, &mut steps));
        let rows = found.filter_map(|(key, id)| {
            let talk = self.talks.get(id)?;
            let ConversationKind::Room(name) = talk.kind() else { return None };
            let (members, is_mine) = (talk.members().len() as u64, talk.members().contains(&who));
            Some(Named { id: *id, name: name.shown.clone(), key: key.clone(), members, is_mine })
        });
        let page = page(rows, listing.limit);
        steps.map(|_| page).ok_or_else(too_long)
    }

    fn members(&self, token: &TokenHash, room: ConversationId, after: AccountId, limit: u64) -> Result<View, Refusal> {
        let who = self.accounts.who(token)?;
        let talk = self.talk_of(who, room)?;
        let members = talk.members().range(after.saturating_add(1)..);
        let rows = members.filter_map(|id| {
            let name = &self.accounts.get(*id)?.name;
            Some(Named { id: *id, name: name.shown.clone(), key: name.key.clone(), members: 0, is_mine: *id == who })
        });
        Ok(page(rows, limit))
    }
}

/// What it costs to show a conversation in an inbox: its last message, and counting those after the read mark.
fn row_cost(talk: &Talk, read: u64) -> usize {
    let beyond = (talk.newest() + 1).saturating_sub(talk.oldest().max(read + 1));
    let last = talk.messages.get_max().and_then(|(_, last)| last.text.as_ref()).map_or(0, String::len);
    last + beyond as usize * UNREAD_BYTES
}

/// A page of a conversation, in order: what follows `after`, else the newest before `before`.
fn messages_of(talk: &Talk, before: Option<u64>, after: Option<u64>, limit: u64) -> Vec<(&u64, &Arc<Message>)> {
    let limit = limit.clamp(1, PAGE_MAX) as usize;
    let end = before.unwrap_or(u64::MAX);
    let start = after.map_or(0, |after| after.saturating_add(1));
    let range = talk.messages.range(start.min(end)..end);
    match after {
        Some(_) => range.take(limit).collect(),
        None => {
            let mut rows: Vec<_> = range.rev().take(limit).collect();
            rows.reverse();
            rows
        }
    }
}

/// Whether a name matches; `false` also when no steps are left, and then `steps` is `None`.
fn matches(pattern: &str, key: &str, steps: &mut Option<u64>) -> bool {
    let Some(left) = steps else { return false };
    let is_match = glob::matches(pattern.as_bytes(), key.as_bytes(), left);
    if is_match.is_none() {
        *steps = None;
    }
    is_match.unwrap_or(false)
}

fn too_long() -> Refusal {
    Refusal::Malformed("comparing this pattern with all names takes too long: use a shorter one".to_string())
}

fn page(rows: impl Iterator<Item = Named>, limit: u64) -> View {
    let limit = limit.clamp(1, PAGE_MAX) as usize;
    let mut rows: Vec<Named> = rows.take(limit + 1).collect();
    let is_full = rows.len() > limit;
    rows.truncate(limit);
    View::Names { rows, is_full }
}
