//! The `large-reads` thread: answers reads of the key-value store that take long, from a copy of the store.
//!
//! Copying megabytes out of the store and writing them to sockets would hold every command up that waits to be applied. The copy
//! shares its trees with the original and costs nothing.
//! Not here: what is a large read (`Store::read_cost`), reads that are answered at once (`apply.rs`).

use crate::limits::LARGE_READS_MAX;
use crate::node::shared::request::{Question, ReplyTo};
use crate::outcome::{Outcome, Reason};
use crate::services::Replicated;
use crate::services::Service;
use crate::services::kv::{Batch, Store};
use crate::types::Stamp;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Reads that cost no more than this, in bytes copied or looked at, are answered by `apply` itself.
const INLINE_COST_MAX: usize = 128 << 10;

/// One read.
#[derive(Debug)]
pub struct LargeRead {
    store: Store,
    at: Stamp,
    /// As it came: what is long to decode is decoded beside as well.
    query: Vec<u8>,
    reply: ReplyTo,
}

impl LargeRead {
    fn answer(mut self) {
        let answer = self.store.query(self.at, &self.query);
        // What it alone keeps of the store goes before its client is told.
        drop(self.store);
        self.reply.answer(Outcome::Done((self.at.index, answer)));
    }
}

/// The inbox of the thread.
pub fn inbox() -> (Sender<LargeRead>, Receiver<LargeRead>) {
    bounded(LARGE_READS_MAX)
}

/// Body of the thread: ends when `apply` has.
pub fn run(inbox: &Receiver<LargeRead>) {
    inbox.iter().for_each(LargeRead::answer);
}

/// Answers a question to the key-value store, or hands it over if it is large; gives back what is none.
pub fn answer(to: &Sender<LargeRead>, store: &Store, at: Stamp, (query, mut reply): Question) -> Option<Question> {
    let Some(bytes) = query.strip_prefix(&[Store::ID]) else { return Some((query, reply)) };
    if bytes.len() <= INLINE_COST_MAX {
        let Ok(run) = postcard::from_bytes::<Batch>(bytes) else { return Some((query, reply)) };
        if store.read_cost(&run, INLINE_COST_MAX) <= INLINE_COST_MAX {
            reply.answer(Outcome::Done((at.index, store.answer(at, &run))));
            return None;
        }
    }
    let read = LargeRead { store: store.clone(), at, query: bytes.to_vec(), reply };
    if let Err(TrySendError::Full(mut read) | TrySendError::Disconnected(mut read)) = to.try_send(read) {
        read.reply.answer(Outcome::Refused(Reason::Memory));
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::node::shared::request::Waiter;
    use crate::node::threads::large_reads::*;
    use crate::services::Reply;
    use crate::services::kv::{BatchReply, Bytes, Condition, Expiry, Op, Value};
    use crate::types::Index;

    #[derive(Debug)]
    struct Told(Sender<crate::node::Answered>);

    impl Waiter for Told {
        fn answer(self: Box<Self>, answered: crate::node::Answered) {
            self.0.send(answered).unwrap();
        }
    }

    #[test]
    fn what_takes_long_is_not_answered_where_commands_wait() {
        let at = Stamp { index: Index(7), at_ms: 0 };
        let key = |name: &str| Bytes::from(name.as_bytes().to_vec());
        let set = |name: &str, bytes: usize| Op::Set {
            key: key(name),
            value: Bytes::from(vec![b'v'; bytes]),
            condition: Condition::Always,
            expiry: Expiry::Never,
            get: false,
        };
        let mut store = Store::default();
        store.run(at, Batch { watched: Vec::new(), ops: vec![set("large", 1 << 20), set("small", 10)] });
        let long = String::from_utf8(vec![b'a'; 60_000]).unwrap();
        store.run(at, Batch { watched: Vec::new(), ops: vec![set(&long, 1)] });
        let many = (0..20_000).map(|n| set(&format!("key{n}"), 1)).collect();
        store.run(at, Batch { watched: Vec::new(), ops: many });
        let (to, inbox) = inbox();
        let ask = |ops: Vec<Op>| {
            let (told, answer) = bounded(1);
            let query = Store::encode_command(&Batch { watched: Vec::new(), ops });
            assert!(super::answer(&to, &store, at, (query, ReplyTo::Callback(Box::new(Told(told))))).is_none());
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
            inbox.try_recv().unwrap().answer();
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
}
