//! The state: accounts and conversations, and what each command changes.
//!
//! Every event that a reader may have missed has a position of its own, and positions grow by one; the events after a
//! position are derived from the state (`feed.rs`), so nothing is stored for each reader: a message to a thousand
//! members is stored once.
//!
//! Invariants: C1 an account that is in a conversation is in its `members`, and the conversation is in the account's
//! `talks`. C2 `order` has one row for each conversation, under its newest position. C3 a room is found under its key,
//! a direct conversation under its two accounts. C4 `bytes` is the sum over the conversations, and over `written`. C5 a
//! conversation has a member.
//! Not here: log-ins (`accounts.rs`), messages of one conversation (`conversation.rs`).

use super::accounts::{Accounts, SentMessage, check_name};
use super::commands::{
    AccountId, Answer, BYTES_MAX, CLIENT_ID_BYTES_MAX, CONVERSATIONS_MAX, Command, ConversationId, MEMBERS_MAX,
    MESSAGE_BYTES, Name, ROOMS_MAX, Refusal, TEXT_BYTES_MAX, Target, TokenHash,
};
use super::conversation::{ConversationKind, Message, Talk};
#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::ChatBugs;
use crate::planted_bugs::is_planted;
use crate::types::Stamp;
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// All accounts and conversations. A clone shares its data with the original (copy-on-write).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    pub(crate) accounts: Accounts,
    pub(crate) talks: OrdMap<ConversationId, Arc<Talk>>,
    pub(crate) rooms: OrdMap<String, ConversationId>,
    pub(crate) directs: OrdMap<(AccountId, AccountId), ConversationId>,
    /// Conversations by their newest position.
    pub(crate) order: OrdMap<u64, ConversationId>,
    pub(crate) newest: ConversationId,
    pub(crate) position: u64,
    pub(crate) revision: u64,
    bytes: usize,
    /// Bytes of the kept messages of each sender.
    written: OrdMap<AccountId, usize>,
    #[cfg(any(test, feature = "planted-bugs"))]
    pub bugs: ChatBugs,
}

impl Chat {
    /// Newest position: it grows with every event that readers receive.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// A number that grows with each change, also with changes that no reader receives: a reader that has seen it has
    /// seen all changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Bytes of all messages that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many accounts and how many conversations there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.accounts.parts().0.len(), self.talks.len())
    }

    /// Bytes of the kept messages of the account that has this log-in.
    pub fn bytes_of(&self, token: &TokenHash) -> usize {
        self.who(token).and_then(|who| self.written.get(&who)).copied().unwrap_or(0)
    }

    fn count(&mut self, who: AccountId, bytes: usize) {
        self.bytes += bytes;
        *self.written.entry(who).or_insert(0) += bytes;
    }

    fn uncount(&mut self, who: AccountId, bytes: usize) {
        self.bytes -= bytes;
        let rest = self.written.get(&who).map_or(0, |all| all - bytes);
        match rest {
            0 => self.written.remove(&who),
            rest => self.written.insert(who, rest),
        };
    }

    /// The account of this log-in, while it is valid.
    pub fn who(&self, token: &TokenHash) -> Option<AccountId> {
        self.accounts.who(token).ok()
    }

    /// The chat that a snapshot holds: everything else is derived from its accounts and conversations. `None`: the
    /// snapshot contradicts itself.
    pub(crate) fn of(accounts: Accounts, talks: OrdMap<ConversationId, Arc<Talk>>, numbers: [u64; 3]) -> Option<Chat> {
        let [newest, position, revision] = numbers;
        let mut chat = Chat { accounts, newest, position, revision, ..Chat::default() };
        for (id, talk) in &talks {
            let is_found = match talk.kind() {
                ConversationKind::Room(name) => chat.rooms.insert(name.key.clone(), *id),
                ConversationKind::Direct(a, b) => chat.directs.insert((*a, *b), *id),
            };
            let is_twice = chat.order.insert(talk.head.touched, *id).is_some();
            if is_found.is_some() || is_twice || *id > newest || talk.head.touched > position {
                return None;
            }
            let is_in = |id_of: &AccountId| chat.accounts.get(*id_of).is_some_and(|account| account.is_in(*id));
            if talk.members().is_empty() || !talk.members().iter().all(is_in) {
                return None;
            }
            talk.messages.values().for_each(|message| chat.count(message.from, message.bytes()));
        }
        let (accounts, ..) = chat.accounts.parts();
        let is_mutual = accounts.iter().all(|(who, account)| {
            account.talks_in().all(|(id, _)| talks.get(&id).is_some_and(|talk| talk.members().contains(who)))
        });
        chat.talks = talks;
        is_mutual.then_some(chat)
    }

    pub fn run(&mut self, at: Stamp, command: Command) -> Answer {
        let done = match command {
            Command::Create { name, hash, token, token_ms } => {
                let created = self.accounts.create(at, name, hash.clone(), token, token_ms);
                created.map(|account| Answer::Created { account, hash, token })
            }
            Command::TryLogIn { key } => self.accounts.try_log_in(at, &key).map(Answer::Try),
            Command::WrongLogIn { key } => {
                self.accounts.fail_log_in(at, &key);
                Ok(Answer::Done)
            }
            Command::LogIn { account, hash, token, token_ms } => {
                let done = self.accounts.log_in(at, account, &hash, token, token_ms);
                done.map(|name| Answer::LoggedIn { account, name })
            }
            Command::LogOut { token, everywhere } => self.log_out(token, everywhere),
            Command::Delete { token } => self.delete(token),
            Command::Direct { token, with } => self.direct(token, &with),
            Command::MakeRoom { token, name } => self.make_room(token, name),
            Command::Join { token, room } => self.join(token, room),
            Command::Leave { token, room } => self.leave(token, room),
            Command::Send { token, to, text, client_id } => self.send(at, token, to, text, client_id, true),
            Command::Post { token, to, text, client_id } => self.send(at, token, to, text, client_id, false),
            Command::Erase { token, conversation, number } => self.erase(token, conversation, number),
            Command::Mark { token, conversation, number } => self.mark(token, conversation, number),
        };
        if done.is_ok() {
            self.revision += 1;
        }
        done.unwrap_or_else(Answer::Refused)
    }

    fn next_position(&mut self) -> u64 {
        self.position += 1;
        self.position
    }

    fn log_out(&mut self, token: TokenHash, everywhere: bool) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        if everywhere {
            self.accounts.remove_tokens(who)
        } else {
            self.accounts.remove_token(&token)
        }
        Ok(Answer::Done)
    }

    fn delete(&mut self, token: TokenHash) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        let talks: Vec<ConversationId> = match self.accounts.get(who) {
            Some(account) => account.talks_in().map(|(id, _)| id).collect(),
            None => Vec::new(),
        };
        for id in talks {
            self.take_out(who, id);
        }
        self.accounts.delete(who);
        Ok(Answer::Done)
    }

    /// Removes an account from a conversation; the conversation is removed with its last member.
    fn take_out(&mut self, who: AccountId, id: ConversationId) {
        let position = self.next_position();
        let talk = self.change(id, position);
        talk.head.members.remove(&who);
        talk.head.members_at = position;
        if !talk.members().is_empty() {
            return;
        }
        let talk = self.talks.remove(&id).expect("it was just changed");
        self.order.remove(&talk.head.touched);
        talk.messages.values().for_each(|message| self.uncount(message.from, message.bytes()));
        match talk.kind() {
            ConversationKind::Room(name) => self.rooms.remove(&name.key),
            ConversationKind::Direct(a, b) => self.directs.remove(&(*a, *b)),
        };
    }

    /// A conversation, for a change at this position.
    fn change(&mut self, id: ConversationId, position: u64) -> &mut Talk {
        let talk = self.talks.get_mut(&id).map(Arc::make_mut).expect("the caller has found the conversation");
        self.order.remove(&talk.head.touched);
        talk.head.touched = position;
        self.order.insert(position, id);
        talk
    }

    fn has_room_for_one_more(&self, who: AccountId) -> Result<(), Refusal> {
        let count = self.accounts.get(who).map_or(0, |account| account.talks_in().count());
        if count >= CONVERSATIONS_MAX { Err(Refusal::Full("conversations of one account".to_string())) } else { Ok(()) }
    }

    fn begin(&mut self, kind: ConversationKind, members: OrdSet<AccountId>) -> ConversationId {
        self.newest += 1;
        let (id, position) = (self.newest, self.next_position());
        for member in &members {
            let account = self.accounts.get_mut(*member).expect("a member has an account");
            account.set_membership(id, true, position, 0);
        }
        match &kind {
            ConversationKind::Room(name) => drop(self.rooms.insert(name.key.clone(), id)),
            ConversationKind::Direct(a, b) => drop(self.directs.insert((*a, *b), id)),
        }
        self.talks.insert(id, Arc::new(Talk::new(kind, members, position)));
        self.order.insert(position, id);
        id
    }

    fn direct(&mut self, token: TokenHash, with: &str) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        let (id, was_there) = self.direct_with(who, with)?;
        Ok(Answer::Conversation { id, was_there })
    }

    fn direct_with(&mut self, who: AccountId, with: &str) -> Result<(ConversationId, bool), Refusal> {
        let other = self.accounts.find(with).ok_or(Refusal::NoSuchAccount)?;
        if other == who {
            return Err(Refusal::Yourself);
        }
        let pair = (who.min(other), who.max(other));
        if let Some(id) = self.directs.get(&pair) {
            return Ok((*id, true));
        }
        self.has_room_for_one_more(who)?;
        self.has_room_for_one_more(other)?;
        Ok((self.begin(ConversationKind::Direct(pair.0, pair.1), [who, other].into_iter().collect()), false))
    }

    fn make_room(&mut self, token: TokenHash, name: Name) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        check_name(&name)?;
        if self.rooms.contains_key(&name.key) {
            return Err(Refusal::NameTaken);
        }
        if self.rooms.len() >= ROOMS_MAX {
            return Err(Refusal::Full("rooms".to_string()));
        }
        self.has_room_for_one_more(who)?;
        let id = self.begin(ConversationKind::Room(name), OrdSet::unit(who));
        Ok(Answer::Conversation { id, was_there: false })
    }

    fn room(&self, who: AccountId, id: ConversationId) -> Result<&Arc<Talk>, Refusal> {
        let talk = self.talks.get(&id).ok_or(Refusal::NoSuchRoom)?;
        match talk.kind() {
            ConversationKind::Room(_) => Ok(talk),
            ConversationKind::Direct(a, b) if [*a, *b].contains(&who) => Err(Refusal::NotARoom),
            // The same refusal as for a missing room: whether two other accounts have a conversation is private.
            ConversationKind::Direct(..) => Err(Refusal::NoSuchRoom),
        }
    }

    fn join(&mut self, token: TokenHash, id: ConversationId) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        let talk = self.room(who, id)?;
        if talk.members().contains(&who) {
            return Ok(Answer::Conversation { id, was_there: true });
        }
        if talk.members().len() >= MEMBERS_MAX {
            return Err(Refusal::Full("members of this room".to_string()));
        }
        let newest = talk.newest();
        self.has_room_for_one_more(who)?;
        // Two positions, for the joining account's event and for the event for all members: a reader may resume after
        // either.
        let (since, position) = (self.next_position(), self.next_position());
        let account = self.accounts.get_mut(who).expect("a log-in belongs to an account");
        account.set_membership(id, true, since, newest);
        let talk = self.change(id, position);
        talk.head.members.insert(who);
        talk.head.members_at = position;
        Ok(Answer::Conversation { id, was_there: false })
    }

    fn leave(&mut self, token: TokenHash, id: ConversationId) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        if !self.room(who, id)?.members().contains(&who) {
            return Err(Refusal::NotMember);
        }
        let since = self.next_position();
        let account = self.accounts.get_mut(who).expect("a log-in belongs to an account");
        account.set_membership(id, false, since, 0);
        self.take_out(who, id);
        Ok(Answer::Done)
    }

    pub(crate) fn talk_of(&self, who: AccountId, id: ConversationId) -> Result<&Arc<Talk>, Refusal> {
        let talk = self.talks.get(&id).ok_or(Refusal::NoSuchConversation)?;
        match (talk.members().contains(&who), talk.kind()) {
            (true, _) => Ok(talk),
            (false, ConversationKind::Room(_)) => Err(Refusal::NotMember),
            // The same refusal as for a missing conversation: whether two other accounts have one is private.
            (false, ConversationKind::Direct(..)) => Err(Refusal::NoSuchConversation),
        }
    }

    fn send(
        &mut self,
        at: Stamp,
        token: TokenHash,
        to: Target,
        text: String,
        client_id: Option<String>,
        marks_all: bool,
    ) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        check_text(&text)?;
        if client_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX) {
            return Err(Refusal::Malformed(format!("a client id has 1 to {CLIENT_ID_BYTES_MAX} bytes")));
        }
        let (crc, to_crc) = (crc32fast::hash(text.as_bytes()), crc32fast::hash(&to.encode()));
        let account = self.accounts.get(who).expect("a log-in belongs to an account");
        let before = client_id.as_ref().and_then(|client_id| account.sent(client_id));
        if let Some(sent) = before.filter(|_| !is_planted!(self, repeats_are_delivered)) {
            // The name may belong to another account by now, or to none: the repeated message stays in the conversation
            // it was sent to.
            let is_same = sent.to_crc == to_crc || self.place_of(who, &to) == Some(sent.conversation);
            if !is_same || sent.crc != crc {
                return Err(Refusal::ClientIdReused);
            }
            let SentMessage { conversation, number, position, .. } = sent;
            return Ok(Answer::Sent { conversation, number, position, is_repeat: true });
        }
        if self.bytes + MESSAGE_BYTES + text.len() > BYTES_MAX {
            return Err(Refusal::Full("messages in the cluster".to_string()));
        }
        let id = match to {
            Target::Conversation(id) => id,
            Target::Account(key) => self.direct_with(who, &key)?.0,
            Target::Room(key) => *self.rooms.get(&key).ok_or(Refusal::NoSuchRoom)?,
        };
        let talk = self.talk_of(who, id)?;
        if matches!(talk.kind(), ConversationKind::Direct(..)) && talk.members().len() < 2 {
            return Err(Refusal::OtherIsGone);
        }
        let membership = self.accounts.get(who).and_then(|account| account.talks.get(&id));
        let read = membership.map_or(0, |membership| membership.read);
        // What no device of the sender has shown stays unread: a program may have sent this.
        let is_all_read = marks_all || self.talk_of(who, id)?.unread(who, read).next().is_none();
        let position = self.next_position();
        let message = Message { position, at_ms: at.at_ms, from: who, text: Some(text) };
        self.count(who, message.bytes());
        let (number, dropped) = self.change(id, position).append(message);
        dropped.iter().for_each(|message| self.uncount(message.from, message.bytes()));
        let account = self.accounts.get_mut(who).expect("a log-in belongs to an account");
        if let Some(membership) = account.talks.get_mut(&id).filter(|_| is_all_read) {
            membership.read = number;
        }
        if let Some(client_id) = client_id {
            account.remember_sent(client_id, SentMessage { conversation: id, number, position, crc, to_crc });
        }
        Ok(Answer::Sent { conversation: id, number, position, is_repeat: false })
    }

    /// The conversation that a target refers to now, if there is one.
    fn place_of(&self, who: AccountId, to: &Target) -> Option<ConversationId> {
        match to {
            Target::Conversation(id) => Some(*id),
            Target::Account(key) => {
                let other = self.accounts.find(key)?;
                self.directs.get(&(who.min(other), who.max(other))).copied()
            }
            Target::Room(key) => self.rooms.get(key).copied(),
        }
    }

    fn erase(&mut self, token: TokenHash, id: ConversationId, number: u64) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        let message = self.talk_of(who, id)?.messages.get(&number).ok_or(Refusal::NoSuchMessage)?;
        if message.from != who {
            return Err(Refusal::NotYours);
        }
        if message.text.is_none() {
            // Most likely a repeated command.
            return Ok(Answer::Done);
        }
        let position = self.next_position();
        let is_counted = is_planted!(self, numbers_are_counted);
        let talk = self.change(id, position);
        let bytes = talk.erase(number, position);
        if is_counted && talk.head.newest == number {
            talk.head.newest -= 1;
            talk.messages.remove(&number);
            talk.head.erased.remove(&number);
        }
        self.uncount(who, bytes);
        Ok(Answer::Done)
    }

    fn mark(&mut self, token: TokenHash, id: ConversationId, number: u64) -> Result<Answer, Refusal> {
        let who = self.accounts.who(&token)?;
        if number > self.talk_of(who, id)?.newest() {
            return Err(Refusal::NoSuchMessage);
        }
        let account = self.accounts.get(who).expect("a log-in belongs to an account");
        let is_news = account.talks.get(&id).is_some_and(|membership| membership.read < number);
        if is_news {
            let position = self.next_position();
            let account = self.accounts.get_mut(who).expect("it was just looked at");
            account.touched = position;
            let membership = account.talks.get_mut(&id).expect("it was just looked at");
            (membership.read, membership.read_at) = (number, position);
        }
        Ok(Answer::Done)
    }

    /// A planted bug.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn forget_read_marks(&mut self) {
        self.accounts.forget_read_marks();
    }

    /// Asserts the invariants.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn check(&self) {
        self.accounts.check();
        let (mut bytes, mut pairs) = (0, 0);
        let mut written: OrdMap<AccountId, usize> = OrdMap::new();
        for (id, talk) in &self.talks {
            talk.check();
            assert!(!talk.members().is_empty(), "C5: {id}");
            assert_eq!(self.order.get(&talk.head.touched), Some(id), "C2: {id}");
            match talk.kind() {
                ConversationKind::Room(name) => assert_eq!(self.rooms.get(&name.key), Some(id), "C3: {id}"),
                ConversationKind::Direct(a, b) => assert_eq!(self.directs.get(&(*a, *b)), Some(id), "C3: {id}"),
            }
            for member in talk.members() {
                assert!(self.accounts.get(*member).is_some_and(|account| account.is_in(*id)), "C1: {member} in {id}");
            }
            pairs += talk.members().len();
            bytes += talk.bytes;
            talk.messages.values().for_each(|it| *written.entry(it.from).or_insert(0) += it.bytes());
        }
        let (accounts, ..) = self.accounts.parts();
        assert_eq!(pairs, accounts.values().map(|account| account.talks_in().count()).sum::<usize>(), "C1: pairs");
        assert_eq!(
            (self.order.len(), self.rooms.len() + self.directs.len()),
            (self.talks.len(), self.talks.len()),
            "C2"
        );
        assert_eq!((bytes, &written), (self.bytes, &self.written), "C4");
    }
}

fn check_text(text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::TooLong(text.len() as u64));
    }
    if text.bytes().all(|byte| byte.is_ascii_whitespace()) {
        return Err(Refusal::BadText("a message cannot be empty".to_string()));
    }
    // Line feeds and tabs are allowed; characters that could control a reader's terminal are not.
    match text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        Some(c) => {
            let why = format!("a message cannot contain control characters; this one contains U+{:04X}", c as u32);
            Err(Refusal::BadText(why))
        }
        None => Ok(()),
    }
}
