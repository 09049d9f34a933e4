//! Outputs for log lines: each has a bounded queue and a thread that writes.
//!
//! A thread that logs never waits: a terminal that was stopped (Ctrl+S), a pipe that is not read and a slow disk only
//! block the thread of that output. Lines that do not fit into its queue are dropped and counted, and a later line
//! reports the count. The size of the log file is bounded while the node runs: a full file is renamed to `.1`, and a
//! new one begun; if the file was moved away (logrotate), a new one is opened.
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

/// Lines that wait for an output; with their longest length this bounds the memory. Full: dropped and counted.
const QUEUE_LINES_MAX: usize = 2048;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 8 << 10;
/// A log file of this size is kept as `.1` (one older file is kept), and a new one begun.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Time between two checks whether the file still has its name.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Lines that were dropped since the start, of all outputs.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were dropped since the start because a terminal, pipe or disk was too slow.
pub fn dropped_total() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

enum SinkInput {
    Write(Vec<u8>),
    Reopen,
    /// Report when everything before this is written.
    Flush(Sender<()>),
}

/// Where lines are written.
pub trait LogOutput: Send + 'static {
    /// Writes whole lines. Errors are ignored: there is nowhere to report them.
    fn write(&mut self, lines: &[u8]);
    /// Opens it again by its name.
    fn reopen(&mut self) {}
}

/// An output with its queue.
pub struct Sink {
    inbox: Sender<SinkInput>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    /// Starts its thread. `dropped_line` makes the line that reports how many were dropped.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub fn start(name: &str, output: impl LogOutput, dropped_line: fn(u64) -> String) -> io::Result<Sink> {
        let (to, inbox) = bounded(QUEUE_LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        spawn::spawn(name, move || run(output, &inbox, &count, dropped_line))?;
        Ok(Sink { inbox: to, dropped })
    }

    /// Queues a line, its end included.
    pub fn line(&self, bytes: &[u8]) {
        let mut line = bytes[..bytes.len().min(LINE_BYTES_MAX)].to_vec();
        if bytes.len() > LINE_BYTES_MAX {
            line.extend_from_slice(" ...\n".as_bytes());
        }
        if self.inbox.try_send(SinkInput::Write(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the file and opens it by its name again.
    pub fn reopen(&self) {
        // If the queue is full, the next check of the file's name does it.
        let _ = self.inbox.try_send(SinkInput::Reopen);
    }

    /// Sends a message when everything queued so far is written; `None` if the queue stays full until then.
    pub fn flush(&self, by: Instant) -> Option<Receiver<()>> {
        let (done, is_done) = bounded(1);
        self.inbox.send_deadline(SinkInput::Flush(done), by).ok().map(|()| is_done)
    }
}

fn run(mut output: impl LogOutput, inbox: &Receiver<SinkInput>, dropped: &AtomicU64, dropped_line: fn(u64) -> String) {
    for input in inbox {
        match input {
            SinkInput::Write(line) => output.write(&line),
            SinkInput::Reopen => output.reopen(),
            SinkInput::Flush(done) => drop(done.try_send(())),
        }
        if inbox.is_empty() {
            match dropped.swap(0, Ordering::Relaxed) {
                0 => {}
                lines => output.write(dropped_line(lines).as_bytes()),
            }
        }
    }
}

/// Standard error.
pub struct Terminal;

impl LogOutput for Terminal {
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
    checked: Instant,
}

impl LogFile {
    /// Opens it for appending; readable only by its owner.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<LogFile> {
        let (file, bytes) = open(path)?;
        Ok(LogFile { path: path.to_path_buf(), file, bytes, bytes_max, checked: Instant::now() })
    }

    /// Whether standard error goes to this same file.
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
        // Fails for a file of another user, which keeps its permissions.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    let bytes = meta.len();
    Ok((file, bytes))
}

impl LogOutput for LogFile {
    fn write(&mut self, lines: &[u8]) {
        if self.checked.elapsed() >= CHECK_EVERY {
            self.checked = Instant::now();
            if !self.has_its_name() {
                self.reopen();
            }
        }
        let lines = without_colours(lines);
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.bytes_max {
            // A file that cannot be renamed is truncated: it was opened for appending, so no hole remains.
            if std::fs::rename(&self.path, self.path.with_extension("log.1")).is_ok() {
                self.reopen();
            } else if self.file.set_len(0).is_ok() {
                self.bytes = 0;
            }
        }
        // On a full disk, lines still appear on the terminal.
        if self.file.write_all(&lines).is_ok() {
            self.bytes += lines.len() as u64;
        }
    }

    fn reopen(&mut self) {
        // If it cannot be opened, the old file stays in use.
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

    fn dropped_line(lines: u64) -> String {
        format!("{lines} lines dropped\n")
    }

    fn wait_for(sink: &Sink) {
        let asked = sink.flush(Instant::now() + Duration::from_secs(10)).expect("it takes lines");
        asked.recv_timeout(Duration::from_secs(10)).expect("it writes");
    }

    /// Takes a line when it is let.
    struct Blocked(Held<()>, SyncSender<String>);

    impl LogOutput for Blocked {
        fn write(&mut self, lines: &[u8]) {
            // An error means that the sender is gone: lines are written without waiting.
            let _ = self.0.recv();
            let _ = self.1.send(String::from_utf8_lossy(lines).into_owned());
        }
    }

    #[test]
    fn logging_never_blocks_and_reports_dropped_lines() {
        let (let_go, held) = sync_channel(0);
        let (taken, lines) = sync_channel(2 * QUEUE_LINES_MAX);
        let sink = Sink::start("blocked", Blocked(held, taken), dropped_line).unwrap();
        let before = dropped_total();
        sink.line(b"line 0\n");
        while !sink.inbox.is_empty() {
            // Until the thread holds that line.
            std::thread::yield_now();
        }
        for n in 1..QUEUE_LINES_MAX + 101 {
            sink.line(format!("line {n}\n").as_bytes());
        }
        assert!(sink.flush(Instant::now()).is_none(), "a wait for a full queue ends in time");
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
        let sink = Sink::start("long", Blocked(held, taken), dropped_line).unwrap();
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
        file.checked -= CHECK_EVERY;
        file.write(b"two\n");
        std::fs::rename(&path, &moved).unwrap();
        file.reopen();
        file.write(b"three\n");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "two\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }
}
