//! PUBLISH and SUBSCRIBE across the nodes of a cluster, compared with a real redis-server where one node is asked.

use crate::EXE;
use crate::redis::{Peer, RealRedis, Reply};
use phalanx::lab::{Cluster, Result, poll};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

fn message(channel: &str, text: &str) -> Reply {
    Reply::Array(vec![bulk("message"), bulk(channel), bulk(text)])
}

/// What a subscriber and a publisher of one server are answered.
fn conversation(subscriber: &mut Peer, publisher: &mut Peer, proto: &str) -> Vec<(String, Reply)> {
    let mut heard = Vec::new();
    let mut ask = |peer: &mut Peer, line: &str, replies: usize| {
        heard.push((line.to_string(), peer.ask(line)));
        (1..replies).for_each(|n| heard.push((format!("{line}: {n}"), peer.reply().unwrap())));
    };
    let mut hello = vec![subscriber.ask(&format!("HELLO {proto}")).kind()];
    hello.push(publisher.ask("HELLO 2").kind());
    ask(publisher, "PUBLISH news nobody", 1);
    ask(subscriber, "UNSUBSCRIBE", 1);
    ask(subscriber, "PUNSUBSCRIBE x", 1);
    ask(subscriber, "SUBSCRIBE news sport news", 3);
    ask(subscriber, "PSUBSCRIBE n* [", 2);
    ask(publisher, "PUBLISH news hello", 1);
    let messages = [subscriber.reply().unwrap(), subscriber.reply().unwrap()];
    ask(publisher, "PUBSUB CHANNELS", 1);
    ask(publisher, "PUBSUB CHANNELS s*", 1);
    ask(publisher, "PUBSUB NUMSUB news none", 1);
    ask(publisher, "PUBSUB NUMSUB", 1);
    ask(publisher, "PUBSUB NUMPAT", 1);
    ask(publisher, "PUBSUB NUMPAT x", 1);
    ask(publisher, "PUBSUB NOSUCH", 1);
    ask(publisher, "PUBSUB CHANNELS a b", 1);
    ask(publisher, "PUBLISH news", 1);
    for line in ["PING", "PING hey", "GET k", "CLIENT ID x", "CLIENT GETNAME", "NOSUCH", "SUBSCRIBE", "MULTI"] {
        ask(subscriber, line, 1);
    }
    if proto == "3" {
        ask(subscriber, "DISCARD", 1);
        ask(subscriber, "PUBLISH sport self", 2);
    }
    ask(subscriber, "UNSUBSCRIBE news none", 2);
    ask(subscriber, "UNSUBSCRIBE", 1);
    ask(subscriber, "PUNSUBSCRIBE [", 1);
    ask(subscriber, "PUNSUBSCRIBE", 1);
    ask(subscriber, "GET k", 1);
    ask(subscriber, "SUBSCRIBE a", 1);
    ask(subscriber, "RESET", 1);
    ask(subscriber, "PING", 1);
    ask(publisher, "PUBLISH a nobody", 1);
    heard.extend(messages.into_iter().map(|message| ("message".to_string(), message)));
    heard
}

#[test]
fn one_node_answers_as_a_real_redis_server() -> Result<()> {
    let cluster = Cluster::ready(EXE, 1, &json!({}))?;
    for proto in ["2", "3"] {
        let real = RealRedis::start();
        let theirs = conversation(&mut real.connect(), &mut real.connect(), proto);
        let peer = || Peer::tcp(&cluster.kv(1));
        let ours = conversation(&mut peer(), &mut peer(), proto);
        for ((line, theirs), (_, ours)) in theirs.into_iter().zip(ours) {
            // The order of channels is by name here, by hash in Redis.
            assert_eq!(theirs.clone().sorted(), ours.clone().sorted(), "RESP{proto} {line}");
        }
    }
    Ok(())
}

#[test]
fn a_message_reaches_the_subscribers_of_all_nodes() -> Result<()> {
    let cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let peer = |id: u64| Peer::tcp(&cluster.kv(id));
    let (mut one, mut two, mut three) = (peer(1), peer(2), peer(3));
    assert_eq!(two.ask("HELLO 3").kind(), "map");
    assert_eq!(one.ask("SUBSCRIBE news").kind(), "array");
    assert_eq!(two.ask("PSUBSCRIBE n*").kind(), "push");
    // At most once: a link may be down for a moment after the start.
    poll::wait_until("the links are up", SOON, || {
        three.ask("PUBLISH news first");
        (one.reply().ok()? == message("news", "first")).then_some(())
    })?;
    let first = Reply::Push(vec![bulk("pmessage"), bulk("n*"), bulk("news"), bulk("first")]);
    assert_eq!(two.reply().unwrap(), first);
    // The answer counts the asked node's subscribers.
    assert_eq!((three.ask("PUBLISH news local").int(), peer(1).ask("PUBLISH news local").int()), (0, 1));
    for heard in [&mut one, &mut two] {
        (0..2).for_each(|_| assert!(matches!(heard.reply().unwrap(), Reply::Array(_) | Reply::Push(_))));
    }
    // In the order of the publisher.
    let lines: String = (0..500).map(|n| format!("PUBLISH news {n}\r\n")).collect();
    three.send(lines.as_bytes()).unwrap();
    for n in 0..500 {
        assert_eq!(one.reply().unwrap(), message("news", &n.to_string()));
        assert_eq!(three.reply().unwrap(), Reply::Int(0));
    }
    // Who gets a message sees what was written before it.
    let mut reader = peer(1);
    for n in 500..550 {
        three.send(format!("SET seen {n}\r\nPUBLISH news {n}\r\n").as_bytes()).unwrap();
        assert_eq!(one.reply().unwrap(), message("news", &n.to_string()));
        assert_eq!(reader.ask("GET seen"), bulk(&n.to_string()));
    }
    Ok(())
}

#[test]
fn a_transaction_publishes_only_if_it_is_executed() -> Result<()> {
    let cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let peer = |id: u64| Peer::tcp(&cluster.kv(id));
    let (mut subscriber, mut client, mut other) = (peer(1), peer(1), peer(2));
    assert_eq!(subscriber.ask("SUBSCRIBE done").kind(), "array");
    for line in ["MULTI", "SET task 1", "PUBLISH done 1", "GET task"] {
        client.ask(line);
    }
    assert_eq!(client.ask("EXEC"), Reply::Array(vec![Reply::Simple("OK".into()), Reply::Int(1), bulk("1")]));
    assert_eq!(subscriber.reply().unwrap(), message("done", "1"));
    for line in ["WATCH task", "MULTI", "SET task 2", "PUBLISH done 2"] {
        client.ask(line);
    }
    other.ask("SET task other");
    assert_eq!(client.ask("EXEC"), Reply::NilArray);
    for line in ["MULTI", "PUBLISH done 3", "DISCARD", "MULTI", "NOSUCH", "PUBLISH done 4", "EXEC"] {
        client.ask(line);
    }
    for line in ["MULTI", "PUBLISH done 5"] {
        client.ask(line);
    }
    assert_eq!(client.ask("EXEC"), Reply::Array(vec![Reply::Int(1)]));
    assert_eq!(subscriber.reply().unwrap(), message("done", "5"), "2, 3 and 4 were not executed");
    assert_eq!(client.ask("MULTI").kind(), "simple");
    assert!(client.ask("SUBSCRIBE x").text().contains("not allowed in a transaction"));
    assert!(client.ask("EXEC").text().starts_with("EXECABORT"));
    Ok(())
}

#[test]
fn subscribers_that_do_not_read_are_disconnected_and_subscriptions_are_bounded() -> Result<()> {
    let cluster = Cluster::ready(EXE, 1, &json!({"memory_budget_mb": 64}))?;
    let mut publisher = Peer::tcp(&cluster.kv(1));
    let mut deaf = TcpStream::connect(cluster.kv(1)).unwrap();
    deaf.write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$3\r\nbig\r\n").unwrap();
    poll::wait_until("it is subscribed", SOON, || {
        (publisher.ask("PUBSUB NUMSUB big") == Reply::Array(vec![bulk("big"), Reply::Int(1)])).then_some(())
    })?;
    let large = vec![b'x'; 1 << 20];
    let heard: i64 = (0..100).map(|_| publisher.call(&[b"PUBLISH", b"big", &large]).int()).sum();
    assert!((1..60).contains(&heard), "{heard} MiB were kept for it");
    poll::wait_until("it is gone", SOON, || {
        (publisher.ask("PUBSUB NUMSUB big") == Reply::Array(vec![bulk("big"), Reply::Int(0)])).then_some(())
    })?;
    let mut many = Peer::tcp(&cluster.kv(1));
    let names: Vec<Vec<u8>> = (0..10_001).map(|n| format!("c{n}").into_bytes()).collect();
    let words: Vec<&[u8]> = std::iter::once(&b"SUBSCRIBE"[..]).chain(names.iter().map(Vec::as_slice)).collect();
    many.send(&crate::redis::encoded(&words)).unwrap();
    (0..10_000).for_each(|_| assert_eq!(many.reply().unwrap().kind(), "array"));
    assert_eq!(many.reply().unwrap().text(), "ERR a connection may have at most 10000 subscriptions");
    assert!(many.call(&[b"PSUBSCRIBE", &[b'a'; 1025]]).text().contains("1024 are allowed"));
    drop(many);
    poll::wait_until("nothing is left of it", SOON, || {
        (publisher.ask("PUBSUB CHANNELS") == Reply::Array(Vec::new())).then_some(())
    })?;
    Ok(())
}

/// Runs a script with the packages that test.sh has put into this folder, or with those of the system.
fn python(script: &str, packages: &str, arguments: &[String]) -> String {
    let folder = format!("{}/target/{packages}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", folder).arg(format!("tests/cluster/redis/{script}")).args(arguments);
    let output = command.output().expect("python3 is needed; see ./test.sh");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}: {}\n{text}\n{errors}", output.status);
    text.trim_end().to_string()
}

#[test]
fn redis_py_and_celery_get_their_messages() -> Result<()> {
    let cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let ports: Vec<String> = (1..=3).map(|id| cluster.kv(id).rsplit(':').next().unwrap().to_string()).collect();
    for script in ["pubsub.py", "celery_backend.py"] {
        let shown = python(script, "celery", &ports);
        assert!(shown.ends_with("ok") || shown.ends_with("skipped"), "{shown}");
        eprintln!("{shown}");
    }
    Ok(())
}
