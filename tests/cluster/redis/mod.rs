//! A small Redis client that keeps replies as they were sent, and a real redis-server to compare with.
//!
//! Not here: the commands that are compared (`commands.txt`), what is expected (`commands.rs`, `server.rs`).

mod clients;
mod commands;
mod failover;
mod pubsub;
mod retries;
mod server;

use phalanx::lab::poll;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A reply with its type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Verbatim(Vec<u8>),
    NilBulk,
    NilArray,
    Null,
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Push(Vec<Reply>),
    Other(String),
}

impl Reply {
    /// With the elements of every array in order of their values.
    pub fn sorted(self) -> Reply {
        match self {
            Reply::Array(list) => {
                let mut list: Vec<Reply> = list.into_iter().map(Reply::sorted).collect();
                list.sort();
                Reply::Array(list)
            }
            other => other,
        }
    }

    /// Its type alone.
    pub fn kind(&self) -> &'static str {
        match self {
            Reply::Simple(_) => "simple",
            Reply::Error(_) => "error",
            Reply::Int(_) => "int",
            Reply::Bulk(_) => "bulk",
            Reply::Verbatim(_) => "verbatim",
            Reply::NilBulk | Reply::NilArray | Reply::Null => "nil",
            Reply::Array(_) => "array",
            Reply::Set(_) => "set",
            Reply::Map(_) => "map",
            Reply::Push(_) => "push",
            Reply::Other(_) => "other",
        }
    }

    /// Bytes as text; for assertions on what people read.
    pub fn text(&self) -> String {
        match self {
            Reply::Simple(text) | Reply::Error(text) | Reply::Other(text) => text.clone(),
            Reply::Bulk(bytes) | Reply::Verbatim(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }

    pub fn int(&self) -> i64 {
        match self {
            Reply::Int(value) => *value,
            other => panic!("{other:?} is no number"),
        }
    }
}

/// Both kinds of socket.
trait Stream: Read + Write + Send {
    fn set_timeout(&self, timeout: Duration);
}

impl Stream for TcpStream {
    fn set_timeout(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).unwrap();
        self.set_nodelay(true).unwrap();
    }
}

impl Stream for UnixStream {
    fn set_timeout(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).unwrap();
    }
}

/// One connection.
pub struct Peer(BufReader<Box<dyn Stream>>);

impl Peer {
    /// To a node.
    pub fn tcp(address: &str) -> Peer {
        Peer::of(Box::new(TcpStream::connect(address).unwrap()))
    }

    /// To a redis-server.
    pub fn unix(path: &Path) -> Peer {
        Peer::of(Box::new(UnixStream::connect(path).unwrap()))
    }

    fn of(stream: Box<dyn Stream>) -> Peer {
        stream.set_timeout(Duration::from_secs(15));
        Peer(BufReader::new(stream))
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Sends a command as an array of bulk strings and reads its reply.
    pub fn call(&mut self, words: &[&[u8]]) -> Reply {
        self.send(&encoded(words)).unwrap();
        self.reply().unwrap()
    }

    /// As [`Peer::call`], for words without blanks.
    pub fn ask(&mut self, line: &str) -> Reply {
        let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        self.call(&words)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes)?;
        assert_eq!(bytes.split_off(length), b"\r\n");
        Ok(bytes)
    }

    fn many(&mut self, count: usize) -> io::Result<Vec<Reply>> {
        (0..count).map(|_| self.reply()).collect()
    }

    /// Reads one reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at(1);
        let count = || rest.parse::<usize>().unwrap();
        Ok(match (kind, rest) {
            ("+", _) => Reply::Simple(rest.to_string()),
            ("-", _) => Reply::Error(rest.to_string()),
            (":", _) => Reply::Int(rest.parse().unwrap()),
            ("$", "-1") => Reply::NilBulk,
            ("*", "-1") => Reply::NilArray,
            ("_", "") => Reply::Null,
            ("$", _) => Reply::Bulk(self.bytes(count())?),
            ("=", _) => Reply::Verbatim(self.bytes(count())?),
            ("*", _) => Reply::Array(self.many(count())?),
            (">", _) => Reply::Push(self.many(count())?),
            ("~", _) => Reply::Set(self.many(count())?),
            ("%", _) => {
                let pairs = (0..count()).map(|_| Ok((self.reply()?, self.reply()?)));
                Reply::Map(pairs.collect::<io::Result<_>>()?)
            }
            _ => Reply::Other(line),
        })
    }
}

/// A command as an array of bulk strings.
pub fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A real redis-server on a socket in a folder of its own; ended when dropped.
pub struct RealRedis {
    child: Child,
    folder: tempfile::TempDir,
}

impl RealRedis {
    pub fn start() -> RealRedis {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(folder.path().join("redis.sock"))
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed (Debian package redis-server; ./test.sh installs it)");
        let redis = RealRedis { child, folder };
        poll::wait_until("redis-server listens", Duration::from_secs(10), || UnixStream::connect(redis.socket()).ok())
            .unwrap();
        redis
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub fn connect(&self) -> Peer {
        Peer::unix(&self.socket())
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a line of `commands.txt` is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The same reply.
    Same,
    /// The same but for the order of arrays.
    Sorted,
    /// The same type of reply.
    Kind,
    /// A different one, for a reason that is given.
    Differs,
    /// Asked again until it is the number 0.
    Gone,
}

/// One line of `commands.txt`.
#[derive(Clone, Debug)]
pub struct Step {
    pub line: usize,
    pub judge: Judge,
    /// The second connection sends it.
    pub is_second: bool,
    pub words: Vec<Vec<u8>>,
    pub reason: String,
}

/// Reads the list of commands: see its head.
pub fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (judge, rest) = match line.split_at(2.min(line.len())) {
            ("~ ", rest) => (Judge::Kind, rest),
            ("s ", rest) => (Judge::Sorted, rest),
            ("@ ", rest) => (Judge::Gone, rest),
            ("! ", rest) => (Judge::Differs, rest),
            _ => (Judge::Same, line),
        };
        let (reason, rest) = match judge {
            Judge::Differs => rest.split_once(" | ").expect("a difference has a reason"),
            _ => ("", rest),
        };
        let (is_second, command) = match rest.strip_prefix("2> ") {
            Some(command) => (true, command),
            None => (false, rest),
        };
        let mut parser = phalanx::resp::protocol::parse::Parser::default();
        let command = format!("{command}\n");
        let (request, _) = parser.next(command.as_bytes(), true).unwrap().unwrap();
        let words = request.words().map(<[u8]>::to_vec).collect();
        steps.push(Step { line: n + 1, judge, is_second, words, reason: reason.to_string() });
    }
    steps
}
