//! Tests of the chat: golden scripts, and many random commands whose outcome is compared with a simple model.
//!
//! One behaviour per file in `scripts/`, named after it. `UPDATE_GOLDENFILES=1 cargo test --lib services::chat` records
//! them again; review the difference before you commit it.
//! Not here: the language of the scripts (`tests/script_runner.rs`), the model (`tests/random_model.rs`).

mod random_model;
mod script_runner;

use super::commands::{MESSAGES_MAX, TOKENS_MAX};
use super::{Answer, Chat, Command, Query, Refusal, Target, TokenHash, View, names};
use crate::services::Service;
use crate::services::service_contract::{self, restored, saved, stamp};

#[test]
fn scripts() {
    service_contract::scripts("chat", script_runner::ScriptRunner::default);
}

/// The hash of the token with this name in a test.
fn token(name: &str) -> TokenHash {
    let mut token = [0; 32];
    token[..name.len()].copy_from_slice(name.as_bytes());
    token
}

fn create(name: &str) -> Command {
    let name = names::account(name).unwrap();
    Command::Create { token: token(&name.key), name, hash: "hash".to_string(), token_ms: 1_000_000 }
}

fn send(from: &str, to: &str, text: &str) -> Command {
    let (to, text) = (Target::Account(to.to_string()), text.to_string());
    Command::Post { token: token(from), to, text, client_id: None }
}

/// A chat with two accounts, a room, a deleted message, and failed log-ins.
fn busy() -> Chat {
    let mut chat = Chat::default();
    let room = names::room("tea").unwrap();
    let erase = Command::Erase { token: token("ann"), conversation: 1, number: 1 };
    let guess = Command::TryLogIn { key: "nobody".to_string() };
    let make = Command::MakeRoom { token: token("ann"), name: room };
    let commands =
        [create("ann"), create("bob"), send("ann", "bob", "hi"), send("bob", "ann", "yes?"), erase, make, guess];
    for (index, command) in commands.into_iter().enumerate() {
        let answer = chat.run(stamp(index as u64 + 1, 0), command);
        assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
    }
    chat.check();
    chat
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    service_contract::garbage_changes_nothing(&mut busy(), &send("ann", "bob", "hello").encode());
}

#[test]
fn a_damaged_snapshot_is_an_error_or_another_state_and_no_allocation() {
    service_contract::damage_costs_nothing(&busy());
}

#[test]
fn the_oldest_messages_go_and_readers_that_were_away_hear_of_it() {
    let mut chat = busy();
    let position = chat.position();
    for index in 0..MESSAGES_MAX + 5 {
        chat.run(stamp(index + 10, 0), send("ann", "bob", "x"));
    }
    chat.check();
    let query = Query::History { token: token("bob"), conversation: 1, before: None, after: Some(0), limit: 2 };
    let View::History { messages, oldest, newest } = chat.answer(query) else { panic!("no page") };
    assert_eq!((messages[0].number, oldest, newest), (8, 8, MESSAGES_MAX + 7));
    let (events, _) = chat.events_after(2, position, 1);
    assert!(matches!(events[0].2, super::Event::Missed(7)), "{events:?}");
    assert_eq!(restored::<Chat>(&saved(&chat)), chat);
}

#[test]
fn the_log_in_that_ends_first_goes_when_there_are_too_many() {
    let mut chat = busy();
    for number in 0..TOKENS_MAX as u64 {
        let token = token(&format!("more {number}"));
        let hash = "hash".to_string();
        chat.run(stamp(20, 0), Command::LogIn { account: 1, hash, token, token_ms: 10 + number });
    }
    chat.check();
    assert_eq!(chat.who(&token("more 0")), None);
    assert_eq!((chat.who(&token("more 1")), chat.who(&token("ann"))), (Some(1), Some(1)));
    chat.expire(stamp(21, 100));
    chat.check();
    assert_eq!((chat.who(&token("more 1")), chat.who(&token("ann"))), (None, Some(1)));
}

#[test]
fn a_copy_does_not_see_what_comes_later() {
    let mut chat = busy();
    let (copy, before) = (chat.clone(), saved(&chat));
    chat.run(stamp(30, 0), send("bob", "ann", "later"));
    chat.run(stamp(31, 0), Command::Delete { token: token("ann") });
    assert_eq!(saved(&copy), before);
    assert_eq!(chat.run(stamp(32, 0), send("ann", "bob", "x")), Answer::Refused(Refusal::NotLoggedIn));
}

#[test]
fn a_pattern_that_takes_too_long_is_refused() {
    let mut chat = busy();
    for n in 0..3_000 {
        chat.run(stamp(30, 0), create(&format!("{:a<28}{n:04}", "")));
    }
    let list =
        |pattern: String| super::commands::Listing { token: token("ann"), pattern, after: String::new(), limit: 10 };
    // A character class is read to its end for each character of each name.
    let slow = || list(format!("*[{}]x", "b".repeat(2_000)));
    for query in [Query::Accounts(slow()), Query::Rooms(slow())] {
        // There is one room.
        let is_long = matches!(query, Query::Accounts(_));
        let answer = chat.answer(query);
        let is_refused = matches!(&answer, View::Refused(Refusal::Malformed(why)) if why.contains("pattern"));
        assert_eq!(is_refused, is_long, "{answer:?}");
    }
    let View::Names { rows, .. } = chat.answer(Query::Accounts(list("*42".to_string()))) else { panic!("no list") };
    assert_eq!(rows.len(), 10);
}
