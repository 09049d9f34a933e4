//! `phalanx chat`: the chat in a terminal or from a script.
//!
//! The session is saved in a file that only its owner can read, so that the next command needs no password; `--as NAME`
//! selects one of several. Text comes from the arguments or from a pipe; other users' text is shown without control
//! characters. Exit codes: 0 done, 1 refused, 4 no node answers, 5 the message may or may not have been sent.
//! Not here: what happens when a node dies (`client/`), the rules of the chat (docs/chat.md).

pub(crate) mod session;
pub(crate) mod talk;

use self::session::{ChatOptions, enter, fault, member, message, names, number_of, path_of, read_up_to, show, words};

use super::fault::{Fault, code};
use super::term;
use crate::client::Recipient;
use crate::services::chat::commands::{MESSAGES_MAX, PAGE_MAX};
use crate::text::percent_encode;
use serde_json::{Value, json};
use std::io::{self, BufRead, IsTerminal, Read};
use std::time::{Duration, Instant};

/// Bytes of a line that are read from a pipe: more than any message may have, so that the node refuses a longer one.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Advice when sending lines of a pipe fails.
const SO_FAR: &str = "the lines before it were sent; send the rest again";

/// Arguments of `phalanx chat`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  phalanx chat signup alice\n  phalanx chat send bob \"hello\"\n  echo done | \
    phalanx chat send '#builds'\n  phalanx chat talk '#builds'\n\nThe password is prompted for, or read from stdin. \
    WHERE is a person, '#room', or :N for conversation N.\n\nExit codes: 0 done, 1 refused, 4 no node answers, 5 \
    outcome unknown.")]
pub struct ChatArgs {
    #[command(subcommand)]
    command: ChatCommand,
    #[command(flatten)]
    options: ChatOptions,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ChatCommand {
    /// Create an account and log in
    Signup {
        /// Name of the account
        name: String,
    },
    /// Log in
    Login {
        /// Name of the account
        name: String,
    },
    /// Log out
    Logout {
        /// End all sessions of the account
        #[arg(long)]
        everywhere: bool,
    },
    /// Delete the account; its messages stay without a name
    DeleteAccount,
    /// List conversations with the number of unread messages
    List,
    /// List people whose names match a pattern, such as a*
    People {
        /// Glob pattern [default: *]
        pattern: Option<String>,
    },
    /// List rooms whose names match a pattern
    Rooms {
        /// Glob pattern [default: *]
        pattern: Option<String>,
    },
    /// Create a room
    Make {
        /// Name of the room
        room: String,
    },
    /// Join a room
    Join {
        /// Name of the room
        room: String,
    },
    /// Leave a room
    Leave {
        /// Name of the room
        room: String,
    },
    /// Print the newest messages of a conversation and mark them as read
    Read {
        /// A person, '#room', or :N for conversation N
        #[arg(value_name = "WHERE")]
        place: String,
        /// Maximum number of messages
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=MESSAGES_MAX))]
        limit: u64,
    },
    /// Send a message; without TEXT, each line of stdin is a message
    Send {
        /// A person, '#room', or :N for conversation N
        #[arg(value_name = "WHERE")]
        place: String,
        /// Text of the message
        text: Vec<String>,
    },
    /// Open a conversation: shows messages live, sends each line that you type
    Talk {
        /// A person, '#room', or :N for conversation N
        #[arg(value_name = "WHERE")]
        place: String,
    },
    /// Print new messages until Ctrl+C
    Follow {
        /// Start after this position of the message stream
        #[arg(long, value_name = "POSITION")]
        after: Option<u64>,
    },
}

pub fn run(args: &ChatArgs) -> Result<(), Fault> {
    let options = &args.options;
    match &args.command {
        ChatCommand::Signup { name } => enter(options, name, true),
        ChatCommand::Login { name } => enter(options, name, false),
        ChatCommand::Logout { everywhere } => {
            let answer = member(options)?.post("logout", &json!({"everywhere": everywhere})).map_err(fault)?;
            let _ = std::fs::remove_file(path_of(options));
            show(options, &answer, |_| "logged out\n".to_string());
            Ok(())
        }
        ChatCommand::DeleteAccount => {
            let answer = member(options)?.delete("account").map_err(fault)?;
            let _ = std::fs::remove_file(path_of(options));
            show(options, &answer, |_| "account deleted\n".to_string());
            Ok(())
        }
        ChatCommand::List => list(options),
        ChatCommand::People { pattern } => find(options, "accounts", pattern.as_deref()),
        ChatCommand::Rooms { pattern } => find(options, "rooms", pattern.as_deref()),
        ChatCommand::Make { room } => {
            let name = room.strip_prefix('#').unwrap_or(room);
            let answer = member(options)?.post("rooms", &json!({"name": name})).map_err(fault)?;
            show(options, &answer, |answer| format!("conversation {}\n", answer["conversation"]));
            Ok(())
        }
        ChatCommand::Join { room } => change_membership(options, room, "join"),
        ChatCommand::Leave { room } => change_membership(options, room, "leave"),
        ChatCommand::Read { place, limit } => read(options, place, *limit),
        ChatCommand::Send { place, text } => send(options, place, &text.join(" ")),
        ChatCommand::Talk { place } => talk::run(options, place),
        ChatCommand::Follow { after } => follow(options, *after),
    }
}

fn list(options: &ChatOptions) -> Result<(), Fault> {
    let inbox = member(options)?.get("conversations").map_err(fault)?;
    show(options, &inbox, |inbox| {
        let rows = inbox["conversations"].as_array().cloned().unwrap_or_default();
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let mark = if row["kind"] == "room" { "#" } else { "" };
                let last = row["last"]["text"].as_str().unwrap_or_default();
                vec![
                    row["conversation"].to_string(),
                    format!("{mark}{}", words(&row["name"])),
                    row["unread"].to_string(),
                    term::plain(last),
                ]
            })
            .collect();
        term::table(&["ID", "WITH", "UNREAD", "LAST"], &rows)
    });
    Ok(())
}

fn find(options: &ChatOptions, what: &str, pattern: Option<&str>) -> Result<(), Fault> {
    let path = format!("{what}?limit={PAGE_MAX}&match={}", percent_encode(pattern.unwrap_or("*").as_bytes()));
    let mut chat = member(options)?;
    let mut rows = Vec::new();
    let mut page = chat.get(&path).map_err(fault)?;
    loop {
        rows.extend(page[what].as_array().cloned().unwrap_or_default());
        let Some(next) = page["next"].as_str() else { break };
        page = chat.get(&format!("{path}&after={}", percent_encode(next.as_bytes()))).map_err(fault)?;
    }
    show(options, &json!({what: rows}), |all| names(&all[what], what));
    Ok(())
}

fn change_membership(options: &ChatOptions, room: &str, what: &str) -> Result<(), Fault> {
    let mut chat = member(options)?;
    let id = chat.room(room).map_err(fault)?;
    let answer = chat.post(&format!("rooms/{id}/{what}"), &json!({})).map_err(fault)?;
    show(options, &answer, |_| "done\n".to_string());
    Ok(())
}

fn read(options: &ChatOptions, place: &str, limit: u64) -> Result<(), Fault> {
    let mut chat = member(options)?;
    let id = number_of(&mut chat, place)?;
    let unread = chat.get(&format!("conversations/{id}")).map_err(fault)?["unread"].as_u64().unwrap_or(0);
    let (mut newest, mut rows): (Value, Vec<Value>) = (Value::Null, Vec::new());
    while (rows.len() as u64) < limit {
        let before = rows.first().map_or(String::new(), |first| format!("&before={}", first["number"]));
        let most = PAGE_MAX.min(limit - rows.len() as u64);
        let mut page = chat.get(&format!("conversations/{id}/messages?limit={most}{before}")).map_err(fault)?;
        let Some(older) = page["messages"].as_array_mut().filter(|rows| !rows.is_empty()) else { break };
        older.append(&mut rows);
        rows = std::mem::take(older);
        if newest.is_null() {
            newest = page["newest"].take();
        }
    }
    let page = json!({"messages": rows, "newest": newest});
    show(options, &page, |page| {
        let rows = page["messages"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| message(row) + "\n").collect()
    });
    if unread > limit {
        eprintln!(
            "{} older messages are unread too, so none was marked as read; --limit {unread} shows all",
            unread - limit
        );
        return Ok(());
    }
    read_up_to(&mut chat, id, page["newest"].as_u64().unwrap_or(0)).map_err(fault)
}

fn send(options: &ChatOptions, place: &str, text: &str) -> Result<(), Fault> {
    let mut chat = member(options)?;
    let to = Recipient::read(place);
    let mut say = |text: &str| -> Result<(), Fault> {
        let sent = chat.send(&to, text).map_err(fault)?;
        show(options, &sent, |sent| format!("{} in conversation {}\n", sent["number"], sent["conversation"]));
        Ok(())
    };
    if !text.is_empty() {
        return say(text);
    }
    if io::stdin().is_terminal() {
        eprintln!("each line is a message; press Ctrl+D to end");
    }
    let mut input = io::stdin().lock();
    for number in 1_u64.. {
        let at = |fault: Fault| Fault { message: format!("line {number}: {}", fault.message), ..fault };
        let mut line = Vec::new();
        let read = (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        match read.map_err(|e| at(Fault::new(code::FAILED, format!("cannot read: {e}"), SO_FAR)))? {
            0 => break,
            // A longer line is cut here, and is still too long for the node, which refuses it.
            _ => {
                let line = String::from_utf8(line)
                    .map_err(|_| at(Fault::new(code::FAILED, "a message must be UTF-8", SO_FAR)))?;
                let line = line.trim_end_matches(['\n', '\r']);
                if !line.trim().is_empty() {
                    say(line).map_err(|fault| match fault.next.is_empty() {
                        true => at(Fault { next: SO_FAR.to_string(), ..fault }),
                        false => at(fault),
                    })?;
                }
            }
        }
    }
    Ok(())
}

fn follow(options: &ChatOptions, after: Option<u64>) -> Result<(), Fault> {
    let mut chat = member(options)?;
    // The stream may last longer than the nodes that were given.
    chat.client.learn().map_err(fault)?;
    let mut stream = chat.follow(after);
    loop {
        let Some(line) = stream.next(Instant::now() + Duration::from_secs(3600)).map_err(fault)? else { continue };
        if options.client.json {
            term::line(&term::escaped(&line.to_string()));
        } else if line["type"] == "message" {
            term::line(&format!("[{}] {}", line["conversation"], message(&line)));
        }
    }
}
