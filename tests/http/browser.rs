//! The pages in headless Chromium: what a person sees of the cluster while nodes freeze, die and come back, and of the chat.

use crate::EXE;
use crate::fake_host::*;
use crate::webdriver::Browser;
use phalanx::lab::Cluster;
use phalanx::outcome::{Outcome, Reason};
use phalanx::types::NodeId;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, atomic::AtomicBool};
use std::time::Duration;

/// A fake node whose frames flow until it is frozen.
struct FakeNode {
    served: Served,
    frozen: Arc<AtomicBool>,
}

fn fake_node(id: u64) -> FakeNode {
    let served = serve_on(FakeHost::new(id), patient(), "127.0.0.1:0", false);
    let frozen = Arc::new(AtomicBool::new(false));
    let (host, is_frozen) = (served.host.clone(), frozen.clone());
    std::thread::spawn(move || {
        for step in 0.. {
            phalanx::lab::poll::pause(Duration::from_millis(200));
            if !is_frozen.load(SeqCst) {
                host.publish(with_addresses(&host, step));
            }
        }
    });
    FakeNode { served, frozen }
}

fn with_addresses(host: &FakeHost, step: u64) -> phalanx::node::views::status::MonitorFrame {
    let mut frame = canned_frame(host.me, 5, step);
    frame.status.nodes.iter_mut().for_each(|row| row.http = "127.0.0.1:1".to_owned()); // nobody listens there
    for (id, address) in host.addresses.lock().unwrap().iter() {
        frame.status.nodes.iter_mut().filter(|row| row.id == *id).for_each(|row| row.http = address.clone());
    }
    // Texts come from nodes; the page must never take them for markup.
    frame.events[0].text = "</script><b id='planted'>planted</b><!--".to_owned();
    frame.status.nodes[1].is_corrupt = true;
    frame.status.nodes[2].clock_ahead_ms = Some(-3_600_000);
    frame.status.nodes[0].clock_ahead_ms = Some(999);
    Arc::make_mut(&mut frame.status.jobs.workers[1]).trouble = Some("no sandbox <b id='planted'>here</b>".to_owned());
    Arc::make_mut(&mut frame.status.jobs.last[2]).says = "</script><b id='planted'>said</b><!--".to_owned();
    frame
}

#[test]
fn the_page_goes_on_with_another_node_when_its_own_freezes_or_stops() {
    let (two, four) = (fake_node(2), fake_node(4));
    for node in [&two, &four] {
        let mut addresses = node.served.host.addresses.lock().unwrap();
        addresses.retain(|(id, _)| [2, 4].contains(&id.0));
        *addresses = vec![(NodeId(2), two.served.address.to_string()), (NodeId(4), four.served.address.to_string())];
        addresses.push((NodeId(3), "127.0.0.1:1".to_owned()));
    }
    let browser = Browser::start();
    browser.open(&format!("http://{}/", four.served.address));
    browser.see("the verdict is shown", "#verdict", |text| text == "healthy: can lose 2 more");
    let (link, _) = browser.see("the node behind the page is named", "#link", |text| text.contains("node 4"));
    let own =
        four.served.host.sessions.newest(usize::MAX).into_iter().find(|session| session.kind == "monitor").unwrap();
    assert!(link.contains(&own.id), "the viewer's own session: {link}");
    assert_eq!(browser.text("#leads"), "node 5 leads in term 7, with 5 voters");
    assert!(browser.text("#node-5").contains("LEADER") && browser.text("#node-1").contains("ONLINE"));
    assert!(browser.text("#node-2").contains("CORRUPT"), "{}", browser.text("#node-2"));
    assert!(browser.text("#node-3").contains(", clock 60 min behind"), "{}", browser.text("#node-3"));
    assert!(!browser.text("#node-1").contains("clock"), "{}", browser.text("#node-1"));
    let colour = |id: u64| browser.run(&format!("return document.querySelector('#node-{id}').dataset.state"));
    assert_eq!((colour(1), colour(2), colour(5)), (json!("follower"), json!("corrupt"), json!("leader")));
    assert!(browser.text("#failovers").contains("node 3 → node 5") && browser.text("#failovers").contains("23 ms"));
    assert!(browser.text("#node-3 .ops").starts_with("3,"), "{}", browser.text("#node-3 .ops"));
    for (part, text) in [("p50", "330 µs"), ("p99", "4.1 ms"), ("keys", "12.3k")] {
        assert_eq!(browser.text(&format!("#node-3 .{part}")), text);
    }
    browser.see("the last minute is a line", "#keys", |_| {
        browser.run("return document.querySelector('#node-3 .spark-line').getAttribute('d') || ''") != ""
    });
    assert!(browser.text("#events").contains("<b id='planted'>planted</b>"), "{}", browser.text("#events"));
    assert_eq!(browser.run("return document.getElementById('planted')"), json!(null));
    browser.see("frames keep coming", "#about", |text| text.contains("node 4"));
    assert_eq!(browser.run("return document.scripts.length"), 1, "each frame takes its script element away");

    browser.see("nothing has aged", "#verdict-age", |text| text.is_empty());
    four.frozen.store(true, SeqCst);
    let (_, took) = browser.see("the health fades", "#verdict-age", |text| text.ends_with(" s ago"));
    // The last frame may have left 200 ms after the freeze.
    assert!(took < Duration::from_millis(1300), "{took:?}");
    assert_eq!(browser.run("return document.documentElement.className"), "is-aged");
    let expected = "node 4 stopped answering: now following node 2";
    let (_, took) = browser.see("the page follows node 2", "#notice", |text| text.starts_with(expected));
    println!("frozen node left after {took:?} (silence of 2.5 s included)");
    browser.see("the link says so", "#link", |text| text.starts_with("live from node 2"));
    let (moved, _) = browser.see("a reload would not do", "#moved", |text| text.starts_with("Node 4, which this page"));
    assert!(moved.contains("is offline: do not reload the page, open http://127.0.0.1:8080/ instead"), "{moved}");
    let chat = browser.run("return document.querySelector('.pages a').href");
    assert_eq!(chat, format!("http://{}/chat", two.served.address));
    assert_eq!(browser.run("return document.documentElement.classList.contains('is-stale')"), false);

    four.frozen.store(false, SeqCst);
    two.served.host.stop();
    let expected = "node 2 stopped answering: now following node 4";
    let (_, took) = browser.see("the page follows node 4", "#notice", |text| text.starts_with(expected));
    println!("stopped node left after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");

    four.served.host.stop();
    browser.see("nobody is left", "#notice", |text| text.starts_with("no node answers"));
    assert_eq!(browser.run("return document.documentElement.classList.contains('is-stale')"), true);
    browser.see("the data's age ticks", "#link", |text| text.starts_with("data of node 4, 1"));
    assert_eq!(browser.text("#leads"), "node 5 leads in term 7, with 5 voters", "the last data stays");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn jobs_are_shown_as_text_and_what_is_typed_outlives_frames_and_nodes() {
    let (two, four) = (fake_node(2), fake_node(4));
    for node in [&two, &four] {
        let addresses = [(2, two.served.address), (4, four.served.address)];
        *node.served.host.addresses.lock().unwrap() = addresses.map(|(id, at)| (NodeId(id), at.to_string())).into();
    }
    let browser = Browser::start();
    browser.open(&format!("http://{}/", four.served.address));
    browser.see("the numbers are shown", "#jobs-running", |text| text == "4");
    browser.see("a worker's job has a box with its number", "#worker-1 .slot.is-taken", |text| text.contains("42"));
    assert_eq!(browser.run("return document.querySelectorAll('#worker-4 .slot').length"), 2, "a box for each slot");
    assert!(browser.text("#worker-3").contains("offline") && !browser.text("#worker-1").contains("offline"));
    assert!(browser.text("#worker-2").contains("problem: no sandbox <b id='planted'>here</b>"));
    for (job, words) in [
        (39, &["python", "finished, exit code 0", "node 5", "51 ms", "Hello from <python> & friends"][..]),
        (38, &["java", "did not compile, exit code 1", "Main.java:1: error: class, interface"]),
        (37, &["shell", "exceeded its time limit", "</script><b id='planted'>said</b><!--"]),
        (36, &["c", "ended with exit code 3", "attempt 2", "segments: 17"]),
    ] {
        let line = browser.text(&format!("#result-{job}"));
        assert!(words.iter().all(|word| line.contains(word)), "{line:?} lacks one of {words:?}");
        assert_eq!(line.contains("attempt"), job == 36, "only what was begun again says so: {line:?}");
    }
    assert_eq!(browser.run("return document.getElementById('planted')"), json!(null));
    assert_eq!(browser.text("#run-language option"), "C\nJava\nPython\nShell");
    assert!(browser.run("return document.getElementById('run-source').value").as_str().unwrap().contains("print("));

    // What is typed stays, with the keyboard in it, while frames come.
    let typed = "return document.getElementById('run-source').value";
    browser.run("document.getElementById('run-source').value = ''");
    browser.type_into("#run-source", "print('mine')");
    let queued = browser.text("#jobs-queued");
    browser.see("frames went by", "#jobs-queued", |text| text != queued);
    browser.type_into("#run-source", " # and more");
    assert_eq!(browser.run(typed), "print('mine') # and more");
    assert_eq!(browser.run("return document.activeElement.id"), "run-source");
    browser.click("#run-language option[value=shell]");
    assert!(browser.run(typed).as_str().unwrap().contains("echo"), "each language has its example");
    browser.click("#run-language option[value=python]");
    assert_eq!(browser.run(typed), "print('mine') # and more", "and each its own text");

    // Refused in words that are only ever text.
    *four.served.host.refusal.lock().unwrap() =
        Some(Outcome::Refused(Reason::Unreadable("<b id='planted'>nobody</b> leads".into())));
    browser.type_into("#run-source", "\u{E009}\u{E007}");
    browser.see("the refusal is told", "#run-state", |text| text == "not submitted");
    let why = browser.text("#run-facts");
    assert!(why.contains("<b id='planted'>nobody</b> leads"), "{why}");
    assert_eq!(browser.run("return document.getElementById('planted')"), json!(null));
    let sent = four.served.host.commands.lock().unwrap().clone();
    assert!(sent.len() == 1 && sent[0].0.is_some(), "one command, under a key of its own");

    // The node of the page goes: the text stays, and node 2 takes programs in.
    four.served.host.stop();
    browser.see("the page goes on with node 2", "#link", |text| text.starts_with("live from node 2"));
    let (gone, _) = browser.see("the box says so", "#run-gone", |text| text.contains("to node 2"));
    assert!(
        gone.starts_with("Node 4, which this page came from, is offline: programs are handed in to node 2"),
        "{gone}"
    );
    assert_eq!(
        browser.run("return document.querySelector('#result-39 a').href"),
        format!("http://{}/#job-39", two.served.address)
    );
    *two.served.host.refusal.lock().unwrap() = Some(Outcome::Refused(Reason::Unreadable("node 2 refuses".into())));
    browser.click("#run-start");
    browser.see("node 2 is asked", "#run-facts", |text| text.contains("node 2 refuses"));
    let sent = two.served.host.commands.lock().unwrap().clone();
    assert!(sent.len() == 1 && sent[0].0.is_some(), "one command, under a key of its own");
    assert_eq!(browser.run(typed), "print('mine') # and more");
    browser.see("frames still come", "#jobs-queued", |text| text != queued);
    let complaints = browser.complaints();
    let is_refusal = |line: &String| line.contains("/v1/jobs") && line.contains("503");
    assert!(complaints.len() == 2 && complaints.iter().all(is_refusal), "{complaints:?}");
}

/// Says something on both outputs, and then nothing for as long as it may run.
const ENDLESS: &str = "echo \"<b id='planted'>first</b>\"; echo trouble >&2; while :; do sleep 1; done";

fn write_and_run(browser: &Browser, program: &str) {
    browser.run("document.getElementById('run-source').value = ''");
    browser.type_into("#run-source", program);
    browser.type_into("#run-source", "\u{E009}\u{E007}");
}

#[test]
fn a_person_runs_programs_and_one_goes_on_when_the_node_of_the_page_dies() {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"jobs_enabled": true})).unwrap();
    let browser = Browser::start();
    browser.open(&format!("http://{}/", cluster.http(1)));
    for node in 1..=3 {
        browser.see("each worker has joined", &format!("#worker-{node}"), |text| text.contains("shell"));
    }
    browser.click("#run-language option[value=shell]");

    // Live: it is seen before it ends; taken back at a click.
    write_and_run(&browser, ENDLESS);
    browser.see("what it says", "#run-output .stdout", |text| text.contains("<b id='planted'>first</b>"));
    browser.see("standard error apart", "#run-output .stderr", |text| text.contains("trouble"));
    let state = browser.text("#run-state");
    assert!(state.starts_with("job 1 runs on node "), "{state}");
    browser.click("#run-cancel");
    browser.see("it is cancelled", "#run-state", |text| text == "cancelled");
    browser.see("and among the results", "#result-1", |text| text.contains("cancelled") && text.contains("shell"));
    assert_eq!(browser.run("return document.getElementById('planted')"), json!(null));

    // To its own end.
    write_and_run(&browser, "echo hello; exit 3");
    browser.see("how it ended", "#run-state", |text| text == "ended with exit code 3");
    assert_eq!(browser.text("#run-output").trim(), "hello");
    let facts = browser.text("#run-facts");
    assert!(facts.starts_with("job 2 · node "), "{facts}");
    browser.see("the result is listed", "#result-2", |text| text.contains("hello") && text.contains("exit code 3"));
    assert!(browser.run("return document.getElementById('run-cancel').hidden").as_bool().unwrap());
    browser.click("#result-1 a");
    browser.see("an older job that was cancelled", "#run-output", |text| text.contains("<b id='planted'>first</b>"));
    browser.click("#result-2 a");
    browser.see("another one's output", "#run-output", |text| text.trim() == "hello");

    // Its node dies: the job goes on, and so does the page.
    write_and_run(&browser, ENDLESS);
    browser.see("it runs", "#run-output .stdout", |text| text.contains("first"));
    cluster.kill(1).unwrap();
    let (gone, took) = browser.see("the box says so", "#run-gone", |text| text.contains("are handed in to node "));
    println!("seen in the box {took:?} after kill -9 returned: {gone}");
    assert!(
        gone.starts_with("Node 1, which this page came from, is offline: programs are handed in to node "),
        "{gone}"
    );
    assert!(browser.run("return document.getElementById('run-source').value") == ENDLESS);
    browser.see("the dead worker is marked", "#worker-1", |text| text.contains("offline"));
    browser.see("its output is shown from another node", "#run-state", |text| {
        text.starts_with("job 3 runs on node ") && !text.starts_with("job 3 runs on node 1")
    });
    browser.see("from the beginning", "#run-output .stdout", |text| text.contains("first"));
    browser.click("#run-cancel");
    browser.see("it is cancelled there", "#run-state", |text| text == "cancelled");
    write_and_run(&browser, "echo again; exit 4");
    browser.see("the next program runs", "#run-state", |text| text == "ended with exit code 4");
    let facts = browser.text("#run-facts");
    assert!(facts.starts_with("job 4 · node ") && !facts.contains("node 1"), "{facts}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn seven_tabs_share_one_stream_and_go_on_when_its_tab_is_closed() {
    let four = fake_node(4);
    *four.served.host.addresses.lock().unwrap() = vec![(NodeId(4), four.served.address.to_string())];
    let browser = Browser::start();
    let page = format!("http://{}/", four.served.address);
    let mut tabs = vec![browser.tab()];
    browser.open(&page);
    browser.see("the first tab", "#verdict", |text| text == "healthy: can lose 2 more");
    for number in 2..=7 {
        tabs.push(browser.new_tab());
        browser.open(&page);
        let (_, took) = browser.see("a further tab", "#verdict", |text| text == "healthy: can lose 2 more");
        assert!(took < Duration::from_secs(5), "tab {number} after {took:?}");
        browser.see("it shares the first one's stream", "#link", |text| text.contains("through another tab"));
    }
    let kinds = || {
        let sessions = four.served.host.sessions.newest(usize::MAX);
        sessions.iter().filter(|session| ["monitor", "stream"].contains(&session.kind.as_str())).count()
    };
    let is_one = || (kinds() == 1).then_some(());
    phalanx::lab::poll::wait_until("one stream is left", Duration::from_secs(10), is_one).unwrap();
    browser.switch_to(&tabs[0]);
    browser.run("fetch('/v1/status').then((answer) => (window.asked = answer.status))");
    browser.see("a connection is left for requests", "#verdict", |_| browser.run("return window.asked || 0") == 200);
    browser.close_tab();
    browser.switch_to(&tabs[4]);
    let queued = browser.text("#jobs-queued");
    browser.see("frames still come", "#jobs-queued", |text| text != queued);
    browser.see("from one tab that took over", "#link", |text| text.starts_with("live from node 4"));
    phalanx::lab::poll::wait_until("one stream again", Duration::from_secs(10), is_one).unwrap();
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// A browser opens six connections to one address: with a stream in each tab, the seventh chat would not load.
#[test]
fn seven_tabs_chat_and_the_hidden_ones_learn_of_messages() {
    let cluster = Cluster::ready(EXE, 1, &json!({})).unwrap();
    let browser = Browser::start();
    let page = format!("http://{}/chat", cluster.http(1));
    let mut tabs = vec![browser.tab()];
    for number in 1..=7 {
        if number > 1 {
            tabs.push(browser.new_tab());
        }
        browser.open(&page);
        browser.see("it is loaded", "#login", |text| text == "Log in");
        browser.type_into("#name", if number == 7 { "ann" } else { "bob" });
        browser.type_into("#password", "correct horse");
        browser.click(if number == 1 || number == 7 { "#signup" } else { "#login" });
        let (_, took) = browser.see("it is logged in", "#link-text", |text| text == "live from node 1");
        assert!(took < Duration::from_secs(5), "tab {number} after {took:?}");
    }
    browser.switch_to(&tabs[6]);
    browser.type_into("#find-text", "bob");
    browser.see("bob is found", "#found", |text| text.contains("bob"));
    browser.type_into("#find-text", "\u{E007}");
    browser.see("the conversation is open", "#title", |text| text == "bob");
    browser.type_into("#text", "hello\u{E007}");
    for tab in &tabs[..6] {
        browser.switch_to(tab);
        browser.see("it knows of the message", "#talks", |text| text.contains("hello"));
        assert_eq!(browser.run("return document.title"), "(1) Phalanx chat");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_person_sees_the_leader_die_and_another_step_forward() {
    let mut cluster = Cluster::ready(EXE, 5, &json!({})).unwrap();
    let browser = Browser::start();
    browser.open(&format!("http://{}/", cluster.front()));
    browser.see("the verdict is shown", "#verdict", |text| text == "healthy: can lose 2 more");
    let (link, _) = browser.see("a node is behind the page", "#link", |text| text.contains("live from node "));
    let number = |text: &str, after: &str| -> u64 {
        let rest = text.split(after).nth(1).unwrap_or_else(|| panic!("no {after:?} in {text:?}"));
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let behind = number(&link, "live from node ");
    let leader = number(&browser.text("#leads"), "node ");
    assert_ne!(behind, leader, "the front door sends clients to workers");
    let session = browser.text("#link code");
    let sessions = browser.see("the viewer's session is listed", "#sessions", |text| text.contains(&session)).0;
    assert!(sessions.contains("you"), "{sessions}");

    // The leader dies as the page advises: the page's own node stays, and shows another one step forward.
    let pid = cluster.process(leader).unwrap().pid();
    let (advice, _) = browser.see("how to kill the leader", "#try-kill", |text| text == format!("kill -9 {pid}"));
    assert_eq!(browser.text("#try-freeze"), format!("kill -STOP {pid}"));
    assert!(std::process::Command::new("sh").args(["-c", &advice]).status().unwrap().success());
    cluster.process(leader).unwrap().wait(Duration::from_secs(10)).unwrap();
    assert_eq!(cluster.running(), (1..=5).filter(|id| *id != leader).collect::<Vec<_>>(), "nobody else was hit");
    let (leads, took) = browser.see("another node leads", "#leads", |text| {
        text.starts_with("node ") && text.contains(" leads") && number(text, "node ") != leader
    });
    println!("seen on the page {took:?} after kill -9 returned: {leads}");
    let dead = format!("#node-{leader}");
    browser.see("the dead node's tile says so", &dead, |text| text.contains("OFFLINE"));
    browser.see("the verdict follows", "#verdict", |text| text == "degraded: can lose 1 more");
    let expected = format!("node {leader} → node {}", number(&leads, "node "));
    browser.see("the change of leader is told", "#failovers", |text| text.contains(&expected));

    // It comes back: all is well again, on the same page.
    cluster.restart(leader).unwrap();
    browser.see("the node is back", &dead, |text| text.contains("ONLINE") || text.contains("LEADER"));
    browser.see("the verdict is healthy again", "#verdict", |text| text == "healthy: can lose 2 more");

    // The node behind the page dies: the page goes on with another one and says so.
    cluster.kill(behind).unwrap();
    let expected = format!("node {behind} stopped answering: now following node ");
    let (notice, took) = browser.see("the page goes on", "#notice", |text| text.starts_with(&expected));
    println!("seen on the page {took:?} after kill -9 returned: {notice}");
    assert!(took < Duration::from_secs(2), "not found out at once, but by silence: {took:?}");
    let next = number(&notice, "now following node ");
    browser.see("its tile fell out of the line", &format!("#node-{behind}"), |text| text.contains("OFFLINE"));

    // That one freezes: found out by its silence.
    cluster.freeze(next).unwrap();
    let expected = format!("node {next} stopped answering: now following node ");
    let (notice, took) = browser.see("the page leaves the frozen node", "#notice", |text| text.starts_with(&expected));
    println!("seen on the page {took:?} after it froze: {notice}");
    cluster.thaw(next).unwrap();
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Each button does what it says, also to the node behind the page.
#[test]
fn a_person_breaks_nodes_of_a_lab_by_button() {
    let mut cluster = Cluster::prepare(EXE, &json!({})).unwrap();
    (1..=3).for_each(|id| cluster.spawn(id, &["--lab"]).unwrap());
    let leader = cluster.settle().unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (own, other) = (others[0], others[1]);
    let browser = Browser::start();
    browser.open(&format!("http://{}/", cluster.http(own)));
    let row = |id: u64| format!("#lab-nodes li:nth-child({id})");
    let button = |id: u64, action: &str| format!("{} button[data-action=\"{action}\"]", row(id));
    let sees = |id: u64, what: &str| {
        browser.see(&format!("node {id} is {what}"), &format!("{} .lab-state", row(id)), |text| text.contains(what));
    };
    sees(own, "no fault");

    browser.run("document.querySelector('#lab-lasts').value = ''; return 0");
    browser.click(&button(other, "freeze"));
    sees(other, "frozen");
    assert_eq!(browser.text("#lab-command"), format!("phalanx chaos pause {other}"));
    browser.click(&button(other, "thaw"));
    sees(other, "no fault");
    browser.click(&button(leader, "partition"));
    sees(leader, "cut off from");
    browser.see("another node leads", "#leads", |text| {
        !text.contains(&format!("node {leader} leads")) && text.contains("leads")
    });
    browser.click("#lab-heal");
    sees(leader, "no fault");

    browser.click(&format!("{} input", row(other)));
    browser.click("#lab-cut");
    sees(other, "cut off from");
    browser.click("#lab-heal");
    sees(other, "no fault");
    cluster.settle().unwrap();

    // The node behind the page: the page goes on with another one, and starts it again.
    browser.click(&button(own, "kill"));
    browser.see("the page has moved", "#link", |text| !text.contains(&format!("node {own}")) && text.contains("node"));
    sees(own, "ended");
    browser.click(&button(own, "start"));
    sees(own, "no fault");
    cluster.settle().unwrap();
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Elsewhere there is no panel, and nothing that asks for one.
#[test]
fn without_a_lab_there_is_no_panel() {
    let cluster = Cluster::ready(EXE, 1, &json!({})).unwrap();
    let browser = Browser::start();
    browser.open(&format!("http://{}/", cluster.http(1)));
    browser.see("the node is shown", "#leads", |text| text.contains("node 1 leads"));
    assert_eq!(browser.run("return document.querySelector('#lab').hidden"), json!(true));
    let answer = phalanx::lab::web::get(&cluster.http(1), "/v1/lab", Duration::from_secs(5)).unwrap();
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("--lab"), "{}", answer.text());
}

fn enter(browser: &Browser, address: &str, name: &str) {
    browser.open(&format!("http://{address}/chat"));
    browser.see("the door is open", "#login", |text| text == "Log in");
    browser.type_into("#name", name);
    browser.type_into("#password", "a long secret");
    browser.click("#signup");
    browser.see("the chat is open", "#me", |text| text == name);
}

#[test]
fn two_people_talk_on_the_page_through_a_leaders_death_and_scripts_stay_text() {
    let mut cluster = Cluster::ready(EXE, 3, &json!({})).unwrap();
    let leader = cluster.wait_leader().unwrap();
    let other = if leader == 1 { 2 } else { 1 };
    let (ann, bob) = (Browser::start(), Browser::start());
    let (evil, script) =
        ("<b>bob</b>".replace('/', "\\"), "<script>window.planted=1</script><img src=x onerror='window.planted=1'>");
    enter(&ann, &cluster.http(leader), "ann");
    enter(&bob, &cluster.http(other), &evil);
    ann.type_into("#find-text", "bob");
    ann.see("bob is found", "#found", |text| text.contains(&evil));
    ann.click("#found button");
    ann.see("the conversation is open", "#title", |text| text == evil);
    ann.type_into("#text", &format!("{script}\u{E007}"));
    bob.see("a badge", "#talks .badge", |text| text == "1");
    bob.click("#talks button");
    bob.see("the script as text", ".bubble", |text| text == script);
    ann.type_into("#find-text", "#<i>tea</i>");
    ann.see("a room can be made", "#found", |text| text.contains("Create the room # <i>tea</i>"));
    ann.click("#found li:last-child button");
    ann.see("the room is open", "#title", |text| text == "# <i>tea</i>");
    bob.type_into("#find-text", "#");
    bob.type_into("#find-text", "<i>");
    bob.see("the room is found", "#found", |text| text.contains("# <i>tea</i> (1): join"));
    bob.click("#found button");
    bob.see("bob is in", "#subtitle", |text| text == "2 members");

    ann.type_into("#text", "not sent yet");
    cluster.kill(leader).unwrap();
    let (_, took) = ann.see("another node", "#link-text", |text| {
        text.starts_with("live from node") && text != format!("live from node {leader}")
    });
    println!("the page moved to another node in {took:?}");
    assert_eq!(ann.run("return document.getElementById('text').value"), "not sent yet");
    assert_eq!(ann.text("#title"), "# <i>tea</i>", "its place is kept");
    ann.type_into("#text", ", but now\u{E007}");
    bob.see("what was written in between", ".bubble", |text| text == "not sent yet, but now");
    bob.type_into("#text", "and back\u{E007}");
    ann.see("the answer, once", ".bubble", |text| text == "not sent yet, but now\nand back");
    for browser in [&ann, &bob] {
        assert_eq!(browser.run("return window.planted || document.querySelector('#app b b, #app i i')"), Value::Null);
        assert_eq!(browser.complaints(), Vec::<String>::new());
    }
}
