//! The order of forwarded requests on one connection: small ones go as datagrams and overtake large ones, which go over
//! the connection. The second write of a client that does not wait for answers must not take effect before the first.
//!
//! Invariant: O1 what is given on was sent in this order, each once, without a gap.
//! Not here: the order of the requests within a node (`node/threads/core/pending_requests.rs`).

use crate::wire::Ask;
use std::collections::BTreeMap;

/// Frames that wait for an earlier one. More: the connection is ended, and its dialer sends all requests again.
const HELD_FRAMES_MAX: usize = 256;

/// A forwarded frame's requests, each with its number at the sender.
pub type Asks = Vec<(u64, Ask)>;

/// What has arrived of one connection.
#[derive(Debug, Default)]
pub struct ForwardOrder {
    next: u64,
    held: BTreeMap<u64, Asks>,
}

impl ForwardOrder {
    /// Takes a frame; returns those that follow all before them. `None`: too many wait.
    pub fn take(&mut self, order: u64, asks: Asks) -> Option<Vec<Asks>> {
        if order >= self.next {
            self.held.entry(order).or_insert(asks);
        }
        let mut ready = Vec::new();
        while let Some(asks) = self.held.remove(&self.next) {
            ready.push(asks);
            self.next += 1;
        }
        (self.held.len() <= HELD_FRAMES_MAX).then_some(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_overtake_wait_and_none_is_given_on_twice() {
        let asks = |number| vec![(number, Ask::Transfer(None))];
        let mut order = ForwardOrder::default();
        assert_eq!(order.take(0, asks(0)), Some(vec![asks(0)]));
        assert_eq!(order.take(2, asks(2)), Some(Vec::new()));
        assert_eq!(order.take(2, asks(9)), Some(Vec::new()));
        assert_eq!(order.take(0, asks(9)), Some(Vec::new()), "once more");
        assert_eq!(order.take(1, asks(1)), Some(vec![asks(1), asks(2)]));
        assert_eq!(order.take(1, asks(9)), Some(Vec::new()));
        assert!((5..5 + HELD_FRAMES_MAX as u64).all(|at| order.take(at, asks(at)) == Some(Vec::new())));
        assert_eq!(order.take(999, asks(999)), None, "what waits is bounded");
    }
}
