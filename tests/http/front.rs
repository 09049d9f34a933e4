//! The front door serves many connections in one thread: nobody has to wait for another client, and the deadlines are
//! those of a node's own connections.

use crate::fake_host::*;
use phalanx::http::{self, Server};
use phalanx::node::Listener;
use phalanx::settings::Settings;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

const GET: &str = "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn redirected(stream: &mut TcpStream) {
    stream.write_all(GET.as_bytes()).unwrap();
    assert_eq!(read_answer(stream).status, 307);
}

#[test]
fn connections_that_wait_for_nothing_have_no_thread() {
    let served = serve_front(patient());
    let mut streams: Vec<TcpStream> = (0..50).map(|_| served.connect()).collect();
    for _ in 0..3 {
        streams.iter_mut().for_each(redirected);
    }
    for _ in 0..20 {
        assert_eq!(served.get("/b").header("Location"), Some("http://127.0.0.1:6702/b"));
    }
    wait_until("only those that are kept are open", || served.host.connections.load(SeqCst) == 50);
    assert_eq!(served.host.threads_started.load(SeqCst), 0);
    drop(streams);
    wait_until("all connections have ended", || served.host.connections.load(SeqCst) == 0);
}

#[test]
fn a_slow_head_is_cut_off_and_delays_no_other() {
    let served = serve_front(quick());
    let mut slow: Vec<TcpStream> = (0..8).map(|_| served.connect()).collect();
    slow.iter_mut().for_each(|stream| stream.write_all(b"GET / HTT").unwrap());
    let mut other = served.connect();
    let begun = Instant::now();
    for at in 0.. {
        redirected(&mut other);
        // A byte now and then does not help: the deadline is for the whole head.
        let _ = slow[at % 8].write_all(b"P");
        if begun.elapsed() > Duration::from_millis(800) {
            break;
        }
    }
    for stream in &mut slow {
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        assert!(read.is_ok() || read.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
        assert!(text.is_empty() || Answer::parse(&text).status == 408, "{text}");
    }
    wait_until("only the other is left", || served.host.connections.load(SeqCst) == 1);
    assert_eq!(served.host.threads_started.load(SeqCst), 8);
    // A head in two parts is as good as one.
    let mut parts = served.connect();
    parts.write_all(&GET.as_bytes()[..20]).unwrap();
    wait_until("its first part was read", || served.host.threads_started.load(SeqCst) == 9);
    parts.write_all(&GET.as_bytes()[20..]).unwrap();
    assert_eq!(read_answer(&mut parts).status, 307);
}

#[test]
fn silent_and_idle_clients_are_closed_in_time() {
    let deadlines = quick();
    let served = serve_front(deadlines);
    let begun = Instant::now();
    let (mut silent, mut idle) = (served.connect(), served.connect());
    redirected(&mut idle);
    assert!(is_closed(&mut silent));
    let (silent_for, slack) = (begun.elapsed(), Duration::from_secs(2));
    assert!(silent_for >= deadlines.head && silent_for < deadlines.head + slack, "{silent_for:?}");
    assert!(is_closed(&mut idle));
    let idle_for = begun.elapsed();
    assert!(idle_for >= deadlines.idle && idle_for < deadlines.idle + slack, "{idle_for:?}");
    assert_eq!(served.host.threads_started.load(SeqCst), 0);
    wait_until("both are gone", || served.host.connections.load(SeqCst) == 0);
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let served = serve_front(patient());
    let mut stream = served.connect();
    let all: String = (0..300).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect();
    stream.write_all(all.as_bytes()).unwrap();
    for n in 0..300 {
        let answer = read_answer(&mut stream);
        assert_eq!(answer.header("Location"), Some(format!("http://127.0.0.1:6702/{n}").as_str()));
    }
}

/// Clients that send hundreds of requests ahead take turns, in the one thread, and new clients come before them.
#[test]
fn clients_that_send_ahead_delay_no_other() {
    const CLIENTS: usize = 40;
    const REQUESTS: usize = 300;
    let served = serve_front(patient());
    let dispatched = || served.host.dispatched.load(SeqCst);
    let (many, is_over) = (GET.repeat(REQUESTS), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let mut stream = served.connect();
            let (many, is_over) = (&many, &is_over);
            scope.spawn(move || {
                while !is_over.load(SeqCst) {
                    stream.write_all(many.as_bytes()).unwrap();
                    (0..REQUESTS).for_each(|_| assert_eq!(read_answer(&mut stream).status, 307));
                }
            });
        }
        wait_until("the flood has begun", || dispatched() > CLIENTS * REQUESTS);
        let before_one = || {
            let before = dispatched();
            redirected(&mut served.connect());
            dispatched() - before
        };
        // This thread may itself wait for the processor: the best of some counts.
        let best = (0..20).map(|_| before_one()).min().unwrap();
        is_over.store(true, SeqCst);
        assert!(best < CLIENTS * REQUESTS / 4, "{best} requests of others were answered before that of a new client");
    });
    assert_eq!(served.host.threads_started.load(SeqCst), 0);
}

/// Connections that have a thread answer one at a time: all at once, they would leave no processor to others.
#[test]
fn clients_with_a_thread_answer_in_turn() {
    let served = serve_front(patient());
    let mut clients: Vec<TcpStream> = (0..8).map(|_| served.connect()).collect();
    clients.iter_mut().for_each(|stream| stream.write_all(&GET.as_bytes()[..20]).unwrap());
    wait_until("each has a thread", || served.host.threads_started.load(SeqCst) == 8);
    served.host.dispatch_ms.store(5, SeqCst);
    clients.iter_mut().for_each(|stream| stream.write_all(&GET.repeat(5).as_bytes()[20..]).unwrap());
    for stream in &mut clients {
        (0..5).for_each(|_| assert_eq!(read_answer(stream).status, 307));
    }
    assert_eq!(served.host.dispatching_most.load(SeqCst), 1);
}

#[test]
fn a_client_that_does_not_read_delays_no_other() {
    let served = serve_front(patient());
    let mut greedy = served.connect();
    greedy.set_nonblocking(true).unwrap();
    let many = GET.repeat(1000);
    let is_full = || (&greedy).write(many.as_bytes()).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
    wait_until("neither side's buffers take more", is_full);
    let (begun, mut other) = (Instant::now(), served.connect());
    for _ in 0..100 {
        redirected(&mut other);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(served.host.threads_started.load(SeqCst), 1, "it has a thread of its own");
    // When it reads at last, it gets whole answers.
    greedy.set_nonblocking(false).unwrap();
    for _ in 0..100 {
        assert_eq!(read_answer(&mut greedy).status, 307);
    }
}

/// The form of the log-in page is read as it arrives, in a thread.
#[test]
fn a_slow_form_delays_no_other() {
    let settings = Settings { client_password: Some("open-sesame".into()), ..Settings::default() };
    let served = serve_on(FakeHost::with(4, settings), patient(), "127.0.0.1:0", true);
    let form = "password=open-sesame&next=%2F";
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n",
        form.len()
    );
    let mut slow = served.connect();
    slow.write_all(head.as_bytes()).unwrap();
    wait_until("it has a thread", || served.host.threads_started.load(SeqCst) == 1);
    assert_eq!(served.get("/a").status, 401);
    slow.write_all(form.as_bytes()).unwrap();
    let answer = read_answer(&mut slow);
    assert!(answer.status == 303 && answer.header("Set-Cookie").is_some(), "{answer:?}");
    // The connection is kept, by its thread.
    slow.write_all(GET.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut slow).status, 401);
}

#[test]
fn connections_are_counted_and_refused_beyond_the_limit() {
    let served = serve_front(patient());
    served.host.connections_max.store(2, SeqCst);
    let mut two = [served.connect(), served.connect()];
    two.iter_mut().for_each(redirected);
    assert_eq!(read_answer(&mut served.connect()).status, 503);
    drop(two);
    wait_until("there is room again", || served.host.connections.load(SeqCst) == 0);
    redirected(&mut served.connect());
}

#[test]
fn the_end_of_the_node_ends_idle_connections() {
    let host = FakeHost::new(4);
    let server = Server::new(host.clone(), patient());
    let listener = Listener::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, own) = (listener.address().unwrap(), listener.try_clone().unwrap());
    let serving = std::thread::spawn(move || http::front_door::serve_host(&own, &server));
    let mut idle = TcpStream::connect(address).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    redirected(&mut idle);
    host.stop();
    listener.shut_down();
    serving.join().unwrap();
    assert!(is_closed(&mut idle));
    assert_eq!(host.connections.load(SeqCst), 0);
}
