//! Requests that other nodes have forwarded to this one, and those that this node forwards to the leader.
//!
//! Not here: the requests that are held (`pending_requests.rs`), the link (`node/shared/link.rs`).

use super::pending_requests::{PendingRequest, PendingRequests, TAG_BYTES};
use crate::limits::{APPEND_BYTES_MAX, COMMAND_BYTES_MAX};
use crate::node::shared::link::Link;
use crate::node::shared::request::{Ack, Operation, ReplyTo, Request};
use crate::outcome::{Outcome, Reason, UnknownReason};
use crate::types::NodeId;
use crate::wire::{Ask, Forwarded, Frame};

impl PendingRequests {
    /// Takes in requests that other nodes have forwarded.
    pub fn hold_forwarded(&mut self, link: &Link, asks: Vec<(u64, Ask)>) {
        let deadline = self.shared.request_deadline();
        for (number, ask) in asks {
            let operation = match ask {
                // Its entry would be larger than any frame.
                Ask::Command { command, .. } if command.len() > COMMAND_BYTES_MAX => {
                    let why = Reason::TooLarge { bytes: command.len() as u64 };
                    ReplyTo::Peer(link.clone(), number).answer(Outcome::Refused(why));
                    continue;
                }
                Ask::Command { tag, command, is_accepted_enough } => {
                    let ack = if is_accepted_enough { Ack::Accepted } else { Ack::Applied };
                    Operation::Command { tag: Some(tag), command, ack }
                }
                Ask::Change(change) => Operation::Change(change),
                Ask::Transfer(to) => Operation::Transfer(to),
            };
            self.hold(Request { operation, deadline, reply: ReplyTo::Peer(link.clone(), number) });
        }
    }

    /// Forwards the requests that wait to the leader, as far as the link accepts them.
    pub fn forward_all(&mut self, link: &Link) {
        loop {
            let (mut asks, mut taken, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes < APPEND_BYTES_MAX
                && let Some(held) = self.commands.pop_front().or_else(|| self.others.pop_front())
            {
                let (ask, size) = ask_of(&held.request.operation);
                bytes += size;
                asks.push((held.number, ask));
                taken.push(held);
            }
            if asks.is_empty() {
                return;
            }
            if !link.try_forward(asks) {
                return self.later.extend(taken);
            }
            for mut held in taken {
                held.was_sent = true;
                self.forwarded.insert(held.number, (link.who.id, held));
            }
        }
    }

    /// Answers other nodes that took this one for the leader. It may have led meanwhile, and logged an earlier attempt.
    pub fn return_forwarded(&mut self) {
        let commands = std::mem::take(&mut self.commands);
        let others = std::mem::take(&mut self.others);
        for held in commands.into_iter().chain(others) {
            match &held.request.reply {
                ReplyTo::Peer(link, number) => {
                    let answer = match held.may_be_logged {
                        true => Forwarded::Unknown { why: UnknownReason::LeaderLost },
                        false => Forwarded::NotLeader,
                    };
                    link.queue(&Frame::Forwarded(vec![(*number, answer)]));
                }
                _ => self.put(held),
            }
        }
    }

    /// The leader's answers to what was forwarded.
    pub fn on_forwarded(&mut self, answers: Vec<(u64, Forwarded)>) {
        for (number, outcome) in answers {
            let Some((_, held)) = self.forwarded.remove(&number) else { continue };
            match outcome {
                Forwarded::Done { index, reply } => self.finish(held, Outcome::Done((index, reply))),
                Forwarded::Refused { why } => self.refuse(held, why),
                Forwarded::NotLeader => {
                    // This attempt is certainly in no log.
                    self.later.push(PendingRequest { was_sent: false, ..held });
                }
                Forwarded::Unknown { why } => self.send_again_or_give_up([held], why),
            }
        }
    }

    pub(super) fn take_back_forwarded(&mut self, is_recalled: impl Fn(NodeId) -> bool) {
        let recalled: Vec<_> = self.forwarded.extract_if(.., |_, (to, _)| is_recalled(*to)).collect();
        let recalled = recalled.into_iter().map(|(_, (_, held))| held);
        self.send_again_or_give_up(recalled, UnknownReason::LeaderLost);
    }
}

/// A request as it is forwarded, and about how many bytes that takes.
fn ask_of(operation: &Operation) -> (Ask, usize) {
    match operation {
        Operation::Command { tag: Some(tag), command, ack } => (
            Ask::Command { tag: *tag, command: command.clone(), is_accepted_enough: *ack == Ack::Accepted },
            command.len() + TAG_BYTES,
        ),
        Operation::Change(change) => (Ask::Change(change.clone()), 64),
        Operation::Transfer(to) => (Ask::Transfer(*to), 64),
        other => unreachable!("{other:?} is not the leader's to answer, or has no tag"),
    }
}
