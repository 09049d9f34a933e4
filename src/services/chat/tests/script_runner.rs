//! The language of the golden scripts: one line is one entry of the log, or a query.
//!
//! A person's first log-in has the person's name as its token. `events` prints the events that a reader at a position
//! receives.

use super::super::{Answer, Chat, Command, Event, Query, Target, View, names};
use super::{restored, saved, token};
use crate::services::Service;
use crate::services::chat::commands::Listing;
use crate::services::chat::invisible_chars;
use crate::types::Stamp;
use std::fmt::Write;

/// One node's service, and the log time of the next entry.
#[derive(Default)]
pub struct ScriptRunner {
    chat: Chat,
    at: Stamp,
}

type Failed = Box<dyn std::error::Error>;

fn target(text: &str) -> Target {
    match (text.strip_prefix('#'), text.parse()) {
        (Some(room), _) => Target::Room(names::key_of(room)),
        (None, Ok(id)) => Target::Conversation(id),
        (None, Err(_)) => Target::Account(names::key_of(text)),
    }
}

impl goldenscript::Runner for ScriptRunner {
    type Command = goldenscript::Command;

    fn run(&mut self, line: &Self::Command, _: &goldenscript::Context) -> Result<String, Failed> {
        let mut args = line.consume_args();
        let id = args.take_key("id").map(str::to_string);
        let words: Vec<String> = std::iter::from_fn(|| args.next_pos().map(str::to_string)).collect();
        let word = |at: usize| words.get(at).cloned().ok_or("a word is missing");
        let number = |at: usize| -> Result<u64, Failed> { Ok(word(at)?.parse()?) };
        let who = || Ok::<_, Failed>(token(&word(0)?));
        let room = |at: usize| -> Result<u64, Failed> {
            let key = names::key_of(&word(at)?);
            Ok(self.chat.rooms.get(&key).copied().or(key.parse().ok()).unwrap_or(999))
        };
        let command = match line.name.as_str() {
            "create" => {
                let name = match names::account(&word(0)?) {
                    Ok(name) => name,
                    Err(why) => return Ok(format!("refused by the server: {why}\n")),
                };
                let token = token(&words.get(1).cloned().unwrap_or(name.key.clone()));
                Command::Create { name, hash: "hash".to_string(), token, token_ms: 1_000_000 }
            }
            "try" => Command::TryLogIn { key: names::key_of(&word(0)?) },
            "wrong" => Command::WrongLogIn { key: names::key_of(&word(0)?) },
            "login" => {
                let hash = words.get(2).cloned().unwrap_or("hash".to_string());
                let account = self.chat.accounts.find(&names::key_of(&word(0)?)).unwrap_or(number(3).unwrap_or(0));
                Command::LogIn { account, hash, token: token(&word(1)?), token_ms: 500 }
            }
            "logout" => Command::LogOut { token: who()?, everywhere: words.len() > 1 },
            "delete" => Command::Delete { token: who()? },
            "direct" => Command::Direct { token: who()?, with: names::key_of(&word(1)?) },
            "make" => Command::MakeRoom { token: who()?, name: names::room(&word(1)?)? },
            "join" => Command::Join { token: who()?, room: room(1)? },
            "leave" => Command::Leave { token: who()?, room: room(1)? },
            "send" if !invisible_chars::has_visible_text(&word(2)?) => {
                return Ok("refused by the server: a message cannot be empty\n".to_string());
            }
            "send" => Command::Post { token: who()?, to: target(&word(1)?), text: word(2)?, client_id: id },
            "erase" => Command::Erase { token: who()?, conversation: number(1)?, number: number(2)? },
            "read" => Command::Mark { token: who()?, conversation: number(1)?, number: number(2)? },
            "wait" => {
                self.at.at_ms += number(0)?;
                return Ok(String::new());
            }
            "restart" => {
                let again = restored(&saved(&self.chat));
                assert!(again == self.chat, "a snapshot holds everything");
                self.chat = again;
                return Ok(String::new());
            }
            "events" => return Ok(self.events(number(0)?, number(1)?, number(2).unwrap_or(100))),
            question => {
                let token = who()?;
                let listing =
                    |at: usize| Ok::<_, Failed>(Listing { token, pattern: word(at)?, after: String::new(), limit: 10 });
                let query = match question {
                    "me" => Query::Me(token),
                    "inbox" => Query::Inbox(token),
                    "history" => {
                        let (before, after) = match (word(2).ok().as_deref(), number(3)) {
                            (Some("before"), Ok(number)) => (Some(number), None),
                            (Some("after"), Ok(number)) => (None, Some(number)),
                            _ => (None, None),
                        };
                        Query::History {
                            token,
                            conversation: number(1)?,
                            before,
                            after,
                            limit: number(4).unwrap_or(100),
                        }
                    }
                    "accounts" => Query::Accounts(listing(1)?),
                    "rooms" => Query::Rooms(listing(1)?),
                    "members" => Query::Members { token, room: room(1)?, after: 0, limit: 10 },
                    other => return Err(format!("unknown command '{other}'").into()),
                };
                return Ok(show_view(self.chat.answer(query)));
            }
        };
        self.at.index = self.at.index.next();
        self.chat.expire(self.at);
        let answer = self.chat.run(self.at, command);
        self.chat.check();
        Ok(show_answer(answer))
    }
}

impl ScriptRunner {
    fn events(&self, who: u64, after: u64, most: u64) -> String {
        let (events, until) = self.chat.events_after(who, after, most as usize);
        let mut text = String::new();
        for (position, conversation, event) in events {
            let says = match event {
                Event::Message(number, message) => {
                    let said = self.chat.message_view(number, &message);
                    format!(
                        "{number} {}: {}",
                        said.name.as_deref().unwrap_or("(deleted)"),
                        said.text.as_deref().unwrap_or("(erased)")
                    )
                }
                other => format!("{other:?}"),
            };
            let _ = writeln!(text, "at {position} in {conversation}: {says}");
        }
        text + &format!("up to {until}\n")
    }
}

fn show_answer(answer: Answer) -> String {
    match answer {
        Answer::Refused(why) => format!("refused: {why}\n"),
        Answer::Created { account, .. } => format!("account {account}\n"),
        Answer::Try(found) => format!("compare with {found:?}\n"),
        Answer::LoggedIn { account, name } => format!("logged in as {name}, account {account}\n"),
        Answer::Done => "done\n".to_string(),
        Answer::Conversation { id, was_there } => {
            format!("conversation {id}{}\n", if was_there { ", as before" } else { "" })
        }
        Answer::Sent { conversation, number, position, is_repeat } => {
            let repeat = if is_repeat { ", said before" } else { "" };
            format!("{number} in {conversation}, at {position}{repeat}\n")
        }
    }
}

fn show_view(view: View) -> String {
    let mut text = String::new();
    let _ = match view {
        View::Refused(why) => writeln!(text, "refused: {why}"),
        View::Me { account, name, position, .. } => writeln!(text, "{name}, account {account}, position {position}"),
        View::Inbox { rows, .. } if rows.is_empty() => writeln!(text, "nothing"),
        View::Inbox { rows, .. } => rows.into_iter().try_for_each(|row| {
            let kind = if row.with.is_some() { "with" } else { "room" };
            let name = row.name.as_deref().unwrap_or("(deleted)");
            let last = row.last.map(|last| last.text.unwrap_or("(erased)".to_string())).unwrap_or_default();
            writeln!(
                text,
                "{} {kind} {name}, {} members: {} unread after {}, last: {last}",
                row.id, row.members, row.unread, row.read
            )
        }),
        View::History { messages, oldest, newest } => {
            let shown = messages.into_iter().try_for_each(|said| {
                let (name, says) =
                    (said.name.as_deref().unwrap_or("(deleted)"), said.text.as_deref().unwrap_or("(erased)"));
                writeln!(text, "{} {name} at {}: {says}", said.number, said.at_ms)
            });
            shown.and_then(|()| writeln!(text, "of {oldest} to {newest}"))
        }
        View::Names { rows, is_full } => rows
            .into_iter()
            .try_for_each(|row| writeln!(text, "{} {} ({}) {} {}", row.id, row.name, row.key, row.members, row.is_mine))
            .and_then(|()| writeln!(text, "{}", if is_full { "and more" } else { "all" })),
    };
    text
}
