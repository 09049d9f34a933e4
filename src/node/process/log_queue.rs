//! Where log lines go: a bounded queue and a thread that writes them, for each place that keeps them.
//!
//! A thread that logs never waits: a terminal that was stopped (Ctrl+S), a pipe that is not read and a slow disk hold
//! up the thread of that place alone. What does not fit into its queue is dropped and counted, and a line says so as
//! soon as lines flow again. The log file is bounded while the node runs: a full one is kept as `.1` and begun anew;
//! one that was moved away (logrotate) is let go.
//! Not here: what a line looks like (`logging.rs`).

use crate::node::spawn;
use crate::store::files::open_regular;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lines that wait for a place; with their longest length this bounds the memory. Full: dropped and counted.
const QUEUE_LINES_MAX: usize = 2048;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 8 << 10;
/// A log file of this size is kept as `.1` (one older file is kept), and a new one begun.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Between two looks whether the file still has its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Lines that were dropped, at all places, since the start.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were dropped since the start because a terminal, pipe or disk did not take them.
pub fn dropped_total() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

enum Order {
    Write(Vec<u8>),
    Reopen,
    Tell(Sender<()>),
}

/// A place that keeps lines.
pub trait Place: Send + 'static {
    /// Takes whole lines. Errors are the place's own: there is no other place to report them to.
    fn write(&mut self, lines: &[u8]);
    /// Opens it anew.
    fn reopen(&mut self) {}
}

/// A place behind its queue.
pub struct Sink {
    orders: Sender<Order>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    /// Starts its thread. `told` makes the line that says how many were dropped.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub fn start(name: &str, place: impl Place, told: fn(u64) -> String) -> io::Result<Sink> {
        let (orders, inbox) = bounded(QUEUE_LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        spawn::spawn(name, move || run(place, &inbox, &count, told))?;
        Ok(Sink { orders, dropped })
    }

    /// Queues a line, its end included.
    pub fn line(&self, bytes: &[u8]) {
        let mut line = bytes[..bytes.len().min(LINE_BYTES_MAX)].to_vec();
        if bytes.len() > LINE_BYTES_MAX {
            line.extend_from_slice(" ...\n".as_bytes());
        }
        if self.orders.try_send(Order::Write(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets the file go and opens it by its name again.
    pub fn reopen(&self) {
        let _ = self.orders.try_send(Order::Reopen); // a full queue: the look at its name does it a second later
    }

    /// Asks to be told when everything queued so far is written; `None` if the queue stays full for so long.
    pub fn ask(&self, by: Instant) -> Option<Receiver<()>> {
        let (tell, told) = bounded(1);
        self.orders.send_deadline(Order::Tell(tell), by).ok().map(|()| told)
    }
}

fn run(mut place: impl Place, inbox: &Receiver<Order>, dropped: &AtomicU64, told: fn(u64) -> String) {
    for order in inbox {
        match order {
            Order::Write(line) => place.write(&line),
            Order::Reopen => place.reopen(),
            Order::Tell(tell) => drop(tell.try_send(())),
        }
        if inbox.is_empty() {
            match dropped.swap(0, Ordering::Relaxed) {
                0 => {}
                lines => place.write(told(lines).as_bytes()),
            }
        }
    }
}

/// Standard error.
pub struct Terminal;

impl Place for Terminal {
    fn write(&mut self, lines: &[u8]) {
        // A terminal that was closed must not end the node.
        let _ = io::stderr().write_all(lines);
    }
}

/// A bounded log file; colours are taken out.
pub struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    looked: Instant,
}

impl LogFile {
    /// Opens it for appending; readable only by its owner.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<LogFile> {
        let (file, bytes) = open(path)?;
        Ok(LogFile { path: path.to_path_buf(), file, bytes, bytes_max, looked: Instant::now() })
    }

    /// Whether standard error goes to this very file.
    pub fn is_stderr(&self) -> bool {
        let ours = self.file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
        let theirs = rustix::fs::fstat(io::stderr()).map(|meta| (meta.st_dev, meta.st_ino)).ok();
        ours.is_some() && ours == theirs
    }

    fn has_its_name(&self) -> bool {
        let named = std::fs::metadata(&self.path).map(|meta| (meta.dev(), meta.ino())).ok();
        named.is_some() && named == self.file.metadata().map(|meta| (meta.dev(), meta.ino())).ok()
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = open_regular(OpenOptions::new().create(true).append(true).mode(0o600), path)?;
    let meta = file.metadata()?;
    if meta.is_file() && meta.mode() & 0o077 != 0 {
        let _ = file.set_permissions(Permissions::from_mode(0o600)); // another's file: it stays as they gave it
    }
    let bytes = meta.len();
    Ok((file, bytes))
}

impl Place for LogFile {
    fn write(&mut self, lines: &[u8]) {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            if !self.has_its_name() {
                self.reopen();
            }
        }
        let lines = without_colours(lines);
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.bytes_max {
            // If it cannot be moved it is emptied: it was opened for appending, so nothing is left behind its end.
            if std::fs::rename(&self.path, self.path.with_extension("log.1")).is_ok() {
                self.reopen();
            } else if self.file.set_len(0).is_ok() {
                self.bytes = 0;
            }
        }
        // A full disk must not cost the terminal its lines.
        if self.file.write_all(&lines).is_ok() {
            self.bytes += lines.len() as u64;
        }
    }

    fn reopen(&mut self) {
        // Where it cannot be opened, the old one goes on.
        if let Ok((file, bytes)) = open(&self.path) {
            (self.file, self.bytes) = (file, bytes);
        }
    }
}

fn without_colours(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut is_escape = false;
    for byte in bytes {
        match (is_escape, byte) {
            (false, 0x1b) => is_escape = true,
            (false, byte) => plain.push(*byte),
            (true, b'm') => is_escape = false,
            (true, _) => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use crate::node::process::log_queue::*;
    use std::sync::mpsc::{Receiver as Held, SyncSender, sync_channel};

    fn told(lines: u64) -> String {
        format!("{lines} lines dropped\n")
    }

    fn wait_for(sink: &Sink) {
        let asked = sink.ask(Instant::now() + Duration::from_secs(10)).expect("it takes lines");
        asked.recv_timeout(Duration::from_secs(10)).expect("it writes");
    }

    /// Takes a line when it is let.
    struct Blocked(Held<()>, SyncSender<String>);

    impl Place for Blocked {
        fn write(&mut self, lines: &[u8]) {
            let _ = self.0.recv(); // the sender is gone: it flows freely
            let _ = self.1.send(String::from_utf8_lossy(lines).into_owned());
        }
    }

    #[test]
    fn whoever_logs_never_waits_and_what_was_dropped_is_told() {
        let (let_go, held) = sync_channel(0);
        let (taken, lines) = sync_channel(2 * QUEUE_LINES_MAX);
        let sink = Sink::start("blocked", Blocked(held, taken), told).unwrap();
        let before = dropped_total();
        sink.line(b"line 0\n");
        while !sink.orders.is_empty() {
            std::thread::yield_now(); // until the thread holds that line
        }
        for n in 1..QUEUE_LINES_MAX + 101 {
            sink.line(format!("line {n}\n").as_bytes());
        }
        assert!(sink.ask(Instant::now()).is_none(), "a wait for a full queue ends in time");
        drop(let_go);
        wait_for(&sink);
        sink.line(b"flows\n");
        wait_for(&sink);
        drop(sink);
        let all: Vec<String> = lines.iter().collect();
        let dropped: u64 =
            all.iter().filter_map(|line| line.strip_suffix(" lines dropped\n")?.parse::<u64>().ok()).sum();
        assert_eq!(dropped, 100);
        assert!(dropped_total() - before >= dropped);
        assert_eq!(
            all.iter().filter(|line| line.starts_with("line ")).count() as u64 + dropped,
            QUEUE_LINES_MAX as u64 + 101
        );
        assert!(all.contains(&"flows\n".to_string()));
    }

    #[test]
    fn a_line_has_an_end() {
        let (let_go, held) = sync_channel(0);
        let (taken, lines) = sync_channel(9);
        drop(let_go);
        let sink = Sink::start("long", Blocked(held, taken), told).unwrap();
        sink.line(&[b'x'; LINE_BYTES_MAX * 3]);
        wait_for(&sink);
        let line = lines.recv().unwrap();
        assert!(line.ends_with("x ...\n") && line.len() < LINE_BYTES_MAX + 10, "{} bytes", line.len());
    }

    #[test]
    fn a_log_file_is_bounded_while_it_is_written_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.log");
        std::fs::write(&path, "made by a shell\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut file = LogFile::open(&path, 1000).unwrap();
        for n in 0..100 {
            file.write(format!("\x1b[32minfo\x1b[0m line {n} of a hundred that are written\n").as_bytes());
        }
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("node.log") <= 1000 && size("node.log.1") <= 1000);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "one older file is kept");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("info line 99 of a hundred that are written\n"), "the newest, without colours: {text}");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_moved_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("node.log"), dir.path().join("moved"));
        let mut file = LogFile::open(&path, 1000).unwrap();
        file.write(b"one\n");
        std::fs::rename(&path, &moved).unwrap();
        file.looked -= LOOK_EVERY;
        file.write(b"two\n");
        std::fs::rename(&path, &moved).unwrap();
        file.reopen();
        file.write(b"three\n");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "two\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }
}
