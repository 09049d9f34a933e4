//! The parts of the protocols of etcd and ZooKeeper that a load needs, so that the same clients drive them and Phalanx.
//!
//! etcd: gRPC on HTTP/2 with one stream per command (RFC 9113, RFC 7541), as its own clients use; its JSON gateway
//! would add a hop. The header block of a request is constant and uses no dynamic table. Headers of answers are not
//! decoded: a stream that brought data before it ended succeeded, one that did not was refused. ZooKeeper: jute, its
//! own format. Both accept commands before they have answered earlier ones.
//! Not here: sockets and time measurement (`load.rs`).

use super::protocols::{CommandKind, Dialect, ServerReply, key_name};
use std::collections::BTreeSet;

const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// Bytes of answers after which a WINDOW_UPDATE is sent.
const WINDOW: u32 = 1 << 20;

/// etcd's gRPC: `Put` and linearizable `Range`.
#[derive(Debug)]
pub struct Etcd {
    headers: Vec<u8>,
    verb: CommandKind,
    value: Vec<u8>,
    next_stream: u32,
    is_greeted: bool,
    /// Streams that have received data.
    answered: BTreeSet<u32>,
    /// Bytes read since the last WINDOW_UPDATE.
    read: u32,
}

impl Etcd {
    /// A connection that writes or reads.
    pub fn new(verb: CommandKind, value: Vec<u8>) -> Etcd {
        let path: &[u8] = if verb == CommandKind::Get { b"/etcdserverpb.KV/Range" } else { b"/etcdserverpb.KV/Put" };
        // Indexes of HPACK's static table: `:method: POST`, `:scheme: http`, then the names `:path`, `:authority` and
        // `content-type`; `te` is a literal.
        let mut headers = vec![0x83, 0x86];
        let mut literal = |name: &[u8], value: &[u8]| {
            headers.extend_from_slice(name);
            headers.push(value.len() as u8);
            headers.extend_from_slice(value);
        };
        literal(&[0x04], path);
        literal(&[0x01], b"127.0.0.1");
        literal(&[0x0f, 0x10], b"application/grpc");
        literal(b"\x00\x02te", b"trailers");
        Etcd { headers, verb, value, next_stream: 1, is_greeted: false, answered: BTreeSet::new(), read: 0 }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A protobuf field of bytes: its tag, its length as a varint, its bytes.
fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    let mut length = bytes.len();
    while length > 0x7f {
        out.push(length as u8 & 0x7f | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

impl Dialect for Etcd {
    fn hello(&mut self) -> (Vec<u8>, usize) {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // No pushes; large windows, so that answers are never held back.
        frame(&mut out, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0x3f, 0xff, 0xff, 0xff]);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
        (out, 1)
    }

    fn write_command(&mut self, key: u64, out: &mut Vec<u8>) {
        let mut message = vec![0; 5];
        field(&mut message, 0x0a, key_name(key).as_bytes());
        if self.verb != CommandKind::Get {
            field(&mut message, 0x12, &self.value);
        }
        let length = (message.len() - 5) as u32;
        message[1..5].copy_from_slice(&length.to_be_bytes());
        frame(out, HEADERS, END_HEADERS, self.next_stream, &self.headers);
        frame(out, DATA, END_STREAM, self.next_stream, &message);
        self.next_stream += 2;
    }

    fn read_reply(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, ServerReply)>, String> {
        let Some((head, rest)) = input.split_at_checked(FRAME_HEAD) else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let refused = || ServerReply::Refused("the server refused a call".to_string());
        let heard = match kind {
            SETTINGS if flags & ACK == 0 => {
                frame(out, SETTINGS, ACK, 0, &[]);
                if std::mem::replace(&mut self.is_greeted, true) { ServerReply::Aside } else { ServerReply::Fine }
            }
            PING if flags & ACK == 0 => {
                frame(out, PING, ACK, 0, payload);
                ServerReply::Aside
            }
            DATA => {
                self.read += length as u32;
                if self.read >= WINDOW {
                    frame(out, WINDOW_UPDATE, 0, 0, &std::mem::take(&mut self.read).to_be_bytes());
                }
                if length > 0 {
                    self.answered.insert(stream);
                }
                ServerReply::Aside
            }
            HEADERS if flags & END_STREAM != 0 => {
                if self.answered.remove(&stream) {
                    ServerReply::Fine
                } else {
                    refused()
                }
            }
            RST_STREAM => {
                self.answered.remove(&stream);
                refused()
            }
            GOAWAY => return Err("the server closes the connection (GOAWAY)".to_string()),
            _ => ServerReply::Aside,
        };
        Ok(Some((FRAME_HEAD + length, heard)))
    }
}

/// What a ZooKeeper connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// `create`; a node that exists is fine.
    Create,
    /// `setData`.
    Write,
    /// `getData`: from the connected server's copy.
    Read,
}

/// ZooKeeper's jute: one session per connection.
#[derive(Debug)]
pub struct ZooKeeper {
    task: Task,
    value: Vec<u8>,
    next_xid: i32,
    is_greeted: bool,
}

impl ZooKeeper {
    /// A connection that does one thing.
    pub fn new(task: Task, value: Vec<u8>) -> ZooKeeper {
        ZooKeeper { task, value, next_xid: 1, is_greeted: false }
    }
}

/// The node already exists.
const NODE_EXISTS: i32 = -110;

fn buffer(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn jute_frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

impl Dialect for ZooKeeper {
    fn hello(&mut self) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        jute_frame(&mut out, |out| {
            // Version and last zxid seen; session timeout in milliseconds; id and password of a new session; not read-only.
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&30_000u32.to_be_bytes());
            out.extend_from_slice(&[0; 8]);
            buffer(out, &[0; 16]);
            out.push(0);
        });
        (out, 1)
    }

    fn write_command(&mut self, key: u64, out: &mut Vec<u8>) {
        let path = format!("/{}", key_name(key));
        let (xid, task, value) = (self.next_xid, self.task, &self.value);
        self.next_xid += 1;
        jute_frame(out, |out| {
            let kind: i32 = match task {
                Task::Create => 1,
                Task::Read => 4,
                Task::Write => 5,
            };
            out.extend_from_slice(&xid.to_be_bytes());
            out.extend_from_slice(&kind.to_be_bytes());
            buffer(out, path.as_bytes());
            match task {
                // Without a watch.
                Task::Read => out.push(0),
                Task::Write => {
                    buffer(out, value);
                    // Any version.
                    out.extend_from_slice(&(-1i32).to_be_bytes());
                }
                Task::Create => {
                    buffer(out, value);
                    // An ACL of one entry that allows everything to everyone; then the flags of a persistent node.
                    out.extend_from_slice(&1u32.to_be_bytes());
                    out.extend_from_slice(&31u32.to_be_bytes());
                    buffer(out, b"world");
                    buffer(out, b"anyone");
                    out.extend_from_slice(&[0; 4]);
                }
            }
        });
    }

    fn read_reply(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<Option<(usize, ServerReply)>, String> {
        let Some((head, rest)) = input.split_at_checked(4) else { return Ok(None) };
        let length = u32::from_be_bytes(head.try_into().expect("four bytes")) as usize;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let used = 4 + length;
        if !std::mem::replace(&mut self.is_greeted, true) {
            return Ok(Some((used, ServerReply::Fine)));
        }
        let number = |at: usize| body.get(at..at + 4).map(|bytes| i32::from_be_bytes(bytes.try_into().expect("four")));
        let (Some(xid), Some(error)) = (number(0), number(12)) else {
            return Err("a reply without a head".to_string());
        };
        let heard = match error {
            _ if xid < 0 => ServerReply::Aside,
            0 => ServerReply::Fine,
            NODE_EXISTS if self.task == Task::Create => ServerReply::Fine,
            error => ServerReply::Refused(format!("ZooKeeper's error {error}")),
        };
        Ok(Some((used, heard)))
    }
}

#[cfg(test)]
mod tests {
    use crate::bench::etcd_zookeeper::*;

    /// Everything that is heard in `input`, cut at every byte.
    fn read_replies(dialect: &mut dyn Dialect, input: &[u8], out: &mut Vec<u8>) -> Vec<ServerReply> {
        let (mut heard, mut at) = (Vec::new(), 0);
        for end in 0..=input.len() {
            while let Some((used, what)) = dialect.read_reply(&input[at..end], out).unwrap() {
                at += used;
                heard.push(what);
            }
        }
        assert_eq!(at, input.len());
        heard
    }

    #[test]
    fn a_grpc_call_is_answered_by_data_and_refused_without() {
        let mut etcd = Etcd::new(CommandKind::Set, b"v".to_vec());
        let (hello, replies) = etcd.hello();
        assert!(hello.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") && replies == 1);
        let mut said = Vec::new();
        etcd.write_command(7, &mut said);
        etcd.write_command(8, &mut said);
        assert!(said.ends_with(b"\x00\x00\x00\x00\x15\x0a\x10key:000000000008\x12\x01v"), "{said:?}");
        let mut input = Vec::new();
        frame(&mut input, SETTINGS, 0, 0, &[]);
        frame(&mut input, SETTINGS, ACK, 0, &[]);
        frame(&mut input, PING, 0, 0, b"12345678");
        for (kind, flags, stream) in [(HEADERS, 4, 3), (HEADERS, 4, 1), (DATA, 0, 1), (HEADERS, 5, 3), (HEADERS, 5, 1)]
        {
            frame(&mut input, kind, flags, stream, b"xyz");
        }
        let mut out = Vec::new();
        let heard = read_replies(&mut etcd, &input, &mut out);
        let replies: Vec<_> = heard.iter().filter(|heard| **heard != ServerReply::Aside).collect();
        assert_eq!(
            replies,
            [&ServerReply::Fine, &ServerReply::Refused("the server refused a call".into()), &ServerReply::Fine]
        );
        let mut expected = Vec::new();
        frame(&mut expected, SETTINGS, ACK, 0, &[]);
        frame(&mut expected, PING, ACK, 0, b"12345678");
        assert_eq!(out, expected);
        let mut goodbye = Vec::new();
        frame(&mut goodbye, GOAWAY, 0, 0, &[]);
        assert!(etcd.read_reply(&goodbye, &mut out).is_err());
    }

    #[test]
    fn jute_replies_carry_an_error_number() {
        let mut zookeeper = ZooKeeper::new(Task::Write, b"v".to_vec());
        let mut said = Vec::new();
        zookeeper.write_command(7, &mut said);
        let expected =
            [&[0, 0, 0, 38, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 17][..], b"/key:000000000007\x00\x00\x00\x01v", &[255; 4]];
        assert_eq!(said, expected.concat());
        let reply = |xid: i32, error: i32| {
            let mut out = Vec::new();
            jute_frame(&mut out, |out| {
                out.extend_from_slice(&xid.to_be_bytes());
                out.extend_from_slice(&[0; 8]);
                out.extend_from_slice(&error.to_be_bytes());
            });
            out
        };
        let input = [reply(0, 0), reply(1, 0), reply(-1, 0), reply(2, -101)].concat();
        let heard = read_replies(&mut zookeeper, &input, &mut Vec::new());
        let refused = ServerReply::Refused("ZooKeeper's error -101".to_string());
        assert_eq!(heard, [ServerReply::Fine, ServerReply::Fine, ServerReply::Aside, refused]);
    }
}
