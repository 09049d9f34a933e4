//! The account and the node that a chat command uses: its options, the saved session, and how answers are shown.

use crate::cli::client::{self, ClientArgs};
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::client as cluster;
use crate::client::{Chat, Recipient};
use crate::text::percent_encode;
use crate::time::time_of_day;
use rustix::termios::{self, LocalModes, OptionalActions};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// The options of all chat commands.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChatOptions {
    /// Use the session saved under this name on this machine
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub(crate) who: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(crate) fn fault(why: cluster::ClientError) -> Fault {
    match &why {
        cluster::ClientError::Refused { status: 401, .. } => {
            let next = "log in with: phalanx chat login NAME; if the cluster has a client_password, set it in the settings file \
                        or as PHALANX_CLIENT_PASSWORD";
            Fault::new(code::FAILED, why, next)
        }
        cluster::ClientError::Refused { .. } => Fault::new(code::FAILED, why, ""),
        cluster::ClientError::Unknown(_) => {
            Fault::new(code::UNKNOWN, why, "check with phalanx chat read before you send it again")
        }
        cluster::ClientError::Unreachable(_) => {
            Fault::new(code::UNREACHABLE, why, "start a cluster with ./run.sh, or name a node with -e HOST:PORT")
        }
    }
}

/// The file of a session.
pub(crate) fn path_of(options: &ChatOptions) -> PathBuf {
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    let name =
        options.who.as_deref().map_or("login".to_string(), |who| format!("login-{}", percent_encode(who.as_bytes())));
    base.unwrap_or_else(std::env::temp_dir).join("phalanx-chat").join(name)
}

/// The file that a new session is saved in: a draft that replaces the old file, readable by its owner only.
pub(crate) struct Keep {
    pub(crate) path: PathBuf,
    pub(crate) draft: PathBuf,
    pub(crate) file: File,
}

impl Keep {
    /// Opens the draft before the request is sent: a session that cannot be saved is not requested.
    fn begin(options: &ChatOptions) -> Result<Keep, Fault> {
        let path = path_of(options);
        let draft = path.with_extension(format!("{}.draft", std::process::id()));
        let opened = (|| {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true);
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(&draft)
        })();
        match opened {
            Ok(file) => Ok(Keep { path, draft, file }),
            Err(e) => Err(Fault::new(
                code::FAILED,
                format!("cannot save the session in {}: {e}; nothing was sent to the cluster", path.display()),
                "set XDG_STATE_HOME to a writable folder",
            )),
        }
    }

    fn finish(mut self, token: &str) -> Result<(), Fault> {
        let kept = self.file.write_all(token.as_bytes()).and_then(|()| std::fs::rename(&self.draft, &self.path));
        kept.map_err(|e| {
            let why = format!("logged in, but the session cannot be saved in {}: {e}", self.path.display());
            Fault::new(code::UNKNOWN, why, "make the folder writable, then run phalanx chat login NAME")
        })
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        // It exists unless it was renamed.
        let _ = std::fs::remove_file(&self.draft);
    }
}

/// A client that is not logged in.
fn logged_out(options: &ChatOptions) -> Result<Chat, Fault> {
    let mut chat = Chat::new(client::endpoints(&options.client)?);
    chat.client.password = client::password(&options.client)?;
    if let Some(seconds) = options.client.timeout {
        chat.client.within = Some(Duration::from_secs_f64(seconds.clamp(0.001, 3600.0)));
    }
    Ok(chat)
}

/// A client with the saved session.
pub(crate) fn member(options: &ChatOptions) -> Result<Chat, Fault> {
    let mut chat = logged_out(options)?;
    match (std::fs::read_to_string(path_of(options)), &options.who) {
        (Ok(token), _) => chat.client.token = Some(token.trim().to_string()),
        (Err(_), Some(who)) => {
            let message = format!("no session is saved as {who:?} on this machine");
            return Err(Fault::new(code::FAILED, message, format!("log in with: phalanx chat login {who} --as {who}")));
        }
        (Err(_), None) => {}
    }
    Ok(chat)
}

/// Asks for a password without showing it, or reads a line of a pipe.
pub(crate) fn password() -> Result<String, Fault> {
    let stdin = io::stdin();
    let before = stdin.is_terminal().then(|| termios::tcgetattr(&stdin).ok()).flatten();
    if let Some(before) = &before {
        eprint!("password: ");
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        let _ = termios::tcsetattr(&stdin, OptionalActions::Flush, &quiet);
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if let Some(before) = &before {
        let _ = termios::tcsetattr(&stdin, OptionalActions::Flush, before);
        eprintln!();
    }
    read.map_err(|e| Fault::new(code::FAILED, format!("cannot read the password: {e}"), ""))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

pub(crate) fn enter(options: &ChatOptions, name: &str, is_new: bool) -> Result<(), Fault> {
    let mut chat = logged_out(options)?;
    let password = password()?;
    let keep = Keep::begin(options)?;
    let answer = if is_new { chat.sign_up(name, &password) } else { chat.log_in(name, &password) }.map_err(fault)?;
    keep.finish(chat.client.token.as_deref().unwrap_or_default())?;
    show(options, &json!({"account": answer["account"], "name": answer["name"]}), |answer| {
        format!("logged in as {}\n", words(&answer["name"]))
    });
    Ok(())
}

pub(crate) fn words(value: &Value) -> String {
    value.as_str().map_or("(deleted)".to_string(), term::plain)
}

pub(crate) fn show(options: &ChatOptions, value: &Value, text: impl Fn(&Value) -> String) {
    if options.client.json { term::json(value) } else { term::out(&text(value)) }
}

pub(crate) fn number_of(chat: &mut Chat, place: &str) -> Result<u64, Fault> {
    let found = match Recipient::read(place) {
        Recipient::Conversation(id) => Ok(id),
        Recipient::Room(name) => chat.room(&name),
        Recipient::Person(name) => chat.direct(&name),
    };
    found.map_err(fault)
}

pub(crate) fn message(line: &Value) -> String {
    let text = line["text"].as_str().map_or("(deleted)".to_string(), |text| {
        text.lines().map(term::plain_lines).collect::<Vec<_>>().join("\n              ")
    });
    format!("{} {}: {text}", time_of_day(line["at_ms"].as_u64().unwrap_or(0)), words(&line["from"]["name"]))
}

pub(crate) fn names(rows: &Value, what: &str) -> String {
    let mark = if what == "rooms" { "#" } else { "" };
    rows.as_array().into_iter().flatten().map(|row| format!("{mark}{}\n", words(&row["name"]))).collect()
}

/// Marks messages up to a number as read; 0: there are none.
pub(crate) fn read_up_to(chat: &mut Chat, id: u64, number: u64) -> Result<(), cluster::ClientError> {
    match number {
        0 => Ok(()),
        _ => chat.post(&format!("conversations/{id}/read"), &json!({"number": number})).map(drop),
    }
}
