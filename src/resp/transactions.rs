//! Transactions: commands that wait for EXEC, EXEC itself, and the keys that it compares.
//!
//! Not here: MULTI and DISCARD (`dispatch.rs`), what an operation does (`services/kv/`).

use super::commands::{self, Handler};
use super::conn::Conn;
use super::protocol::parse::{Owned, Request};
use super::protocol::reply;
use super::reply_plan::{self, ReplyPlan, ReplyShape};
use crate::limits::RESP_REQUEST_BYTES_MAX;
use crate::node::Level;
use crate::outcome::{Outcome, Reason};
use crate::services::Reply;
use crate::services::kv::commands::{BATCH_KEYS_MAX, BatchReplyRef};
use crate::services::kv::{Batch, BatchReply, Bytes, Op, Value};

/// Memory of a watched key beside its bytes: two numbers and the allocator's overhead, in a list with twice the
/// capacity.
const WATCHED_BYTES: usize = 128;

impl Conn {
    pub(super) fn queue(&mut self, request: &Request) {
        let Some(multi) = &mut self.multi else { unreachable!("only a transaction has a queue") };
        if multi.is_void {
            // EXEC will be refused.
            return self.reply(|out| reply::simple(out, "QUEUED"));
        }
        let owned = Owned::of(request);
        multi.bytes += owned.size();
        if multi.bytes > RESP_REQUEST_BYTES_MAX {
            self.refuse("ERR transaction is too large");
            return;
        }
        multi.queued.push(owned);
        if !self.account() {
            self.refuse(&reply_plan::error_text(&Reason::Memory));
            return;
        }
        self.reply(|out| reply::simple(out, "QUEUED"));
    }

    /// Executes the transaction: one batch, one entry of the log.
    pub(super) fn exec(&mut self) {
        let Some(multi) = self.multi.take() else {
            return self.reply(|out| reply::error(out, "ERR EXEC without MULTI"));
        };
        let watched = std::mem::take(&mut self.watched);
        self.watched_bytes = 0;
        if multi.is_void {
            let why = "EXECABORT Transaction discarded because of previous errors.";
            return self.reply(|out| reply::error(out, why));
        }
        self.submit();
        let mut batch = Batch { watched, ops: Vec::with_capacity(multi.queued.len()) };
        let mut plan = ReplyPlan { proto: self.proto, is_exec: true, ..ReplyPlan::default() };
        let mut publications = Vec::new();
        for owned in &multi.queued {
            let request = owned.request();
            let Some(spec) = commands::find(request.word(0)) else { unreachable!("it was found when it was queued") };
            let mut out = Vec::new();
            match spec.handler {
                _ if spec.asks_help(&request) => spec.help(&mut out),
                Handler::Server(_) | Handler::Table(_) => self.run_own(spec, &request, &mut out),
                Handler::Publish => publications.push((plan.count, owned)),
                Handler::Control(_) => unreachable!("{} is never queued", spec.name),
                Handler::Store(_) => match self.translate(spec, &request) {
                    Ok((op, shape)) => {
                        batch.ops.push(op);
                        plan.push(shape);
                        continue;
                    }
                    Err(why) => reply::error(&mut out, &why),
                },
            }
            plan.push(ReplyShape::Written(out));
        }
        if batch.keys_named() > BATCH_KEYS_MAX {
            return self.reply(|out| reply::error(out, &too_many_keys(batch.keys_named())));
        }
        let is_empty = batch.ops.is_empty() && batch.watched.is_empty();
        if !is_empty && publications.is_empty() {
            // Watched keys are compared when the entry is applied, so that no other write can come between.
            let needs_log = batch.needs_log() || !batch.watched.is_empty();
            plan.is_line = self.is_line;
            self.submit_batch(batch, plan, needs_log);
            return;
        }
        let answered = match is_empty {
            true => Outcome::Done((crate::types::Index(0), Reply::Ok(BatchReply::Values(Vec::new()).encode()))),
            false => self.execute(&batch),
        };
        if let Outcome::Done((_, Reply::Ok(bytes))) = &answered
            && let Some(BatchReplyRef::Values(_)) = BatchReplyRef::decode(bytes)
        {
            for (position, owned) in publications {
                let request = owned.request();
                let receivers = self.shared.handle.publish(request.word(1), request.word(2));
                let mut reply = Vec::new();
                reply::int(&mut reply, receivers as i64);
                plan.rewrite(position, reply);
            }
        }
        let mut out = Vec::new();
        plan.write(&answered, self.shared.handle.scan_cursors(), &mut out);
        self.reply_written(out);
    }

    pub(super) fn watch(&mut self, request: &Request) {
        if self.multi.is_some() {
            return self.reply(|out| reply::error(out, "ERR WATCH inside MULTI is not allowed"));
        }
        // A key that is watched already keeps its first mark.
        let is_new = |key: &&[u8]| self.watched.iter().all(|(known, _)| known.as_slice() != *key);
        let keys: Vec<Bytes> = request.words().skip(1).filter(is_new).map(|key| Bytes::from(key.to_vec())).collect();
        let more: usize = keys.iter().map(|key| key.len() + WATCHED_BYTES).sum();
        if self.watched_bytes + more > RESP_REQUEST_BYTES_MAX {
            return self.reply(|out| reply::error(out, "ERR too many watched keys"));
        }
        let seen = match self.ask(vec![Op::Marks(keys.clone())], Level::Linearizable) {
            Ok(seen) => seen,
            Err(why) => return self.reply(|out| reply::error(out, &why)),
        };
        let Some(Value::List(marks)) = seen.into_iter().next() else {
            return self.reply(|out| reply::error(out, "ERR internal error: malformed answer of the key-value store"));
        };
        for (key, mark) in keys.into_iter().zip(marks) {
            if let Value::Int(mark) = mark {
                self.watched.push((key, mark as u64));
            }
        }
        self.watched_bytes += more;
        if !self.account() {
            self.forget_watched();
            return self.reply(|out| reply::error(out, &reply_plan::error_text(&Reason::Memory)));
        }
        self.reply(reply::ok);
    }
}

/// For a request that would delay others.
pub(super) fn too_many_keys(keys: usize) -> String {
    format!("ERR a request or transaction may name at most {BATCH_KEYS_MAX} keys, this one names {keys}: split it")
}
