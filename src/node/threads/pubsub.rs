//! The `pubsub` thread: gives what other nodes publish to the subscribers of this one, so that the threads that read
//! from peers do not wait for ten thousand sockets.
//!
//! Not here: who subscribes to what (`node/pubsub.rs`).

use crate::node::shared::Shared;
use crate::node::shared::messages::PubSubInput;
use crossbeam_channel::Receiver;

/// Body of the thread.
pub fn run(shared: &Shared, inbox: &Receiver<PubSubInput>) {
    while let Ok(PubSubInput::Published { channel, message, .. }) = inbox.recv() {
        shared.channels.deliver(&channel, &message);
    }
}
