//! The protocols of the load's clients: the trait, and the Redis protocol.
//!
//! A dialect belongs to one connection. It reads replies in place and does not copy them.
//! Not here: sockets and time measurement (`load.rs`), protocols of other stores (`etcd_zookeeper.rs`).

use std::io::Write;

/// One connection's protocol.
pub trait Dialect {
    /// The first bytes on a new connection, and the number of replies to them.
    fn hello(&mut self) -> (Vec<u8>, usize);
    /// Appends one command.
    fn write_command(&mut self, key: u64, out: &mut Vec<u8>);
    /// Appends what ends a batch; returns the number of replies to it, after those of the commands.
    fn close_run(&mut self, _out: &mut Vec<u8>) -> usize {
        0
    }
    /// Parses the first complete message in `input`: its length and its meaning; `None` if more bytes are needed. What
    /// must be sent immediately goes to `out`.
    ///
    /// # Errors
    /// The server violates the protocol.
    fn read_reply(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, ServerReply)>, String>;
}

/// The meaning of a message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerReply {
    /// A command succeeded.
    Fine,
    /// A command failed.
    Refused(String),
    /// Not a reply to a command.
    Aside,
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Write a key.
    Set,
    /// Read a key.
    Get,
}

/// Name of a key, the same for every store.
pub fn key_name(key: u64) -> String {
    format!("key:{key:012}")
}

/// The Redis protocol, version 2.
#[derive(Debug)]
pub struct Redis {
    verb: CommandKind,
    value: Vec<u8>,
    is_eventual: bool,
    /// Replicas that each batch waits for.
    wait: Option<u32>,
    /// Commands of this batch whose replies are due; the reply to `WAIT` comes after them.
    due: usize,
    password: Option<String>,
}

impl Redis {
    /// `is_eventual` asks Phalanx for its eventual mode; `wait` sends `WAIT n 0` after each run, for Redis itself.
    pub fn new(verb: CommandKind, value: Vec<u8>, is_eventual: bool, wait: Option<u32>) -> Redis {
        Redis { verb, value, is_eventual, wait, due: 0, password: None }
    }

    /// Authenticates first.
    pub fn with_password(mut self, password: Option<&str>) -> Redis {
        self.password = password.map(str::to_string);
        self
    }
}

impl Dialect for Redis {
    fn hello(&mut self) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        if let Some(password) = &self.password {
            out.extend(format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len()).into_bytes());
        }
        if self.is_eventual {
            out.extend_from_slice(b"*2\r\n$11\r\nCONSISTENCY\r\n$8\r\neventual\r\n");
        }
        (out, usize::from(self.password.is_some()) + usize::from(self.is_eventual))
    }

    fn write_command(&mut self, key: u64, out: &mut Vec<u8>) {
        self.due += 1;
        let key = key_name(key);
        let written = match self.verb {
            CommandKind::Set => {
                let head = format_args!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), self.value.len());
                out.write_fmt(head).and_then(|()| out.write_all(&self.value)).and_then(|()| out.write_all(b"\r\n"))
            }
            CommandKind::Get => write!(out, "*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()),
        };
        written.expect("a Vec takes every write");
    }

    fn close_run(&mut self, out: &mut Vec<u8>) -> usize {
        let Some(wait) = self.wait else { return 0 };
        let wait = wait.to_string();
        write!(out, "*3\r\n$4\r\nWAIT\r\n${}\r\n{wait}\r\n$1\r\n0\r\n", wait.len()).expect("a Vec takes every write");
        1
    }

    fn read_reply(&mut self, input: &[u8], _out: &mut Vec<u8>) -> Result<Option<(usize, ServerReply)>, String> {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = String::from_utf8_lossy(&input[1..end]);
        let line = line.trim_end();
        let number = || line.parse::<i64>().map_err(|_| format!("no number in {line:?}"));
        let heard = match input[0] {
            b'+' => ServerReply::Fine,
            b'-' => ServerReply::Refused(line.to_string()),
            b':' => match self.wait {
                Some(wait) if self.due == 0 && number()? < i64::from(wait) => {
                    ServerReply::Refused(format!("only {line} of {wait} replicas have it"))
                }
                _ => ServerReply::Fine,
            },
            b'$' => match usize::try_from(number()?) {
                Err(_) => ServerReply::Refused("no such key".to_string()),
                Ok(length) if input.len() < end + 1 + length + 2 => return Ok(None),
                Ok(length) => {
                    self.due = self.due.saturating_sub(1);
                    return Ok(Some((end + 1 + length + 2, ServerReply::Fine)));
                }
            },
            b'_' => ServerReply::Refused("no such key".to_string()),
            other => return Err(format!("a reply begins with {:?}", char::from(other))),
        };
        self.due = self.due.saturating_sub(1);
        Ok(Some((end + 1, heard)))
    }
}

#[cfg(test)]
mod tests {
    use crate::bench::protocols::*;

    #[test]
    fn a_password_comes_before_everything_else() {
        let mut redis = Redis::new(CommandKind::Get, Vec::new(), true, None).with_password(Some("open sesame"));
        let (bytes, replies) = redis.hello();
        assert_eq!(replies, 2);
        assert!(bytes.starts_with(b"*2\r\n$4\r\nAUTH\r\n$11\r\nopen sesame\r\n*2\r\n$11\r\nCONSISTENCY"));
        assert_eq!(Redis::new(CommandKind::Get, Vec::new(), false, None).with_password(None).hello(), (Vec::new(), 0));
    }

    #[test]
    fn replies_are_cut_at_every_byte() {
        let mut redis = Redis::new(CommandKind::Get, Vec::new(), false, None);
        let whole = b"$5\r\nhe\nlo\r\n+OK\r\n-ERR no\r\n$-1\r\n:7\r\n";
        let mut heard = Vec::new();
        let mut at = 0;
        for end in 0..=whole.len() {
            while at < end
                && let Some((used, what)) = redis.read_reply(&whole[at..end], &mut Vec::new()).unwrap()
            {
                at += used;
                heard.push((end, what));
            }
        }
        let no_key = ServerReply::Refused("no such key".to_string());
        let expected = [
            (11, ServerReply::Fine),
            (16, ServerReply::Fine),
            (25, ServerReply::Refused("ERR no".to_string())),
            (30, no_key),
            (34, ServerReply::Fine),
        ];
        assert_eq!(heard, expected);
        assert!(redis.read_reply(b"HTTP/1.1 400\r\n", &mut Vec::new()).is_err());
    }

    #[test]
    fn too_few_replicas_are_an_error() {
        let mut redis = Redis::new(CommandKind::Set, b"v".to_vec(), false, Some(1));
        let mut out = Vec::new();
        redis.write_command(7, &mut out);
        assert_eq!(redis.close_run(&mut out), 1);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.ends_with("$16\r\nkey:000000000007\r\n$1\r\nv\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n"),
            "{text}"
        );
        let mut read_reply = |bytes: &[u8]| redis.read_reply(bytes, &mut Vec::new()).unwrap().unwrap().1;
        assert_eq!(read_reply(b"+OK\r\n"), ServerReply::Fine);
        assert_eq!(read_reply(b":0\r\n"), ServerReply::Refused("only 0 of 1 replicas have it".to_string()));
    }
}
