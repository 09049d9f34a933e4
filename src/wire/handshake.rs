//! First words of every connection on the peer port: who dials, for what, and that it knows the cluster secret.
//!
//! The acceptor sends a random challenge, so a recorded handshake cannot be played again; the secret itself never
//! crosses the wire. The whole handshake has one deadline, whatever the pace of its bytes, and until it is over a frame
//! may hold 4 KiB at most. A dialer of another cluster, protocol or secret is told why in one sentence.
//! Not here: what follows (`node/peers.rs`).

use super::codec::{WireError, read_frame, write_frame};
use super::{Frame, Hello, PROTOCOL};
use crate::limits::HANDSHAKE_DEADLINE;
use crate::raft::Promise;
use crate::types::Identity;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Frames before the handshake is over.
const EARLY_FRAME_BYTES_MAX: usize = 4 << 10;

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
pub struct Welcomed {
    /// Who it is.
    pub who: Identity,
    /// Its cluster.
    pub cluster: Option<Uuid>,
    /// What it remembers of the dialer's promises.
    pub remembered: Promise,
}

/// Dialer's side: returns who answered.
pub fn dial(stream: &TcpStream, hello: Hello, secret: Option<&str>) -> Result<Welcomed, WireError> {
    let deadline = Instant::now() + HANDSHAKE_DEADLINE;
    stream.set_write_timeout(Some(HANDSHAKE_DEADLINE))?;
    let mut from = DeadlineReader::new(stream, deadline);
    let nonce = match read_frame(&mut from, EARLY_FRAME_BYTES_MAX)? {
        Frame::Challenge { nonce } => nonce,
        Frame::Reject { why } => return Err(WireError::Rejected(why)),
        _ => return Err(WireError::Unexpected("frame before the challenge")),
    };
    let hello = Hello { protocol: PROTOCOL, proof: proof(secret, &nonce, hello.from), ..hello };
    let mut to = stream;
    write_frame(&mut to, &Frame::Hello(hello))?;
    match read_frame(&mut from, EARLY_FRAME_BYTES_MAX)? {
        Frame::Welcome { who, cluster, remembered } => Ok(Welcomed { who, cluster, remembered }),
        Frame::Reject { why } => Err(WireError::Rejected(why)),
        _ => Err(WireError::Unexpected("frame before the welcome")),
    }
}

/// Acceptor's side: returns the dialer's words, already welcomed; otherwise the dialer was told why not. `remember` says
/// what this node remembers of the dialer; `None`: hang up without a word, and it tries again.
pub fn accept(
    stream: &TcpStream,
    me: Identity,
    cluster: Option<Uuid>,
    secret: Option<&str>,
    remember: impl Fn(&Hello) -> Option<Promise>,
) -> Result<Hello, WireError> {
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
    if let Some(why) = objection(&hello, &nonce, cluster, secret) {
        write_frame(&mut to, &Frame::Reject { why: why.clone() })?;
        return Err(WireError::Rejected(why));
    }
    let Some(remembered) = remember(&hello) else { return Err(WireError::Unexpected("purpose")) };
    write_frame(&mut to, &Frame::Welcome { who: me, cluster, remembered })?;
    Ok(hello)
}

fn objection(hello: &Hello, nonce: &[u8; 16], cluster: Option<Uuid>, secret: Option<&str>) -> Option<String> {
    if hello.protocol != PROTOCOL {
        return Some(format!(
            "peer protocol {} spoken here, {} there: run one version everywhere",
            PROTOCOL, hello.protocol
        ));
    }
    if !is_proof_right(secret, nonce, hello.from, &hello.proof) {
        return Some("cluster_secret differs: give every node the same one".to_string());
    }
    match (cluster, hello.cluster) {
        (Some(ours), Some(theirs)) if ours != theirs => Some(format!("this is cluster {ours}, not {theirs}")),
        _ => None,
    }
}

fn mac(secret: &str, nonce: &[u8; 16], from: Identity) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(nonce);
    mac.update(&from.id.0.to_le_bytes());
    mac.update(from.uuid.as_bytes());
    mac
}

fn proof(secret: Option<&str>, nonce: &[u8; 16], from: Identity) -> Vec<u8> {
    secret.map(|secret| mac(secret, nonce, from).finalize().into_bytes().to_vec()).unwrap_or_default()
}

/// Compares in constant time where a secret is set.
fn is_proof_right(secret: Option<&str>, nonce: &[u8; 16], from: Identity, proof: &[u8]) -> bool {
    match secret {
        Some(secret) => mac(secret, nonce, from).verify_slice(proof).is_ok(),
        None => proof.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Addresses, NodeId, Term};
    use crate::wire::Purpose;
    use std::net::TcpListener;

    type Dialed = Result<Welcomed, WireError>;

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(id as u128) }
    }

    fn remember(hello: &Hello) -> Option<Promise> {
        (hello.purpose == Purpose::Ask).then_some(Promise { term: Term(hello.from.id.0), ..Promise::default() })
    }

    fn shake(
        dialer: (Option<Uuid>, Option<&'static str>),
        acceptor: (Option<Uuid>, Option<&'static str>),
    ) -> (Dialed, Result<Hello, WireError>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            accept(&stream, who(2), acceptor.0, acceptor.1, remember)
        });
        let stream = TcpStream::connect(address).unwrap();
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: dialer.0,
            from: who(1),
            addresses: Addresses::default(),
            proof: Vec::new(),
            purpose: Purpose::Ask,
        };
        let dialed = dial(&stream, hello, dialer.1);
        (dialed, accepting.join().unwrap())
    }

    #[test]
    fn equal_secrets_and_clusters_agree() {
        let cluster = Some(Uuid::from_u128(5));
        let (dialed, accepted) = shake((cluster, Some("s")), (cluster, Some("s")));
        let remembered = Promise { term: Term(1), ..Promise::default() };
        assert_eq!(dialed.unwrap(), Welcomed { who: who(2), cluster, remembered });
        assert_eq!(accepted.unwrap().from, who(1));
    }

    #[test]
    fn a_wrong_or_missing_secret_is_refused() {
        for (ours, theirs) in [(Some("a"), Some("b")), (None, Some("b")), (Some("a"), None)] {
            let (dialed, accepted) = shake((None, ours), (None, theirs));
            assert!(matches!(dialed, Err(WireError::Rejected(why)) if why.contains("cluster_secret")));
            assert!(accepted.is_err());
        }
    }

    /// A proof that somebody has listened to is of no use: the next challenge is another one, and the name is part of it.
    #[test]
    fn a_proof_counts_for_its_challenge_and_its_node_alone() {
        let ([one, other], secret) = ([[1; 16], [2; 16]], Some("s"));
        let heard = proof(secret, &one, who(1));
        assert!(is_proof_right(secret, &one, who(1), &heard));
        assert!(!is_proof_right(secret, &other, who(1), &heard), "played again");
        assert!(!is_proof_right(secret, &one, who(2), &heard), "in another node's name");
        // Two connections are never given the same challenge.
        let challenges: std::collections::BTreeSet<[u8; 16]> = (0..20).map(|_| challenge()).collect();
        assert_eq!(challenges.len(), 20);
    }

    /// The first word of an acceptor, before anything is asked of the dialer.
    fn challenge() -> [u8; 16] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let accepting = std::thread::spawn(move || accept(&stream, who(2), None, Some("s"), remember));
        let first = read_frame(&mut &dialer, EARLY_FRAME_BYTES_MAX).unwrap();
        drop(dialer);
        assert!(accepting.join().unwrap().is_err());
        match first {
            Frame::Challenge { nonce } => nonce,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn another_cluster_is_refused_and_a_newcomer_is_not() {
        let (dialed, _) = shake((Some(Uuid::from_u128(1)), None), (Some(Uuid::from_u128(2)), None));
        assert!(matches!(dialed, Err(WireError::Rejected(why)) if why.contains("not")));
        assert!(shake((None, None), (Some(Uuid::from_u128(2)), None)).0.is_ok());
    }

    #[test]
    fn a_silent_dialer_is_dropped_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let before = Instant::now();
        assert!(accept(&stream, who(2), None, None, remember).is_err());
        assert!(before.elapsed() < HANDSHAKE_DEADLINE * 3);
        drop(silent);
    }
}
