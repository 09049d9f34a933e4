//! The figures of `phalanx bench chat`: many readers in one room on one node, and the delivery time to each.
//!
//! It starts three nodes. All readers follow the stream of one node, each on its own socket; one thread polls all
//! sockets. A message contains the time at which it was sent, by this process's clock. Every reader must receive each
//! message, in order.
//! Not here: printing (`cli/lab/bench.rs`).

use super::monitors::raise_file_limit;
use crate::client::{Chat, Connection, Recipient};
use crate::lab::cluster::Cluster;
use crate::lab::{LabError, Result, poll};
use crate::progress::Progress;
use serde_json::json;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Time for one step of the preparation.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two rounds over the readers' sockets.
const POLL_EVERY: Duration = Duration::from_millis(1);
/// Number of senders, so that a message does not wait for the acknowledgement of the one before.
const SENDERS: usize = 4;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of readers, one connection each
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub readers: u64,
    /// Number of accounts of the readers
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9_000))]
    pub accounts: u64,
    /// Messages per second
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=5_000))]
    pub rate: u64,
    /// Duration in seconds
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// The figures of one run, as the command line prints them.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Findings {
    pub readers: usize,
    /// Messages that were sent and acknowledged.
    pub messages: usize,
    /// Messages sent per second.
    pub rate: f64,
    /// Messages that readers received, counted for each reader.
    pub delivered: usize,
    /// Readers that miss a message, or have one twice or out of order.
    pub readers_wrong: usize,
    /// Median of the delivery time in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the delivery time in milliseconds.
    pub p99_ms: f64,
    /// Longest delivery time in milliseconds.
    pub max_ms: f64,
}

struct Reader {
    connection: Connection,
    bytes: Vec<u8>,
    newest: u64,
    count: usize,
    is_wrong: bool,
}

/// Measures.
///
/// # Errors
/// Nodes do not start, or an account or a reader is refused.
pub fn run(exe: &Path, options: &Options, progress: &Progress) -> Result<Findings> {
    raise_file_limit();
    let readers_wanted = options.readers as usize;
    let mut cluster = Cluster::ready(exe, 3, &json!({}))?;
    let leader = cluster.wait_leader()?;
    let node = (1..=3).find(|id| *id != leader).unwrap_or(1);
    let room = Room::fill(&cluster.http(node), options.accounts, progress)?;
    progress.begin(&format!("{} readers follow node {node}", options.readers));
    let mut readers = Vec::new();
    for n in 0..readers_wanted {
        readers.push(open(&cluster.http(node), &room.tokens[n % room.tokens.len()])?);
    }
    let begun = Instant::now();
    let total = (options.rate * options.seconds) as usize;
    let text = format!("{total} messages at {}/s to each reader", options.rate);
    progress.begin_counted(&text, (total * readers_wanted) as u64);
    let (sent, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    room.send(total, options.rate as f64, begun, (&sent, &ended))?;
    let mut took_us: Vec<u64> = Vec::with_capacity(total * readers_wanted);
    let mut all_sent_at = None;
    loop {
        for reader in &mut readers {
            receive(reader, begun, &mut took_us);
        }
        progress.set(took_us.len() as u64);
        if ended.load(SeqCst) == SENDERS {
            let since = *all_sent_at.get_or_insert_with(Instant::now);
            if took_us.len() >= sent.load(SeqCst) * readers_wanted || since.elapsed() > Duration::from_secs(10) {
                break;
            }
        }
        poll::pause(POLL_EVERY);
    }
    let lasted = all_sent_at.map_or(begun.elapsed(), |at| at - begun);
    let messages = sent.load(SeqCst);
    took_us.sort_unstable();
    let at = |share: f64| took_us.get((took_us.len() as f64 * share) as usize).map_or(0.0, |us| *us as f64 / 1000.0);
    cluster.kill_all();
    Ok(Findings {
        readers: readers_wanted,
        messages,
        rate: messages as f64 / lasted.as_secs_f64(),
        delivered: took_us.len(),
        readers_wrong: readers.iter().filter(|reader| reader.is_wrong || reader.count != messages).count(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: took_us.last().map_or(0.0, |us| *us as f64 / 1000.0),
    })
}

/// One room, which all accounts have joined.
struct Room {
    id: u64,
    senders: Vec<Chat>,
    /// Tokens of the accounts that read.
    tokens: Vec<String>,
}

impl Room {
    /// Creates the room and its accounts at one node.
    fn fill(address: &str, accounts: u64, progress: &Progress) -> Result<Room> {
        let refused = |fault: crate::client::ClientError| LabError::Answer(fault.to_string());
        let member = |name: &str| -> Result<Chat> {
            let mut chat = Chat::new(vec![address.to_string()]);
            chat.client.within = Some(PATIENCE);
            chat.client.patience = PATIENCE;
            chat.sign_up(name, "bench password").map_err(refused)?;
            Ok(chat)
        };
        progress.begin_counted(&format!("{} accounts join a room", accounts + SENDERS as u64), accounts);
        let mut senders: Vec<Chat> = (0..SENDERS).map(|n| member(&format!("sender{n}"))).collect::<Result<_>>()?;
        let room = senders[0].post("rooms", &json!({"name": "bench"})).map_err(refused)?["conversation"].clone();
        let join = |chat: &mut Chat| chat.post(&format!("rooms/{room}/join"), &json!({})).map_err(refused);
        for sender in &mut senders {
            join(sender)?;
        }
        let mut tokens = Vec::new();
        for n in 0..accounts {
            let mut chat = member(&format!("reader{n}"))?;
            join(&mut chat)?;
            tokens.push(chat.client.token.unwrap_or_default());
            progress.advance(1);
        }
        Ok(Room { id: room.as_u64().unwrap_or(0), senders, tokens })
    }

    /// Starts a thread per sender; they send `total` messages, `rate` per second, and count those that were sent and
    /// the threads that have ended.
    fn send(
        self,
        total: usize,
        rate: f64,
        begun: Instant,
        (sent, ended): (&Arc<AtomicUsize>, &Arc<AtomicUsize>),
    ) -> Result<()> {
        for (place, mut sender) in self.senders.into_iter().enumerate() {
            let (sent, ended) = (Arc::clone(sent), Arc::clone(ended));
            let room = Recipient::Conversation(self.id);
            crate::node::spawn::spawn("chatter", move || {
                for n in (place..total).step_by(SENDERS) {
                    poll::pause_until(begun + Duration::from_secs_f64(n as f64 / rate));
                    let text = format!("{} the quick brown fox jumps over the lazy dog", begun.elapsed().as_micros());
                    if sender.send(&room, &text).is_ok() {
                        sent.fetch_add(1, SeqCst);
                    }
                }
                ended.fetch_add(1, SeqCst);
            })
            .map_err(LabError::io("start a thread"))?;
        }
        Ok(())
    }
}

fn open(address: &str, token: &str) -> Result<Reader> {
    let opened = (|| {
        let mut connection = Connection::open(address, PATIENCE)?;
        connection.send_bytes("GET", "/v1/chat/stream", &format!("X-Phalanx-Chat-Token: {token}\r\n"), None)?;
        let head = connection.head(Instant::now() + PATIENCE)?;
        if head.status != 200 {
            return Err(std::io::Error::other(format!("status {}", head.status)));
        }
        connection.stream().set_nonblocking(true)?;
        Ok(connection)
    })();
    let connection = opened.map_err(LabError::io("open a reader's stream"))?;
    Ok(Reader { connection, bytes: Vec::new(), newest: 0, count: 0, is_wrong: false })
}

/// Reads what has arrived. Chunk sizes are on lines of their own, so lines are found without parsing chunks.
fn receive(reader: &mut Reader, begun: Instant, took_us: &mut Vec<u64>) {
    let mut piece = [0; 16 << 10];
    loop {
        let mut stream = reader.connection.stream();
        match stream.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => reader.bytes.extend_from_slice(&piece[..read]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let now_us = begun.elapsed().as_micros() as u64;
    let Some(end) = reader.bytes.iter().rposition(|byte| *byte == b'\n') else { return };
    let whole: Vec<u8> = reader.bytes.drain(..=end).collect();
    for line in whole.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{")) {
        // Not parsed as JSON: with 200,000 lines a second, the parser would be what is measured.
        let (Some(number), Some(sent_us)) = (number_after(line, b"\"number\":"), number_after(line, b"\"text\":\""))
        else {
            continue;
        };
        reader.is_wrong |= number <= reader.newest;
        reader.newest = number;
        reader.count += 1;
        took_us.push(now_us.saturating_sub(sent_us));
    }
}

/// The number that follows these bytes.
fn number_after(line: &[u8], what: &[u8]) -> Option<u64> {
    let at = line.windows(what.len()).position(|part| part == what)? + what.len();
    let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |sum: Option<u64>, byte| Some(sum.unwrap_or(0) * 10 + u64::from(byte - b'0')))
}
