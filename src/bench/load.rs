//! One thread that drives many clients: the throughput of a server, and the latency of each command.
//!
//! Each client sends a batch of commands, waits for all replies, and sends the next batch: no client ever has more than
//! one batch in flight, and a slow server gets fewer commands. One thread and `poll` serve all clients, so that on a
//! small machine most of the processor time is left for the server. The latency of a command is the time from writing
//! its batch to the socket until its reply has been read, or until the reply that ends the batch (to Redis' `WAIT`) if
//! there is one.
//! Not here: the protocols (`protocols.rs`, `etcd_zookeeper.rs`), which servers are driven (`kv_rates.rs`).

use super::protocols::{Dialect, ServerReply};
use crate::lab::{LabError, Result};
use crate::node::reports::process::cpu_time;
use crate::node::views::latency::Histogram;
use crate::progress::Progress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Time to connect and to get the first answer.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// A server that sends nothing for this long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Servers; clients are spread over them in turn.
    pub addresses: Vec<String>,
    /// Connections.
    pub clients: usize,
    /// Commands in one batch.
    pub pipeline: usize,
    /// Keys are numbered from 0 to here, drawn at random.
    pub keys: u64,
    /// Time at the beginning that is not counted.
    pub warm_up: Duration,
    /// Time that is counted.
    pub span: Duration,
}

/// The result of a load.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Latencies of the commands that succeeded.
    pub times: Histogram,
    /// Time that was counted.
    pub span: Duration,
    /// Commands that were refused.
    pub errors: u64,
    /// The first such reply.
    pub first_error: Option<String>,
    /// Share of one core that this process used.
    pub own_cpu: f64,
}

impl Tally {
    /// Commands per second.
    pub fn rate(&self) -> f64 {
        self.times.count() as f64 / self.span.as_secs_f64()
    }
}

struct Client {
    dialect: Box<dyn Dialect>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    sent_at: Instant,
    /// Replies of this batch that are due: to commands, and to what ends the batch.
    commands_due: usize,
    closings_due: usize,
    /// Commands of this batch that succeeded, if they count only at its end.
    fine: u64,
}

/// How commands get their keys.
enum Keys {
    Random(fastrand::Rng, u64),
    /// Each once, in order: next and end.
    Each(u64, u64),
}

impl Keys {
    fn next(&mut self) -> Option<u64> {
        match self {
            Keys::Random(rng, keys) => Some(rng.u64(0..*keys)),
            Keys::Each(next, end) => (*next < *end).then(|| {
                *next += 1;
                *next - 1
            }),
        }
    }
}

/// Runs a load; `speak` gives each connection its dialect.
///
/// # Errors
/// A server cannot be reached, closes a connection, violates the protocol or sends nothing.
pub fn run(load: &Load, speak: &dyn Fn() -> Box<dyn Dialect>) -> Result<Tally> {
    let keys = Keys::Random(fastrand::Rng::new(), load.keys.max(1));
    drive(load, speak, keys, load.warm_up, Some(load.span), None)
}

/// Runs each key's command once.
///
/// # Errors
/// As [`run`].
pub fn fill(load: &Load, speak: &dyn Fn() -> Box<dyn Dialect>, progress: &Progress) -> Result<Tally> {
    drive(load, speak, Keys::Each(0, load.keys), Duration::ZERO, None, Some(progress))
}

fn drive(
    load: &Load,
    speak: &dyn Fn() -> Box<dyn Dialect>,
    mut keys: Keys,
    warm_up: Duration,
    span: Option<Duration>,
    progress: Option<&Progress>,
) -> Result<Tally> {
    let mut clients = Vec::with_capacity(load.clients);
    let mut streams = Vec::with_capacity(load.clients);
    for number in 0..load.clients.max(1) {
        let address = &load.addresses[number % load.addresses.len()];
        let (stream, client) = open(address, speak()).map_err(LabError::io(format!("connect to {address}")))?;
        streams.push(stream);
        clients.push(client);
    }
    let mut fds: Vec<PollFd> = streams.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
    let mut tally = Tally::default();
    let begun = Instant::now();
    let (counts_from, ends) = (begun + warm_up, span.map(|span| begun + warm_up + span));
    let mut cpu_before = (warm_up.is_zero()).then(cpu_time);
    let mut busy = 0;
    for (n, client) in clients.iter_mut().enumerate() {
        busy += usize::from(begin_run(client, &streams[n], &mut fds[n], load.pipeline, &mut keys)?);
    }
    let mut room = vec![0; READ_BYTES];
    let mut last_heard = Instant::now();
    let mut now = begun;
    while busy > 0 && ends.is_none_or(|ends| now < ends) {
        let until = ends.map_or(SILENCE_MAX, |ends| ends.saturating_duration_since(now)).min(SILENCE_MAX);
        let timeout = Timespec { tv_sec: until.as_secs() as i64, tv_nsec: until.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(LabError::io("poll")(e.into())),
        }
        now = Instant::now();
        if cpu_before.is_none() && now >= counts_from {
            cpu_before = Some(cpu_time());
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let ready = fds[n].revents();
            if ready.is_empty() {
                continue;
            }
            if ready.contains(PollFlags::OUT) {
                write_on(client, &streams[n], &mut fds[n])?;
            }
            if !ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                continue;
            }
            let read = match (&streams[n]).read(&mut room) {
                Ok(0) => return Err(LabError::Answer(format!("{} closed a connection", address_of(&streams[n])))),
                Ok(read) => read,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                Err(e) => return Err(LabError::io(format!("read from {}", address_of(&streams[n])))(e)),
            };
            last_heard = Instant::now();
            let counted = last_heard >= counts_from && ends.is_none_or(|ends| last_heard < ends);
            let is_over = take_replies(client, &room[..read], last_heard, counted.then_some(&mut tally))
                .map_err(|why| LabError::Answer(format!("{}: {why}", address_of(&streams[n]))))?;
            if is_over && !begin_run(client, &streams[n], &mut fds[n], load.pipeline, &mut keys)? {
                busy -= 1;
            } else if client.written < client.output.len() {
                write_on(client, &streams[n], &mut fds[n])?;
            }
        }
        if let Some(progress) = progress {
            progress.set(tally.times.count() + tally.errors);
        }
        if now.saturating_duration_since(last_heard) >= SILENCE_MAX {
            return Err(LabError::Answer(format!("{} sent nothing for {SILENCE_MAX:?}", load.addresses.join(", "))));
        }
    }
    tally.span = now.saturating_duration_since(counts_from);
    if span.is_some() && tally.times.count() + tally.errors == 0 {
        tally.first_error = Some("no command was answered in time".to_string());
    }
    let used = cpu_time().saturating_sub(cpu_before.unwrap_or_default());
    tally.own_cpu = used.as_secs_f64() / tally.span.as_secs_f64().max(1e-9);
    Ok(tally)
}

/// Connects and exchanges the first messages; then makes the socket non-blocking.
fn open(address: &str, mut dialect: Box<dyn Dialect>) -> io::Result<(TcpStream, Client)> {
    let at: SocketAddr = address.to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&at, OPEN_WITHIN)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(OPEN_WITHIN))?;
    let (mut output, mut due) = (Vec::new(), dialect.hello());
    output.append(&mut due.0);
    stream.write_all(&output)?;
    output.clear();
    let mut input = Vec::new();
    while due.1 > 0 {
        match dialect.read_reply(&input, &mut output).map_err(io::Error::other)? {
            Some((used, heard)) => {
                input.drain(..used);
                match heard {
                    ServerReply::Fine => due.1 -= 1,
                    ServerReply::Aside => {}
                    ServerReply::Refused(why) => return Err(io::Error::other(format!("its first answer is {why:?}"))),
                }
            }
            None => {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece)?;
                if read == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                input.extend_from_slice(&piece[..read]);
            }
        }
    }
    stream.set_nonblocking(true)?;
    let sent_at = Instant::now();
    Ok((stream, Client { dialect, input, output, written: 0, sent_at, commands_due: 0, closings_due: 0, fine: 0 }))
}

/// Sends the next batch; false if no keys are left.
fn begin_run<'a>(
    client: &mut Client,
    stream: &'a TcpStream,
    fd: &mut PollFd<'a>,
    pipeline: usize,
    keys: &mut Keys,
) -> Result<bool> {
    for key in std::iter::from_fn(|| keys.next()).take(pipeline.max(1)) {
        client.dialect.write_command(key, &mut client.output);
        client.commands_due += 1;
    }
    if client.commands_due == 0 {
        return Ok(false);
    }
    client.closings_due = client.dialect.close_run(&mut client.output);
    client.fine = 0;
    client.sent_at = Instant::now();
    write_on(client, stream, fd)?;
    Ok(true)
}

/// Writes as much as the socket accepts; `poll` reports when it accepts the rest.
fn write_on<'a>(client: &mut Client, stream: &'a TcpStream, fd: &mut PollFd<'a>) -> Result<()> {
    while client.written < client.output.len() {
        match (&*stream).write(&client.output[client.written..]) {
            Ok(written) => client.written += written,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                *fd = PollFd::new(stream, PollFlags::IN | PollFlags::OUT);
                return Ok(());
            }
            Err(e) => return Err(LabError::io(format!("write to {}", address_of(stream)))(e)),
        }
    }
    client.output.clear();
    client.written = 0;
    *fd = PollFd::new(stream, PollFlags::IN);
    Ok(())
}

/// Parses replies; returns whether the batch is over.
fn take_replies(
    client: &mut Client,
    read: &[u8],
    now: Instant,
    mut tally: Option<&mut Tally>,
) -> std::result::Result<bool, String> {
    // Mostly, whole replies are read, and parsed in place without a copy.
    let spare = std::mem::take(&mut client.input);
    let joined = if spare.is_empty() { None } else { Some([&spare, read].concat()) };
    let mut rest: &[u8] = joined.as_deref().unwrap_or(read);
    let took = now - client.sent_at;
    let is_delayed = client.closings_due > 0;
    let mut fine_now = 0;
    while client.commands_due + client.closings_due > 0 {
        let Some((used, heard)) = client.dialect.read_reply(rest, &mut client.output)? else { break };
        rest = &rest[used..];
        let is_command = client.commands_due > 0;
        match heard {
            ServerReply::Aside => continue,
            ServerReply::Fine if is_command => fine_now += 1,
            ServerReply::Fine => fine_now += std::mem::take(&mut client.fine),
            ServerReply::Refused(why) => {
                if let Some(tally) = &mut tally {
                    tally.errors += if is_command { 1 } else { client.fine };
                    tally.first_error.get_or_insert(why);
                }
            }
        }
        if !is_command {
            client.closings_due -= 1;
            continue;
        }
        client.commands_due -= 1;
        if is_delayed {
            client.fine += std::mem::take(&mut fine_now);
        }
    }
    if fine_now > 0
        && let Some(tally) = tally
    {
        tally.times.record(took, fine_now);
    }
    client.input.extend_from_slice(rest);
    Ok(client.commands_due + client.closings_due == 0)
}

fn address_of(stream: &TcpStream) -> String {
    stream.peer_addr().map_or("a disconnected server".to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use crate::bench::load::*;
    use crate::bench::protocols::{CommandKind, Redis};
    use std::net::TcpListener;

    /// A server of the Redis protocol that counts commands by their line ends and answers from a list, in turn.
    fn serve(answers: &'static [&'static str], lines_per_command: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let (mut lines, mut turn, mut piece) = (0, 0, [0; 4096]);
                    while let Ok(read @ 1..) = stream.read(&mut piece) {
                        lines += piece[..read].iter().filter(|byte| **byte == b'\n').count();
                        while lines >= lines_per_command {
                            lines -= lines_per_command;
                            // Byte by byte: a reply may arrive in any pieces.
                            for byte in answers[turn % answers.len()].bytes() {
                                let _ = stream.write_all(&[byte]);
                            }
                            turn += 1;
                        }
                    }
                });
            }
        });
        address
    }

    fn load(address: String, pipeline: usize) -> Load {
        Load {
            addresses: vec![address],
            clients: 3,
            pipeline,
            keys: 10,
            warm_up: Duration::from_millis(20),
            span: Duration::from_millis(200),
        }
    }

    #[test]
    fn counts_good_and_bad_replies() {
        let address = serve(&["+OK\r\n", "-CLUSTERDOWN no quorum\r\n"], 7);
        let speak = || -> Box<dyn Dialect> { Box::new(Redis::new(CommandKind::Set, vec![b'v'; 5], false, None)) };
        let tally = run(&load(address, 4), &speak).unwrap();
        assert!(tally.times.count() > 10 && tally.errors > 10, "{tally:?}");
        assert_eq!(tally.first_error.as_deref(), Some("CLUSTERDOWN no quorum"));
        assert!(tally.span >= Duration::from_millis(190) && tally.rate() > 10.0);
    }

    #[test]
    fn reads_count_only_if_something_is_there() {
        let address = serve(&["$5\r\nhello\r\n", "$-1\r\n"], 5);
        let speak = || -> Box<dyn Dialect> { Box::new(Redis::new(CommandKind::Get, Vec::new(), false, None)) };
        let tally = run(&load(address, 2), &speak).unwrap();
        assert!(tally.times.count() > 10 && tally.errors > 10, "{tally:?}");
        assert_eq!(tally.first_error.as_deref(), Some("no such key"));
    }

    #[test]
    fn filling_writes_each_key_once() {
        let address = serve(&["+OK\r\n"], 7);
        let speak = || -> Box<dyn Dialect> { Box::new(Redis::new(CommandKind::Set, vec![b'v'; 5], false, None)) };
        let tally = fill(&load(address, 4), &speak, &Progress::new()).unwrap();
        assert_eq!((tally.times.count(), tally.errors), (10, 0));
    }

    #[test]
    fn a_server_that_hangs_up_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let speak = || -> Box<dyn Dialect> { Box::new(Redis::new(CommandKind::Set, vec![b'v'; 5], false, None)) };
        let err = run(&load(address.clone(), 1), &speak).unwrap_err().to_string();
        assert!(err.contains(&address) || err.contains("disconnected"), "{err}");
    }
}
