//! What the table says of a command: its name, its arguments, its purpose and its handler.
//!
//! Not here: the table (`table.rs`).

use super::store::context::{Context, Translated};
use crate::node::SubscriptionKind;
use crate::resp::conn::Conn;
use crate::resp::protocol::parse::{Request, is_word};
use crate::resp::protocol::reply::{self, wrong_arity};

/// Bytes of a client's word that an error shows.
pub(crate) const WORD_BYTES_SHOWN: usize = 128;

/// How a command is executed.
#[derive(Clone, Copy)]
pub enum Handler {
    /// The key-value store: translates the request to one operation of it.
    Store(fn(&Request, &Context) -> Translated),
    /// The server itself: writes a reply.
    Server(fn(&mut Conn, &Request, &mut Vec<u8>)),
    /// The server itself, from the table of commands.
    Table(fn(&'static [Spec], &mut Conn, &Request, &mut Vec<u8>)),
    /// PUBLISH: in a transaction only if that is executed.
    Publish,
    /// Changes the state of the connection: transactions, subscriptions, and its end.
    Control(Control),
}

/// Commands that change how the connection handles other commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Control {
    Multi,
    Exec,
    Discard,
    Watch,
    Quit,
    Reset,
    Subscribe(SubscriptionKind),
    Unsubscribe(SubscriptionKind),
}

/// A subcommand: its name, its arity with both names, its arguments as HELP shows them, and its purpose.
pub type Sub = (&'static str, i64, &'static str, &'static str);

pub struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// Number of words, its name included; negative: at least so many.
    pub arity: i64,
    /// Its subcommands. Empty: it has none.
    pub subs: &'static [Sub],
    /// As Redis names them, separated by blanks; `no_auth`: allowed before authentication.
    pub flags: &'static str,
    /// Which words are keys: first, last (negative: from the end), step; zeros: none.
    pub keys: (i64, i64, i64),
    /// As Redis groups its documentation.
    pub group: &'static str,
    /// Version of Redis that this behaves like.
    pub since: &'static str,
    pub handler: Handler,
    pub summary: &'static str,
}

impl Spec {
    /// Checks the number of words and the subcommand of a request.
    ///
    /// # Errors
    /// The error text of Redis.
    pub fn check(&self, request: &Request) -> Result<(), String> {
        if !takes(self.arity, request.len()) {
            return Err(wrong_arity(self.name));
        }
        // Without a subcommand, where that is allowed.
        if self.subs.is_empty() || request.len() == 1 {
            return Ok(());
        }
        let word = request.word(1);
        let arity_of = |sub: &Sub| is_word(word, sub.0).then_some((sub.0, sub.1));
        match self.subs.iter().find_map(arity_of).or(is_word(word, "help").then_some(("help", 2))) {
            Some((_, arity)) if takes(arity, request.len()) => Ok(()),
            Some((name, _)) => Err(wrong_arity(&format!("{}|{name}", self.name))),
            None => {
                let word = String::from_utf8_lossy(&word[..word.len().min(WORD_BYTES_SHOWN)]);
                Err(format!("ERR unknown subcommand '{word}'. Try {} HELP.", self.name.to_ascii_uppercase()))
            }
        }
    }

    /// Whether it is allowed while a client of RESP2 has subscriptions.
    pub fn is_for_subscribers(&self) -> bool {
        matches!(self.handler, Handler::Control(control) if !matches!(
            control,
            Control::Multi | Control::Exec | Control::Discard | Control::Watch
        )) || self.name == "ping"
    }

    /// Its name with that of the subcommand that a request names.
    pub fn full_name(&self, request: &Request) -> String {
        let sub = self.subs.iter().find(|(name, ..)| request.len() > 1 && is_word(request.word(1), name));
        sub.map_or(self.name.to_string(), |(name, ..)| format!("{}|{name}", self.name))
    }

    /// Whether a request that [`Spec::check`] accepts asks for the subcommands.
    pub fn asks_help(&self, request: &Request) -> bool {
        !self.subs.is_empty() && request.len() == 2 && is_word(request.word(1), "help")
    }

    /// Writes the subcommands as Redis does.
    pub fn help(&self, out: &mut Vec<u8>) {
        let name = self.name.to_ascii_uppercase();
        reply::array(out, 3 + 2 * self.subs.len());
        reply::simple(out, &format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
        for (name, _, arguments, summary) in self.subs {
            reply::simple(out, format!("{} {arguments}", name.to_ascii_uppercase()).trim_end());
            reply::simple(out, &format!("    {summary}"));
        }
        reply::simple(out, "HELP");
        reply::simple(out, "    Prints this help.");
    }

    /// Whether it may be used before authentication.
    pub fn is_open(&self) -> bool {
        self.has_flag("no_auth")
    }

    pub(crate) fn has_flag(&self, name: &str) -> bool {
        self.flags.split(' ').any(|flag| flag == name)
    }

    pub(crate) const fn subs(mut self, subs: &'static [Sub]) -> Spec {
        self.subs = subs;
        self
    }
}

#[allow(clippy::too_many_arguments, reason = "a row of the table")]
pub(crate) const fn spec(
    name: &'static str,
    arity: i64,
    flags: &'static str,
    keys: (i64, i64, i64),
    group: &'static str,
    since: &'static str,
    handler: Handler,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, subs: &[], flags, keys, group, since, handler, summary }
}

pub(crate) const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
pub(crate) const ONE_KEY: (i64, i64, i64) = (1, 1, 1);
/// The key follows a subcommand.
pub(crate) const SUB_KEY: (i64, i64, i64) = (2, 2, 1);
pub(crate) const TWO_KEYS: (i64, i64, i64) = (1, 2, 1);
pub(crate) const ALL_KEYS: (i64, i64, i64) = (1, -1, 1);
pub(crate) const PAIRS: (i64, i64, i64) = (1, -1, 2);

pub(crate) fn takes(arity: i64, words: usize) -> bool {
    let words = words as i64;
    if arity >= 0 { words == arity } else { words >= -arity }
}
