//! Many random commands: invariants hold after each, readers that come and go receive every event once, copies do not
//! change.
//!
//! Each reader keeps the events it received and its position, and asks again at random times, by pages of random
//! length, from either of two nodes. In the end its events equal the history.

use super::super::{Chat, Command, ConversationId, Event, Query, Target, View, names};
use super::{create, restored, saved, stamp, token};
use crate::services::chat::commands::PAGE_MAX;
use std::collections::BTreeMap;

const PEOPLE: [&str; 4] = ["ann", "bob", "eve", "zoe"];

/// The state of one user's device.
#[derive(Default)]
struct Reader {
    position: u64,
    /// Messages by conversation and number; `None`: deleted.
    heard: BTreeMap<(ConversationId, u64), Option<String>>,
}

impl Reader {
    fn listen(&mut self, who: u64, chat: &Chat, most: usize) {
        let (events, until) = chat.events_after(who, self.position, most);
        for (position, conversation, event) in events {
            assert!(position > self.position, "told twice, or out of order: {position}");
            self.position = position;
            match event {
                Event::Message(number, message) => {
                    let before = self.heard.insert((conversation, number), message.text.clone());
                    assert!(before.is_none(), "told twice: {number} in {conversation}");
                }
                Event::Erased(number) => drop(self.heard.insert((conversation, number), None)),
                _ => {}
            }
        }
        assert!(until >= self.position);
        self.position = until;
    }
}

fn command(rng: &mut fastrand::Rng) -> Command {
    let token = token(PEOPLE[rng.usize(..4)]);
    let room = rng.u64(1..6);
    match rng.u8(..20) {
        0 => Command::MakeRoom { token, name: names::room(["tea", "work"][rng.usize(..2)]).unwrap() },
        1..4 => Command::Join { token, room },
        4 => Command::Leave { token, room },
        5..7 => Command::Erase { token, conversation: room, number: rng.u64(1..9) },
        7..9 => Command::Mark { token, conversation: room, number: rng.u64(1..9) },
        9 => Command::Direct { token, with: PEOPLE[rng.usize(..4)].to_string() },
        _ => {
            let to = match rng.u8(..3) {
                0 => Target::Account(PEOPLE[rng.usize(..4)].to_string()),
                1 => Target::Room("tea".to_string()),
                _ => Target::Conversation(room),
            };
            let client_id = rng.bool().then(|| format!("{}", rng.u8(..30)));
            Command::Post { token, to, text: format!("{}", rng.u8(..3)), client_id }
        }
    }
}

#[test]
fn readers_get_every_event_once_and_in_order() {
    for seed in 0..if cfg!(debug_assertions) { 60 } else { 300 } {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut chat = Chat::default();
        for (index, name) in PEOPLE.into_iter().enumerate() {
            chat.run(stamp(index as u64 + 1, 0), create(name));
        }
        // All accounts are in all rooms from the beginning and none leaves: then the received events equal the sent
        // messages.
        let leavers = seed % 2 == 0;
        let mut readers: BTreeMap<u64, Reader> = (1..5).map(|who| (who, Reader::default())).collect();
        for index in 10..200 {
            let command = command(&mut rng);
            if leavers || !matches!(command, Command::Leave { .. }) {
                let before = (rng.u8(..8) == 0).then(|| (chat.clone(), saved(&chat)));
                chat.run(stamp(index, index), command);
                chat.check();
                if let Some((copy, before)) = before {
                    assert!(saved(&copy) == before, "seed {seed}: a copy changed");
                }
            }
            for (who, reader) in &mut readers {
                if rng.u8(..3) == 0 {
                    reader.listen(*who, &chat, rng.usize(1..5));
                }
            }
            if rng.u8(..16) == 0 {
                let again = restored(&saved(&chat));
                assert!(again == chat, "seed {seed}: a snapshot holds everything");
                chat = again;
            }
        }
        for (who, mut reader) in readers {
            while reader.position < chat.position() {
                reader.listen(who, &chat, 3);
            }
            if !leavers {
                compare(seed, who, &reader, &chat);
            }
        }
    }
}

/// Compares a reader's messages since it joined its conversations with the history.
fn compare(seed: u64, who: u64, reader: &Reader, chat: &Chat) {
    let token = token(PEOPLE[who as usize - 1]);
    let View::Inbox { rows, .. } = chat.answer(Query::Inbox(token)) else { panic!("no inbox") };
    for row in rows {
        let query = Query::History { token, conversation: row.id, before: None, after: None, limit: PAGE_MAX };
        let View::History { messages, .. } = chat.answer(query) else { panic!("no page") };
        let since = chat.accounts.get(who).unwrap().talks.get(&row.id).unwrap().since;
        let talk = &chat.talks[&row.id];
        for said in messages.into_iter().filter(|said| talk.messages[&said.number].position > since) {
            let heard = reader.heard.get(&(row.id, said.number));
            assert_eq!(heard, Some(&said.text), "seed {seed}: {who} on {} in {}", said.number, row.id);
        }
    }
}
