//! Words of requests as operations of the store, and as Redis' refusals.

use super::store::context::{Context, SYNTAX, Translated};
use super::store::keys::SCAN_COUNT_MAX;
use super::store::scripts;
use super::{Handler, find};
use crate::resp::protocol::parse::Parser;
use crate::resp::reply_plan::ReplyShape;
use crate::services::kv::{Bytes, Condition, ExpireIf, Expiry, Op, OpError};

fn translate(line: &str) -> Translated {
    let mut parser = Parser::default();
    let line = format!("{line}\n");
    let (request, _) = parser.next(line.as_bytes(), true).unwrap().unwrap();
    let scripts = scripts::Loaded::default();
    let context = Context { position: &|_| None, scripts: &scripts, now_ms: 1_800_000_000_000, draw: || 7 };
    let spec = find(request.word(0)).unwrap();
    spec.check(&request).unwrap();
    match spec.handler {
        Handler::Store(translate) => translate(&request, &context),
        _ => panic!("{line} is not on keys"),
    }
}

fn refusal(line: &str) -> String {
    translate(line).expect_err(line)
}

fn op(line: &str) -> Op {
    translate(line).expect(line).0
}

fn b(text: &str) -> Bytes {
    Bytes::from(text.as_bytes().to_vec())
}

fn set_op(condition: Condition, expiry: Expiry, get: bool) -> Op {
    Op::Set { key: b("k"), value: b("v"), condition, expiry, get }
}

#[test]
fn set_takes_its_options_in_any_order() {
    assert_eq!(op("SET k v"), set_op(Condition::Always, Expiry::Never, false));
    assert_eq!(op("set k v NX EX 5"), set_op(Condition::Absent, Expiry::In(5000), false));
    assert_eq!(op("set k v px 5 xx get"), set_op(Condition::Present, Expiry::In(5), true));
    assert_eq!(op("set k v exat 7"), set_op(Condition::Always, Expiry::At(7000), false));
    assert_eq!(op("set k v pxat 7"), set_op(Condition::Always, Expiry::At(7), false));
    assert_eq!(op("set k v keepttl"), set_op(Condition::Always, Expiry::Keep, false));
    for bad in ["nx xx", "xx nx", "ex 1 px 1", "ex", "keepttl ex 1", "ex 1 keepttl", "foo", "ex 1 2"] {
        assert_eq!(refusal(&format!("set k v {bad}")), SYNTAX, "{bad}");
    }
    for bad in ["ex 0", "px -1", "exat 0", "ex 9223372036854776", "px 9223372036854775807"] {
        assert_eq!(refusal(&format!("set k v {bad}")), "ERR invalid expire time in 'set' command", "{bad}");
    }
    assert_eq!(refusal("set k v ex x"), OpError::NotAnInteger.text());
    assert_eq!(refusal("setex k 0 v"), "ERR invalid expire time in 'setex' command");
}

#[test]
fn commands_of_one_kind_differ_by_their_reply() {
    assert_eq!(translate("setnx k v").unwrap().1, ReplyShape::OneIfDone);
    assert_eq!(translate("ttl k").unwrap(), (Op::Ttl(b("k")), ReplyShape::Seconds));
    assert_eq!(translate("pttl k").unwrap(), (Op::Ttl(b("k")), ReplyShape::Plain));
    assert_eq!(op("getset k v"), set_op(Condition::Always, Expiry::Never, true));
    assert_eq!(
        translate("cas k o v").unwrap(),
        (set_op(Condition::Equals(b("o")), Expiry::Keep, false), ReplyShape::OneIfDone)
    );
    assert_eq!(op("mset a 1 b 2"), Op::MSet(vec![(b("a"), b("1")), (b("b"), b("2"))]));
    assert_eq!(refusal("mset a 1 b"), "ERR wrong number of arguments for 'mset' command");
    assert_eq!(op("unlink a b"), Op::Del(vec![b("a"), b("b")]));
    assert_eq!(op("decrby k 3"), Op::IncrBy { key: b("k"), by: -3 });
    assert_eq!(refusal("decrby k -9223372036854775808"), "ERR decrement would overflow");
    assert_eq!(op("flushall async"), Op::FlushAll);
    assert_eq!(refusal("flushall now"), SYNTAX);
}

#[test]
fn times_to_live_may_have_passed_but_must_fit() {
    let expire = |expiry, condition| Op::Expire { key: b("k"), expiry, condition };
    assert_eq!(op("expire k 10"), expire(Expiry::In(10_000), ExpireIf::Always));
    assert_eq!(op("pexpire k 10 nx"), expire(Expiry::In(10), ExpireIf::HasNone));
    assert_eq!(op("expire k -1 xx"), expire(Expiry::At(0), ExpireIf::HasOne));
    assert_eq!(op("expireat k 10 gt"), expire(Expiry::At(10_000), ExpireIf::Later));
    assert_eq!(op("pexpireat k 10 xx gt"), expire(Expiry::At(10), ExpireIf::Later));
    assert_eq!(op("expireat k 1 lt xx"), expire(Expiry::At(1000), ExpireIf::EarlierThanOne));
    assert_eq!(op("expire k 0 lt"), expire(Expiry::In(0), ExpireIf::Earlier));
    assert_eq!(refusal("expire k 9223372036854775807"), "ERR invalid expire time in 'expire' command");
    assert_eq!(refusal("pexpire k 9223372036854775807"), "ERR invalid expire time in 'pexpire' command");
    assert_eq!(refusal("expire k 1 nx xx"), "ERR NX and XX, GT or LT options at the same time are not compatible");
    assert_eq!(refusal("expire k 1 gt lt"), "ERR GT and LT options at the same time are not compatible");
    assert_eq!(refusal("expire k 1 foo"), "ERR Unsupported option foo");
}

#[test]
fn scan_continues_at_its_cursor() {
    assert_eq!(op("scan 0"), Op::Scan { after: None, glob: None, count: 10 });
    let page = op("scan 17 count 999999 match a*");
    assert_eq!(page, Op::Scan { after: None, glob: Some(b("a*")), count: SCAN_COUNT_MAX }, "an unknown cursor");
    assert_eq!(translate("scan 0 type hash").unwrap().1, ReplyShape::Page { is_hidden: true });
    assert_eq!(refusal("scan x"), "ERR invalid cursor");
    assert_eq!(refusal("scan 0 count 0"), SYNTAX);
    assert_eq!(refusal("scan 0 count"), SYNTAX);
    assert_eq!(refusal("scan 0 count x"), OpError::NotAnInteger.text());
}

#[test]
fn lock_scripts_are_operations() {
    let release = "c3f8721cbb97f72bc19e972846bd7aaf91901658";
    let extend = "a4e8783852e6b949f9ef3a97212805108459a890";
    assert_eq!(op(&format!("evalsha {release} 1 k t")), Op::ReleaseIf { key: b("k"), token: b("t") });
    let extended = |replace| Op::ExtendIf { key: b("k"), token: b("t"), ms: 9, replace };
    assert_eq!(op(&format!("evalsha {extend} 1 k t 9 0")), extended(false));
    assert_eq!(op(&format!("evalsha {extend} 1 k t 9 1")), extended(true));
    assert!(refusal("evalsha 00 0").starts_with("NOSCRIPT"));
    assert_eq!(refusal("eval x 2 k"), "ERR Number of keys can't be greater than number of args");
    assert_eq!(refusal("eval x -1"), "ERR Number of keys can't be negative");
    assert_eq!(refusal("eval \"return 1\" 0"), scripts::UNKNOWN);
    assert!(refusal(&format!("evalsha {release} 0")).contains("one key and a token"));
}

#[test]
fn locks_have_tokens_and_times() {
    assert_eq!(op("lock.acquire n 5"), Op::LockAcquire { name: b("n"), ttl_ms: 5 });
    assert_eq!(op("lock.renew n 3 5"), Op::LockRenew { name: b("n"), token: 3, ttl_ms: 5 });
    assert_eq!(op("lock.release n 3"), Op::LockRelease { name: b("n"), token: 3 });
    assert_eq!(refusal("lock.acquire n 0"), "ERR invalid expire time in 'lock.acquire' command");
    assert_eq!(refusal("lock.release n -3"), OpError::NotAnInteger.text());
}
