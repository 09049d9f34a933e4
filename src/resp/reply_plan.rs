//! How the store's answers are written as replies: one plan per batch, made when the batch is submitted.
//!
//! Most values are written as they are; a command with another reply in Redis has its own shape. Replies that do not
//! need the store (an error, PING) are part of the plan of their batch, so that they keep their place.
//! Not here: sending (`outbox.rs`), which command has which shape (`resp/commands/store/`).

use super::protocol::lines;
use super::protocol::reply::{self, RespVersion};
use crate::node::Answered;
use crate::node::scan_cursors::ScanCursors;
use crate::outcome::codes::FAILED;
use crate::outcome::{Coded, Outcome};
use crate::services::Reply;
use crate::services::kv::commands::{BatchReplyRef, ValueRef};

/// How one reply is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyShape {
    /// As the value is.
    Plain,
    /// 1 if it was done, 0 if the condition was not met: SETNX, CAS.
    OneIfDone,
    /// Milliseconds as seconds, rounded; negative numbers are unchanged: TTL.
    Seconds,
    /// This reply if the key exists, else nil: OBJECT, GETEX.
    IfPresent(Vec<u8>),
    /// A cursor and a page of keys. `is_hidden`: without the keys, because no key has the requested type.
    Page { is_hidden: bool },
    /// Written already; it has no value in the answer.
    Written(Vec<u8>),
}

/// How the answer to one batch is written.
#[derive(Debug, Default)]
pub struct ReplyPlan {
    /// Protocol version when the commands arrived.
    pub proto: RespVersion,
    /// They arrived as plain lines.
    pub is_line: bool,
    /// Replies in all.
    pub count: u32,
    /// Those that are not plain, by position.
    pub special: Vec<(u32, ReplyShape)>,
    /// One EXEC: all replies in one array, or nothing if it was aborted.
    pub is_exec: bool,
    /// Acknowledged before it is applied: the replies are known, all `OK`.
    pub is_accepted: bool,
}

impl ReplyPlan {
    pub fn push(&mut self, shape: ReplyShape) {
        if shape != ReplyShape::Plain {
            self.special.push((self.count, shape));
        }
        self.count += 1;
    }

    /// Replaces a reply that is already written.
    pub fn rewrite(&mut self, position: u32, reply: Vec<u8>) {
        if let Some((_, shape)) = self.special.iter_mut().find(|(at, _)| *at == position) {
            *shape = ReplyShape::Written(reply);
        }
    }

    /// Writes the whole answer; returns the bytes of the largest reply in it.
    pub fn write(mut self, answered: &Answered, cursors: &ScanCursors, out: &mut Vec<u8>) -> usize {
        if std::mem::take(&mut self.is_line) {
            let mut replies = Vec::new();
            let largest = self.write(answered, cursors, &mut replies);
            lines::write(&replies, out);
            return largest;
        }
        let failure = match answered {
            Outcome::Done(_) if self.is_accepted => return self.write_values(Values::Certain, cursors, out),
            Outcome::Done((_, Reply::Ok(bytes))) => match BatchReplyRef::decode(bytes) {
                Some(BatchReplyRef::Values(values)) => {
                    return self.write_values(Values::Given(values.into_iter()), cursors, out);
                }
                Some(BatchReplyRef::Aborted) => {
                    reply::nil_array(out, self.proto);
                    return 0;
                }
                None => "ERR internal error: malformed answer of the key-value store".to_string(),
            },
            Outcome::Done((_, Reply::Failed(why))) => format!("{} {why}", FAILED.resp),
            Outcome::Refused(why) => error_text(why),
            Outcome::Unknown(why) => error_text(why),
        };
        self.write_values(Values::Failed(&failure), cursors, out)
    }

    fn write_values(self, mut values: Values, cursors: &ScanCursors, out: &mut Vec<u8>) -> usize {
        if self.is_exec {
            if let Values::Failed(why) = values {
                reply::error(out, why);
                return 0;
            }
            reply::array(out, self.count as usize);
        }
        let mut largest = 0;
        let mut special = self.special.into_iter().peekable();
        for position in 0..self.count {
            let shape = special.next_if(|(at, _)| *at == position).map_or(ReplyShape::Plain, |(_, shape)| shape);
            if let ReplyShape::Written(bytes) = shape {
                out.extend_from_slice(&bytes);
                continue;
            }
            let before = out.len();
            match &mut values {
                Values::Certain => reply::ok(out),
                Values::Failed(why) => reply::error(out, why),
                Values::Given(values) => match values.next() {
                    Some(value) => write_shaped(out, self.proto, &shape, &value, cursors),
                    None => reply::error(out, "ERR internal error: no answer of the key-value store"),
                },
            }
            largest = largest.max(out.len() - before);
        }
        largest
    }
}

/// A reason as an error reply: the prefix for client libraries, and its text.
pub fn error_text(why: &impl Coded) -> String {
    format!("{} {why}", why.codes().resp)
}

enum Values<'a> {
    Certain,
    Failed(&'a str),
    Given(std::vec::IntoIter<ValueRef<'a>>),
}

fn write_shaped(out: &mut Vec<u8>, proto: RespVersion, shape: &ReplyShape, value: &ValueRef, cursors: &ScanCursors) {
    match (shape, value) {
        (ReplyShape::OneIfDone, ValueRef::Ok) => reply::int(out, 1),
        (ReplyShape::OneIfDone, ValueRef::Nil) => reply::int(out, 0),
        (ReplyShape::Seconds, ValueRef::Int(ms)) if *ms >= 0 => reply::int(out, ms.saturating_add(500) / 1000),
        (ReplyShape::IfPresent(_), ValueRef::Int(0)) => reply::nil(out, proto),
        (ReplyShape::IfPresent(reply), ValueRef::Int(_)) => out.extend_from_slice(reply),
        (ReplyShape::Page { is_hidden }, ValueRef::List(page)) => write_page(out, proto, page, *is_hidden, cursors),
        _ => write_value(out, proto, value),
    }
}

fn write_page(out: &mut Vec<u8>, proto: RespVersion, page: &[ValueRef], is_hidden: bool, cursors: &ScanCursors) {
    let number = match page.first() {
        Some(ValueRef::Bytes(last)) => cursors.remember(last),
        _ => 0,
    };
    reply::array(out, 2);
    reply::bulk(out, number.to_string().as_bytes());
    match page.get(1) {
        Some(keys) if !is_hidden => write_value(out, proto, keys),
        _ => reply::array(out, 0),
    }
}

fn write_value(out: &mut Vec<u8>, proto: RespVersion, value: &ValueRef) {
    match value {
        ValueRef::Nil => reply::nil(out, proto),
        ValueRef::Ok => reply::ok(out),
        ValueRef::Int(value) => reply::int(out, *value),
        ValueRef::Text(text) => reply::simple(out, text),
        ValueRef::Bytes(bytes) => reply::bulk(out, bytes),
        ValueRef::Error(why) => reply::error(out, why),
        ValueRef::List(values) => {
            reply::array(out, values.len());
            for value in values {
                write_value(out, proto, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::outcome::{Reason, UnknownReason};
    use crate::resp::reply_plan::*;
    use crate::services::kv::{BatchReply, Bytes, OpError, Value};
    use crate::types::{Index, NodeId};

    fn written(plan: ReplyPlan, answered: &Answered) -> String {
        let mut out = Vec::new();
        plan.write(answered, &ScanCursors::new(NodeId(1), 7), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn plan(shapes: &[ReplyShape]) -> ReplyPlan {
        let mut plan = ReplyPlan::default();
        shapes.iter().for_each(|shape| plan.push(shape.clone()));
        plan
    }

    fn done(values: Vec<Value>) -> Answered {
        Outcome::Done((Index(1), Reply::Ok(BatchReply::Values(values).encode())))
    }

    #[test]
    fn replies_keep_their_order_and_form() {
        let pong = ReplyShape::Written(b"+PONG\r\n".to_vec());
        let shapes = [
            ReplyShape::Plain,
            pong.clone(),
            ReplyShape::OneIfDone,
            ReplyShape::Seconds,
            ReplyShape::Seconds,
            ReplyShape::Plain,
            pong,
        ];
        let values =
            vec![Value::Ok, Value::Nil, Value::Int(1500), Value::Int(-2), Value::Error(OpError::Other("ERR x".into()))];
        assert_eq!(written(plan(&shapes), &done(values)), "+OK\r\n+PONG\r\n:0\r\n:2\r\n:-2\r\n-ERR x\r\n+PONG\r\n");
    }

    #[test]
    fn every_command_of_a_failed_batch_fails() {
        let shapes = [ReplyShape::Plain, ReplyShape::Written(b"+PONG\r\n".to_vec()), ReplyShape::OneIfDone];
        let refused = Outcome::Refused(Reason::Unreadable("disk:\r\nI/O".to_string()));
        let line = "-CLUSTERDOWN the database cannot be read: disk:  I/O\r\n";
        assert_eq!(written(plan(&shapes), &refused), format!("{line}+PONG\r\n{line}"));
        let unknown = Outcome::Unknown(UnknownReason::LeaderLost);
        let exec = ReplyPlan { is_exec: true, ..plan(&shapes) };
        assert_eq!(written(exec, &unknown), "-UNKNOWN the leader was lost before it answered\r\n");
    }

    #[test]
    fn exec_is_one_array_or_nothing() {
        let exec = |proto| ReplyPlan { is_exec: true, proto, ..plan(&[ReplyShape::Plain, ReplyShape::Plain]) };
        assert_eq!(written(exec(RespVersion::Resp2), &done(vec![Value::Ok, Value::Nil])), "*2\r\n+OK\r\n$-1\r\n");
        let aborted = || Outcome::Done((Index(1), Reply::Ok(BatchReply::Aborted.encode())));
        assert_eq!(written(exec(RespVersion::Resp2), &aborted()), "*-1\r\n");
        assert_eq!(written(exec(RespVersion::Resp3), &aborted()), "_\r\n");
    }

    #[test]
    fn a_page_has_a_number_to_go_on_with() {
        let bytes = |text: &str| Value::Bytes(Bytes::from(text.as_bytes().to_vec()));
        let page = |last| done(vec![Value::List(vec![last, Value::List(vec![bytes("a")])])]);
        let text = written(plan(&[ReplyShape::Page { is_hidden: false }]), &page(bytes("a")));
        assert!(text.starts_with("*2\r\n$") && text.ends_with("*1\r\n$1\r\na\r\n"), "{text}");
        let last = written(plan(&[ReplyShape::Page { is_hidden: true }]), &page(Value::Nil));
        assert_eq!(last, "*2\r\n$1\r\n0\r\n*0\r\n");
    }

    #[test]
    fn accepted_commands_reply_ok() {
        let accepted = ReplyPlan { is_accepted: true, ..plan(&[ReplyShape::Plain, ReplyShape::Plain]) };
        assert_eq!(written(accepted, &Outcome::Done((Index(0), Reply::Ok(Vec::new())))), "+OK\r\n+OK\r\n");
    }
}
