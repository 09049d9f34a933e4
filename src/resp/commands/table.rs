//! Every command of the Redis server: one table is used to dispatch and check requests, and for the replies to COMMAND.
//!
//! Invariant: T1 the table is in the order of names, which are in lower case.
//! Not here: what the columns are (`spec.rs`), what the commands do.

use super::spec::{ALL_KEYS, Control, Handler, NO_KEYS, ONE_KEY, PAIRS, SUB_KEY, Spec, TWO_KEYS, spec};
use super::store::{expiry, keys, locks, strings};
use super::{client, command, connection, info, pubsub, server};
use crate::node::SubscriptionKind;

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 16;

/// The command of this name, ignoring case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0u8; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let place = TABLE.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    Some(&TABLE[place])
}

/// For the subcommands of CLUSTER.
const DISABLED: &str = "Refused: cluster mode is disabled.";

#[rustfmt::skip]
pub static TABLE: &[Spec] = &[
    spec("acl", -2, "noscript loading stale", NO_KEYS, "server", "6.0.0", Handler::Server(server::acl),
        "WHOAMI: the one user").subs(&[("whoami", 2, "", "The user of this connection.")]),
    spec("append", 3, "write denyoom fast", ONE_KEY, "string", "2.0.0", Handler::Store(strings::append),
        "Append to a value"),
    spec("auth", -2, "noscript loading stale fast no_auth", NO_KEYS, "connection", "1.0.0",
        Handler::Server(connection::auth), "Authenticate with the client password"),
    spec("cas", 4, "write denyoom fast", ONE_KEY, "string", "7.0.0", Handler::Store(strings::cas),
        "Set a key if it has the old value given: returns 1, else 0; keeps its time to live"),
    spec("client", -2, "noscript loading stale", NO_KEYS, "connection", "2.4.0", Handler::Server(client::client),
        "Show, name and close connections")
        .subs(&[
            ("getname", 2, "", "The name of this connection."),
            ("id", 2, "", "The number of this connection."),
            ("info", 2, "", "This connection."),
            ("kill", -3, "<ip:port> | [ID <id>] [ADDR|LADDR <ip:port>] [TYPE <type>] [USER default] [SKIPME yes|no]",
                "Closes connections of this node."),
            ("list", -2, "[TYPE normal|pubsub|master|replica] [ID <id> ...]", "The connections of this node."),
            ("no-evict", 3, "ON|OFF", "Has no effect."),
            ("no-touch", 3, "ON|OFF", "Has no effect."),
            ("setinfo", 4, "LIB-NAME|LIB-VER <value>", "Names the client's library."),
            ("setname", 3, "<name>", "Names this connection."),
            ("tracking", -3, "OFF", "Has no effect; ON is refused."),
            ("unblock", -3, "<id> [TIMEOUT|ERROR]", "Returns 0: no command blocks."),
        ]),
    spec("cluster", -2, "loading stale", NO_KEYS, "cluster", "3.0.0", Handler::Server(server::cluster),
        "Cluster mode is disabled: any node accepts any command")
        .subs(&[("info", 2, "", DISABLED), ("nodes", 2, "", DISABLED), ("myid", 2, "", DISABLED),
            ("slots", 2, "", DISABLED), ("shards", 2, "", DISABLED)]),
    spec("command", -1, "loading stale", NO_KEYS, "server", "2.8.13", Handler::Table(command::command),
        "List the commands").subs(&[
            ("count", 2, "", "Number of commands."),
            ("docs", -2, "[<name> ...]", "What commands are for."),
            ("getkeys", -4, "<command> [<arg> ...]", "The keys in a command."),
            ("info", -2, "[<name> ...]", "Arguments and flags of commands."),
            ("list", -2, "[FILTERBY MODULE|ACLCAT|PATTERN <value>]", "Names of commands."),
        ]),
    spec("config", -2, "noscript loading stale", NO_KEYS, "server", "2.0.0", Handler::Server(server::config),
        "GET: show settings by their names in Redis")
        .subs(&[("get", -3, "<pattern> [<pattern> ...]", "Settings by their names in Redis.")]),
    spec("consistency", -1, "loading stale fast", NO_KEYS, "connection", "7.0.0",
        Handler::Server(connection::consistency), "Set the consistency of this connection: strong or eventual"),
    spec("copy", -3, "write denyoom", TWO_KEYS, "generic", "6.2.0", Handler::Store(keys::copy),
        "Copy a key with its time to live"),
    spec("dbsize", 1, "readonly fast", NO_KEYS, "server", "1.0.0", Handler::Store(keys::dbsize), "Number of keys"),
    spec("decr", 2, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(strings::decr),
        "Subtract one from a number"),
    spec("decrby", 3, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(strings::decrby),
        "Subtract from a number"),
    spec("del", -2, "write", ALL_KEYS, "generic", "1.0.0", Handler::Store(keys::del), "Delete keys"),
    spec("discard", 1, "noscript loading stale fast", NO_KEYS, "transactions", "2.0.0",
        Handler::Control(Control::Discard), "Discard the transaction"),
    spec("echo", 2, "fast", NO_KEYS, "connection", "1.0.0", Handler::Server(connection::echo), "Return the argument"),
    spec("eval", -3, "write movablekeys", NO_KEYS, "scripting", "2.6.0", Handler::Store(locks::eval),
        "Run one of redis-py's lock scripts"),
    spec("evalsha", -3, "write movablekeys", NO_KEYS, "scripting", "2.6.0", Handler::Store(locks::evalsha),
        "Run one of redis-py's lock scripts by its SHA-1"),
    spec("exec", 1, "noscript loading stale", NO_KEYS, "transactions", "1.2.0", Handler::Control(Control::Exec),
        "Run the transaction as one log entry"),
    spec("exists", -2, "readonly fast", ALL_KEYS, "generic", "1.0.0", Handler::Store(keys::exists),
        "Count which of the keys exist"),
    spec("expire", -3, "write fast", ONE_KEY, "generic", "1.0.0", Handler::Store(expiry::expire),
        "Set the time to live of a key in seconds"),
    spec("expireat", -3, "write fast", ONE_KEY, "generic", "1.2.0", Handler::Store(expiry::expireat),
        "Set the expiry of a key in seconds since 1970"),
    spec("expiretime", 2, "readonly fast", ONE_KEY, "generic", "7.0.0", Handler::Store(expiry::expiretime),
        "Expiry of a key in seconds since 1970"),
    spec("flushall", -1, "write", NO_KEYS, "server", "1.0.0", Handler::Store(keys::flush), "Delete all keys"),
    spec("flushdb", -1, "write", NO_KEYS, "server", "1.0.0", Handler::Store(keys::flush), "Delete all keys"),
    spec("get", 2, "readonly fast", ONE_KEY, "string", "1.0.0", Handler::Store(strings::get), "Get the value of a key"),
    spec("getdel", 2, "write fast", ONE_KEY, "string", "6.2.0", Handler::Store(strings::getdel),
        "Get the value of a key and delete it"),
    spec("getex", -2, "write fast", ONE_KEY, "string", "6.2.0", Handler::Store(strings::getex),
        "Get the value of a key and set or remove its time to live"),
    spec("getrange", 4, "readonly", ONE_KEY, "string", "2.4.0", Handler::Store(strings::getrange),
        "Get a part of a value"),
    spec("getset", 3, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(strings::getset),
        "Set a key and get its old value"),
    spec("hello", -1, "noscript loading stale fast no_auth", NO_KEYS, "connection", "6.0.0",
        Handler::Server(connection::hello), "Select the protocol version; authenticate; name the connection"),
    spec("incr", 2, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(strings::incr),
        "Add one to a number"),
    spec("incrby", 3, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(strings::incrby),
        "Add to a number"),
    spec("incrbyfloat", 3, "write denyoom fast", ONE_KEY, "string", "2.6.0", Handler::Store(strings::incrbyfloat),
        "Add to a decimal number"),
    spec("info", -1, "loading stale", NO_KEYS, "server", "1.0.0", Handler::Server(info::info),
        "Information about this node"),
    spec("keys", 2, "readonly", NO_KEYS, "generic", "1.0.0", Handler::Store(keys::keys),
        "List the keys that match a pattern"),
    spec("latency", -2, "noscript loading stale", NO_KEYS, "server", "2.8.13", Handler::Server(server::latency),
        "Latency events: none are recorded").subs(&[
            ("history", 3, "<event>", "Always empty."),
            ("latest", 2, "", "Always empty."),
            ("reset", -2, "[<event> ...]", "Returns 0: nothing is recorded."),
        ]),
    spec("leader", 1, "loading stale fast", NO_KEYS, "cluster", "7.0.0", Handler::Server(server::leader),
        "Id and address of the leader, or nil"),
    spec("lock.acquire", 3, "write denyoom fast", ONE_KEY, "generic", "7.0.0", Handler::Store(locks::lock_acquire),
        "Acquire a lock for a time in milliseconds: returns its fencing token, or nil while it is held"),
    spec("lock.info", 2, "readonly fast", ONE_KEY, "generic", "7.0.0", Handler::Store(locks::lock_info),
        "Show fencing token and remaining milliseconds of a lock, or nil"),
    spec("lock.release", 3, "write fast", ONE_KEY, "generic", "7.0.0", Handler::Store(locks::lock_release),
        "Release a lock: returns 1, or 0 if it is not held under this token"),
    spec("lock.renew", 4, "write fast", ONE_KEY, "generic", "7.0.0", Handler::Store(locks::lock_renew),
        "Extend a lock to a time in milliseconds from now: returns 1, or 0 if it is not held under this token"),
    spec("lolwut", -1, "readonly fast", NO_KEYS, "server", "5.0.0", Handler::Server(server::lolwut),
        "Show the version"),
    spec("memory", -2, "readonly", SUB_KEY, "server", "4.0.0", Handler::Store(keys::memory),
        "USAGE: approximate memory of a key and its value")
        .subs(&[("usage", -3, "<key> [SAMPLES <count>]", "Approximate bytes of a key and its value.")]),
    spec("mget", -2, "readonly fast", ALL_KEYS, "string", "1.0.0", Handler::Store(strings::mget),
        "Get the values of keys"),
    spec("module", -2, "noscript", NO_KEYS, "server", "4.0.0", Handler::Server(server::module),
        "LIST: there are no modules").subs(&[("list", 2, "", "Always empty.")]),
    spec("mset", -3, "write denyoom", PAIRS, "string", "1.0.1", Handler::Store(strings::mset), "Set several keys at once"),
    spec("msetnx", -3, "write denyoom", PAIRS, "string", "1.0.1", Handler::Store(strings::msetnx),
        "Set several keys if none of them exists"),
    spec("multi", 1, "noscript loading stale fast", NO_KEYS, "transactions", "1.2.0", Handler::Control(Control::Multi),
        "Start a transaction"),
    spec("object", -2, "readonly", SUB_KEY, "generic", "2.2.3", Handler::Store(keys::object),
        "What Redis tells of the form of a value").subs(&[
            ("encoding", 3, "<key>", "The form in which Redis would store the value."),
            ("freq", 3, "<key>", "Refused: not tracked."),
            ("idletime", 3, "<key>", "Refused: not tracked."),
            ("refcount", 3, "<key>", "1."),
        ]),
    spec("persist", 2, "write fast", ONE_KEY, "generic", "2.2.0", Handler::Store(expiry::persist),
        "Remove the time to live of a key"),
    spec("pexpire", -3, "write fast", ONE_KEY, "generic", "2.6.0", Handler::Store(expiry::pexpire),
        "Set the time to live of a key in milliseconds"),
    spec("pexpireat", -3, "write fast", ONE_KEY, "generic", "2.6.0", Handler::Store(expiry::pexpireat),
        "Set the expiry of a key in milliseconds since 1970"),
    spec("pexpiretime", 2, "readonly fast", ONE_KEY, "generic", "7.0.0", Handler::Store(expiry::pexpiretime),
        "Expiry of a key in milliseconds since 1970"),
    spec("phalanx", -2, "loading stale", NO_KEYS, "cluster", "7.0.0", Handler::Server(server::phalanx),
        "STATUS: health of the cluster and its nodes; STATUS JSON for programs")
        .subs(&[("status", -2, "[JSON]", "Health of the cluster and its nodes.")]),
    spec("ping", -1, "fast", NO_KEYS, "connection", "1.0.0", Handler::Server(connection::ping),
        "Check that the node answers"),
    spec("psetex", 4, "write denyoom", ONE_KEY, "string", "2.6.0", Handler::Store(strings::psetex),
        "Set a key with a time to live in milliseconds"),
    spec("psubscribe", -2, "pubsub noscript loading stale", NO_KEYS, "pubsub", "2.0.0",
        Handler::Control(Control::Subscribe(SubscriptionKind::Pattern)), "Subscribe to the channels that match patterns"),
    spec("pttl", 2, "readonly fast", ONE_KEY, "generic", "2.6.0", Handler::Store(expiry::pttl),
        "Time to live of a key in milliseconds"),
    spec("publish", 3, "pubsub loading stale fast", NO_KEYS, "pubsub", "2.0.0", Handler::Publish,
        "Send a message to the subscribers of a channel on all nodes"),
    spec("pubsub", -2, "pubsub loading stale", NO_KEYS, "pubsub", "2.8.0", Handler::Server(pubsub::pubsub),
        "Channels and subscribers of this node").subs(&[
            ("channels", -2, "[<pattern>]", "Channels with subscribers on this node."),
            ("numpat", 2, "", "Number of patterns with subscribers on this node."),
            ("numsub", -2, "[<channel> ...]", "Number of subscribers on this node."),
        ]),
    spec("punsubscribe", -1, "pubsub noscript loading stale", NO_KEYS, "pubsub", "2.0.0",
        Handler::Control(Control::Unsubscribe(SubscriptionKind::Pattern)), "End subscriptions to patterns"),
    spec("quit", -1, "noscript loading stale fast no_auth", NO_KEYS, "connection", "1.0.0",
        Handler::Control(Control::Quit), "Close the connection"),
    spec("raft", -2, "loading stale", NO_KEYS, "cluster", "7.0.0", Handler::Server(server::raft),
        "LEADER: address of the leader; INFO: this node's view of the log")
        .subs(&[("info", 2, "", "This node's view of the log."), ("leader", 2, "", "Address of the leader.")]),
    spec("randomkey", 1, "readonly", NO_KEYS, "generic", "1.0.0", Handler::Store(keys::randomkey), "A random key"),
    spec("rename", 3, "write", TWO_KEYS, "generic", "1.0.0", Handler::Store(keys::rename),
        "Give a key another name, whether or not that is in use"),
    spec("renamenx", 3, "write fast", TWO_KEYS, "generic", "1.0.0", Handler::Store(keys::renamenx),
        "Give a key another name if that is not in use"),
    spec("reset", 1, "noscript loading stale fast no_auth", NO_KEYS, "connection", "6.2.0",
        Handler::Control(Control::Reset), "Reset the connection"),
    spec("role", 1, "noscript loading stale fast", NO_KEYS, "server", "2.8.12", Handler::Server(server::role),
        "Role of the node: master, as every node accepts writes"),
    spec("scan", -2, "readonly", NO_KEYS, "generic", "2.8.0", Handler::Store(keys::scan), "Iterate over the keys"),
    spec("script", -2, "noscript", NO_KEYS, "scripting", "2.6.0", Handler::Server(connection::script),
        "LOAD, EXISTS: for the lock scripts of redis-py")
        .subs(&[("exists", -3, "<sha1> [<sha1> ...]", "Which of these scripts are known."),
            ("load", 3, "<script>", "The name of one of redis-py's lock scripts.")]),
    spec("select", 2, "loading stale fast", NO_KEYS, "connection", "1.0.0", Handler::Server(connection::select),
        "Select the database: only 0 exists"),
    spec("set", -3, "write denyoom", ONE_KEY, "string", "1.0.0", Handler::Store(strings::set),
        "Set the value of a key, optionally with a condition or a time to live"),
    spec("setex", 4, "write denyoom", ONE_KEY, "string", "2.0.0", Handler::Store(strings::setex),
        "Set a key with a time to live in seconds"),
    spec("setnx", 3, "write denyoom fast", ONE_KEY, "string", "1.0.0", Handler::Store(strings::setnx),
        "Set a key only if it does not exist"),
    spec("setrange", 4, "write denyoom", ONE_KEY, "string", "2.2.0", Handler::Store(strings::setrange),
        "Overwrite a part of a value"),
    spec("slowlog", -2, "loading stale", NO_KEYS, "server", "2.2.12", Handler::Server(server::slowlog),
        "The slow log: none is kept").subs(&[
            ("get", -2, "[<count>]", "Always empty."),
            ("len", 2, "", "Always 0."),
            ("reset", 2, "", "Has no effect."),
        ]),
    spec("strlen", 2, "readonly fast", ONE_KEY, "string", "2.2.0", Handler::Store(strings::strlen), "Length of a value"),
    spec("subscribe", -2, "pubsub noscript loading stale", NO_KEYS, "pubsub", "2.0.0",
        Handler::Control(Control::Subscribe(SubscriptionKind::Channel)), "Subscribe to channels"),
    spec("time", 1, "loading stale fast", NO_KEYS, "server", "2.6.0", Handler::Server(server::time),
        "Time of this node's clock"),
    spec("touch", -2, "readonly fast", ALL_KEYS, "generic", "3.2.1", Handler::Store(keys::exists),
        "Count which of the keys exist"),
    spec("ttl", 2, "readonly fast", ONE_KEY, "generic", "1.0.0", Handler::Store(expiry::ttl),
        "Time to live of a key in seconds"),
    spec("type", 2, "readonly fast", ONE_KEY, "generic", "1.0.0", Handler::Store(keys::kind),
        "Type of the value of a key"),
    spec("unlink", -2, "write fast", ALL_KEYS, "generic", "4.0.0", Handler::Store(keys::del), "Delete keys"),
    spec("unsubscribe", -1, "pubsub noscript loading stale", NO_KEYS, "pubsub", "2.0.0",
        Handler::Control(Control::Unsubscribe(SubscriptionKind::Channel)), "End subscriptions to channels"),
    spec("unwatch", 1, "noscript loading stale fast", NO_KEYS, "transactions", "2.2.0",
        Handler::Server(connection::unwatch), "Forget the watched keys"),
    spec("watch", -2, "noscript loading stale fast", ALL_KEYS, "transactions", "2.2.0",
        Handler::Control(Control::Watch), "Run the next transaction only if these keys have not changed"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::protocol::reply::wrong_arity;

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
            assert_eq!(check(bad), Err(wrong_arity(name)), "{bad}");
        }
        assert_eq!(check("client setname"), Err(wrong_arity("client|setname")));
        assert_eq!(check("Config Set a b"), Err("ERR unknown subcommand 'Set'. Try CONFIG HELP.".to_string()));
    }
}
