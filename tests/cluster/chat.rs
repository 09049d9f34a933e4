//! The chat on real nodes: endpoints, streams that change nodes, the command line, the demo.
//!
//! Not here: the page of the chat (`tests/http/browser.rs`).

use crate::EXE;
use phalanx::client::{Chat, ClientError, Recipient};
use phalanx::lab::Cluster;
use phalanx::lab::terminal::Terminal;
use phalanx::lab::web::Connection;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

fn member(cluster: &Cluster, name: &str, place: usize) -> Chat {
    let mut chat = Chat::new(cluster.addresses());
    chat.client.go_to(place);
    chat.sign_up(name, &format!("{name}'s secret")).unwrap();
    chat
}

/// One request, exactly as given; status and body.
fn raw(
    cluster: &Cluster,
    method: &str,
    path: &str,
    headers: &str,
    body: Option<&[u8]>,
) -> (u16, Value, Option<String>) {
    raw_at(&cluster.http(1), method, path, headers, body)
}

fn raw_at(address: &str, method: &str, path: &str, headers: &str, body: Option<&[u8]>) -> (u16, Value, Option<String>) {
    let mut connection = Connection::open(address, SOON).unwrap();
    connection.send_bytes(method, path, headers, body).unwrap();
    let response = connection.answer(Instant::now() + SOON).unwrap();
    let retry_after = response.header("retry-after").map(str::to_string);
    (response.status, response.json(), retry_after)
}

#[test]
fn messages_outlive_the_leader_and_streams_go_on_where_they_were() {
    let mut cluster = Cluster::ready(EXE, 3, &json!({})).unwrap();
    let leader = cluster.wait_leader().unwrap();
    let (mut ann, bob) = (member(&cluster, "ann", 0), member(&cluster, "bob", leader as usize - 1));
    // Bob listens to the very node that dies.
    let mut stream = bob.follow(Some(0));
    let mut heard = Vec::new();
    for n in 0..40 {
        if n == 20 {
            cluster.kill(leader).unwrap();
        }
        ann.send(&Recipient::Person("bob".to_string()), &format!("{n}")).unwrap();
        while let Some(line) = stream.next(Instant::now() + Duration::from_millis(1)).unwrap() {
            heard.push(line);
        }
    }
    while heard.iter().filter(|line| line["type"] == "message").count() < 40 {
        heard.push(stream.next(Instant::now() + SOON).unwrap().expect("the rest comes"));
    }
    assert_eq!(stream.next(Instant::now() + Duration::from_millis(300)).unwrap(), None, "nothing twice");
    let texts: Vec<_> = heard.iter().filter_map(|line| line["text"].as_str()).collect();
    assert_eq!(texts, (0..40).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_ne!(stream.address(), cluster.http(leader), "the stream has moved");

    cluster.kill_all();
    for id in 1..=3 {
        cluster.restart(id).unwrap();
    }
    cluster.settle().unwrap();
    let all = ann.all_of(1).unwrap();
    assert_eq!(all.iter().map(|row| row["text"].as_str().unwrap()).collect::<Vec<_>>(), texts);
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let cluster = Cluster::ready(EXE, 1, &json!({})).unwrap();
    let mut ann = member(&cluster, "ann", 0);
    member(&cluster, "bob", 0);
    ann.post("rooms", &json!({"name": "tea"})).unwrap();
    let before = ann.get("conversations").unwrap();
    let token = format!("Authorization: Bearer {}\r\n", ann.client.token.clone().unwrap());
    let json_type = "Content-Type: application/json\r\n";
    let mine = format!("{token}{json_type}");
    let form = format!("{token}Sec-Fetch-Site: same-origin\r\n");
    let long = format!("{{\"conversation\": 1, \"text\": \"{}\"}}", "x".repeat(9000));
    let long_name = format!("{{\"name\": \"{}\", \"password\": \"long enough\"}}", "x".repeat(33));
    let cases: &[(&str, &str, &str, &[u8], u16)] = &[
        ("POST", "messages", json_type, b"{\"conversation\": 1, \"text\": \"x\"}", 401),
        ("POST", "messages", &mine, b"{\"conversation\": 1}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": 1, \"text\": 7}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": -1, \"text\": \"x\"}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": 1, \"with\": \"bob\", \"text\": \"x\"}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": 1, \"text\": \"x\", \"more\": 1}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": 1, \"text\": \"\xff\"}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": 1, \"text\": \"a\\u0000b\"}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": 1, \"text\": \" \"}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": 1, \"text\": \"\\u200b\"}", 400),
        ("POST", "messages", &mine, b"{\"conversation\": 1, \"text\": \" \\u2028\\u2800\\u3164\"}", 400),
        ("POST", "messages", &mine, b"not json", 400),
        ("POST", "messages", &mine, long.as_bytes(), 413),
        ("POST", "messages", &mine, b"{\"conversation\": 9, \"text\": \"x\"}", 404),
        ("POST", "messages", &mine, b"{\"with\": \"nobody\", \"text\": \"x\"}", 404),
        ("POST", "messages", &form, b"{\"conversation\": 1, \"text\": \"x\"}", 415),
        ("POST", "rooms", &mine, b"{\"name\": \"TEA\"}", 409),
        ("POST", "rooms", &mine, b"{\"name\": \"a\\u0007b\"}", 400),
        ("POST", "rooms", &mine, b"{\"name\": \"a\\u202eb\"}", 400),
        ("POST", "rooms", &mine, b"{\"name\": \"a\\u2800b\"}", 400),
        ("POST", "rooms/x/join", &mine, b"{}", 400),
        ("POST", "rooms/77/join", &mine, b"{}", 404),
        ("POST", "accounts", json_type, long_name.as_bytes(), 400),
        ("POST", "accounts", json_type, b"{\"name\": \"a b\", \"password\": \"long enough\"}", 400),
        ("POST", "accounts", json_type, b"{\"name\": \"eve\", \"password\": \"short\"}", 400),
        ("POST", "accounts", json_type, b"{\"name\": \"\\u3164\", \"password\": \"long enough\"}", 400),
        ("POST", "accounts", json_type, b"{\"name\": \"ANN\", \"password\": \"long enough\"}", 409),
        ("POST", "login", json_type, b"{\"name\": \"\\u0000\", \"password\": \"long enough\"}", 401),
        ("POST", "conversations/1/read", &mine, b"{\"number\": 99}", 404),
        ("DELETE", "conversations/1/messages/1", &mine, b"{}", 404),
        ("GET", "conversations/1/messages?limit=0", &token, b"", 400),
        ("GET", "conversations/1/messages?limit=201", &token, b"", 400),
        ("GET", "conversations/1/messages?frm=1", &token, b"", 400),
        ("GET", "stream?after=999999", &token, b"", 400),
        ("GET", "stream?after=x", &token, b"", 400),
        ("GET", "stream", "Authorization: Bearer wrong\r\n", b"", 401),
        ("GET", "me", "Authorization: Basic YTpi\r\n", b"", 401),
        ("PUT", "messages", &mine, b"{}", 405),
        ("GET", "nothing", &token, b"", 404),
    ];
    for (method, path, headers, body, wanted) in cases {
        let body = (!body.is_empty()).then_some(*body);
        let (status, answer, _) = raw(&cluster, method, &format!("/v1/chat/{path}"), headers, body);
        assert_eq!(status, *wanted, "{method} {path} {body:?}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|why| !why.is_empty()), "{method} {path}: {answer}");
    }
    assert_eq!(ann.get("conversations").unwrap(), before);
}

#[test]
fn log_ins_are_slowed_down_and_requests_with_a_key_happen_once() {
    let cluster = Cluster::ready(EXE, 1, &json!({})).unwrap();
    let headers = "Content-Type: application/json\r\nIdempotency-Key: k1\r\n";
    let who = |name: &str, password: &str| json!({"name": name, "password": password}).to_string().into_bytes();
    let post = |path: &str, headers: &str, body: &[u8]| raw(&cluster, "POST", path, headers, Some(body));
    let (_, first, _) = post("/v1/chat/accounts", headers, &who("ann", "correct horse"));
    let (status, again, _) = post("/v1/chat/accounts", headers, &who("ann", "correct horse"));
    assert_eq!((status, &again["account"]), (200, &first["account"]), "the same sign-up, sent twice");
    assert_eq!(post("/v1/chat/accounts", headers, &who("ann", "another password")).0, 409);
    assert_eq!(post("/v1/chat/login", headers, &who("ann", "correct horse")).0, 200, "which forgives");
    for (name, token) in [("first", &first["token"]), ("second", &again["token"])] {
        let shown = format!("Authorization: Bearer {}\r\n", token.as_str().unwrap());
        assert_eq!(raw(&cluster, "GET", "/v1/chat/me", &shown, None).0, 200, "the {name} token");
    }
    // Whoever knows the key of a sign-up is no better at guessing than anybody else.
    post("/v1/chat/accounts", headers, &who("eve", "correct horse"));
    for guess in 1..=5 {
        assert_eq!(post("/v1/chat/accounts", headers, &who("eve", &format!("wrong password {guess}"))).0, 409);
    }
    for password in ["wrong password", "correct horse"] {
        let (status, answer, retry_after) = post("/v1/chat/accounts", headers, &who("eve", password));
        assert_eq!((status, retry_after.as_deref()), (429, Some("1")), "{answer}");
    }
    assert_eq!(post("/v1/chat/login", headers, &who("eve", "correct horse")).0, 429, "it is one count");
    // The words of a failure are the same whether there is such an account or not.
    for name in ["ann", "nobody"] {
        for _ in 0..5 {
            let (status, answer, _) = post("/v1/chat/login", headers, &who(name, "wrong password"));
            assert_eq!((status, answer["error"].as_str()), (401, Some("wrong name or password")));
        }
        let (status, answer, retry_after) = post("/v1/chat/login", headers, &who(name, "wrong password"));
        assert_eq!((status, retry_after.as_deref()), (429, Some("1")), "{answer}");
    }
    let waited = phalanx::lab::poll::wait_until("the wait is over", SOON, || {
        (post("/v1/chat/login", headers, &who("ann", "correct horse")).0 == 200).then_some(())
    });
    waited.unwrap();
    // Neither password nor token is in anything that the node has on disk.
    let mut found = Vec::new();
    let mut folders = vec![cluster.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                false => found.push(std::fs::read(entry).unwrap_or_default()),
            }
        }
    }
    let holds = |text: &str| found.iter().any(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
    assert!(holds("$argon2id$"), "the log is there");
    assert!(!holds("correct horse") && !holds(first["token"].as_str().unwrap()));
}

/// Memory of a process in MiB: `VmRSS:` now, `VmHWM:` at most.
fn memory_mb(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn readers_that_take_nothing_are_dropped_and_cost_little_memory() {
    let mut cluster = Cluster::ready(EXE, 1, &json!({})).unwrap();
    let pid = cluster.process(1).unwrap().pid();
    let mut ann = member(&cluster, "ann", 0);
    let room = ann.post("rooms", &json!({"name": "the hall"})).unwrap()["conversation"].as_u64().unwrap();
    // Each backslash is two bytes of JSON.
    for _ in 0..200 {
        ann.send(&Recipient::Conversation(room), &"\\".repeat(8000)).unwrap();
    }
    let before_mb = memory_mb(pid, "VmRSS:");
    let token = ann.client.token.clone().unwrap();
    let address = cluster.http(1);
    let readers: Vec<Connection> = (0..150)
        .map(|_| {
            let mut reader = Connection::open(&address, SOON).unwrap();
            let headers = format!("Authorization: Bearer {token}\r\n");
            reader.send_bytes("GET", "/v1/chat/stream?after=0", &headers, None).unwrap();
            reader
        })
        .collect();
    let dropped = || {
        let metrics = phalanx::lab::web::get(&address, "/metrics", SOON).unwrap().text();
        let line = metrics.lines().find(|line| line.starts_with("phalanx_http_slow_readers")).unwrap().to_string();
        line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()
    };
    let all = || (dropped() == readers.len()).then_some(());
    phalanx::lab::poll::wait_until("every reader is dropped", 3 * SOON, all).unwrap();
    let most_mb = memory_mb(pid, "VmHWM:");
    println!(
        "resident: {before_mb} MiB, at most {most_mb} MiB with {} readers of 3 MB that take nothing",
        readers.len()
    );
    assert!(most_mb < before_mb + 100, "{before_mb} MiB have become {most_mb}");
}

#[test]
fn a_node_that_is_too_busy_counts_no_failures_and_keeps_no_memory() {
    let mut cluster = Cluster::ready(EXE, 1, &json!({})).unwrap();
    let pid = cluster.process(1).unwrap().pid();
    let resident_mb = || memory_mb(pid, "VmRSS:");
    let before_mb = resident_mb();
    let headers = "Content-Type: application/json\r\n";
    let who = json!({"name": "ann", "password": "correct horse"}).to_string().into_bytes();
    let address = cluster.http(1);
    let log_in = || raw_at(&address, "POST", "/v1/chat/login", headers, Some(&who));
    assert_eq!(raw(&cluster, "POST", "/v1/chat/accounts", headers, Some(&who)).0, 200);
    for n in 0..15 {
        assert_eq!(log_in().0, 200, "{n}");
    }
    // Each on a connection of its own; two hashes at once, 19 MiB each.
    let busy_mb = resident_mb();
    assert!(busy_mb < before_mb + 60, "{before_mb} MB have become {busy_mb}");
    let mut refused = 0;
    while refused < 10 {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..320).map(|_| scope.spawn(log_in)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        refused += answers.iter().filter(|(status, ..)| *status == 503).count();
        let other = answers.iter().find(|(status, ..)| ![200, 503].contains(status));
        assert_eq!(other, None, "the password was right");
    }
    assert_eq!(log_in().0, 200, "{refused} were refused before anything was compared");
    let after_mb = resident_mb();
    println!("resident: {before_mb} MB, {busy_mb} after log-ins one by one, {after_mb} after 320 at once");
    assert!(after_mb < before_mb + 120, "{before_mb} MB have become {after_mb}");
}

#[test]
fn outsiders_read_nothing_and_a_client_id_is_for_one_target() {
    let cluster = Cluster::ready(EXE, 1, &json!({})).unwrap();
    let (mut ann, _bob, mut eve) = (member(&cluster, "ann", 0), member(&cluster, "bob", 0), member(&cluster, "eve", 0));
    let to = |name: &str| Recipient::Person(name.to_string());
    let first = ann.send_as("z", &to("eve"), "T").unwrap();
    ann.send(&to("bob"), "secret").unwrap();
    // What Ann and Bob have is to Eve what nobody has.
    for what in ["join", "leave"] {
        let said = [2, 77].map(|id| eve.post(&format!("rooms/{id}/{what}"), &json!({})).unwrap_err());
        assert_eq!(said[0], said[1]);
        assert!(matches!(said[0], ClientError::Refused { status: 404, .. }), "{said:?}");
    }
    for other in [to("bob"), to("nobodyatall"), Recipient::Room("tea".to_string()), Recipient::Conversation(2)] {
        let said = ann.send_as("z", &other, "T");
        assert!(matches!(said, Err(ClientError::Refused { status: 409, .. })), "{other:?}: {said:?}");
    }
    for same in [to("eve"), to("EVE"), Recipient::Conversation(first["conversation"].as_u64().unwrap())] {
        let said = ann.send_as("z", &same, "T").unwrap();
        assert_eq!((&said["number"], &said["is_repeat"]), (&first["number"], &json!(true)), "{same:?}");
    }
}

#[test]
fn logging_out_on_one_node_applies_on_all() {
    let cluster = Cluster::ready(EXE, 3, &json!({})).unwrap();
    let mut ann = member(&cluster, "ann", 0);
    let mut stream = ann.follow(None);
    assert_eq!(stream.next(Instant::now() + Duration::from_millis(200)).unwrap(), None);
    let mut elsewhere = Chat::new(cluster.addresses());
    elsewhere.client.go_to(2);
    elsewhere.client.token = ann.client.token.clone();
    elsewhere.post("logout", &json!({})).unwrap();
    let end = stream.next(Instant::now() + SOON);
    assert!(matches!(end, Err(ClientError::Refused { status: 401, .. })), "{end:?}");
    assert!(matches!(ann.send(&Recipient::Room("x".to_string()), "x"), Err(ClientError::Refused { status: 401, .. })));
}

#[test]
fn the_command_line_does_what_it_names() {
    let cluster = Cluster::ready(EXE, 1, &json!({})).unwrap();
    let state = cluster.dir().join("state");
    let run = |who: &str, arguments: &[&str], input: &[u8]| {
        let mut child = Command::new(EXE)
            .arg("chat")
            .args(arguments)
            .args(["--as", who, "-e", &cluster.http(1)])
            .env("XDG_STATE_HOME", &state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end before it has read all.
        let _ = child.stdin.take().unwrap().write_all(input);
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap();
        (out.status.code().unwrap(), said)
    };
    let fine = |who: &str, arguments: &[&str], input: &[u8]| {
        let (code, said) = run(who, arguments, input);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        said
    };
    // What was readable by everyone is not when a log-in is in it.
    std::fs::create_dir_all(state.join("phalanx-chat")).unwrap();
    std::fs::write(state.join("phalanx-chat/login-zed"), "old").unwrap();
    for who in ["zed", "yan"] {
        fine(who, &["signup", who], b"correct horse\n");
        let kept = std::fs::metadata(state.join(format!("phalanx-chat/login-{who}"))).unwrap();
        assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    }
    // A log-in that cannot be kept is not asked for.
    let (code, said) = run("no/../where", &["signup", "xan"], b"correct horse\n");
    assert_eq!(code, 0, "the name of a file is escaped: {said}");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "a file").unwrap();
    let (code, said) = run("wim", &["signup", "wim"], b"correct horse\n");
    assert!(code == 1 && said.contains("nothing was sent to the cluster"), "{said}");
    std::fs::remove_file(&state).unwrap();
    for who in ["zed", "yan"] {
        fine(who, &["login", who], b"correct horse\n");
    }
    fine("wim", &["signup", "wim"], b"correct horse\n");
    let (code, said) = run("vic", &["send", "#x", "hello"], b"");
    assert!(code == 1 && said.contains("log in with: phalanx chat login vic --as vic"), "{said}");

    // A room is the one of this name, whatever a pattern would make of it.
    for room in ["do it!", "do it\u{ff1f}", "do [a-c]*"] {
        fine("zed", &["make", room], b"");
    }
    for room in ["#do it\u{ff1f}", "do [a-c]*"] {
        fine("zed", &["leave", room], b"");
    }
    assert_eq!(fine("zed", &["rooms"], b""), "#do it!\n");
    assert!(run("zed", &["join", "do it?"], b"").1.contains("no such room"));
    for n in 0..201 {
        fine("zed", &["make", &format!("room {n:03}")], b"");
    }
    assert_eq!(fine("zed", &["rooms", "room*"], b"").lines().count(), 201);

    // Reading begins nothing, and marks what was shown.
    let (code, said) = run("zed", &["read", "yan"], b"");
    assert!(code == 1 && said.contains("no conversation with yan yet"), "{said}");
    assert_eq!(fine("yan", &["list"], b"").lines().count(), 1, "a head and nothing");
    fine("zed", &["send", "yan"], b"one\n\n two\tx\r\nthree");
    let said = fine("yan", &["read", "zed", "--limit", "1"], b"");
    assert!(said.contains("zed: three\n2 older messages are unread too, so none was marked as read"), "{said}");
    let said = fine("yan", &["read", "ZED", "--limit", "3"], b"");
    assert!(said.contains("zed: one\n") && said.contains("zed:  two\tx\n") && !said.contains("older"), "{said}");
    assert!(!fine("yan", &["read", "zed", "--limit", "1"], b"").contains("older"));
    let long = [b"four\n".to_vec(), vec![b'x'; 9000], b"\nfive\n".to_vec()].concat();
    let (code, said) = run("zed", &["send", "yan"], &long);
    assert!(code == 1 && said.contains("line 2: ") && said.contains("the lines before it were sent"), "{said}");
    assert!(fine("yan", &["read", "zed"], b"").ends_with("zed: four\n"));
}

#[test]
fn two_people_talk_on_terminals_through_the_death_of_a_node() {
    let mut cluster = Cluster::ready(EXE, 3, &json!({})).unwrap();
    let (mut ann, bob) = (member(&cluster, "ann", 0), member(&cluster, "bob", 1));
    ann.send(&Recipient::Person("bob".to_string()), "before").unwrap();
    let state = cluster.dir().join("state");
    std::fs::create_dir_all(state.join("phalanx-chat")).unwrap();
    for (name, who) in [("ann", &ann), ("bob", &bob)] {
        std::fs::write(state.join(format!("phalanx-chat/login-{name}")), who.client.token.as_deref().unwrap()).unwrap();
    }
    // Each is told of one node alone.
    let dying = if cluster.leader() == Some(1) { 2 } else { 1 };
    let talk = |who: &str, with: &str, node: u64| {
        let command = format!("{EXE} chat talk {with} --as {who} --timeout 5 -e {}", cluster.http(node));
        let mut terminal = Terminal::start(&command, &[("XDG_STATE_HOME", state.to_str().unwrap())]).unwrap();
        terminal.expect("ann: before").unwrap();
        terminal.expect(&format!("{who}> ")).unwrap();
        terminal
    };
    // What follows the chat shows nothing that a terminal would obey.
    let command = format!("{EXE} chat follow --after 0 --as bob -e {}", cluster.http(3));
    let mut follows = Terminal::start(&command, &[("XDG_STATE_HOME", state.to_str().unwrap())]).unwrap();
    follows.expect("ann: before").unwrap();
    ann.send(&Recipient::Person("bob".to_string()), "turned\u{202e} round").unwrap();
    follows.expect("ann: turned").unwrap();
    follows.expect(" round").unwrap();
    assert!(!follows.shown().contains('\u{202e}'), "{:?}", follows.shown());
    drop(follows);
    ann.send(&Recipient::Person("bob".to_string()), "before").unwrap();
    let (mut one, mut two) = (talk("ann", "bob", dying), talk("bob", "@ann", 3));
    one.type_line("hello bob").unwrap();
    one.expect("ann: hello bob").unwrap();
    two.expect("ann: hello bob").unwrap();
    cluster.kill(dying).unwrap();
    one.type_line("still there?").unwrap();
    two.expect("ann: still there?").unwrap();
    two.type_line("yes").unwrap();
    one.expect("bob: yes").unwrap();
    let inbox = ann.get("conversations").unwrap();
    assert_eq!(inbox["conversations"][0]["unread"], 0, "what was shown has been read: {inbox}");
    one.press(b"\x04").unwrap();
    one.expect_end(0).unwrap();
    cluster.kill_all();
    two.type_line("alone").unwrap();
    two.expect("not sent: alone").unwrap();
    two.press(b"\x03").unwrap();
    two.expect_end(0).unwrap();
    let without = Command::new(EXE).args(["chat", "talk", "bob"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(without.status.code(), Some(2), "phalanx chat talk needs a terminal");
}

#[test]
fn the_demo_passes() {
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new(EXE).args(["demo", "chat"]).env("TMPDIR", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(text.contains("RESULT: passed."), "{text}");
    assert_eq!(text.matches("   ok  ").count(), 6, "{text}");
    let left: Vec<String> =
        std::fs::read_dir(folder.path()).unwrap().map(|row| row.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.starts_with("phalanx-lab-locks-")), "{left:?} is left");
}
