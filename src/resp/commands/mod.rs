//! Every command of the Redis server: its name, its arguments, its purpose and its handler.
//!
//! One table is used to dispatch and check requests, and for the replies to COMMAND.
//! Invariant: T1 the table is in the order of names, which are in lower case.
//! Not here: what the commands do (`keys.rs` for the store's, `connection.rs` and `server.rs` for the server's own).

pub(crate) mod connection;
pub(crate) mod keys;
pub(crate) mod scripts;
pub(crate) mod server;

use self::keys::{Context, Translated};
use super::conn::Conn;
use super::protocol::parse::{Request, is};
use super::protocol::reply::{self, Proto, wrong_number};

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 16;
/// Bytes of a client's word that an error shows.
pub(crate) const WORD_BYTES_SHOWN: usize = 128;

/// How a command is executed.
#[derive(Clone, Copy)]
pub enum Handler {
    /// The key-value store: translates the request to one operation of it.
    Store(fn(&Request, &Context) -> Translated),
    /// The server itself: writes a reply.
    Server(fn(&mut Conn, &Request, &mut Vec<u8>)),
    /// Changes the state of the connection: transactions, and its end.
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
}

/// One command.
pub struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// Number of words, its name included; negative: at least so many.
    pub arity: i64,
    /// Its subcommands, each with its own arity. Empty: it has none.
    pub subs: &'static [(&'static str, i64)],
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
            return Err(wrong_number(self.name));
        }
        // Without a subcommand, where that is allowed.
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

    /// Whether it may be used before authentication.
    pub fn is_open(&self) -> bool {
        self.has_flag("no_auth")
    }

    fn has_flag(&self, name: &str) -> bool {
        self.flags.split(' ').any(|flag| flag == name)
    }

    const fn subs(mut self, subs: &'static [(&'static str, i64)]) -> Spec {
        self.subs = subs;
        self
    }
}

#[allow(clippy::too_many_arguments, reason = "a row of the table")]
const fn spec(
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

const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
const ONE_KEY: (i64, i64, i64) = (1, 1, 1);
const ALL_KEYS: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);

fn takes(arity: i64, words: usize) -> bool {
    let words = words as i64;
    if arity >= 0 { words == arity } else { words >= -arity }
}

/// The command of this name, ignoring case.
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
    spec("append", 3, "write denyoom fast", ONE_KEY, "string", "2.0.0", Handler::Store(keys::append),
        "Append to a value"),
    spec("auth", -2, "noscript loading stale fast no_auth", NO_KEYS, "connection", "1.0.0",
        Handler::Server(connection::auth), "Authenticate with the cluster secret"),
    spec("cas", 4, "write denyoom fast", ONE_KEY, "string", "7.0.0", Handler::Store(keys::cas),
        "Set a key if it has the old value given: returns 1, else 0; keeps its time to live"),
    spec("client", -2, "noscript loading stale", NO_KEYS, "connection", "2.4.0", Handler::Server(connection::client),
        "Show and name connections")
        .subs(&[("getname", 2), ("id", 2), ("info", 2), ("list", -2),
            ("no-evict", 3), ("no-touch", 3), ("setinfo", 4), ("setname", 3)]),
    spec("cluster", -2, "loading stale", NO_KEYS, "cluster", "3.0.0", Handler::Server(server::cluster),
        "Cluster mode is disabled: any node accepts any command")
        .subs(&[("info", 2), ("nodes", 2), ("myid", 2), ("slots", 2), ("shards", 2)]),
    spec("command", -1, "loading stale", NO_KEYS, "server", "2.8.13", Handler::Server(command),
        "List the commands").subs(&[("count", 2), ("docs", -2), ("info", -2), ("list", -2)]),
    spec("config", -2, "noscript loading stale", NO_KEYS, "server", "2.0.0", Handler::Server(server::config),
        "GET: show settings by their names in Redis").subs(&[("get", -3)]),
    spec("consistency", -1, "loading stale fast", NO_KEYS, "connection", "7.0.0",
        Handler::Server(connection::consistency), "Set the consistency of this connection: strong or eventual"),
    spec("dbsize", 1, "readonly fast", NO_KEYS, "server", "1.0.0", Handler::Store(keys::dbsize), "Number of keys"),
    spec("decr", 2, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(keys::decr),
        "Subtract one from a number"),
    spec("decrby", 3, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(keys::decrby),
        "Subtract from a number"),
    spec("del", -2, "write", ALL_KEYS, "generic", "1.0.0", Handler::Store(keys::del), "Delete keys"),
    spec("discard", 1, "noscript loading stale fast", NO_KEYS, "transactions", "2.0.0",
        Handler::Control(Control::Discard), "Discard the transaction"),
    spec("echo", 2, "fast", NO_KEYS, "connection", "1.0.0", Handler::Server(connection::echo), "Return the argument"),
    spec("eval", -3, "write", NO_KEYS, "scripting", "2.6.0", Handler::Store(keys::eval),
        "Run one of redis-py's lock scripts"),
    spec("evalsha", -3, "write", NO_KEYS, "scripting", "2.6.0", Handler::Store(keys::evalsha),
        "Run one of redis-py's lock scripts by its SHA-1"),
    spec("exec", 1, "noscript loading stale", NO_KEYS, "transactions", "1.2.0", Handler::Control(Control::Exec),
        "Run the transaction as one log entry"),
    spec("exists", -2, "readonly fast", ALL_KEYS, "generic", "1.0.0", Handler::Store(keys::exists),
        "Count which of the keys exist"),
    spec("expire", -3, "write fast", ONE_KEY, "generic", "1.0.0", Handler::Store(keys::expire),
        "Set the time to live of a key in seconds"),
    spec("expireat", -3, "write fast", ONE_KEY, "generic", "1.2.0", Handler::Store(keys::expireat),
        "Set the expiry of a key in seconds since 1970"),
    spec("flushall", -1, "write", NO_KEYS, "server", "1.0.0", Handler::Store(keys::flush), "Delete all keys"),
    spec("flushdb", -1, "write", NO_KEYS, "server", "1.0.0", Handler::Store(keys::flush), "Delete all keys"),
    spec("get", 2, "readonly fast", ONE_KEY, "string", "1.0.0", Handler::Store(keys::get), "Get the value of a key"),
    spec("getdel", 2, "write fast", ONE_KEY, "string", "6.2.0", Handler::Store(keys::getdel),
        "Get the value of a key and delete it"),
    spec("getset", 3, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(keys::getset),
        "Set a key and get its old value"),
    spec("hello", -1, "noscript loading stale fast no_auth", NO_KEYS, "connection", "6.0.0",
        Handler::Server(connection::hello), "Select the protocol version; authenticate; name the connection"),
    spec("incr", 2, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(keys::incr),
        "Add one to a number"),
    spec("incrby", 3, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(keys::incrby),
        "Add to a number"),
    spec("info", -1, "loading stale", NO_KEYS, "server", "1.0.0", Handler::Server(server::info),
        "Information about this node"),
    spec("keys", 2, "readonly", NO_KEYS, "generic", "1.0.0", Handler::Store(keys::keys),
        "List the keys that match a pattern"),
    spec("leader", 1, "loading stale fast", NO_KEYS, "cluster", "7.0.0", Handler::Server(server::leader),
        "Id and address of the leader, or nil"),
    spec("lock.acquire", 3, "write denyoom fast", ONE_KEY, "generic", "7.0.0", Handler::Store(keys::lock_acquire),
        "Acquire a lock for a time in milliseconds: returns its fencing token, or nil while it is held"),
    spec("lock.info", 2, "readonly fast", ONE_KEY, "generic", "7.0.0", Handler::Store(keys::lock_info),
        "Show fencing token and remaining milliseconds of a lock, or nil"),
    spec("lock.release", 3, "write fast", ONE_KEY, "generic", "7.0.0", Handler::Store(keys::lock_release),
        "Release a lock: returns 1, or 0 if it is not held under this token"),
    spec("lock.renew", 4, "write fast", ONE_KEY, "generic", "7.0.0", Handler::Store(keys::lock_renew),
        "Extend a lock to a time in milliseconds from now: returns 1, or 0 if it is not held under this token"),
    spec("mget", -2, "readonly fast", ALL_KEYS, "string", "1.0.0", Handler::Store(keys::mget),
        "Get the values of keys"),
    spec("mset", -3, "write denyoom", PAIRS, "string", "1.0.1", Handler::Store(keys::mset), "Set several keys at once"),
    spec("multi", 1, "noscript loading stale fast", NO_KEYS, "transactions", "1.2.0", Handler::Control(Control::Multi),
        "Start a transaction"),
    spec("persist", 2, "write fast", ONE_KEY, "generic", "2.2.0", Handler::Store(keys::persist),
        "Remove the time to live of a key"),
    spec("pexpire", -3, "write fast", ONE_KEY, "generic", "2.6.0", Handler::Store(keys::pexpire),
        "Set the time to live of a key in milliseconds"),
    spec("pexpireat", -3, "write fast", ONE_KEY, "generic", "2.6.0", Handler::Store(keys::pexpireat),
        "Set the expiry of a key in milliseconds since 1970"),
    spec("phalanx", -2, "loading stale", NO_KEYS, "cluster", "7.0.0", Handler::Server(server::phalanx),
        "STATUS: health of the cluster and its nodes; STATUS JSON for programs").subs(&[("status", -2)]),
    spec("ping", -1, "fast", NO_KEYS, "connection", "1.0.0", Handler::Server(connection::ping),
        "Check that the node answers"),
    spec("psetex", 4, "write denyoom", ONE_KEY, "string", "2.6.0", Handler::Store(keys::psetex),
        "Set a key with a time to live in milliseconds"),
    spec("pttl", 2, "readonly fast", ONE_KEY, "generic", "2.6.0", Handler::Store(keys::pttl),
        "Time to live of a key in milliseconds"),
    spec("quit", -1, "noscript loading stale fast no_auth", NO_KEYS, "connection", "1.0.0",
        Handler::Control(Control::Quit), "Close the connection"),
    spec("raft", -2, "loading stale", NO_KEYS, "cluster", "7.0.0", Handler::Server(server::raft),
        "LEADER: address of the leader; INFO: this node's view of the log").subs(&[("info", 2), ("leader", 2)]),
    spec("reset", 1, "noscript loading stale fast no_auth", NO_KEYS, "connection", "6.2.0",
        Handler::Control(Control::Reset), "Reset the connection"),
    spec("role", 1, "noscript loading stale fast", NO_KEYS, "server", "2.8.12", Handler::Server(server::role),
        "Role of the node: master, as every node accepts writes"),
    spec("scan", -2, "readonly", NO_KEYS, "generic", "2.8.0", Handler::Store(keys::scan), "Iterate over the keys"),
    spec("script", -2, "noscript", NO_KEYS, "scripting", "2.6.0", Handler::Server(connection::script),
        "LOAD, EXISTS: for the lock scripts of redis-py").subs(&[("exists", -3), ("load", 3)]),
    spec("select", 2, "loading stale fast", NO_KEYS, "connection", "1.0.0", Handler::Server(connection::select),
        "Select the database: only 0 exists"),
    spec("set", -3, "write denyoom", ONE_KEY, "string", "1.0.0", Handler::Store(keys::set),
        "Set the value of a key, optionally with a condition or a time to live"),
    spec("setex", 4, "write denyoom", ONE_KEY, "string", "2.0.0", Handler::Store(keys::setex),
        "Set a key with a time to live in seconds"),
    spec("setnx", 3, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(keys::setnx),
        "Set a key only if it does not exist"),
    spec("strlen", 2, "readonly fast", ONE_KEY, "string", "2.2.0", Handler::Store(keys::strlen), "Length of a value"),
    spec("time", 1, "loading stale fast", NO_KEYS, "server", "2.6.0", Handler::Server(server::time),
        "Time of this node's clock"),
    spec("touch", -2, "readonly fast", ALL_KEYS, "generic", "3.2.1", Handler::Store(keys::exists),
        "Count which of the keys exist"),
    spec("ttl", 2, "readonly fast", ONE_KEY, "generic", "1.0.0", Handler::Store(keys::ttl),
        "Time to live of a key in seconds"),
    spec("type", 2, "readonly fast", ONE_KEY, "generic", "1.0.0", Handler::Store(keys::kind),
        "Type of the value of a key"),
    spec("unlink", -2, "write fast", ALL_KEYS, "generic", "4.0.0", Handler::Store(keys::del), "Delete keys"),
    spec("unwatch", 1, "noscript loading stale fast", NO_KEYS, "transactions", "2.2.0",
        Handler::Server(connection::unwatch), "Forget the watched keys"),
    spec("watch", -2, "noscript loading stale fast", ALL_KEYS, "transactions", "2.2.0",
        Handler::Control(Control::Watch), "Run the next transaction only if these keys have not changed"),
];

/// `COMMAND`: the table, in the form of Redis.
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
    reply::set(out, proto, spec.flags.split(' ').count());
    spec.flags.split(' ').for_each(|flag| reply::simple(out, flag));
    for place in [first, last, step] {
        reply::int(out, place);
    }
    let kind = if spec.has_flag("write") { "@write" } else { "@read" };
    let speed = if spec.has_flag("fast") { "@fast" } else { "@slow" };
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
