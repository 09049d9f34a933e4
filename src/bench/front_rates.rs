//! The figures of `phalanx bench front`: redirects per second, over connections that are kept and over a new one for
//! each request.
//!
//! Without addresses it starts nodes of its own and asks their front door; with addresses, any server that answers
//! `GET /` with 307. On a machine with few processors the clients are a large part of what is measured, alike for all
//! servers: compare within one run (`bench/peers.sh`).
//! Not here: clients that keep their connection (`load.rs`), printing (`cli/lab/bench.rs`).

use super::http_reply;
use super::kv_rates::{Rate, parse_seconds};
use super::load::{self, Load, Tally};
use super::monitors;
use super::protocols::{Dialect, ServerReply};
use crate::lab::cluster::Cluster;
use crate::lab::{LabError, Result};
use crate::node::reports::process::cpu_time;
use crate::node::spawn;
use crate::node::views::latency::Histogram;
use crate::progress::Progress;
use crate::text::basic_credentials;
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for one redirect.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: phalanx bench front --clients 64 --seconds 10")]
pub struct Options {
    /// Clients; each has one request under way
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub clients: u64,
    /// Duration in seconds, for each kind of connection
    #[arg(long = "seconds", default_value = "5", value_name = "SECONDS", value_parser = parse_seconds)]
    pub span: Duration,
    /// Number of nodes to start
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    pub nodes: u64,
    /// Measure a running server instead
    #[arg(long, visible_alias = "endpoints", value_name = "HOST:PORT")]
    pub endpoint: Option<String>,
    /// What this server requires: the setting `client_password`, never an argument.
    #[arg(skip)]
    pub password: Option<String>,
}

/// Measures both kinds; `progress` shows how far it is.
///
/// # Errors
/// Nodes do not start, or the server cannot be driven.
pub fn run(exe: &Path, options: &Options, progress: &Progress) -> Result<Vec<Rate>> {
    monitors::raise_file_limit();
    // Dropped at the end: it kills its nodes.
    let own;
    let address = match &options.endpoint {
        Some(address) => address.clone(),
        None => {
            progress.begin(&format!("starting {} nodes", options.nodes));
            own = Cluster::ready(exe, options.nodes, &json!({}))?;
            own.settle()?;
            own.front()
        }
    };
    let (clients, span) = (options.clients as usize, options.span);
    let warm_up = (span / 5).min(Duration::from_secs(2));
    let load = Load { addresses: vec![address.clone()], clients, pipeline: 1, keys: 1, warm_up, span };
    progress.begin_timed(&format!("kept connections: {clients} clients for {} s", span.as_secs_f64()), span);
    let head = head(options.password.as_deref());
    let kept = load::run(&load, &|| Box::new(Redirect { request: format!("{head}\r\n").into_bytes() }))?;
    progress.begin_timed(&format!("a connection per request: {clients} clients for {} s", span.as_secs_f64()), span);
    let closed = run_closed(&load, &head)?;
    Ok(vec![Rate::new("kept connections", &kept), Rate::new("a connection per request", &closed)])
}

/// The head of a request, without the empty line at its end.
fn head(password: Option<&str>) -> String {
    let authorization = password.map(|it| format!("Authorization: {}\r\n", basic_credentials(it)));
    format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}", authorization.unwrap_or_default())
}

/// One connection that asks for redirects.
struct Redirect {
    request: Vec<u8>,
}

impl Dialect for Redirect {
    fn hello(&mut self) -> (Vec<u8>, usize) {
        (Vec::new(), 0)
    }

    fn write_command(&mut self, _: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
    }

    fn read_reply(
        &mut self,
        input: &[u8],
        _: &mut Vec<u8>,
    ) -> std::result::Result<Option<(usize, ServerReply)>, String> {
        Ok(http_reply::read(input)?.map(|reply| (reply.length, judge(reply.status))))
    }
}

fn judge(status: &str) -> ServerReply {
    if status.starts_with("307") { ServerReply::Fine } else { ServerReply::Refused(status.to_string()) }
}

/// Clients that connect for each request, each in a thread of its own.
fn run_closed(load: &Load, head: &str) -> Result<Tally> {
    let request: Arc<[u8]> = format!("{head}Connection: close\r\n\r\n").into_bytes().into();
    let failed = |e| LabError::io(format!("connect to {}", load.addresses[0]))(e);
    let address = load.addresses[0].to_socket_addrs().map_err(failed)?.next();
    let address = address.ok_or_else(|| LabError::Answer(format!("{} is no address", load.addresses[0])))?;
    let begin = Instant::now() + load.warm_up;
    let end = begin + load.span;
    let (send, tallies) = crossbeam_channel::bounded(load.clients);
    for _ in 0..load.clients {
        let (send, request) = (send.clone(), Arc::clone(&request));
        spawn::spawn("bench-client", move || drop(send.send(ask_until(address, &request, begin, end))))
            .map_err(failed)?;
    }
    drop(send);
    let cpu_before = cpu_time();
    let mut total = Tally { span: load.span, ..Tally::default() };
    for tally in &tallies {
        let tally = tally.map_err(failed)?;
        total.times.merge(&tally.times);
        total.errors += tally.errors;
        total.first_error = total.first_error.or(tally.first_error);
    }
    total.own_cpu = (cpu_time() - cpu_before).as_secs_f64() / (load.warm_up + load.span).as_secs_f64();
    Ok(total)
}

fn ask_until(address: SocketAddr, request: &[u8], begin: Instant, end: Instant) -> io::Result<Tally> {
    let mut tally = Tally { times: Histogram::default(), ..Tally::default() };
    loop {
        let sent_at = Instant::now();
        if sent_at >= end {
            return Ok(tally);
        }
        let reply = ask(address, request)?;
        match reply {
            _ if sent_at < begin => {}
            ServerReply::Refused(why) => {
                tally.errors += 1;
                tally.first_error.get_or_insert(why);
            }
            _ => tally.times.record(sent_at.elapsed(), 1),
        }
    }
}

/// One request on a connection of its own, read to its end.
fn ask(address: SocketAddr, request: &[u8]) -> io::Result<ServerReply> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut answer = Vec::with_capacity(1024);
    stream.read_to_end(&mut answer)?;
    match http_reply::read(&answer).map_err(io::Error::other)? {
        Some(reply) => Ok(judge(reply.status)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::bench::front_rates::*;
    use std::net::TcpListener;

    /// A server that answers each request with the next of these, in turn, and closes if it is told to.
    fn serve(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for (at, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let (mut bytes, mut turn) = ([0; 1024], at);
                    while let Ok(read @ 1..) = stream.read(&mut bytes) {
                        let answer = answers[turn % answers.len()];
                        turn += 1;
                        let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nno");
                        if stream.write_all(text.as_bytes()).is_err() || bytes[..read].ends_with(b"close\r\n\r\n") {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    #[test]
    fn redirects_are_counted_and_refusals_are_errors_both_ways() {
        let address = serve(&["307 Temporary Redirect", "503 Service Unavailable"]);
        let ms = Duration::from_millis;
        let load = Load { addresses: vec![address], clients: 3, pipeline: 1, keys: 1, warm_up: ms(20), span: ms(200) };
        let head = head(None);
        let kept = load::run(&load, &|| Box::new(Redirect { request: format!("{head}\r\n").into_bytes() })).unwrap();
        for tally in [kept, run_closed(&load, &head).unwrap()] {
            assert!(tally.times.count() > 5 && tally.errors > 5, "{tally:?}");
            assert_eq!(tally.first_error.as_deref(), Some("503 Service Unavailable"));
        }
    }

    #[test]
    fn a_connection_that_ends_early_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = vec![listener.local_addr().unwrap().to_string()];
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let ms = Duration::from_millis;
        assert!(
            run_closed(
                &Load { addresses, clients: 1, pipeline: 1, keys: 1, warm_up: ms(1), span: ms(50) },
                &head(None)
            )
            .is_err()
        );
    }
}
