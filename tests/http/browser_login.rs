//! Logging in, in headless Chromium: the form in place of a page, the page afterwards, and that a person stays logged in
//! when the node of the page dies, on this host and on another.

use crate::EXE;
use crate::addresses::own_address;
use crate::fake_host::*;
use crate::webdriver::Browser;
use phalanx::lab::Cluster;
use phalanx::settings::Settings;
use phalanx::types::NodeId;
use serde_json::json;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const PASSWORD: &str = "open sesame: the door";

/// A fake node that wants the password and publishes a frame five times a second, reached at `host`.
fn fake_node(id: u64, host: &str) -> Served {
    let listen = if host.starts_with("127.") { "127.0.0.1" } else { "0.0.0.0" };
    let settings = Settings { host: listen.into(), client_password: Some(PASSWORD.into()), ..Settings::default() };
    let mut served = serve_on(FakeHost::with(id, settings), patient(), &format!("{listen}:0"), false);
    served.address.set_ip(host.parse().unwrap());
    let host = served.host.clone();
    std::thread::spawn(move || {
        for step in 0.. {
            phalanx::lab::poll::pause(Duration::from_millis(200));
            if host.stopping.load(SeqCst) {
                return;
            }
            let mut frame = canned_frame(host.me, 5, step);
            frame.status.nodes.iter_mut().for_each(|row| row.http = "127.0.0.1:1".to_owned());
            for (id, address) in host.addresses.lock().unwrap().iter() {
                frame.status.nodes.iter_mut().filter(|row| row.id == *id).for_each(|row| row.http = address.clone());
            }
            host.publish(frame);
        }
    });
    served
}

/// Nodes 2 and 4 that know each other.
fn two_nodes(host_of_2: &str) -> (Served, Served) {
    let (two, four) = (fake_node(2, host_of_2), fake_node(4, "127.0.0.1"));
    let addresses = vec![(NodeId(2), two.address.to_string()), (NodeId(4), four.address.to_string())];
    for node in [&two, &four] {
        *node.host.addresses.lock().unwrap() = addresses.clone();
    }
    (two, four)
}

fn log_in(browser: &Browser, page: &str) {
    browser.open(page);
    browser.see("the form in place of the page", "h1", |text| text == "Log in to Phalanx");
    browser.type_into("#password", "wrong\u{E007}");
    browser.see("a wrong password", "#error", |text| text == "Wrong password.");
    browser.type_into("#password", &format!("{PASSWORD}\u{E007}"));
}

#[test]
fn a_person_stays_logged_in_when_the_node_of_the_page_goes() {
    let (two, four) = two_nodes("127.0.0.1");
    let browser = Browser::start();
    log_in(&browser, &format!("http://{}/?from=a+link", four.address));
    browser.see("the page", "#verdict", |text| text == "healthy: can lose 2 more");
    assert_eq!(browser.run("return location.pathname + location.search"), "/?from=a+link");
    assert_eq!(browser.run("return document.cookie"), "", "no script reads the session");
    browser.see("its own requests are let in", "#link", |text| text.starts_with("live from node 4"));
    four.host.stop();
    browser.see("another node lets it in", "#link", |text| text.starts_with("live from node 2"));
    // Its pages, too: cookies are not separated by port.
    browser.open(&format!("http://{}/", two.address));
    browser.see("without another log-in", "#verdict", |text| text == "healthy: can lose 2 more");
    browser.click("#logout");
    browser.see("logged out", "h1", |text| text == "Log in to Phalanx");
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|line| line.contains("401")), "{complaints:?}");
}

#[test]
fn a_page_takes_its_session_to_a_node_of_another_host() {
    let Some(ip) = own_address() else { return eprintln!("skipped: this machine has no address but loopback") };
    let (two, four) = two_nodes(&ip.to_string());
    let browser = Browser::start();
    log_in(&browser, &format!("http://{}/", four.address));
    browser.see("the page", "#verdict", |text| text == "healthy: can lose 2 more");
    four.host.stop();
    // Another host: no cookie goes there.
    browser.see("node 2 on another host lets it in", "#link", |text| text.starts_with("live from node 2"));
    assert!(two.host.sessions.newest(usize::MAX).iter().any(|session| session.kind == "stream"));
    browser.open(&format!("http://{}/", two.address));
    browser.see("a page of that host has a log-in of its own", "h1", |text| text == "Log in to Phalanx");
}

#[test]
fn the_front_door_and_the_chat_want_the_password_and_go_on_when_a_node_dies() {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"client_password": PASSWORD})).unwrap();
    let browser = Browser::start();
    // Through the front door: the form there, and the redirect to a node after it.
    log_in(&browser, &format!("http://{}/chat", cluster.front()));
    browser.see("the chat of a node", "#login", |text| text == "Log in");
    let port = browser.run("return Number(location.port)").as_u64().unwrap();
    let behind = (1..=3).find(|id| cluster.http(*id).ends_with(&format!(":{port}"))).expect("a node serves the page");
    browser.type_into("#name", "ann");
    browser.type_into("#password", "correct horse");
    browser.click("#signup");
    browser.see("the chat is open", "#me", |text| text == "ann");
    browser.see("its stream is let in", "#link-text", |text| text == format!("live from node {behind}"));
    cluster.kill(behind).unwrap();
    browser.see("another node", "#link-text", |text| {
        text.starts_with("live from node") && text != format!("live from node {behind}")
    });
    browser.type_into("#find-text", "#tea");
    browser.see("a room can be made", "#found", |text| text.contains("Create the room # tea"));
    browser.click("#found li:last-child button");
    browser.see("the room is open", "#title", |text| text == "# tea");
    browser.type_into("#text", "hello\u{E007}");
    browser.see("what was written", ".bubble", |text| text == "hello");
}
