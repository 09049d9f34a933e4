//! Channels of PUBLISH: who of this node's clients subscribes to what, and messages on their way to them.
//!
//! A message goes to the subscribers of the node that was asked, and over the links between peers to the other nodes,
//! each of which gives it to its own subscribers; not through the log. So each subscriber gets it at most once, as in
//! Redis: a node that cannot be reached at that moment does not get it, nor a client that is too slow.
//!
//! Invariants: P1 a subscriber gets messages between the confirmations of SUBSCRIBE and UNSUBSCRIBE only: both are
//! written, and messages delivered, under one lock. P2 no thread waits for a subscriber or a peer.
//! Not here: the commands (`resp/commands/pubsub.rs`), how a client is sent a message (`resp/outbox.rs`), the thread that
//! delivers what other nodes publish (`node/threads/pubsub.rs`).

use crate::lock::{Mutex, lock};
use crate::services::kv::glob;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Steps of delivering one message: comparing patterns with its channel, and giving it to subscribers. Some tens of
/// milliseconds; what is beyond gets no message.
const DELIVERY_STEPS_MAX: u64 = 10_000_000;
/// Steps of giving a message to one subscriber: about two microseconds.
const PUSH_STEPS: u64 = 1_000;

/// What a client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubscriptionKind {
    /// A channel of this name.
    Channel,
    /// All channels that match this pattern.
    Pattern,
}

/// A client of this node.
pub trait Subscriber: Send + Sync {
    /// Number of its connection.
    fn id(&self) -> u64;
    /// Gets a message, without waiting for its client. `pattern`: the one that the channel matches.
    fn take(&self, channel: &[u8], message: &[u8], pattern: Option<&[u8]>);
}

type Subscribers = BTreeMap<u64, Arc<dyn Subscriber>>;

/// Who subscribes to what.
#[derive(Default)]
pub struct Channels {
    subscriptions: Mutex<Subscriptions>,
    /// Channels and patterns with subscribers: read without waiting for a delivery.
    names: AtomicUsize,
    /// Messages that other nodes, or patterns of this one, did not get.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Subscriptions {
    channels: BTreeMap<Vec<u8>, Subscribers>,
    patterns: BTreeMap<Vec<u8>, Subscribers>,
}

impl Subscriptions {
    fn names(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    fn of(&mut self, kind: SubscriptionKind) -> &mut BTreeMap<Vec<u8>, Subscribers> {
        match kind {
            SubscriptionKind::Channel => &mut self.channels,
            SubscriptionKind::Pattern => &mut self.patterns,
        }
    }
}

impl Channels {
    /// Subscribes a client; `confirm` tells it.
    pub fn subscribe(&self, kind: SubscriptionKind, name: &[u8], who: Arc<dyn Subscriber>, confirm: impl FnOnce()) {
        let mut subscriptions = lock(&self.subscriptions);
        subscriptions.of(kind).entry(name.to_vec()).or_default().insert(who.id(), who);
        self.names.store(subscriptions.names(), Ordering::SeqCst);
        confirm();
    }

    /// Ends a subscription, if there is one; `confirm` tells the client.
    pub fn unsubscribe(&self, kind: SubscriptionKind, name: &[u8], id: u64, confirm: impl FnOnce()) {
        let mut subscriptions = lock(&self.subscriptions);
        let names = subscriptions.of(kind);
        if let Some(subscribers) = names.get_mut(name) {
            subscribers.remove(&id);
            if subscribers.is_empty() {
                names.remove(name);
            }
        }
        self.names.store(subscriptions.names(), Ordering::SeqCst);
        confirm();
    }

    /// Gives a message to all subscribers of this node; returns how many got it, a client that subscribes in several
    /// ways counted for each.
    pub fn deliver(&self, channel: &[u8], message: &[u8]) -> usize {
        let subscriptions = lock(&self.subscriptions);
        let (mut receivers, mut steps) = (0, DELIVERY_STEPS_MAX);
        let mut give = |subscribers: &Subscribers, pattern: Option<&[u8]>, steps: &mut u64| {
            for who in subscribers.values() {
                let Some(left) = steps.checked_sub(PUSH_STEPS) else {
                    self.count_dropped();
                    return;
                };
                *steps = left;
                who.take(channel, message, pattern);
                receivers += 1;
            }
        };
        if let Some(subscribers) = subscriptions.channels.get(channel) {
            give(subscribers, None, &mut steps);
        }
        for (pattern, subscribers) in &subscriptions.patterns {
            match glob::matches(pattern, channel, &mut steps) {
                Some(true) => give(subscribers, Some(pattern), &mut steps),
                Some(false) => {}
                None => {
                    self.count_dropped();
                    break;
                }
            }
        }
        receivers
    }

    /// Whether any client of this node subscribes to anything.
    pub fn has_subscribers(&self) -> bool {
        self.names.load(Ordering::SeqCst) > 0
    }

    /// Channels with subscribers on this node, which match the pattern; `None`: comparing them takes too many steps.
    pub fn names(&self, pattern: Option<&[u8]>) -> Option<Vec<Vec<u8>>> {
        let (subscriptions, mut steps) = (lock(&self.subscriptions), DELIVERY_STEPS_MAX);
        let mut found = Vec::new();
        for name in subscriptions.channels.keys() {
            if pattern.map_or(Some(true), |pattern| glob::matches(pattern, name, &mut steps))? {
                found.push(name.clone());
            }
        }
        Some(found)
    }

    /// Number of clients of this node that subscribe to this channel by its name.
    pub fn subscribers(&self, channel: &[u8]) -> usize {
        lock(&self.subscriptions).channels.get(channel).map_or(0, BTreeMap::len)
    }

    /// Number of different patterns to which clients of this node subscribe.
    pub fn patterns(&self) -> usize {
        lock(&self.subscriptions).patterns.len()
    }

    /// Counts a message that a subscriber or a node does not get.
    pub fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How many messages were not delivered to another node or to a pattern.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Heard = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

    struct Client(u64, Mutex<Vec<Heard>>);

    impl Subscriber for Client {
        fn id(&self) -> u64 {
            self.0
        }

        fn take(&self, channel: &[u8], message: &[u8], pattern: Option<&[u8]>) {
            lock(&self.1).push((channel.to_vec(), message.to_vec(), pattern.map(<[u8]>::to_vec)));
        }
    }

    #[test]
    fn a_message_goes_to_the_channel_and_to_the_patterns_that_match() {
        let channels = Channels::default();
        let client = |id| Arc::new(Client(id, Mutex::default()));
        let (one, two) = (client(1), client(2));
        assert_eq!(channels.deliver(b"news", b"nobody hears it"), 0);
        channels.subscribe(SubscriptionKind::Channel, b"news", one.clone(), || {});
        channels.subscribe(SubscriptionKind::Channel, b"news", one.clone(), || {});
        channels.subscribe(SubscriptionKind::Pattern, b"n*", one.clone(), || {});
        channels.subscribe(SubscriptionKind::Pattern, b"x*", two.clone(), || {});
        assert_eq!((channels.deliver(b"news", b"a"), channels.deliver(b"x1", b"b")), (2, 1));
        let a = |pattern: Option<&[u8]>| (b"news".to_vec(), b"a".to_vec(), pattern.map(<[u8]>::to_vec));
        assert_eq!(*lock(&one.1), [a(None), a(Some(b"n*"))]);
        assert_eq!(*lock(&two.1), [(b"x1".to_vec(), b"b".to_vec(), Some(b"x*".to_vec()))]);
        assert_eq!((channels.subscribers(b"news"), channels.patterns()), (1, 2));
        assert_eq!(channels.names(Some(b"n?ws")), Some(vec![b"news".to_vec()]));
        for (kind, name) in [
            (SubscriptionKind::Channel, &b"news"[..]),
            (SubscriptionKind::Pattern, b"n*"),
            (SubscriptionKind::Channel, b"none"),
        ] {
            channels.unsubscribe(kind, name, 1, || {});
        }
        assert_eq!((channels.deliver(b"news", b"c"), channels.subscribers(b"news"), channels.patterns()), (0, 0, 1));
    }

    #[test]
    fn patterns_take_bounded_time() {
        let channels = Channels::default();
        let client = Arc::new(Client(1, Mutex::default()));
        for n in 0..2000 {
            let pattern = format!("*{}b{n}", "a".repeat(200));
            channels.subscribe(SubscriptionKind::Pattern, pattern.as_bytes(), client.clone(), || {});
        }
        channels.subscribe(SubscriptionKind::Channel, &b"a".repeat(10_000), client.clone(), || {});
        assert_eq!(channels.deliver(&b"a".repeat(10_000), b"m"), 1);
        assert_eq!(channels.dropped(), 1);
    }
}
