//! Every command of the Redis server: its name, what it takes, what it is for, and who carries it out.
//!
//! One table feeds the dispatch of requests, their checks, and what COMMAND tells clients.
//! Invariant: T1 the table is in the order of names, which are in lower case.
//! Not here: what the commands do (`keys.rs` for the store's, `connection.rs` and `server.rs` for the server's own).

pub(crate) mod connection;
pub(crate) mod glob;
pub(crate) mod keys;
pub(crate) mod scripts;
pub(crate) mod server;

use self::keys::{Context, Translated};
use super::conn::Conn;
use super::protocol::parse::{Request, is};
use super::protocol::reply::{self, Proto, wrong_number};

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 16;
/// How much of a client's word an error shows.
pub(crate) const WORD_BYTES_SHOWN: usize = 128;

/// Carries a command out.
#[derive(Clone, Copy)]
pub enum Handler {
    /// The key-value store: translates the request to one operation of it.
    Store(fn(&Request, &Context) -> Translated),
    /// The server itself: writes a reply.
    Server(fn(&mut Conn, &Request, &mut Vec<u8>)),
    /// Changes what happens to other requests.
    Control(Control),
}

/// Commands that change what happens to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Control {
    Multi,
    Exec,
    Discard,
    Watch,
    Quit,
    Reset,
}

/// One command.
pub struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// Words in all, its name among them; negative: at least so many.
    pub arity: i64,
    /// Its subcommands, each with its own arity. Empty: it has none.
    pub subs: &'static [(&'static str, i64)],
    /// In Redis' words; `no_auth`: also before the secret is named.
    pub flags: &'static [&'static str],
    /// Which words are keys: first, last (negative: from the end), step; zeros: none.
    pub keys: (i64, i64, i64),
    /// As Redis groups its documentation.
    pub group: &'static str,
    /// Version of Redis that this behaves like.
    pub since: &'static str,
    /// Who carries it out.
    pub handler: Handler,
    /// For people.
    pub summary: &'static str,
}

impl Spec {
    /// Whether a request has words as this takes them.
    ///
    /// # Errors
    /// Redis' words for too few or too many, or for a subcommand that is not there.
    pub fn check(&self, request: &Request) -> Result<(), String> {
        if !takes(self.arity, request.len()) {
            return Err(wrong_number(self.name));
        }
        // A name alone stands for itself, where that is allowed.
        if self.subs.is_empty() || request.len() == 1 {
            return Ok(());
        }
        let word = request.word(1);
        match self.subs.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes())) {
            Some((_, arity)) if takes(*arity, request.len()) => Ok(()),
            Some((name, _)) => Err(wrong_number(&format!("{}|{name}", self.name))),
            None => {
                let word = String::from_utf8_lossy(&word[..word.len().min(WORD_BYTES_SHOWN)]);
                Err(format!("ERR unknown subcommand '{word}'. Try {} HELP.", self.name.to_ascii_uppercase()))
            }
        }
    }

    /// Whether it may be used before the secret is named.
    pub fn is_open(&self) -> bool {
        self.flags.contains(&"no_auth")
    }
}

fn takes(arity: i64, words: usize) -> bool {
    let words = words as i64;
    if arity >= 0 { words == arity } else { words >= -arity }
}

/// The command of this name, in any case of letters.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0u8; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let place = TABLE.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    Some(&TABLE[place])
}

/// All commands.
#[rustfmt::skip]
pub static TABLE: &[Spec] = &[
    Spec { name: "append", arity: 3, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "string", since: "2.0.0", handler: Handler::Store(keys::append), summary: "Append to a value" },
    Spec { name: "auth", arity: -2, subs: &[], flags: &["noscript", "loading", "stale", "fast", "no_auth"], keys: (0, 0, 0), group: "connection", since: "1.0.0", handler: Handler::Server(connection::auth), summary: "Authenticate with the cluster secret" },
    Spec { name: "cas", arity: 4, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "string", since: "7.0.0", handler: Handler::Store(keys::cas), summary: "Set a key if it has the old value given: returns 1, else 0; keeps its time to live" },
    Spec { name: "client", arity: -2, subs: &[("getname", 2), ("id", 2), ("info", 2), ("list", -2), ("no-evict", 3), ("no-touch", 3), ("setinfo", 4), ("setname", 3)], flags: &["noscript", "loading", "stale"], keys: (0, 0, 0), group: "connection", since: "2.4.0", handler: Handler::Server(connection::client), summary: "Show and name connections" },
    Spec { name: "cluster", arity: -2, subs: &[("info", 2), ("nodes", 2), ("myid", 2), ("slots", 2), ("shards", 2)], flags: &["loading", "stale"], keys: (0, 0, 0), group: "cluster", since: "3.0.0", handler: Handler::Server(server::cluster), summary: "Cluster mode is disabled: any node accepts any command" },
    Spec { name: "command", arity: -1, subs: &[("count", 2), ("docs", -2), ("info", -2), ("list", -2)], flags: &["loading", "stale"], keys: (0, 0, 0), group: "server", since: "2.8.13", handler: Handler::Server(command), summary: "List the commands" },
    Spec { name: "config", arity: -2, subs: &[("get", -3)], flags: &["noscript", "loading", "stale"], keys: (0, 0, 0), group: "server", since: "2.0.0", handler: Handler::Server(server::config), summary: "GET: show settings by their names in Redis" },
    Spec { name: "consistency", arity: -1, subs: &[], flags: &["loading", "stale", "fast"], keys: (0, 0, 0), group: "connection", since: "7.0.0", handler: Handler::Server(connection::consistency), summary: "Set the consistency of this connection: strong or eventual" },
    Spec { name: "dbsize", arity: 1, subs: &[], flags: &["readonly", "fast"], keys: (0, 0, 0), group: "server", since: "1.0.0", handler: Handler::Store(keys::dbsize), summary: "Number of keys" },
    Spec { name: "decr", arity: 2, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::decr), summary: "Subtract one from a number" },
    Spec { name: "decrby", arity: 3, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::decrby), summary: "Subtract from a number" },
    Spec { name: "del", arity: -2, subs: &[], flags: &["write"], keys: (1, -1, 1), group: "generic", since: "1.0.0", handler: Handler::Store(keys::del), summary: "Delete keys" },
    Spec { name: "discard", arity: 1, subs: &[], flags: &["noscript", "loading", "stale", "fast"], keys: (0, 0, 0), group: "transactions", since: "2.0.0", handler: Handler::Control(Control::Discard), summary: "Discard the transaction" },
    Spec { name: "echo", arity: 2, subs: &[], flags: &["fast"], keys: (0, 0, 0), group: "connection", since: "1.0.0", handler: Handler::Server(connection::echo), summary: "Return the argument" },
    Spec { name: "eval", arity: -3, subs: &[], flags: &["write"], keys: (0, 0, 0), group: "scripting", since: "2.6.0", handler: Handler::Store(keys::eval), summary: "Run one of redis-py's lock scripts" },
    Spec { name: "evalsha", arity: -3, subs: &[], flags: &["write"], keys: (0, 0, 0), group: "scripting", since: "2.6.0", handler: Handler::Store(keys::evalsha), summary: "Run one of redis-py's lock scripts by its SHA-1" },
    Spec { name: "exec", arity: 1, subs: &[], flags: &["noscript", "loading", "stale"], keys: (0, 0, 0), group: "transactions", since: "1.2.0", handler: Handler::Control(Control::Exec), summary: "Run the transaction as one log entry" },
    Spec { name: "exists", arity: -2, subs: &[], flags: &["readonly", "fast"], keys: (1, -1, 1), group: "generic", since: "1.0.0", handler: Handler::Store(keys::exists), summary: "Count which of the keys exist" },
    Spec { name: "expire", arity: -3, subs: &[], flags: &["write", "fast"], keys: (1, 1, 1), group: "generic", since: "1.0.0", handler: Handler::Store(keys::expire), summary: "Set the time to live of a key in seconds" },
    Spec { name: "expireat", arity: -3, subs: &[], flags: &["write", "fast"], keys: (1, 1, 1), group: "generic", since: "1.2.0", handler: Handler::Store(keys::expireat), summary: "Set the expiry of a key in seconds since 1970" },
    Spec { name: "flushall", arity: -1, subs: &[], flags: &["write"], keys: (0, 0, 0), group: "server", since: "1.0.0", handler: Handler::Store(keys::flush), summary: "Delete all keys" },
    Spec { name: "flushdb", arity: -1, subs: &[], flags: &["write"], keys: (0, 0, 0), group: "server", since: "1.0.0", handler: Handler::Store(keys::flush), summary: "Delete all keys" },
    Spec { name: "get", arity: 2, subs: &[], flags: &["readonly", "fast"], keys: (1, 1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::get), summary: "Get the value of a key" },
    Spec { name: "getdel", arity: 2, subs: &[], flags: &["write", "fast"], keys: (1, 1, 1), group: "string", since: "6.2.0", handler: Handler::Store(keys::getdel), summary: "Get the value of a key and delete it" },
    Spec { name: "getset", arity: 3, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::getset), summary: "Set a key and get its old value" },
    Spec { name: "hello", arity: -1, subs: &[], flags: &["noscript", "loading", "stale", "fast", "no_auth"], keys: (0, 0, 0), group: "connection", since: "6.0.0", handler: Handler::Server(connection::hello), summary: "Select the protocol version; authenticate; name the connection" },
    Spec { name: "incr", arity: 2, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::incr), summary: "Add one to a number" },
    Spec { name: "incrby", arity: 3, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::incrby), summary: "Add to a number" },
    Spec { name: "info", arity: -1, subs: &[], flags: &["loading", "stale"], keys: (0, 0, 0), group: "server", since: "1.0.0", handler: Handler::Server(server::info), summary: "Information about this node" },
    Spec { name: "keys", arity: 2, subs: &[], flags: &["readonly"], keys: (0, 0, 0), group: "generic", since: "1.0.0", handler: Handler::Store(keys::keys), summary: "List the keys that match a pattern" },
    Spec { name: "leader", arity: 1, subs: &[], flags: &["loading", "stale", "fast"], keys: (0, 0, 0), group: "cluster", since: "7.0.0", handler: Handler::Server(server::leader), summary: "Id and address of the leader, or nil" },
    Spec { name: "lock.acquire", arity: 3, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "generic", since: "7.0.0", handler: Handler::Store(keys::lock_acquire), summary: "Acquire a lock for a time in milliseconds: returns its fencing token, or nil while it is held" },
    Spec { name: "lock.info", arity: 2, subs: &[], flags: &["readonly", "fast"], keys: (1, 1, 1), group: "generic", since: "7.0.0", handler: Handler::Store(keys::lock_info), summary: "Show fencing token and remaining milliseconds of a lock, or nil" },
    Spec { name: "lock.release", arity: 3, subs: &[], flags: &["write", "fast"], keys: (1, 1, 1), group: "generic", since: "7.0.0", handler: Handler::Store(keys::lock_release), summary: "Release a lock: returns 1, or 0 if it is not held under this token" },
    Spec { name: "lock.renew", arity: 4, subs: &[], flags: &["write", "fast"], keys: (1, 1, 1), group: "generic", since: "7.0.0", handler: Handler::Store(keys::lock_renew), summary: "Extend a lock to a time in milliseconds from now: returns 1, or 0 if it is not held under this token" },
    Spec { name: "mget", arity: -2, subs: &[], flags: &["readonly", "fast"], keys: (1, -1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::mget), summary: "Get the values of keys" },
    Spec { name: "mset", arity: -3, subs: &[], flags: &["write", "denyoom"], keys: (1, -1, 2), group: "string", since: "1.0.1", handler: Handler::Store(keys::mset), summary: "Set several keys at once" },
    Spec { name: "multi", arity: 1, subs: &[], flags: &["noscript", "loading", "stale", "fast"], keys: (0, 0, 0), group: "transactions", since: "1.2.0", handler: Handler::Control(Control::Multi), summary: "Start a transaction" },
    Spec { name: "persist", arity: 2, subs: &[], flags: &["write", "fast"], keys: (1, 1, 1), group: "generic", since: "2.2.0", handler: Handler::Store(keys::persist), summary: "Remove the time to live of a key" },
    Spec { name: "pexpire", arity: -3, subs: &[], flags: &["write", "fast"], keys: (1, 1, 1), group: "generic", since: "2.6.0", handler: Handler::Store(keys::pexpire), summary: "Set the time to live of a key in milliseconds" },
    Spec { name: "pexpireat", arity: -3, subs: &[], flags: &["write", "fast"], keys: (1, 1, 1), group: "generic", since: "2.6.0", handler: Handler::Store(keys::pexpireat), summary: "Set the expiry of a key in milliseconds since 1970" },
    Spec { name: "phalanx", arity: -2, subs: &[("status", -2)], flags: &["loading", "stale"], keys: (0, 0, 0), group: "cluster", since: "7.0.0", handler: Handler::Server(server::phalanx), summary: "STATUS: health of the cluster and its nodes; STATUS JSON for programs" },
    Spec { name: "ping", arity: -1, subs: &[], flags: &["fast"], keys: (0, 0, 0), group: "connection", since: "1.0.0", handler: Handler::Server(connection::ping), summary: "Check that the node answers" },
    Spec { name: "psetex", arity: 4, subs: &[], flags: &["write", "denyoom"], keys: (1, 1, 1), group: "string", since: "2.6.0", handler: Handler::Store(keys::psetex), summary: "Set a key with a time to live in milliseconds" },
    Spec { name: "pttl", arity: 2, subs: &[], flags: &["readonly", "fast"], keys: (1, 1, 1), group: "generic", since: "2.6.0", handler: Handler::Store(keys::pttl), summary: "Time to live of a key in milliseconds" },
    Spec { name: "quit", arity: -1, subs: &[], flags: &["noscript", "loading", "stale", "fast", "no_auth"], keys: (0, 0, 0), group: "connection", since: "1.0.0", handler: Handler::Control(Control::Quit), summary: "Close the connection" },
    Spec { name: "raft", arity: -2, subs: &[("info", 2), ("leader", 2)], flags: &["loading", "stale"], keys: (0, 0, 0), group: "cluster", since: "7.0.0", handler: Handler::Server(server::raft), summary: "LEADER: address of the leader; INFO: this node's view of the log" },
    Spec { name: "reset", arity: 1, subs: &[], flags: &["noscript", "loading", "stale", "fast", "no_auth"], keys: (0, 0, 0), group: "connection", since: "6.2.0", handler: Handler::Control(Control::Reset), summary: "Reset the connection" },
    Spec { name: "role", arity: 1, subs: &[], flags: &["noscript", "loading", "stale", "fast"], keys: (0, 0, 0), group: "server", since: "2.8.12", handler: Handler::Server(server::role), summary: "Role of the node: master, as every node accepts writes" },
    Spec { name: "scan", arity: -2, subs: &[], flags: &["readonly"], keys: (0, 0, 0), group: "generic", since: "2.8.0", handler: Handler::Store(keys::scan), summary: "Iterate over the keys" },
    Spec { name: "script", arity: -2, subs: &[("exists", -3), ("load", 3)], flags: &["noscript"], keys: (0, 0, 0), group: "scripting", since: "2.6.0", handler: Handler::Server(connection::script), summary: "LOAD, EXISTS: for the lock scripts of redis-py" },
    Spec { name: "select", arity: 2, subs: &[], flags: &["loading", "stale", "fast"], keys: (0, 0, 0), group: "connection", since: "1.0.0", handler: Handler::Server(connection::select), summary: "Select the database: only 0 exists" },
    Spec { name: "set", arity: -3, subs: &[], flags: &["write", "denyoom"], keys: (1, 1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::set), summary: "Set the value of a key, optionally with a condition or a time to live" },
    Spec { name: "setex", arity: 4, subs: &[], flags: &["write", "denyoom"], keys: (1, 1, 1), group: "string", since: "2.0.0", handler: Handler::Store(keys::setex), summary: "Set a key with a time to live in seconds" },
    Spec { name: "setnx", arity: 3, subs: &[], flags: &["write", "denyoom", "fast"], keys: (1, 1, 1), group: "string", since: "1.0.0", handler: Handler::Store(keys::setnx), summary: "Set a key only if it does not exist" },
    Spec { name: "strlen", arity: 2, subs: &[], flags: &["readonly", "fast"], keys: (1, 1, 1), group: "string", since: "2.2.0", handler: Handler::Store(keys::strlen), summary: "Length of a value" },
    Spec { name: "time", arity: 1, subs: &[], flags: &["loading", "stale", "fast"], keys: (0, 0, 0), group: "server", since: "2.6.0", handler: Handler::Server(server::time), summary: "Time of this node's clock" },
    Spec { name: "touch", arity: -2, subs: &[], flags: &["readonly", "fast"], keys: (1, -1, 1), group: "generic", since: "3.2.1", handler: Handler::Store(keys::exists), summary: "Count which of the keys exist" },
    Spec { name: "ttl", arity: 2, subs: &[], flags: &["readonly", "fast"], keys: (1, 1, 1), group: "generic", since: "1.0.0", handler: Handler::Store(keys::ttl), summary: "Time to live of a key in seconds" },
    Spec { name: "type", arity: 2, subs: &[], flags: &["readonly", "fast"], keys: (1, 1, 1), group: "generic", since: "1.0.0", handler: Handler::Store(keys::kind), summary: "Type of the value of a key" },
    Spec { name: "unlink", arity: -2, subs: &[], flags: &["write", "fast"], keys: (1, -1, 1), group: "generic", since: "4.0.0", handler: Handler::Store(keys::del), summary: "Delete keys" },
    Spec { name: "unwatch", arity: 1, subs: &[], flags: &["noscript", "loading", "stale", "fast"], keys: (0, 0, 0), group: "transactions", since: "2.2.0", handler: Handler::Server(connection::unwatch), summary: "Forget the watched keys" },
    Spec { name: "watch", arity: -2, subs: &[], flags: &["noscript", "loading", "stale", "fast"], keys: (1, -1, 1), group: "transactions", since: "2.2.0", handler: Handler::Control(Control::Watch), summary: "Run the next transaction only if these keys have not changed" },
];

/// `COMMAND`: what this table holds, as Redis tells it.
fn command(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let proto = conn.proto;
    let named = || request.words().skip(2).map(find);
    let sub = if request.len() == 1 { &b"info"[..] } else { request.word(1) };
    match sub {
        _ if is(sub, "count") => reply::int(out, TABLE.len() as i64),
        _ if is(sub, "list") => {
            reply::array(out, TABLE.len());
            TABLE.iter().for_each(|spec| reply::bulk(out, spec.name.as_bytes()));
        }
        _ if is(sub, "docs") && request.len() == 2 => write_docs(out, proto, TABLE.iter()),
        _ if is(sub, "docs") => {
            let found: Vec<&Spec> = named().flatten().collect();
            write_docs(out, proto, found.into_iter());
        }
        _ if request.len() <= 2 => {
            reply::array(out, TABLE.len());
            TABLE.iter().for_each(|spec| write_spec(out, proto, spec));
        }
        _ => {
            reply::array(out, request.len() - 2);
            for spec in named() {
                match spec {
                    Some(spec) => write_spec(out, proto, spec),
                    None => reply::nil(out, proto),
                }
            }
        }
    }
}

/// Name, arity, flags, first key, last key, step, categories; tips, key specifications and subcommands are empty.
fn write_spec(out: &mut Vec<u8>, proto: Proto, spec: &Spec) {
    let (first, last, step) = spec.keys;
    reply::array(out, 10);
    reply::bulk(out, spec.name.as_bytes());
    reply::int(out, spec.arity);
    reply::set(out, proto, spec.flags.len());
    spec.flags.iter().for_each(|flag| reply::simple(out, flag));
    for place in [first, last, step] {
        reply::int(out, place);
    }
    let kind = if spec.flags.contains(&"write") { "@write" } else { "@read" };
    let speed = if spec.flags.contains(&"fast") { "@fast" } else { "@slow" };
    let categories: &[&str] = if spec.keys.0 > 0 { &[kind, speed] } else { &[speed] };
    reply::set(out, proto, categories.len());
    categories.iter().for_each(|category| reply::simple(out, category));
    for _ in 0..3 {
        reply::array(out, 0);
    }
}

fn write_docs<'a>(out: &mut Vec<u8>, proto: Proto, specs: impl ExactSizeIterator<Item = &'a Spec>) {
    reply::map(out, proto, specs.len());
    for spec in specs {
        reply::bulk(out, spec.name.as_bytes());
        reply::map(out, proto, 3);
        for (name, value) in [("summary", spec.summary), ("since", spec.since), ("group", spec.group)] {
            reply::bulk(out, name.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::commands::*;

    #[test]
    fn names_are_sorted_lower_case_and_short() {
        assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
        for spec in TABLE {
            assert_eq!(spec.name, spec.name.to_ascii_lowercase());
            assert!(spec.name.len() <= NAME_BYTES_MAX, "{}", spec.name);
            assert!(find(spec.name.to_uppercase().as_bytes()).is_some_and(|found| found.name == spec.name));
        }
        assert!(find(b"").is_none() && find(b"no-such-command-anywhere").is_none());
    }

    fn check(line: &str) -> Result<(), String> {
        let mut parser = crate::resp::protocol::parse::Parser::default();
        let line = format!("{line}\n");
        let (request, _) = parser.next(line.as_bytes(), true).unwrap().unwrap();
        find(request.word(0)).unwrap().check(&request)
    }

    #[test]
    fn arity_counts_the_name() {
        for fine in ["get k", "del a", "del a b c", "command", "command count", "config get a b", "client id"] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for (bad, name) in [("get", "get"), ("get a b", "get"), ("del", "del"), ("client", "client")] {
            assert_eq!(check(bad), Err(wrong_number(name)), "{bad}");
        }
        assert_eq!(check("client setname"), Err(wrong_number("client|setname")));
        assert_eq!(check("Config Set a b"), Err("ERR unknown subcommand 'Set'. Try CONFIG HELP.".to_string()));
    }
}
