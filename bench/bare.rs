//! The bare path: what this machine gives to Phalanx's layout of threads when nothing else is in the way.
//!
//! Three processes replicate one stream of batches: no elections, no terms, no sessions, no checks, no recovery. It is a
//! yardstick for `bench/peers.sh`, never a store: connection threads parse and hand runs to one `core` thread; that sends a
//! batch to both followers and to the `disk` thread; a follower writes, syncs and acknowledges on one thread; when two of
//! three have synced, `apply` changes a hash map and writes each connection's replies straight to its socket.
//! A run of GETs costs a round to a follower, like a linearizable read.
//!
//!   bare follower PORT FOLDER
//!   bare leader PORT FOLDER FOLLOWER:PORT FOLLOWER:PORT

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::net::SendFlags;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::spawn;
use std::time::Duration;

/// The log is written in place over and over, so that no sync changes metadata.
const LOG_BYTES: u64 = 64 << 20;

/// One client's commands that came together: each a key, and a value or nothing (GET).
type Run = (Arc<TcpStream>, Vec<Command>);
type Command = (Vec<u8>, Option<Vec<u8>>);

enum ToCore {
    Run(Run),
    /// The own disk has a batch, or a follower (1, 2) has.
    Synced(u64, usize),
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["follower", port, folder] => follow(port, folder),
        ["leader", port, folder, one, two] => lead(port, folder, [one, two]),
        _ => Err(io::Error::other("usage: bare follower PORT FOLDER | bare leader PORT FOLDER HOST:PORT HOST:PORT")),
    }
}

struct Log {
    file: File,
    at: u64,
}

impl Log {
    fn create(folder: &str) -> io::Result<Log> {
        std::fs::create_dir_all(folder)?;
        let file = File::create(format!("{folder}/log"))?;
        let zeros = vec![0; 1 << 20];
        for at in (0..LOG_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Log { file, at: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at + bytes.len() as u64 > LOG_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.file.sync_data()
    }
}

/// A batch on the wire: its number, the length of its commands, and those.
fn frame(number: u64, commands: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], &(commands.len() as u64).to_le_bytes(), commands].concat()
}

fn encode<'a>(commands: impl Iterator<Item = &'a Command>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in commands {
        if let Some(value) = value {
            bytes.extend((key.len() as u32).to_le_bytes());
            bytes.extend((value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Vec<Command> {
    let mut commands = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(8) {
        let length = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize;
        let (key, rest) = rest.split_at(length(0));
        let (value, rest) = rest.split_at(length(4));
        commands.push((key.to_vec(), Some(value.to_vec())));
        bytes = rest;
    }
    commands
}

fn follow(port: &str, folder: &str) -> io::Result<()> {
    let mut log = Log::create(folder)?;
    let (leader, _) = TcpListener::bind(format!("127.0.0.1:{port}"))?.accept()?;
    leader.set_nodelay(true)?;
    let (apply, batches) = bounded::<Vec<u8>>(64);
    spawn(move || {
        let mut state = HashMap::new();
        for batch in batches {
            state.extend(decode(&batch));
        }
    });
    let mut reader = BufReader::with_capacity(1 << 20, &leader);
    let (mut number, mut length) = ([0; 8], [0; 8]);
    loop {
        reader.read_exact(&mut number)?;
        reader.read_exact(&mut length)?;
        let mut batch = vec![0; u64::from_le_bytes(length) as usize];
        reader.read_exact(&mut batch)?;
        if !batch.is_empty() {
            log.append(&batch)?;
        }
        (&leader).write_all(&number)?;
        apply.send(batch).map_err(io::Error::other)?;
    }
}

fn lead(port: &str, folder: &str, followers: [&str; 2]) -> io::Result<()> {
    let log = Log::create(folder)?;
    let (core, inbox) = bounded(4096);
    let (disk, to_sync) = bounded::<(u64, Arc<Vec<u8>>)>(64);
    let (apply, to_apply) = bounded(64);
    let mut links = Vec::new();
    for (number, address) in (1..).zip(followers) {
        let link = connect(address)?;
        link.set_nodelay(true)?;
        let (mut answers, core) = (BufReader::new(link.try_clone()?), core.clone());
        spawn(move || {
            let mut batch = [0; 8];
            while answers.read_exact(&mut batch).is_ok() {
                let _ = core.send(ToCore::Synced(u64::from_le_bytes(batch), number));
            }
        });
        links.push(link);
    }
    let own = core.clone();
    spawn(move || sync_all(log, &to_sync, &own));
    spawn(move || apply_all(&to_apply));
    spawn(move || coordinate(&inbox, &links, &disk, &apply));
    for client in TcpListener::bind(format!("127.0.0.1:{port}"))?.incoming() {
        let (client, core) = (client?, core.clone());
        client.set_nodelay(true)?;
        spawn(move || serve(&Arc::new(client), &core));
    }
    Ok(())
}

/// A follower that is still filling its log with zeros refuses: it is asked again for half a minute.
fn connect(address: &str) -> io::Result<TcpStream> {
    for _ in 0..300 {
        match TcpStream::connect(address) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::thread::sleep(Duration::from_millis(100)),
            other => return other,
        }
    }
    TcpStream::connect(address)
}

/// One batch of writes and one round of reads are under way at a time; what comes meanwhile is the next.
fn coordinate(
    inbox: &Receiver<ToCore>,
    links: &[TcpStream],
    disk: &Sender<(u64, Arc<Vec<u8>>)>,
    apply: &Sender<Vec<Run>>,
) {
    let (mut number, mut held) = (0, Vec::<Run>::new());
    let mut under_way: VecDeque<(u64, u8, Vec<Run>)> = VecDeque::new();
    while let Ok(first) = inbox.recv() {
        for input in std::iter::once(first).chain(inbox.try_iter()) {
            match input {
                ToCore::Run(run) => held.push(run),
                ToCore::Synced(batch, by) => {
                    let Some((_, copies, runs)) = under_way.iter_mut().find(|(n, ..)| *n == batch) else { continue };
                    *copies |= 1_u8 << by;
                    if copies.count_ones() >= 2 {
                        let _ = apply.send(std::mem::take(runs));
                        under_way.retain(|(n, ..)| *n != batch);
                    }
                }
            }
        }
        if held.is_empty() || !under_way.is_empty() {
            continue;
        }
        number += 1;
        let commands = encode(held.iter().flat_map(|(_, commands)| commands));
        let framed = frame(number, &commands);
        for mut link in links {
            let _ = link.write_all(&framed);
        }
        // Reads need no sync: the leader counts itself at once.
        let copies = u8::from(commands.is_empty());
        if !commands.is_empty() {
            let _ = disk.send((number, Arc::new(commands)));
        }
        under_way.push_back((number, copies, std::mem::take(&mut held)));
    }
}

fn sync_all(mut log: Log, inbox: &Receiver<(u64, Arc<Vec<u8>>)>, core: &Sender<ToCore>) {
    for (number, commands) in inbox {
        log.append(&commands).expect("the disk works");
        let _ = core.send(ToCore::Synced(number, 0));
    }
}

fn apply_all(inbox: &Receiver<Vec<Run>>) {
    let mut state: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for (client, commands) in inbox.iter().flatten() {
        let mut replies = Vec::new();
        for (key, value) in commands {
            match (value, state.get(&key)) {
                (Some(value), _) => {
                    state.insert(key, value);
                    replies.extend_from_slice(b"+OK\r\n");
                }
                (None, Some(value)) => {
                    write!(replies, "${}\r\n", value.len()).expect("a vector takes every byte");
                    replies.extend_from_slice(value);
                    replies.extend_from_slice(b"\r\n");
                }
                (None, None) => replies.extend_from_slice(b"$-1\r\n"),
            }
        }
        let _ = rustix::net::send(&*client, &replies, SendFlags::NOSIGNAL);
    }
}

fn serve(client: &Arc<TcpStream>, core: &Sender<ToCore>) {
    let (mut input, mut filled) = (vec![0; 64 << 10], 0);
    loop {
        match (&**client).read(&mut input[filled..]) {
            Ok(read) if read > 0 => filled += read,
            _ => return,
        }
        let (mut used, mut commands) = (0, Vec::new());
        while let Some((command, length)) = parse(&input[used..filled]) {
            commands.push(command);
            used += length;
        }
        input.copy_within(used..filled, 0);
        filled -= used;
        if !commands.is_empty() && core.send(ToCore::Run((Arc::clone(client), commands))).is_err() {
            return;
        }
    }
}

/// `SET key value` or `GET key` as an array of bulks, and its length; nothing else is ever sent here.
fn parse(input: &[u8]) -> Option<(Command, usize)> {
    let mut at = 0;
    let line = |at: &mut usize| {
        let end = *at + input[*at..].iter().position(|byte| *byte == b'\n')?;
        let number = std::str::from_utf8(&input[*at + 1..end - 1]).ok()?.parse::<usize>().ok()?;
        *at = end + 1;
        Some(number)
    };
    let words = line(&mut at)?;
    let mut bulks = Vec::with_capacity(words);
    for _ in 0..words {
        let length = line(&mut at)?;
        bulks.push(input.get(at..at + length)?);
        at += length + 2;
        if at > input.len() {
            return None;
        }
    }
    Some(((bulks.get(1)?.to_vec(), bulks.get(2).map(|value| value.to_vec())), at))
}
