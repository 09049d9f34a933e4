//! The client and servers that fail in different ways, each following a script of answers.

use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// What a server does with one connection.
#[derive(Clone, Copy)]
enum Does {
    Answers(&'static str),
    /// Reads the request and closes.
    Dies,
}

/// A server that treats its connections as the script says, one after another, and then closes its port; and the
/// requests that it read.
fn serve(script: Vec<Does>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let said = heard.clone();
    std::thread::spawn(move || {
        for does in script {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).unwrap_or(0);
            said.lock().unwrap().push(String::from_utf8_lossy(&request[..length]).into_owned());
            if let Does::Answers(answer) = does {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    (address, heard)
}

const FINE: Does = Does::Answers("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\n\r\n{\"number\": 7}");
const BUSY: Does = Does::Answers(
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 19\r\n\r\n{\"error\":\"no quorum\"",
);
const LATE: Does = Does::Answers("HTTP/1.1 504 Gateway Timeout\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
const SLOW: Does = Does::Answers(
    "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{\"error\":\"wait\"}",
);

/// The beginning of a stream that breaks off.
fn stream(chunks: &[String]) -> &'static str {
    let chunks: String = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").leak()
}

fn client(addresses: Vec<String>, within_ms: u64) -> Client {
    let mut client = Client::new(addresses);
    client.within = Some(Duration::from_millis(within_ms));
    client
}

fn key_of(request: &str) -> String {
    let line = request.lines().find(|line| line.starts_with("Idempotency-Key: ")).unwrap();
    line.to_string()
}

#[test]
fn a_message_has_one_id_and_one_key_on_every_try() {
    let (dead, first) = serve(vec![Does::Dies]);
    let (late, second) = serve(vec![LATE]);
    let (fine, third) = serve(vec![FINE]);
    let mut chat = Chat { client: client(vec!["127.0.0.1:1".into(), dead, late, fine], 10_000) };
    chat.client.token = Some("t0ken".to_string());
    let sent = chat.send(&Recipient::Person("bob".to_string()), "hello").unwrap();
    assert_eq!(sent["number"], 7);
    let heard: Vec<String> = [first, second, third].iter().map(|heard| heard.lock().unwrap()[0].clone()).collect();
    assert_eq!((key_of(&heard[0]), key_of(&heard[0])), (key_of(&heard[1]), key_of(&heard[2])));
    let body = |request: &str| request.split("\r\n\r\n").nth(1).unwrap().to_string();
    assert!(body(&heard[0]).contains("client_id") && body(&heard[0]) == body(&heard[2]), "{heard:?}");
    assert!(heard[2].contains("X-Phalanx-Chat-Token: t0ken\r\n"));
}

#[test]
fn refused_unknown_and_unreachable_are_distinguished() {
    let ask = |script: Vec<Does>, is_repeatable: bool| {
        let (address, heard) = serve(script);
        let request = Request { key: None, is_repeatable, ..Request::once("POST", "/x", None) };
        (client(vec![address], 150).ask(&request).unwrap_err(), heard)
    };
    let (slow, _) = ask(vec![SLOW], true);
    assert!(matches!(&slow, ClientError::Refused { status: 429, why, .. } if why == "wait"), "{slow:?}");
    assert!(matches!(ask(vec![BUSY], true).0, ClientError::Refused { status: 503, .. }), "declined, then gone");
    assert!(matches!(ask(vec![Does::Dies, BUSY], true).0, ClientError::Unknown(_)), "K2");
    assert!(matches!(ask(vec![LATE], true).0, ClientError::Unknown(_)));
    let (once, heard) = ask(vec![Does::Dies, FINE], false);
    assert!(matches!(once, ClientError::Unknown(_)) && heard.lock().unwrap().len() == 1, "K1");
    let nobody = client(vec!["127.0.0.1:1".into()], 50).ask(&Request::once("POST", "/x", None));
    assert!(matches!(nobody, Err(ClientError::Unreachable(_))));
    let (dead, _) = serve(vec![Does::Dies]);
    assert!(matches!(client(vec![dead], 50).ask(&Request::get("/x")), Err(ClientError::Unreachable(_))), "a query");
}

#[test]
fn a_follower_continues_after_its_position() {
    let message = |position: u64| format!("{{\"type\":\"message\",\"position\":{position}}}\n");
    let heartbeat = "{\"type\":\"beat\",\"position\":3}\n".to_string();
    // One line in two chunks, and one line that never ends.
    let (half, rest) = (message(4)[..9].to_string(), message(4)[9..].to_string());
    let first = stream(&[heartbeat, half, rest, message(5), "{\"typ".to_string()]);
    let second = stream(&[message(5), message(6), "{\"type\":\"logged_out\"}\n".to_string()]);
    let (one, _) = serve(vec![Does::Answers(first)]);
    let (two, heard) = serve(vec![Does::Answers(second)]);
    let mut follower = Follower::new(vec![one, two], "t0ken".to_string(), Some(3));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut positions = Vec::new();
    let end = loop {
        match follower.next(deadline) {
            Ok(Some(line)) => positions.push(line["position"].as_u64().unwrap()),
            Ok(None) => panic!("nothing came"),
            Err(fault) => break fault,
        }
    };
    assert_eq!(positions, [4, 5, 6], "each once, although the second node repeats one");
    assert!(matches!(end, ClientError::Refused { status: 401, .. }));
    assert!(heard.lock().unwrap()[0].starts_with("GET /v1/chat/stream?after=5 "));
}

#[test]
fn places_are_read_as_people_write_them() {
    assert_eq!(Recipient::read("#tea"), Recipient::Room("tea".to_string()));
    assert_eq!(
        (Recipient::read("@bob"), Recipient::read("bob")),
        (Recipient::Person("bob".to_string()), Recipient::Person("bob".to_string()))
    );
    assert_eq!(Recipient::read(":12"), Recipient::Conversation(12));
}

#[test]
fn each_node_is_asked_once_without_a_deadline() {
    let mut once = client(vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()], 0);
    once.within = None;
    let Err(ClientError::Unreachable(why)) = once.answer(&Request::get("/x")) else { panic!("nobody listens there") };
    assert_eq!(why, "connection refused at 127.0.0.1:1, 127.0.0.1:2");
    assert_eq!(once.place(), 0, "the same is asked first the next time");
    let (busy, _) = serve(vec![BUSY]);
    let (fine, _) = serve(vec![FINE, LATE]);
    let mut once = client(vec![busy, fine], 0);
    once.within = None;
    assert_eq!(once.answer(&Request::once("POST", "/x", None)).unwrap().json()["number"], 7);
    assert_eq!(once.place(), 1);
    let late = once.answer(&Request::get("/x")).unwrap_err();
    assert!(matches!(late, ClientError::Refused { status: 504, .. }), "a query changes nothing: {late:?}");
    assert!(matches!(client(vec![], 50).answer(&Request::get("/x")), Err(ClientError::Unreachable(_))));
}

#[test]
fn a_closed_idle_connection_is_opened_again() {
    let stays = Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    let (node, heard) = serve(vec![stays, FINE, stays, FINE]);
    let mut one = client(vec![node], 0);
    one.within = None;
    let change = Request::once("POST", "/x", None);
    one.answer(&change).unwrap();
    assert_eq!(one.answer(&change).unwrap().json()["number"], 7);
    // A request that must not be repeated is not sent on a reused connection, which the server may have closed already.
    let once = Request::once("POST", "/x", None).at_most_once();
    one.answer(&once).unwrap();
    assert_eq!(one.answer(&once).unwrap().json()["number"], 7);
    let heard = heard.lock().unwrap();
    assert_eq!(key_of(&heard[0]), key_of(&heard[1]));
    assert!(!heard[2].contains("Idempotency-Key") && heard.len() == 4);
}

#[test]
fn redirects_are_followed_but_not_in_circles() {
    let (fine, heard) = serve(vec![FINE]);
    let location = format!("Location: http://{fine}/x?y=1");
    let sends_on = format!("HTTP/1.1 307 Temporary Redirect\r\n{location}\r\nContent-Length: 0\r\n\r\n").leak();
    let (door, _) = serve(vec![Does::Answers(sends_on)]);
    let mut one = client(vec![door], 0);
    one.within = None;
    assert_eq!(one.answer(&Request::once("POST", "/x?y=1", None)).unwrap().json()["number"], 7);
    assert_eq!(one.address(), fine);
    assert!(heard.lock().unwrap()[0].starts_with("POST /x?y=1 "));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let to_itself = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nConnection: close\r\nLocation: http://{address}/\r\nContent-Length: 0\r\n\r\n"
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(to_itself.as_bytes());
        }
    });
    assert_eq!(client(vec![address], 5000).answer(&Request::get("/")).unwrap().status, 307);
}

#[test]
fn it_learns_of_all_nodes_and_of_the_leader() {
    let body = r#"{"cluster":{"leader":2},"nodes":[{"id":1,"http":"a:1"},{"id":2,"http":"b:2"},{"id":3,"http":null}]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).leak();
    let (node, heard) = serve(vec![Does::Answers(answer), Does::Answers(answer)]);
    let mut one = client(vec![node.clone()], 1000);
    assert_eq!(one.learn().unwrap(), Some("b:2".to_string()));
    one.learn().unwrap();
    assert_eq!(one.addresses(), [node.as_str(), "a:1", "b:2"], "each once");
    assert!(heard.lock().unwrap()[0].starts_with("GET /v1/status "));
}
