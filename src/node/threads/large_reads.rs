//! The `large-reads` thread: answers queries that take long, of any service, from a copy of the service.
//!
//! Copying megabytes out of a state would delay every command that waits to be applied. The copy of the service shares
//! its trees with the original and costs nothing.
//!
//! Invariant: L1 answers that no client's thread has received yet have at most [`UNTAKEN_BYTES_MAX`] and one answer:
//! until then they do not count against the memory budget.
//! Not here: what a query costs (`Service::read_cost`).

use crate::limits::LARGE_READS_MAX;
use crate::node::shared::request::{Answered, Question, ReplyTo};
use crate::outcome::{Outcome, Reason};
use crate::services::registry::Registry;
use crate::services::{Reply, Service};
use crate::types::Stamp;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::time::Duration;

/// Queries that cost no more than this, in bytes copied or examined, are answered by `apply` itself.
const INLINE_COST_MAX: usize = 128 << 10;
/// The bound of invariant L1.
const UNTAKEN_BYTES_MAX: usize = 16 << 20;
/// Time between two checks whether answers were received.
const CHECK_EVERY: Duration = Duration::from_millis(1);

pub struct LargeRead {
    service: Box<dyn Service>,
    at: Stamp,
    /// With its routing byte. It is decoded on this thread, because that may take long, too.
    query: Vec<u8>,
    reply: ReplyTo,
}

/// Answers that were sent, and how many bytes each has.
#[derive(Default)]
struct UntakenAnswers(Vec<(Sender<Answered>, usize)>);

impl UntakenAnswers {
    /// Waits until there is room for another one. A client's thread takes its answer, or gives up at its deadline.
    fn wait(&mut self) {
        loop {
            self.0.retain(|(to, _)| !to.is_empty());
            if self.0.iter().map(|(_, bytes)| bytes).sum::<usize>() <= UNTAKEN_BYTES_MAX {
                return;
            }
            std::thread::sleep(CHECK_EVERY);
        }
    }
}

impl LargeRead {
    fn answer(mut self, untaken: &mut UntakenAnswers) {
        untaken.wait();
        let answer = self.service.query(self.at, &self.query[1..]);
        // The copy is dropped before the client gets the answer: it may hold old parts of the state.
        drop(self.service);
        if let (ReplyTo::Local(to), Reply::Ok(bytes)) = (&self.reply, &answer) {
            untaken.0.push((to.clone(), bytes.len()));
        }
        self.reply.answer(Outcome::Done((self.at.index, answer)));
    }
}

/// The inbox of the thread.
pub fn inbox() -> (Sender<LargeRead>, Receiver<LargeRead>) {
    bounded(LARGE_READS_MAX)
}

/// Body of the thread: ends when `apply` has.
pub fn run(inbox: &Receiver<LargeRead>) {
    let mut untaken = UntakenAnswers::default();
    inbox.iter().for_each(|read| read.answer(&mut untaken));
}

/// Answers a query, or gives it to the thread if that takes long.
pub fn answer(to: &Sender<LargeRead>, registry: &Registry, (query, mut reply): Question) {
    let at = registry.applied();
    let is_long = query.len() > INLINE_COST_MAX || registry.read_cost(&query, INLINE_COST_MAX) > INLINE_COST_MAX;
    let Some(service) = is_long.then(|| registry.copy_for(&query)).flatten() else {
        return reply.answer(Outcome::Done((at.index, registry.query(&query))));
    };
    let read = LargeRead { service, at, query, reply };
    if let Err(TrySendError::Full(mut read) | TrySendError::Disconnected(mut read)) = to.try_send(read) {
        read.reply.answer(Outcome::Refused(Reason::Memory));
    }
}

#[cfg(test)]
mod tests {
    use crate::node::shared::request::Waiter;
    use crate::node::threads::large_reads::*;
    use crate::services::Replicated;
    use crate::services::chat::{self, Chat};
    use crate::services::jobs::{self, JobTable};
    use crate::services::kv::{Batch, BatchReply, Bytes, Condition, Expiry, Op, Store, Value};
    use crate::types::{Identity, Index, NodeId};

    #[derive(Debug)]
    struct SendAnswer(Sender<crate::node::Answered>);

    impl Waiter for SendAnswer {
        fn answer(self: Box<Self>, answered: crate::node::Answered) {
            self.0.send(answered).unwrap();
        }
    }

    #[test]
    fn long_reads_do_not_delay_commands() {
        let mut registry = Registry::default();
        registry.skip(Index(1));
        let at = registry.applied();
        let store = &mut registry.kv;
        let key = |name: &str| Bytes::from(name.as_bytes().to_vec());
        let set = |name: &str, bytes: usize| Op::Set {
            key: key(name),
            value: Bytes::from(vec![b'v'; bytes]),
            condition: Condition::Always,
            expiry: Expiry::Never,
            get: false,
        };
        store.run(at, Batch { watched: Vec::new(), ops: vec![set("large", 1 << 20), set("small", 10)] });
        let long = String::from_utf8(vec![b'a'; 60_000]).unwrap();
        store.run(at, Batch { watched: Vec::new(), ops: vec![set(&long, 1)] });
        let many = (0..20_000).map(|n| set(&format!("key{n}"), 1)).collect();
        store.run(at, Batch { watched: Vec::new(), ops: many });
        let (to, inbox) = inbox();
        let ask = |ops: Vec<Op>| {
            let (sender, answer) = bounded(1);
            let query = Store::encode_command(&Batch { watched: Vec::new(), ops });
            super::answer(&to, &registry, (query, ReplyTo::Callback(Box::new(SendAnswer(sender)))));
            answer
        };
        for op in [Op::Get(key("small")), Op::StrLen(key("large")), Op::Get(key("none")), Op::Count] {
            assert!(ask(vec![op.clone()]).try_recv().is_ok(), "{op:?}");
        }
        let page = Op::Scan { after: None, glob: None, count: 1 << 40 };
        // One key is as much as thousands if the pattern is long, and so is a question that takes long to read.
        let pattern = key("*aaaaab");
        let after = Some(key("a"));
        let one = Op::Scan { after, glob: Some(pattern.clone()), count: 1 };
        let literal = Op::Keys(key(&format!("{}*b", &long[..50_000])));
        let absent = Op::Exists((0..20_000).map(|n| key(&format!("absent{n}"))).collect());
        let small = Op::Keys(key("small*"));
        assert!(ask(vec![small]).try_recv().is_ok());
        let large = Op::MGet(vec![key("small"), key("large")]);
        for op in [Op::Get(key("large")), large, Op::Keys(key("*")), page, Op::Keys(pattern), one, literal, absent] {
            let answer = ask(vec![op.clone()]);
            assert!(answer.try_recv().is_err(), "{op:?}");
            inbox.try_recv().unwrap().answer(&mut UntakenAnswers::default());
            let Ok(Outcome::Done((index, Reply::Ok(bytes)))) = answer.try_recv() else { panic!("no answer to {op:?}") };
            assert_eq!(index, at.index);
            let Some(BatchReply::Values(values)) = BatchReply::decode(&bytes) else { panic!("not values") };
            let is_fine = !matches!(values[..], [Value::Error(_)]);
            assert!(is_fine, "{values:?}");
        }
        // Beyond what the inbox holds they are refused.
        let waiting: Vec<_> = (0..LARGE_READS_MAX).map(|_| ask(vec![Op::Get(key("large"))])).collect();
        let refused = ask(vec![Op::Get(key("large"))]).try_recv().unwrap();
        assert!(matches!(refused, Outcome::Refused(Reason::Memory)));
        assert!(waiting.iter().all(|answer| answer.try_recv().is_err()));
    }

    /// Asks a registry, and whether `apply` answered itself.
    fn is_inline(registry: &Registry, query: Vec<u8>) -> bool {
        let ((to, inbox), (sender, answer)) = (inbox(), bounded(1));
        super::answer(&to, registry, (query, ReplyTo::Local(sender)));
        if answer.try_recv().is_ok() {
            return true;
        }
        inbox.try_recv().unwrap().answer(&mut UntakenAnswers::default());
        let Ok(Outcome::Done((_, Reply::Ok(bytes)))) = answer.try_recv() else { panic!("no answer") };
        assert!(bytes.len() > INLINE_COST_MAX / 2, "{} bytes took the long way", bytes.len());
        false
    }

    #[test]
    fn long_pages_of_the_chat_and_lists_of_jobs_are_not_written_where_commands_wait() {
        let mut registry = Registry::default();
        registry.skip(Index(1));
        let (at, token) = (registry.applied(), [7; 32]);
        let name = chat::names::account("ann").unwrap();
        let create = chat::Command::Create { name, hash: "h".to_string(), token, token_ms: 1000 };
        registry.chat.run(at, create);
        let room = chat::names::room("tea").unwrap();
        let chat::Answer::Conversation { id, .. } =
            registry.chat.run(at, chat::Command::MakeRoom { token, name: room })
        else {
            panic!("no room")
        };
        for number in 0..200 {
            let text = format!("{number}{}", "m".repeat(8000));
            let to = chat::Target::Conversation(id);
            let sent = registry.chat.run(at, chat::Command::Post { token, to, text, client_id: None });
            assert!(matches!(sent, chat::Answer::Sent { .. }), "{sent:?}");
        }
        let page = |limit| {
            Chat::encode_query(&chat::Query::History { token, conversation: id, before: None, after: None, limit })
        };
        assert!(is_inline(&registry, page(5)) && !is_inline(&registry, page(200)));
        assert!(is_inline(&registry, Chat::encode_query(&chat::Query::Inbox(token))));

        let worker = Identity { id: NodeId(1), uuid: uuid::Uuid::nil() };
        let runtimes = ["shell".to_string()].into();
        registry.jobs.run(at, jobs::Command::Join { worker, slots: 1, runtimes, trouble: None });
        for _ in 0..1000 {
            let files = (0..4).map(|n| (format!("{n}{}", "f".repeat(200)), jobs::commands::Bytes::new())).collect();
            let submit = jobs::Command::Submit(jobs::Request {
                language: "shell".to_string(),
                files,
                stdin: jobs::commands::Bytes::new(),
                args: Vec::new(),
                limits: jobs::commands::LIMITS_USUAL,
                keep_ms: 1000,
            });
            assert!(matches!(registry.jobs.run(at, submit), jobs::Answer::Submitted(_)));
        }
        let list = |limit| JobTable::encode_query(&jobs::Query::List { before: None, limit });
        assert!(is_inline(&registry, list(100)) && !is_inline(&registry, list(1000)));
        assert!(is_inline(&registry, JobTable::encode_query(&jobs::Query::Glance(1))));
    }

    #[test]
    fn the_next_long_answer_waits_until_those_before_it_were_taken() {
        let mut registry = Registry::default();
        registry.skip(Index(1));
        let key = || Bytes::from(b"k".to_vec());
        let value = Bytes::from(vec![b'v'; 4 << 20]);
        let put = Op::Put { key: key(), value, condition: Condition::Always, expiry: Expiry::Never };
        registry.kv.run(registry.applied(), Batch { watched: Vec::new(), ops: vec![put] });
        let (to, inbox) = inbox();
        let query = Store::encode_command(&Batch { watched: Vec::new(), ops: vec![Op::Get(key())] });
        let answers: Vec<_> = (0..20)
            .map(|_| {
                let (sender, answer) = bounded(1);
                super::answer(&to, &registry, (query.clone(), ReplyTo::Local(sender)));
                answer
            })
            .collect();
        drop(to);
        let thread = std::thread::spawn(move || run(&inbox));
        let ready = || answers.iter().filter(|answer| !answer.is_empty()).count();
        let (at_once, until) = (UNTAKEN_BYTES_MAX / (4 << 20), std::time::Instant::now() + Duration::from_secs(60));
        for (taken, answer) in answers.iter().enumerate() {
            while ready() < at_once.min(answers.len() - taken) && std::time::Instant::now() < until {
                std::thread::yield_now();
            }
            assert_eq!(ready(), at_once.min(answers.len() - taken), "answers that wait after {taken}");
            answer.try_recv().unwrap();
        }
        thread.join().unwrap();
    }
}
