//! What a process without the secret can do that stands between two nodes, or has recorded what they said: nothing but
//! end their connection.
//!
//! Not here: changes to single fields of the handshake on its way (`handshake.rs`).

use super::authentication::{ConnectionTags, Key};
use super::codec::{WireError, read_frame, read_header, read_tagged, write_frame, write_tagged};
use super::handshake::{self, HelloReply};
use super::{Frame, Hello, PROTOCOL, Purpose};
use crate::raft::Promise;
use crate::types::{Addresses, Identity, NodeId};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;
use uuid::Uuid;

const SECRET: &str = "for the phalanx and nobody else";
const FRAME_BYTES_MAX: usize = 4 << 10;

fn who(id: u64) -> Identity {
    Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) }
}

fn hello() -> Hello {
    let addresses = Addresses::default();
    Hello { protocol: PROTOCOL, cluster: None, from: who(1), addresses, opening: Vec::new(), purpose: Purpose::Peer }
}

/// What became of a connection, and the connection.
type Accepted = (Result<(Hello, ConnectionTags), WireError>, TcpStream);

/// A node that accepts one connection.
fn node(id: u64) -> (SocketAddr, JoinHandle<Accepted>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = std::thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        let accepted =
            handshake::accept(&stream, who(id), None, Some(&Key::of(SECRET)), None, |_| Some(Promise::default()));
        (accepted, stream)
    });
    (address, accepting)
}

/// Reads the bytes of one frame as they are, with the tag after it if there is one.
fn raw_frame(from: &mut TcpStream, tag_bytes: usize) -> Vec<u8> {
    let mut head = [0; 8];
    from.read_exact(&mut head).unwrap();
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let mut rest = vec![0; length + tag_bytes];
    from.read_exact(&mut rest).unwrap();
    [&head[..], &rest].concat()
}

/// Node 1 and node 2 after a handshake that a process in between has passed on word for word.
struct Relayed {
    dialer: (HelloReply, ConnectionTags, TcpStream),
    acceptor: (ConnectionTags, TcpStream),
    /// Its two sockets.
    near: TcpStream,
    far: TcpStream,
    /// What the dialer has said: its hello, and its proof.
    said: Vec<Vec<u8>>,
}

fn relayed() -> Relayed {
    let (address, accepting) = node(2);
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = relay.local_addr().unwrap();
    let dialing = std::thread::spawn(move || {
        let stream = TcpStream::connect(at).unwrap();
        let (reply, tags) = handshake::dial(&stream, hello(), Some(who(2)), Some(&Key::of(SECRET))).unwrap();
        (reply, tags, stream)
    });
    let (mut near, mut far) = (relay.accept().unwrap().0, TcpStream::connect(address).unwrap());
    let mut said = Vec::new();
    for is_dialers in [false, true, false, true, false] {
        // The welcome, which is last, has a tag.
        let tag_bytes = if said.len() == 2 { 16 } else { 0 };
        let frame = if is_dialers { raw_frame(&mut near, 0) } else { raw_frame(&mut far, tag_bytes) };
        if is_dialers { far.write_all(&frame) } else { near.write_all(&frame) }.unwrap();
        said.extend(is_dialers.then_some(frame));
    }
    let (accepted, stream) = accepting.join().unwrap();
    Relayed { dialer: dialing.join().unwrap(), acceptor: (accepted.unwrap().1, stream), near, far, said }
}

fn heard(from: &TcpStream, tags: &mut ConnectionTags) -> Result<Frame, WireError> {
    from.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut from = from;
    read_tagged(&mut from, FRAME_BYTES_MAX, &mut tags.incoming)
}

fn word(why: &str) -> Frame {
    Frame::Reject { why: why.into() }
}

#[test]
fn a_relayed_handshake_makes_no_member() {
    // Frames of its own: without a tag, with a wrong one, or with what the dialer has said already.
    type Forgery = fn(&Relayed) -> Vec<u8>;
    let forgeries: [Forgery; 3] = [
        |_| super::codec::encode(&word("I am node 1")).unwrap(),
        |_| [super::codec::encode(&word("I am node 1")).unwrap(), vec![0; 16]].concat(),
        |relayed| [&relayed.said[1][..], &[0; 16]].concat(),
    ];
    for forgery in forgeries {
        let mut relayed = relayed();
        assert_eq!(relayed.dialer.0.who, who(2));
        let bytes = forgery(&relayed);
        relayed.far.write_all(&bytes).unwrap();
        relayed.far.shutdown(std::net::Shutdown::Write).unwrap();
        let (tags, stream) = (&mut relayed.acceptor.0, &relayed.acceptor.1);
        assert!(heard(stream, tags).is_err(), "a frame of a process without the secret");
    }
    // A frame of the dialer, held back and sent twice, and one that is played back to its sender.
    let mut relayed = relayed();
    let mut out = Vec::new();
    write_tagged(&mut out, &word("once"), &mut relayed.dialer.1.outgoing).unwrap();
    relayed.far.write_all(&[&out[..], &out].concat()).unwrap();
    relayed.near.write_all(&out).unwrap();
    assert_eq!(heard(&relayed.acceptor.1, &mut relayed.acceptor.0).unwrap(), word("once"));
    assert!(heard(&relayed.acceptor.1, &mut relayed.acceptor.0).is_err(), "once more");
    assert!(heard(&relayed.dialer.2, &mut relayed.dialer.1).is_err(), "one's own words");
}

#[test]
fn a_recorded_handshake_opens_no_other_connection() {
    let said = relayed().said;
    // With another node, and with the same one: the challenge is another.
    for id in [3, 2] {
        let (address, accepting) = node(id);
        let mut stream = TcpStream::connect(address).unwrap();
        for frame in &said {
            stream.write_all(frame).unwrap();
        }
        let (accepted, _) = accepting.join().unwrap();
        assert!(matches!(accepted, Err(WireError::Rejected(why)) if why.contains("cluster_secret")), "node {id}");
    }
}

#[test]
fn a_proof_for_one_node_is_none_for_another() {
    // A process that node 1 calls by mistake passes its words on to node 3.
    let (address, accepting) = node(3);
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = relay.local_addr().unwrap();
    let dialing = std::thread::spawn(move || {
        let stream = TcpStream::connect(at).unwrap();
        handshake::dial(&stream, hello(), Some(who(2)), Some(&Key::of(SECRET))).map(|(reply, _)| reply)
    });
    let (mut near, mut far) = (relay.accept().unwrap().0, TcpStream::connect(address).unwrap());
    for is_dialers in [false, true, false] {
        let (from, to) = if is_dialers { (&mut near, &mut far) } else { (&mut far, &mut near) };
        to.write_all(&raw_frame(from, 0)).unwrap();
    }
    assert!(matches!(dialing.join().unwrap(), Err(WireError::Other { who: other, .. }) if other == who(3)));
    // Instead of a proof the connection ends.
    assert!(read_header(&mut near, FRAME_BYTES_MAX).is_err());
    drop((near, far));
    assert!(accepting.join().unwrap().0.is_err());
}

#[test]
fn every_connection_and_each_direction_of_it_has_keys_of_its_own() {
    let (one, two) = (relayed(), relayed());
    let frame = |mut tags: ConnectionTags| {
        let mut out = Vec::new();
        write_tagged(&mut out, &word("the same words"), &mut tags.outgoing).unwrap();
        out
    };
    // The first frame of each, after the welcome that the acceptors have sent.
    let out = frame(one.dialer.1.clone());
    let read = |tags: &ConnectionTags| read_tagged(&mut out.as_slice(), FRAME_BYTES_MAX, &mut tags.incoming.clone());
    assert_eq!(read(&one.acceptor.0).unwrap(), word("the same words"));
    assert!(read(&two.acceptor.0).is_err(), "another connection of the same two nodes");
    assert!(read(&one.dialer.1).is_err() && read(&two.dialer.1).is_err(), "the other direction");
}

#[test]
fn no_proof_is_sent_before_a_hello() {
    let (address, accepting) = node(2);
    let mut stream = TcpStream::connect(address).unwrap();
    assert!(matches!(read_frame(&mut stream, FRAME_BYTES_MAX).unwrap(), Frame::Challenge { .. }));
    write_frame(&mut stream, &Frame::DialerProof { proof: [0; 32] }).unwrap();
    let (accepted, accepting) = accepting.join().unwrap();
    assert!(accepted.is_err());
    // It closes the connection without a word.
    drop(accepting);
    assert!(read_frame(&mut stream, FRAME_BYTES_MAX).is_err());
}
