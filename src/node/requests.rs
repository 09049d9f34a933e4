//! What clients asked of this node, from the moment `core` takes it until the answer leaves.
//!
//! A request is held until somebody can take it: this node if it leads, else the leader it knows. One that was sent to
//! a leader that then died is sent again to the next: its tag makes it take effect once (`services/sessions.rs`). At its deadline a request that never left is `Refused`, one that did is `Unknown`.
//!
//! Invariants: R1 each request is in exactly one of `held`, `asked`, `waiting`, `forwarded` and `transfers`, and is
//! answered once. R2 what waits at an index is answered by the entry of the same term, or goes back to `held`.
//! Not here: replies of applied commands (`apply.rs` sends them), when a request is proposed (`core.rs`).

use super::handle::Level;
use super::links::Link;
use super::shared::Shared;
use crate::limits::APPEND_BYTES_MAX;
use crate::raft::{Answer, Input, Refusal, Token};
use crate::services::Reply;
use crate::services::registry::Batch;
use crate::types::{Index, NodeId, Outcome, Term};
use crate::wire::{Ask, Forwarded, Frame};
use crossbeam_channel::Sender;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks for requests whose time is up.
const EXPIRE_EVERY: Duration = Duration::from_millis(20);

/// Answer to a request: index of the entry (0 where there is none) and the service's reply.
pub type Answered = Outcome<(Index, Reply)>;

/// What a client wants.
#[derive(Debug)]
pub enum Asked {
    /// Something that the leader does.
    Ask(Ask),
    /// A question to the services.
    Query { query: Vec<u8>, level: Level },
}

/// One request.
#[derive(Debug)]
pub struct Request {
    /// What for.
    pub asked: Asked,
    /// When the client gives up.
    pub deadline: Instant,
    /// Where the answer goes.
    pub reply: ReplyTo,
    /// Whether it left for a log: from then on silence means `Unknown`.
    pub was_sent: bool,
}

/// Takes the answer to one request on whichever thread has it: it must not wait for anything.
pub trait Waiter: Send + Debug {
    /// Called once.
    fn answer(self: Box<Self>, answered: Answered);
}

/// Where an answer goes.
#[derive(Debug)]
pub enum ReplyTo {
    /// A connection thread of this node that waits for it.
    Local(Sender<Answered>),
    /// A door of this node that goes on meanwhile; `None`: answered.
    Door(Option<Box<dyn Waiter>>),
    /// The node that forwarded it.
    Peer { link: Link, request: u64 },
}

impl ReplyTo {
    /// Sends the answer; a client that has gone is no concern.
    pub fn answer(&mut self, outcome: Answered) {
        match self {
            ReplyTo::Local(to) => {
                let _ = to.try_send(outcome);
            }
            ReplyTo::Door(waiter) => {
                if let Some(waiter) = waiter.take() {
                    waiter.answer(outcome);
                }
            }
            ReplyTo::Peer { link, request } => {
                let outcome = match outcome {
                    Outcome::Done((index, reply)) => Forwarded::Done { index, reply },
                    Outcome::Refused(why) => Forwarded::Refused { why },
                    Outcome::Unknown(why) => Forwarded::Unknown { why },
                };
                link.send(&Frame::Forwarded { request: *request, outcome });
            }
        }
    }

    fn is_local(&self) -> bool {
        !matches!(self, ReplyTo::Peer { .. })
    }
}

/// All requests of a node.
pub struct Requests {
    shared: Arc<Shared>,
    held: VecDeque<Request>,
    /// Refused for now; tried again in the next turn.
    later: Vec<Request>,
    /// Handed to raft, not answered yet.
    asked: BTreeMap<Token, Vec<Request>>,
    /// In the log, not applied yet.
    waiting: BTreeMap<Index, (Term, Vec<Request>)>,
    /// At the leader, by request number.
    forwarded: BTreeMap<u64, (NodeId, Request)>,
    /// Hand-overs under way.
    transfers: Vec<(NodeId, Request)>,
    next_forward: u64,
    last_expire: Instant,
}

impl Requests {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Requests {
        Requests {
            shared,
            held: VecDeque::new(),
            later: Vec::new(),
            asked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            transfers: Vec::new(),
            next_forward: 0,
            last_expire: Instant::now(),
        }
    }

    /// Whether no client waits for anything.
    pub fn is_idle(&self) -> bool {
        self.held.is_empty()
            && self.later.is_empty()
            && self.asked.is_empty()
            && self.waiting.is_empty()
            && self.forwarded.is_empty()
            && self.transfers.is_empty()
    }

    /// Takes a request in.
    pub fn hold(&mut self, request: Request) {
        self.held.push_back(request);
    }

    /// Takes in what another node's client asks.
    pub fn hold_forwarded(&mut self, link: Link, request: u64, ask: Ask) {
        let deadline = Instant::now() + Duration::from_millis(self.shared.settings.request_timeout_ms);
        let reply = ReplyTo::Peer { link, request };
        self.hold(Request { asked: Asked::Ask(ask), deadline, reply, was_sent: false });
    }

    /// Next input for raft on the leader: all commands that wait as one batch, or one of the others.
    pub fn next_input(&mut self, next_token: &mut u64) -> Option<Input> {
        let mut batch = Vec::new();
        let mut requests = Vec::new();
        let mut bytes = 0;
        while let Some(Request { asked: Asked::Ask(Ask::Command(_, command)), .. }) = self.held.front() {
            bytes += command.len();
            if !requests.is_empty() && bytes > APPEND_BYTES_MAX {
                break;
            }
            let request = self.held.pop_front().expect("its front was just seen");
            if let Asked::Ask(Ask::Command(tag, command)) = &request.asked {
                batch.push((*tag, command.clone()));
            }
            requests.push(request);
        }
        *next_token += 1;
        let token = Token(*next_token);
        if !requests.is_empty() {
            self.asked.insert(token, requests);
            let command = Batch { at_ms: now_ms(), commands: batch }.encode().into();
            return Some(Input::Propose { token, command });
        }
        let request = self.held.pop_front()?;
        let input = match &request.asked {
            Asked::Query { .. } => Input::Read { token },
            Asked::Ask(Ask::Change(change)) => Input::Change { token, change: change.clone() },
            Asked::Ask(Ask::Transfer(Some(to))) if *to == self.shared.me.id => {
                request.reply.answer(transferred(*to));
                return self.next_input(next_token);
            }
            Asked::Ask(Ask::Transfer(to)) => Input::Transfer { token, to: *to },
            Asked::Ask(Ask::Command(..)) => unreachable!("commands were taken above"),
        };
        self.asked.insert(token, vec![request]);
        Some(input)
    }

    /// Next linearizable read for raft on a follower.
    pub fn next_follower_input(&mut self, next_token: &mut u64) -> Option<Input> {
        let is_read = |r: &Request| matches!(r.asked, Asked::Query { .. });
        let at = self.held.iter().position(is_read)?;
        let request = self.held.remove(at)?;
        *next_token += 1;
        self.asked.insert(Token(*next_token), vec![request]);
        Some(Input::Read { token: Token(*next_token) })
    }

    /// Sends what clients of this node asked to the leader.
    pub fn forward_all(&mut self, link: &Link) {
        let leader = link.who.id;
        let mut rest = VecDeque::new();
        for mut request in self.held.drain(..) {
            let ask = match &request.asked {
                Asked::Ask(ask) if request.reply.is_local() => ask.clone(),
                _ => {
                    rest.push_back(request);
                    continue;
                }
            };
            self.next_forward += 1;
            link.queue(&Frame::Forward { request: self.next_forward, ask });
            request.was_sent = true;
            self.forwarded.insert(self.next_forward, (leader, request));
        }
        self.held = rest;
    }

    /// Tells nodes that took us for the leader to look again.
    pub fn bounce_forwarded(&mut self) {
        self.held.retain(|held| match &held.reply {
            ReplyTo::Peer { link, request } => {
                link.queue(&Frame::Forwarded { request: *request, outcome: Forwarded::NotLeader });
                false
            }
            ReplyTo::Local(_) | ReplyTo::Door(_) => true,
        });
    }

    /// Raft's answer; returns a query that may be served once an index is applied.
    pub fn on_answer(&mut self, token: Token, answer: Answer) -> Option<(Index, Vec<u8>, ReplyTo)> {
        let mut requests = self.asked.remove(&token)?;
        match answer {
            Answer::Appended { index, term } => {
                requests.iter_mut().for_each(|request| request.was_sent = true);
                if let Some((_, void)) = self.waiting.insert(index, (term, requests)) {
                    self.later.extend(void);
                }
            }
            Answer::ReadAt(index) => {
                let request = requests.pop()?;
                if let Asked::Query { query, .. } = request.asked {
                    return Some((index, query, request.reply));
                }
            }
            Answer::TransferStarted { to } => {
                self.transfers.extend(requests.into_iter().map(|request| (to, request)));
            }
            Answer::Refused(why) => self.on_refusal(why, requests),
        }
        None
    }

    fn on_refusal(&mut self, why: Refusal, requests: Vec<Request>) {
        match why {
            Refusal::NotLeader | Refusal::HandOver | Refusal::TermNotCommitted | Refusal::ChangeInFlight => {
                self.later.extend(requests);
            }
            Refusal::Busy | Refusal::DiskLow | Refusal::NotCaughtUp => refuse_all(requests, why),
            Refusal::BadChange | Refusal::Unsafe | Refusal::BadTarget => refuse_all(requests, why),
        }
    }

    /// Those who wait for the entry at `index`, if it is theirs; else they are held again.
    pub fn take_waiting(&mut self, index: Index, term: Term) -> Vec<ReplyTo> {
        match self.waiting.remove(&index) {
            Some((expected, requests)) if expected == term => requests.into_iter().map(|r| r.reply).collect(),
            Some((_, void)) => {
                self.later.extend(void);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// The leader's word on a forwarded request.
    pub fn on_forwarded(&mut self, number: u64, outcome: Forwarded) {
        let Some((_, request)) = self.forwarded.remove(&number) else { return };
        match outcome {
            Forwarded::Done { index, reply } => request.reply.answer(Outcome::Done((index, reply))),
            Forwarded::Refused { why } => request.reply.answer(Outcome::Refused(why)),
            Forwarded::NotLeader => self.later.push(request),
            Forwarded::Unknown { why } => self.send_again_or_give_up(request, why),
        }
    }

    /// There is a leader (anew): what an earlier one had is sent again.
    pub fn on_leader(&mut self, leader: NodeId) {
        for (to, request) in std::mem::take(&mut self.transfers) {
            match to == leader {
                true => request.reply.answer(transferred(leader)),
                false => request.reply.answer(Outcome::Refused(format!("node {} took the leadership", leader.0))),
            }
        }
        // A hand-over that another node was asked for has happened, whoever answers first.
        let is_transferred = |request: &Request| match &request.asked {
            Asked::Ask(Ask::Transfer(to)) => to.is_none_or(|to| to == leader),
            _ => false,
        };
        for (_, (_, request)) in
            self.forwarded.extract_if(.., |_, (to, request)| *to != leader && is_transferred(request))
        {
            request.reply.answer(transferred(leader));
        }
        let is_elsewhere = |to: NodeId| to != leader;
        self.recall(is_elsewhere);
        self.retry_reads();
    }

    /// The connection to a peer is new: what was sent over the old one may be lost.
    pub fn on_link_up(&mut self, peer: NodeId) {
        self.recall(|to| to == peer);
        self.retry_reads();
    }

    /// The hand-over was given up.
    pub fn on_transfer_aborted(&mut self, to: NodeId) {
        for (_, request) in std::mem::take(&mut self.transfers) {
            request.reply.answer(Outcome::Refused(format!("node {} did not take over in time", to.0)));
        }
    }

    /// A snapshot replaced the entries up to `index`: whether ours were among them cannot be told any more.
    pub fn on_install(&mut self, index: Index) {
        let rest = self.waiting.split_off(&index.next());
        let gone = std::mem::replace(&mut self.waiting, rest);
        for request in gone.into_values().flat_map(|(_, requests)| requests) {
            self.send_again_or_give_up(request, "a snapshot replaced the log meanwhile".to_string());
        }
    }

    /// Answers those whose time is up, and lets those who were refused for now try again.
    pub fn expire(&mut self, now: Instant) {
        self.held.extend(std::mem::take(&mut self.later));
        if now.duration_since(self.last_expire) < EXPIRE_EVERY {
            return;
        }
        self.last_expire = now;
        let why = self.shared.why_no_leader();
        let is_late = |request: &Request| request.deadline <= now;
        let mut late: Vec<Request> = Vec::new();
        extract(&mut self.held, &mut late, is_late);
        for requests in self.asked.values_mut().chain(self.waiting.values_mut().map(|(_, requests)| requests)) {
            // A batch keeps its order for `apply`: the late are answered, their places stay.
            for request in requests.iter_mut().filter(|request| is_late(request)) {
                give_up(request, &why);
            }
        }
        self.asked.retain(|_, requests| !requests.iter().all(is_late));
        for number in self.forwarded.iter().filter(|(_, (_, r))| is_late(r)).map(|(n, _)| *n).collect::<Vec<_>>() {
            late.extend(self.forwarded.remove(&number).map(|(_, request)| request));
        }
        for (_, request) in self.transfers.extract_if(.., |(_, request)| is_late(request)) {
            late.push(request);
        }
        for request in &late {
            give_up(request, &why);
        }
    }

    fn recall(&mut self, is_recalled: impl Fn(NodeId) -> bool) {
        let numbers: Vec<u64> =
            self.forwarded.iter().filter(|(_, (to, _))| is_recalled(*to)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some((_, request)) = self.forwarded.remove(&number) else { continue };
            self.send_again_or_give_up(request, "the leader was lost before it answered".to_string());
        }
    }

    fn retry_reads(&mut self) {
        let is_read = |requests: &Vec<Request>| requests.iter().all(|r| matches!(r.asked, Asked::Query { .. }));
        let tokens: Vec<Token> = self.asked.iter().filter(|(_, r)| is_read(r)).map(|(token, _)| *token).collect();
        for token in tokens {
            self.later.extend(self.asked.remove(&token).unwrap_or_default());
        }
    }

    /// A command's second copy has no effect; a membership change or hand-over is the caller's to look at.
    fn send_again_or_give_up(&mut self, request: Request, why: String) {
        match request.asked {
            Asked::Ask(Ask::Change(_) | Ask::Transfer(_)) => request.reply.answer(Outcome::Unknown(why)),
            _ => self.later.push(request),
        }
    }
}

fn extract(from: &mut VecDeque<Request>, into: &mut Vec<Request>, is_wanted: impl Fn(&Request) -> bool) {
    let (wanted, rest): (Vec<_>, Vec<_>) = from.drain(..).partition(is_wanted);
    into.extend(wanted);
    from.extend(rest);
}

fn give_up(request: &Request, why: &str) {
    let outcome = match (&request.asked, request.was_sent) {
        (Asked::Ask(_), true) => Outcome::Unknown(format!("no answer in time, it may or may not be applied ({why})")),
        _ => Outcome::Refused(why.to_string()),
    };
    request.reply.answer(outcome);
}

fn refuse_all(requests: Vec<Request>, why: Refusal) {
    for request in requests {
        request.reply.answer(Outcome::Refused(why.to_string()));
    }
}

fn transferred(to: NodeId) -> Answered {
    Outcome::Done((Index(0), Reply::Ok(to.0.to_le_bytes().to_vec())))
}

/// Whom the reply to a hand-over names.
pub fn transferred_to(reply: &Reply) -> Option<NodeId> {
    match reply {
        Reply::Ok(bytes) => bytes.as_slice().try_into().ok().map(|id| NodeId(u64::from_le_bytes(id))),
        Reply::Failed(_) => None,
    }
}

/// Wall clock in milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
