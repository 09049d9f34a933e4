//! The handshake of every connection on the peer port: the dialer's identity and purpose, the acceptor's identity, and
//! the proof that both know the cluster secret.
//!
//! The secret itself never crosses the wire. The acceptor proves it first, over a nonce of the dialer: a process that
//! has taken the port of a node that is down learns nothing and is not trusted. Then the dialer proves it, and only
//! then does the acceptor send what it remembers of the dialer. The proof covers all bytes of the handshake, and every
//! later frame has a tag (`authentication.rs`), so that no third party can take over the connection.
//!
//! The whole handshake has one deadline, regardless of the pace of its bytes, and until it is over a frame
//! may hold 4 KiB at most. A dialer with another cluster, protocol or secret is rejected with a reason of one sentence.
//! Not here: what follows (`node/peer/acceptor.rs`).

use super::authentication::{ConnectionTags, Key, Side, Transcript};
use super::codec::{WireError, read_frame, read_tagged, write_frame, write_tagged};
use super::datagram::ConnectionId;
use super::{Frame, Hello, Mismatch, PROTOCOL, Purpose};
use crate::limits::HANDSHAKE_DEADLINE;
use crate::raft::Promise;
use crate::types::Identity;
use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Frames before the handshake is over.
const EARLY_FRAME_BYTES_MAX: usize = 4 << 10;

/// Older versions read a [`Frame::Reject`] and no [`Frame::Differs`].
const DIFFERS_SINCE: u32 = 16;

/// A stream whose reads share one deadline.
pub struct DeadlineReader<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> DeadlineReader<'a> {
    /// Reads from `stream` until `deadline` at the latest.
    pub fn new(stream: &'a TcpStream, deadline: Instant) -> DeadlineReader<'a> {
        DeadlineReader { stream, deadline }
    }
}

impl Read for DeadlineReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut stream = self.stream;
        stream.read(buf)
    }
}

/// How an acceptor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    pub who: Identity,
    pub cluster: Option<Uuid>,
    /// What it remembers of the dialer's promises.
    pub remembered: Promise,
    /// The connection's name in datagrams; `None`: it takes none.
    pub datagrams: Option<ConnectionId>,
}

/// The dialer's side: returns the identity of the acceptor, and the tags of later frames. `intended`: the expected
/// identity, if it is known.
///
/// # Errors
/// When the acceptor declines, does not prove the secret, or is not the intended one. A rejection before its proof is
/// [`WireError::Unproved`] or [`WireError::Differs`].
pub fn dial(
    stream: &TcpStream,
    hello: Hello,
    intended: Option<Identity>,
    key: Option<&Key>,
) -> Result<(HelloReply, ConnectionTags), WireError> {
    let deadline = Instant::now() + HANDSHAKE_DEADLINE;
    stream.set_write_timeout(Some(HANDSHAKE_DEADLINE))?;
    let mut from = DeadlineReader::new(stream, deadline);
    let early = |why| if key.is_some() { WireError::Unproved(why) } else { WireError::Rejected(why) };
    let nonce = match read_frame(&mut from, EARLY_FRAME_BYTES_MAX)? {
        Frame::Challenge { nonce } => nonce,
        Frame::Reject { why } => return Err(early(why)),
        _ => return Err(WireError::Unexpected("frame before the challenge")),
    };
    let hello = Hello { protocol: PROTOCOL, opening: key.map(|_| opening(intended)).unwrap_or_default(), ..hello };
    let mut to = stream;
    write_frame(&mut to, &Frame::Hello(hello.clone()))?;
    let mut tags = ConnectionTags::default();
    let mut proved = None;
    if let Some(key) = key {
        let (who, cluster, proof) = match read_frame(&mut from, EARLY_FRAME_BYTES_MAX)? {
            Frame::AcceptorProof { who, cluster, proof } => (who, cluster, proof),
            Frame::Reject { why } => return Err(early(why)),
            Frame::Differs { what, cluster } => return Err(WireError::Differs { what, cluster }),
            _ => return Err(WireError::Unexpected("frame before the acceptor's proof")),
        };
        let secrets = Transcript { nonce, hello: &hello, who, cluster }.secrets(key);
        if !secrets.is_proof(Side::Acceptor, &proof) {
            write_frame(&mut to, &Frame::Reject { why: Mismatch::Secret.to_string() })?;
            return Err(WireError::Differs { what: Mismatch::Secret, cluster });
        }
        is_intended(intended, who, cluster)?;
        write_frame(&mut to, &Frame::DialerProof { proof: secrets.proof(Side::Dialer) })?;
        tags = secrets.tags(Side::Dialer);
        proved = Some((who, cluster));
    }
    match read_tagged(&mut from, EARLY_FRAME_BYTES_MAX, &mut tags.incoming)? {
        Frame::Welcome { who, cluster, .. } if proved.is_some_and(|proved| proved != (who, cluster)) => {
            Err(WireError::Unexpected("change of the acceptor's name"))
        }
        Frame::Welcome { who, cluster, remembered, datagrams } => {
            is_intended(intended, who, cluster)?;
            Ok((HelloReply { who, cluster, remembered, datagrams }, tags))
        }
        Frame::Reject { why } => Err(WireError::Rejected(why)),
        Frame::Differs { what, cluster } => Err(WireError::Differs { what, cluster }),
        _ => Err(WireError::Unexpected("frame before the welcome")),
    }
}

/// The dialer's part of what is proved.
fn opening(intended: Option<Identity>) -> Vec<u8> {
    // Two of them have more than 128 random bits.
    let nonce = [*Uuid::new_v4().as_bytes(), *Uuid::new_v4().as_bytes()];
    postcard::to_stdvec(&(nonce, intended)).expect("encoding into memory cannot fail")
}

fn is_intended(intended: Option<Identity>, who: Identity, cluster: Option<Uuid>) -> Result<(), WireError> {
    if intended.is_some_and(|it| it != who) { Err(WireError::Other { who, cluster }) } else { Ok(()) }
}

/// Tells the other side why not; the error says the same here.
fn reject<T>(mut to: &TcpStream, tags: &mut ConnectionTags, why: String) -> Result<T, WireError> {
    write_tagged(&mut to, &Frame::Reject { why: why.clone() }, &mut tags.outgoing)?;
    Err(WireError::Rejected(why))
}

/// The acceptor's side: returns the hello of a dialer that was welcomed, and the tags of later frames; otherwise the
/// dialer was sent the reason. `remember` returns what this node remembers of the dialer; `None`: close the connection
/// without an answer, and the dialer tries again. `datagrams`: the name of a peer connection in datagrams.
///
/// # Errors
/// When the dialer is declined, declines itself, or does not complete the handshake in time.
pub fn accept(
    stream: &TcpStream,
    me: Identity,
    cluster: Option<Uuid>,
    key: Option<&Key>,
    datagrams: Option<ConnectionId>,
    remember: impl Fn(&Hello) -> Option<Promise>,
) -> Result<(Hello, ConnectionTags), WireError> {
    let deadline = Instant::now() + HANDSHAKE_DEADLINE;
    stream.set_write_timeout(Some(HANDSHAKE_DEADLINE))?;
    let nonce = *Uuid::new_v4().as_bytes();
    let mut to = stream;
    write_frame(&mut to, &Frame::Challenge { nonce })?;
    let mut from = DeadlineReader::new(stream, deadline);
    let hello = match read_frame(&mut from, EARLY_FRAME_BYTES_MAX)? {
        Frame::Hello(hello) => hello,
        _ => return Err(WireError::Unexpected("frame before the hello")),
    };
    let mut tags = ConnectionTags::default();
    if hello.protocol != PROTOCOL {
        let why = Mismatch::Protocol(hello.protocol).to_string();
        if hello.protocol < DIFFERS_SINCE {
            return reject(stream, &mut tags, why);
        }
        write_frame(&mut to, &Frame::Differs { what: Mismatch::Protocol(PROTOCOL), cluster })?;
        return Err(WireError::Rejected(why));
    }
    if hello.opening.is_empty() != key.is_none() {
        write_frame(&mut to, &Frame::Differs { what: Mismatch::Secret, cluster })?;
        return Err(WireError::Rejected(Mismatch::Secret.to_string()));
    }
    if let Some(key) = key {
        let secrets = Transcript { nonce, hello: &hello, who: me, cluster }.secrets(key);
        write_frame(&mut to, &Frame::AcceptorProof { who: me, cluster, proof: secrets.proof(Side::Acceptor) })?;
        match read_frame(&mut from, EARLY_FRAME_BYTES_MAX)? {
            Frame::DialerProof { proof } if secrets.is_proof(Side::Dialer, &proof) => {}
            Frame::DialerProof { .. } => return reject(stream, &mut tags, Mismatch::Secret.to_string()),
            Frame::Reject { why } => return Err(WireError::Rejected(why)),
            _ => return Err(WireError::Unexpected("frame before the dialer's proof")),
        }
        tags = secrets.tags(Side::Acceptor);
    }
    if let (Some(ours), Some(theirs)) = (cluster, hello.cluster)
        && ours != theirs
    {
        return reject(stream, &mut tags, format!("this is cluster {ours}, not {theirs}"));
    }
    let Some(remembered) = remember(&hello) else { return Err(WireError::Unexpected("purpose")) };
    let datagrams = datagrams.filter(|_| hello.purpose == Purpose::Peer);
    write_tagged(&mut to, &Frame::Welcome { who: me, cluster, remembered, datagrams }, &mut tags.outgoing)?;
    Ok((hello, tags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Addresses, NodeId, Term};
    use std::net::TcpListener;

    type Dialed = Result<(HelloReply, ConnectionTags), WireError>;
    type Accepted = Result<(Hello, ConnectionTags), WireError>;

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(id as u128) }
    }

    fn remember(hello: &Hello) -> Option<Promise> {
        (hello.purpose == Purpose::Ask).then_some(Promise { term: Term(hello.from.id.0), ..Promise::default() })
    }

    fn hello(cluster: Option<Uuid>) -> Hello {
        let (addresses, purpose) = (Addresses::default(), Purpose::Ask);
        Hello { protocol: PROTOCOL, cluster, from: who(1), addresses, opening: Vec::new(), purpose }
    }

    /// Listens for one handshake as node 2; returns where, and what became of it.
    fn listen(
        cluster: Option<Uuid>,
        secret: Option<&'static str>,
    ) -> (std::net::SocketAddr, std::thread::JoinHandle<(Accepted, TcpStream)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let accepted = accept(&stream, who(2), cluster, secret.map(Key::of).as_ref(), None, remember);
            (accepted, stream)
        });
        (address, accepting)
    }

    fn shake(
        dialer: (Option<Uuid>, Option<&'static str>),
        acceptor: (Option<Uuid>, Option<&'static str>),
    ) -> (Dialed, Accepted) {
        let (address, accepting) = listen(acceptor.0, acceptor.1);
        let stream = TcpStream::connect(address).unwrap();
        let dialed = dial(&stream, hello(dialer.0), None, dialer.1.map(Key::of).as_ref());
        (dialed, accepting.join().unwrap().0)
    }

    #[test]
    fn equal_secrets_and_clusters_agree() {
        let cluster = Some(Uuid::from_u128(5));
        for secret in [None, Some("s")] {
            let (dialed, accepted) = shake((cluster, secret), (cluster, secret));
            let remembered = Promise { term: Term(1), ..Promise::default() };
            let ((welcomed, mut ours), (hello, mut theirs)) = (dialed.unwrap(), accepted.unwrap());
            let expected = HelloReply { who: who(2), cluster, remembered, datagrams: None };
            assert_eq!((welcomed, hello.from), (expected, who(1)));
            let frame = Frame::Reject { why: "to and fro".into() };
            for (tags, other) in
                [(&mut ours.outgoing, &mut theirs.incoming), (&mut theirs.outgoing, &mut ours.incoming)]
            {
                let mut bytes = Vec::new();
                write_tagged(&mut bytes, &frame, tags).unwrap();
                assert_eq!(read_tagged(&mut bytes.as_slice(), 1 << 10, other).unwrap(), frame);
                assert_eq!(read_tagged(&mut bytes.as_slice(), 1 << 10, other).is_err(), secret.is_some(), "once more");
            }
        }
    }

    #[test]
    fn a_wrong_or_missing_secret_is_refused() {
        let there = Some(Uuid::from_u128(7));
        for (ours, theirs) in [(Some("a"), Some("b")), (None, Some("b")), (Some("a"), None)] {
            let (dialed, accepted) = shake((None, ours), (there, theirs));
            let (dialed, accepted) = (dialed.map(|_| ()).unwrap_err(), accepted.map(|_| ()).unwrap_err());
            assert!(matches!(&accepted, WireError::Rejected(why) if why.contains("cluster_secret")), "{accepted}");
            assert!(matches!(&dialed, WireError::Differs { what: Mismatch::Secret, cluster } if *cluster == there));
        }
    }

    #[test]
    fn another_cluster_is_refused_and_a_new_node_is_not() {
        let (one, two) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
        for secret in [None, Some("s")] {
            let (dialed, _) = shake((one, secret), (two, secret));
            assert!(matches!(dialed, Err(WireError::Rejected(why)) if why.contains("not")));
            assert!(shake((None, secret), (two, secret)).0.is_ok());
        }
    }

    /// What came of a relay between two nodes that know the secret. `change` may replace frames, those of the dialer by
    /// its first argument being true.
    fn relayed(
        intended: Option<Identity>,
        change: impl Fn(bool, Frame) -> Frame + Send + 'static,
    ) -> (Dialed, Accepted) {
        let cluster = Some(Uuid::from_u128(5));
        let (address, accepting) = listen(cluster, Some("s"));
        let relay = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(relay.local_addr().unwrap()).unwrap();
        let relaying = std::thread::spawn(move || {
            let (near, far) = (relay.accept().unwrap().0, TcpStream::connect(address).unwrap());
            for is_dialers in [false, true, false, true] {
                let (mut from, mut to) = if is_dialers { (&near, &far) } else { (&far, &near) };
                let Ok(frame) = read_frame(&mut from, EARLY_FRAME_BYTES_MAX) else { return };
                let _ = write_frame(&mut to, &change(is_dialers, frame));
            }
            let _ = io::copy(&mut &far, &mut &near);
        });
        let dialed = dial(&near, hello(cluster), intended, Some(&Key::of("s")));
        drop(near);
        let accepted = accepting.join().unwrap().0;
        relaying.join().unwrap();
        (dialed, accepted)
    }

    #[test]
    fn a_man_in_the_middle_can_change_nothing() {
        let (dialed, accepted) = relayed(Some(who(2)), |_, frame| frame);
        assert!(dialed.is_ok() && accepted.is_ok());
        type Change = fn(Hello) -> Hello;
        let changes: [Change; 5] = [
            |hello| Hello { purpose: Purpose::State, ..hello },
            |hello| Hello { from: who(3), ..hello },
            |hello| Hello { cluster: None, ..hello },
            |hello| Hello { addresses: Addresses { peer: "127.0.0.1:9".into(), ..hello.addresses }, ..hello },
            |hello| Hello { opening: vec![0; 16], ..hello },
        ];
        for change in changes {
            let (dialed, accepted) = relayed(None, move |_, frame| match frame {
                Frame::Hello(hello) => Frame::Hello(change(hello)),
                other => other,
            });
            assert!(matches!(dialed, Err(WireError::Differs { .. })) && accepted.is_err());
        }
        // In another's name, or with a challenge of its own.
        let (dialed, accepted) = relayed(Some(who(3)), |_, frame| match frame {
            Frame::AcceptorProof { cluster, proof, .. } => Frame::AcceptorProof { who: who(3), cluster, proof },
            other => other,
        });
        assert!(dialed.is_err() && accepted.is_err());
        let (dialed, accepted) = relayed(None, |_, frame| match frame {
            Frame::Challenge { .. } => Frame::Challenge { nonce: [0; 16] },
            other => other,
        });
        assert!(dialed.is_err() && accepted.is_err());
    }

    #[test]
    fn a_dialer_proves_nothing_to_another_than_it_means_to_reach() {
        let (dialed, accepted) = relayed(Some(who(3)), |_, frame| {
            assert!(!matches!(frame, Frame::DialerProof { .. }), "proved to node 2, which was not called");
            frame
        });
        assert!(matches!(dialed, Err(WireError::Other { who: other, .. }) if other == who(2)));
        assert!(accepted.is_err());
        let (address, _) = listen(None, None);
        let dialed = dial(&TcpStream::connect(address).unwrap(), hello(None), Some(who(3)), None);
        assert!(matches!(dialed, Err(WireError::Other { .. })), "without a secret it is told as well");
    }

    #[test]
    fn another_version_gets_a_rejection_that_it_can_read() {
        for (protocol, secret) in [(PROTOCOL + 1, None), (PROTOCOL + 1, Some("s")), (15, None)] {
            let (address, accepting) = listen(None, secret);
            let mut stream = TcpStream::connect(address).unwrap();
            assert!(matches!(read_frame(&mut stream, 1 << 10).unwrap(), Frame::Challenge { .. }));
            write_frame(&mut stream, &Frame::Hello(Hello { protocol, ..hello(None) })).unwrap();
            match read_frame(&mut stream, 1 << 10).unwrap() {
                Frame::Differs { what: Mismatch::Protocol(PROTOCOL), cluster: None } => assert!(protocol > 15),
                Frame::Reject { why } => assert!(protocol == 15 && why.contains("run the same version"), "{why}"),
                other => panic!("{other:?}"),
            }
            assert!(matches!(accepting.join().unwrap().0, Err(WireError::Rejected(why)) if why.contains("version")));
        }
    }

    /// A process that has taken the port of a member, and knows no secret.
    #[test]
    fn an_acceptor_without_the_secret_learns_nothing_and_is_not_trusted() {
        let answers: [fn(&Hello) -> Frame; 3] = [
            |_| Frame::Welcome {
                who: who(2),
                cluster: None,
                remembered: Promise { term: Term(1000), ..Promise::default() },
                datagrams: None,
            },
            |_| Frame::AcceptorProof { who: who(2), cluster: None, proof: [0; 32] },
            // Its own words, played back.
            |hello| Frame::Hello(hello.clone()),
        ];
        for answer in answers {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let fake = std::thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                write_frame(&mut stream, &Frame::Challenge { nonce: [1; 16] }).unwrap();
                let Ok(Frame::Hello(hello)) = read_frame(&mut stream, EARLY_FRAME_BYTES_MAX) else {
                    panic!("no hello")
                };
                write_frame(&mut stream, &answer(&hello)).unwrap();
                read_frame(&mut stream, EARLY_FRAME_BYTES_MAX)
            });
            assert!(dial(&stream, hello(None), None, Some(&Key::of("s"))).is_err());
            drop(stream);
            let answer = fake.join().unwrap();
            assert!(matches!(answer, Err(_) | Ok(Frame::Reject { .. })), "{answer:?}");
        }
    }

    #[test]
    fn a_silent_dialer_is_dropped_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let before = Instant::now();
        assert!(accept(&stream, who(2), None, None, None, remember).is_err());
        assert!(before.elapsed() < HANDSHAKE_DEADLINE * 3);
        drop(silent);
    }
}
