//! The inbox of each thread: how the others reach it, and what happens when it is full.
//!
//! Not here: what the messages are (`messages.rs`), how a thread waits for them (`inbox.rs`).

use super::messages::{
    ApplyJob, ChatInput, CoreInput, DiskJob, GossipInput, PubSubInput, TakeoverInput, WatchInput, WorkerInput,
};
use super::request::{Ack, Answered, Operation, ReplyTo, Request};
use crate::limits::{
    APPLY_INBOX_MAX, CHAT_INBOX_MAX, CORE_INBOX_MAX, DISK_INBOX_MAX, GOSSIP_INBOX_MAX, MONITOR_INBOX_MAX,
    PUBSUB_INBOX_MAX, TAKEOVER_INBOX_MAX, WATCH_INBOX_MAX, WORKER_INBOX_MAX,
};
use crate::outcome::{Outcome, Reason, UnknownReason};
use crate::raft::Message;
use crate::services::jobs::JobId;
use crate::types::Index;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::time::{Duration, Instant};

/// How much longer than `core` the caller waits for an answer: at the deadline the client gets the answer of `core`.
const ANSWER_SLACK: Duration = Duration::from_millis(200);

/// The sending end of each inbox.
#[derive(Debug)]
pub struct Inboxes {
    /// Raft and the requests of clients.
    pub core: Sender<CoreInput>,
    pub disk: Sender<DiskJob>,
    pub apply: Sender<ApplyJob>,
    pub gossip: Sender<GossipInput>,
    /// Frames for the page; a message says that one is due.
    pub monitor: Sender<()>,
    /// Clients that wait for a key to change.
    pub watch: Sender<WatchInput>,
    /// Clients that follow the chat.
    pub chat: Sender<ChatInput>,
    /// What other nodes publish.
    pub pubsub: Sender<PubSubInput>,
    /// The voters of dead processes that this node hosts.
    pub takeover: Sender<TakeoverInput>,
    /// The jobs of this node.
    pub worker: Sender<WorkerInput>,
    /// Comparison of the nodes' digests; a message says that there may be new ones.
    pub checkpoints: Sender<()>,
}

/// The receiving ends, each for its thread.
#[derive(Debug)]
pub struct Receivers {
    pub core: Receiver<CoreInput>,
    pub disk: Receiver<DiskJob>,
    pub apply: Receiver<ApplyJob>,
    pub gossip: Receiver<GossipInput>,
    pub monitor: Receiver<()>,
    pub watch: Receiver<WatchInput>,
    pub chat: Receiver<ChatInput>,
    pub pubsub: Receiver<PubSubInput>,
    pub takeover: Receiver<TakeoverInput>,
    pub worker: Receiver<WorkerInput>,
    pub checkpoints: Receiver<()>,
}

pub fn channels() -> (Inboxes, Receivers) {
    let (core, core_receiver) = bounded(CORE_INBOX_MAX);
    let (disk, disk_receiver) = bounded(DISK_INBOX_MAX);
    let (apply, apply_receiver) = bounded(APPLY_INBOX_MAX);
    let (gossip, gossip_receiver) = bounded(GOSSIP_INBOX_MAX);
    let (monitor, monitor_receiver) = bounded(MONITOR_INBOX_MAX);
    let (watch, watch_receiver) = bounded(WATCH_INBOX_MAX);
    let (chat, chat_receiver) = bounded(CHAT_INBOX_MAX);
    let (pubsub, pubsub_receiver) = bounded(PUBSUB_INBOX_MAX);
    let (takeover, takeover_receiver) = bounded(TAKEOVER_INBOX_MAX);
    let (worker, worker_receiver) = bounded(WORKER_INBOX_MAX);
    let (checkpoints, checkpoints_receiver) = bounded(1);
    let inboxes = Inboxes { core, disk, apply, gossip, monitor, watch, chat, pubsub, takeover, worker, checkpoints };
    let receivers = Receivers {
        core: core_receiver,
        disk: disk_receiver,
        apply: apply_receiver,
        gossip: gossip_receiver,
        monitor: monitor_receiver,
        watch: watch_receiver,
        chat: chat_receiver,
        pubsub: pubsub_receiver,
        takeover: takeover_receiver,
        worker: worker_receiver,
        checkpoints: checkpoints_receiver,
    };
    (inboxes, receivers)
}

impl Inboxes {
    /// Gives `core` an input; waits while its inbox is full. Never called by `core` itself.
    pub fn to_core(&self, input: CoreInput) {
        // Fails only when `core` has ended, and then the input is not needed.
        let _ = self.core.send(input);
    }

    /// Gives `gossip` an input; drops it when the inbox is full, the next heartbeat replaces it.
    pub fn to_gossip(&self, input: GossipInput) {
        let _ = self.gossip.try_send(input);
    }

    /// Gives a hosted voter a message of raft; drops it when the inbox is full, as a network may.
    pub fn to_hosted(&self, message: Message) {
        let _ = self.takeover.try_send(TakeoverInput::Message(message));
    }

    /// Wakes `monitor`, because something that a frame shows has changed.
    pub fn wake_monitor(&self) {
        // A full inbox means that a frame is due anyway.
        let _ = self.monitor.try_send(());
    }

    /// Wakes `checkpoints`, because there are new digests to compare.
    pub fn wake_checkpoints(&self) {
        // A full inbox means that the thread will check anyway.
        let _ = self.checkpoints.try_send(());
    }

    /// Changes one part of the state without a log entry: for tests of the comparison of states.
    pub fn alter(&self, part: u8) {
        let _ = self.apply.send_timeout(ApplyJob::Alter { part }, Duration::from_secs(1));
    }

    /// Sends a request to `core` and waits for its answer, a little longer than the deadline at most.
    pub fn ask(&self, operation: Operation, deadline: Instant) -> Answered {
        let (reply, answer) = bounded(1);
        let is_query = matches!(operation, Operation::Query { .. });
        self.submit(operation, deadline, ReplyTo::Local(reply));
        match wait_for(&answer, deadline + ANSWER_SLACK) {
            // A query changes nothing, so its outcome is never unknown.
            Outcome::Unknown(_) if is_query => Outcome::Refused(Reason::Stopping),
            answered => answered,
        }
    }

    /// Sends a request to `core` without waiting for its answer.
    pub fn submit(&self, operation: Operation, deadline: Instant, reply: ReplyTo) {
        let request = Request { operation, deadline, reply };
        if let Err(e) = self.core.send_deadline(CoreInput::Request(request), deadline) {
            let CoreInput::Request(mut request) = e.into_inner() else { unreachable!("it is what was sent") };
            request.reply.answer(Outcome::Refused(Reason::Stopping));
        }
    }

    /// Runs a service command through the log, once, on whichever node leads.
    pub fn run(&self, command: Vec<u8>, deadline: Instant) -> Answered {
        self.ask(Operation::Command { tag: None, command, ack: Ack::Applied }, deadline)
    }

    /// Waits until a job has ended, or until the services have applied `at_least` without it.
    pub fn await_job(&self, job: JobId, at_least: Index, deadline: Instant) -> Answered {
        let (reply, answer) = bounded(1);
        let wait = ApplyJob::Await { job, at_least, deadline, reply: ReplyTo::Local(reply) };
        if self.apply.send_deadline(wait, deadline).is_err() {
            return Outcome::Refused(Reason::Stopping);
        }
        wait_for(&answer, deadline + ANSWER_SLACK)
    }

    /// Gives `watch` an input; false if it could not take it before the deadline, or has ended.
    pub fn watch(&self, input: WatchInput, deadline: Instant) -> bool {
        self.watch.send_deadline(input, deadline).is_ok()
    }
}

fn wait_for(answer: &Receiver<Answered>, deadline: Instant) -> Answered {
    match answer.recv_deadline(deadline) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Outcome::Unknown(UnknownReason::NoAnswer),
        Err(RecvTimeoutError::Disconnected) => Outcome::Unknown(UnknownReason::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use crate::node::shared::inboxes::*;
    use crate::node::shared::request::Level;

    #[test]
    fn silence_puts_a_command_in_doubt_and_a_question_never() {
        let (inboxes, _receivers) = channels();
        let soon = || Instant::now() + Duration::from_millis(1);
        let query = Operation::Query { query: Vec::new(), level: Level::Linearizable };
        assert_eq!(inboxes.ask(query, soon()), Outcome::Refused(Reason::Stopping));
        assert_eq!(inboxes.run(vec![9], soon()), Outcome::Unknown(UnknownReason::NoAnswer));
    }
}
