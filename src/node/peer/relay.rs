//! Frames between two other nodes that have no working connection to each other: this node passes them on, or receives
//! its own from a node that did.
//!
//! That a frame is of the node that it names rests on the node that passed it on: it is a member, and where there is a
//! `cluster_secret` it has proved that. A member could speak in another one's name; consensus believes its members.
//! Invariants: Y1 a frame is passed on once: only the node that made it may ask for that. Y2 what arrives this way of a
//! node whose port refuses connections is dropped: it was sent before the process ended.
//! Not here: when a node sends by way of another (`cluster/reachability/relay.rs`), what the frame means (`acceptor.rs`).

use crate::node::shared::Shared;
use crate::raft::Refused;
use crate::types::Identity;
use crate::warn_seldom;
use crate::wire::Frame;
use crate::wire::codec::{WireError, decode_body};
use std::sync::atomic::Ordering;

/// Takes a frame of `origin` for `to` that `sender` has sent to this node. Passes it on, or returns it if it is for this
/// node. `is_known`: frames of `origin` are accepted.
///
/// # Errors
/// If the sender has broken Y1.
pub fn on_relay(
    shared: &Shared,
    sender: Identity,
    (origin, to): (Identity, Identity),
    body: Vec<u8>,
    is_known: bool,
) -> Result<Option<Frame>, WireError> {
    let counters = &shared.counters;
    if to != shared.me {
        if origin != sender {
            return Err(WireError::Unexpected("frame that was relayed already"));
        }
        let link = shared.links().get(&to.id).filter(|link| link.who == to).cloned();
        let is_sent = link.is_some_and(|link| link.pass_on(&Frame::Relay { from: origin, to, frame: body }));
        let counter = if is_sent { &counters.relays_passed_on } else { &counters.relays_dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        return Ok(None);
    }
    if !is_known {
        shared.counters.refuse_frame(Refused::UnknownSender(origin));
        return Ok(None);
    }
    let is_gone = shared.links().get(&origin.id).is_some_and(|link| link.is_refused());
    match decode_body(&body) {
        Ok(frame) if frame.may_be_relayed() && !is_gone => {
            counters.relays_received.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(frame));
        }
        Ok(_) => {}
        Err(e) => warn_seldom!("relayed frame that cannot be decoded by={} peer={} err={e}", sender.id, origin.id),
    }
    counters.relays_dropped.fetch_add(1, Ordering::Relaxed);
    Ok(None)
}
