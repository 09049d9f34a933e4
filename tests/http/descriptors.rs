//! Running out of file descriptors: the door says so to whoever comes too many, goes on, and recovers.
//!
//! It runs in a process of its own, whose limit it lowers.

use crate::fake_host::*;
use phalanx::http::{self, Server};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

/// Set in the process that has the test to itself.
const ALONE: &str = "HTTP_TEST_ALONE";

#[test]
fn accepting_survives_a_lack_of_descriptors() {
    survive("descriptors::accepting_survives_a_lack_of_descriptors", false);
}

#[test]
fn the_front_door_survives_a_lack_of_descriptors() {
    survive("descriptors::the_front_door_survives_a_lack_of_descriptors", true);
}

fn survive(test: &str, is_front: bool) {
    let expected = if is_front { 307 } else { 200 };
    if std::env::var_os(ALONE).is_none() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args([test, "--exact", "--nocapture"]).env(ALONE, "1");
        let output = again.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return assert!(output.status.success() && out.contains(" 1 passed"), "{out}{err}");
    }
    let host = FakeHost::new(4);
    let server = Server::new(host.clone(), patient());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The clients come first, while there is room for their own descriptors; nobody is accepted yet.
    let ask = |mut stream: &TcpStream| stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        ask(&stream);
        stream
    };
    let mut clients: Vec<TcpStream> = (0..40).map(|_| connect()).collect();
    let limits = getrlimit(Resource::Nofile);
    let highest = clients.iter().map(|client| client.as_raw_fd() as u64).max().unwrap();
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(highest + 10), ..limits }).unwrap();
    let serving = server.clone();
    std::thread::spawn(move || match is_front {
        true => http::front_door::serve_host(&listener.into(), &serving),
        false => http::serve_host(&listener.into(), &serving),
    });

    let statuses: Vec<u16> = clients.iter_mut().map(|client| read_answer(client).status).collect();
    let served = statuses.iter().filter(|status| **status == expected).count();
    let refused = statuses.iter().filter(|status| **status == 503).count();
    assert!(served > 0 && refused > 0 && served + refused == 40, "{statuses:?}");
    assert_eq!(server.counts.turned_away.load(Relaxed), refused as u64);

    // Clients that were accepted are served on.
    let at = statuses.iter().position(|status| *status == expected).unwrap();
    ask(&clients[at]);
    assert_eq!(read_answer(&mut clients[at]).status, expected);
    drop(clients);
    wait_until("the kept connections have ended", || host.connections.load(SeqCst) == 0);
    assert_eq!(read_answer(&mut connect()).status, expected);
    setrlimit(Resource::Nofile, limits).unwrap();
}
