//! SUBSCRIBE and its relatives, PUBLISH and PUBSUB.
//!
//! PUBSUB and the answer to PUBLISH know the subscribers of this node, as in Redis Cluster.
//! Not here: who gets a message (`node/pubsub.rs`), PUBLISH in a transaction (`resp/dispatch.rs`).

use crate::limits::{RESP_PATTERN_BYTES_MAX, RESP_SUBSCRIPTIONS_MAX};
use crate::node::SubscriptionKind;
use crate::outcome::Reason;
use crate::resp::conn::Conn;
use crate::resp::protocol::parse::{Request, is_word};
use crate::resp::protocol::reply::{self, RespVersion};
use crate::resp::reply_plan::error_text;
use crate::services::kv::commands::KEY_BYTES_MAX;
use std::sync::Arc;

/// Memory of a subscription beside its name: places in three trees.
const SUBSCRIPTION_BYTES: usize = 256;

impl Conn {
    /// SUBSCRIBE and PSUBSCRIBE. Each name is confirmed; after all earlier replies, so that no message comes before.
    pub(crate) fn subscribe(&mut self, kind: SubscriptionKind, request: &Request) {
        self.flush();
        self.client.wait_answered();
        self.client.set_form(self.proto, self.is_line);
        for name in request.words().skip(1) {
            if let Err(why) = self.add_subscription(kind, name) {
                self.reply(|out| reply::error(out, &why));
                self.flush();
                continue;
            }
            let who = Arc::clone(&self.client);
            let confirmation = self.confirmation(kind, "subscribe", Some(name));
            self.shared.handle.channels().subscribe(kind, name, who, || self.client.confirm(&confirmation));
        }
        self.note_subscriptions();
    }

    fn add_subscription(&mut self, kind: SubscriptionKind, name: &[u8]) -> Result<(), String> {
        let bytes_max = if kind == SubscriptionKind::Pattern { RESP_PATTERN_BYTES_MAX } else { KEY_BYTES_MAX };
        if name.len() > bytes_max {
            return Err(format!("ERR the name has {} bytes, {bytes_max} are allowed", name.len()));
        }
        if self.subscribed.contains(&(kind, name.to_vec())) {
            return Ok(());
        }
        if self.subscribed.len() >= RESP_SUBSCRIPTIONS_MAX {
            return Err(format!("ERR a connection may have at most {RESP_SUBSCRIPTIONS_MAX} subscriptions"));
        }
        self.subscribed.insert((kind, name.to_vec()));
        self.subscribed_bytes += name.len() + SUBSCRIPTION_BYTES;
        if !self.account() {
            self.remove_subscription(kind, name);
            return Err(error_text(&Reason::Memory));
        }
        Ok(())
    }

    fn remove_subscription(&mut self, kind: SubscriptionKind, name: &[u8]) {
        if self.subscribed.remove(&(kind, name.to_vec())) {
            self.subscribed_bytes -= name.len() + SUBSCRIPTION_BYTES;
        }
    }

    /// UNSUBSCRIBE and PUNSUBSCRIBE; without names, of all.
    pub(crate) fn unsubscribe(&mut self, kind: SubscriptionKind, request: &Request) {
        self.flush();
        self.client.wait_answered();
        self.client.set_form(self.proto, self.is_line);
        let mut names: Vec<Vec<u8>> = request.words().skip(1).map(<[u8]>::to_vec).collect();
        if names.is_empty() {
            names = self.subscribed.iter().filter(|(own, _)| *own == kind).map(|(_, name)| name.clone()).collect();
        }
        if names.is_empty() {
            self.client.confirm(&self.confirmation(kind, "unsubscribe", None));
        }
        for name in names {
            self.remove_subscription(kind, &name);
            let confirmation = self.confirmation(kind, "unsubscribe", Some(&name));
            let confirm = || self.client.confirm(&confirmation);
            self.shared.handle.channels().unsubscribe(kind, &name, self.client.id, confirm);
        }
        self.account();
        self.note_subscriptions();
    }

    /// Ends all subscriptions without a word: the connection ends, or RESET.
    pub(crate) fn forget_subscriptions(&mut self) {
        for (kind, name) in std::mem::take(&mut self.subscribed) {
            self.shared.handle.channels().unsubscribe(kind, &name, self.client.id, || {});
        }
        self.subscribed_bytes = 0;
        self.note_subscriptions();
    }

    fn note_subscriptions(&self) {
        let patterns = self.subscribed.iter().filter(|(kind, _)| *kind == SubscriptionKind::Pattern).count();
        let mut profile = self.client.profile();
        (profile.channels, profile.patterns) = (self.subscribed.len() - patterns, patterns);
    }

    /// Whether only commands about subscriptions are allowed: in RESP2 a client could not tell messages from replies.
    pub(crate) fn is_subscribed_only(&self) -> bool {
        self.proto == RespVersion::Resp2 && !self.subscribed.is_empty()
    }

    fn confirmation(&self, kind: SubscriptionKind, what: &str, name: Option<&[u8]>) -> Vec<u8> {
        let prefix = if kind == SubscriptionKind::Pattern { "p" } else { "" };
        let mut out = Vec::new();
        reply::push(&mut out, self.proto, 3);
        reply::bulk(&mut out, format!("{prefix}{what}").as_bytes());
        match name {
            Some(name) => reply::bulk(&mut out, name),
            None => reply::nil(&mut out, self.proto),
        }
        reply::int(&mut out, self.subscribed.len() as i64);
        out
    }

    /// PUBLISH outside of a transaction: after all that the connection has sent before was done, so that a subscriber
    /// that gets the message sees the writes before it.
    pub(crate) fn publish(&mut self, request: &Request) {
        self.submit();
        self.client.wait_answered();
        let receivers = self.shared.handle.publish(request.word(1), request.word(2));
        self.reply(|out| reply::int(out, receivers as i64));
    }
}

pub(crate) fn pubsub(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let channels = conn.shared.handle.channels();
    match request.word(1) {
        word if is_word(word, "numpat") => reply::int(out, channels.patterns() as i64),
        word if is_word(word, "numsub") => {
            reply::array(out, 2 * (request.len() - 2));
            for name in request.words().skip(2) {
                reply::bulk(out, name);
                reply::int(out, channels.subscribers(name) as i64);
            }
        }
        word if request.len() > 3 => {
            let word = String::from_utf8_lossy(word);
            let why = "unknown subcommand or wrong number of arguments for";
            reply::error(out, &format!("ERR {why} '{word}'. Try PUBSUB HELP."));
        }
        _ => match channels.names((request.len() == 3).then(|| request.word(2))) {
            Some(names) => {
                reply::array(out, names.len());
                names.iter().for_each(|name| reply::bulk(out, name));
            }
            None => reply::error(out, "ERR comparing all channels with the pattern takes too many steps"),
        },
    }
}
