//! `phalanx chat talk`: one conversation on a terminal, which shows messages as they arrive and sends each typed line.
//!
//! A typed line is removed with Enter and printed again when the stream delivers it, so that all readers see the same
//! order. When a node dies, the stream and the next message continue with another; a message that could not be sent is
//! shown.
//! Not here: finding nodes and sending each message once (`client/`), the format of a message (`session.rs`).

use super::session::{ChatOptions, fault, member, message, number_of, read_up_to, words};
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::client::{Chat, Follower, Recipient};
use crate::node::spawn;
use rustyline::ExternalPrinter;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use unicode_width::UnicodeWidthStr;

/// Messages that are shown at the beginning.
const SHOWN_BEFORE: u64 = 20;
/// Longest wait for one event of the stream.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Runs until Ctrl+C or Ctrl+D.
pub(crate) fn run(options: &ChatOptions, place: &str) -> Result<(), Fault> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let next = "use phalanx chat send and phalanx chat follow with pipes";
        return Err(Fault::new(code::USAGE, "phalanx chat talk needs a terminal", next));
    }
    let mut chat = member(options)?;
    chat.client.learn().map_err(fault)?;
    let me = chat.get("me").map_err(fault)?;
    let id = conversation(&mut chat, place)?;
    let page = chat.get(&format!("conversations/{id}/messages?limit={SHOWN_BEFORE}")).map_err(fault)?;
    let said = page["messages"].as_array().cloned().unwrap_or_default();
    said.iter().for_each(|one| term::line(&message(one)));
    let newest = page["newest"].as_u64().unwrap_or(0);
    read_up_to(&mut chat, id, newest).map_err(fault)?;

    let broken = |e: ReadlineError| Fault::failed(format!("cannot use the terminal: {e}"));
    let mut editor = rustyline::DefaultEditor::new().map_err(broken)?;
    let printer = editor.create_external_printer().map_err(broken)?;
    // From before the page was asked for, so that nothing is missed in between; what the page had is not shown again.
    let stream = chat.follow(me["position"].as_u64());
    let mut reader = member(options)?;
    reader.client.learn().map_err(fault)?;
    spawn::spawn("stream", move || show(stream, reader, id, newest, printer))
        .map_err(|e| Fault::failed(format!("cannot start a thread: {e}")))?;
    let prompt = format!("{}> ", me["name"].as_str().map_or("you".to_string(), term::plain));
    loop {
        match editor.readline(&prompt) {
            Ok(line) => {
                erase_line(&prompt, &line);
                if !line.trim().is_empty()
                    && let Err(why) = chat.send(&Recipient::Conversation(id), &line)
                {
                    term::line(&format!("not sent: {}", term::plain(&line)));
                    fault(why).report();
                }
            }
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(broken(e)),
        }
    }
}

/// The conversation that `place` names; one with a person is created if there is none.
fn conversation(chat: &mut Chat, place: &str) -> Result<u64, Fault> {
    let Recipient::Person(name) = Recipient::read(place) else { return number_of(chat, place) };
    let answer = chat.post("direct", &json!({"with": name})).map_err(fault)?;
    Ok(answer["conversation"].as_u64().unwrap_or(0))
}

/// Body of the thread that prints messages.
fn show(mut stream: Follower, mut reader: Chat, id: u64, mut newest: u64, mut printer: impl ExternalPrinter) {
    let mut print = |text: String| printer.print(text + "\n").is_ok();
    loop {
        let line = match stream.next(Instant::now() + WAIT_MAX) {
            Ok(Some(line)) => line,
            Ok(None) => continue,
            Err(why) => {
                print(format!("-- {}", term::plain(&why.to_string())));
                return;
            }
        };
        let is_here = line["conversation"] == id;
        let shown = match (line["type"].as_str(), line["number"].as_u64()) {
            (Some("message"), Some(number)) if is_here && number > newest => {
                newest = number;
                let is_printed = print(message(&line));
                // The next one marks what this one could not.
                let _ = read_up_to(&mut reader, id, number);
                is_printed
            }
            (Some("erased"), Some(number)) if is_here => print(format!("-- message {number} was deleted")),
            (Some("left"), _) if is_here => print("-- you have left this conversation".to_string()),
            (Some("message"), _) if !is_here => print(elsewhere(&line)),
            _ => true,
        };
        if !shown {
            return;
        }
    }
}

fn elsewhere(line: &Value) -> String {
    format!("-- new message from {} in conversation {}", words(&line["from"]["name"]), line["conversation"])
}

/// Removes the typed line from the screen: it is printed again as a message.
fn erase_line(prompt: &str, line: &str) {
    let columns = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    let width = prompt.width() + line.width();
    let rows = width.checked_div(columns).unwrap_or(0) + 1;
    let mut out = io::stdout();
    // A terminal that is gone ends the next read.
    let _ = write!(out, "\x1b[{rows}A\r\x1b[J").and_then(|()| out.flush());
}
