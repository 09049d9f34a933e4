//! Authentication between nodes that share a `cluster_secret`: the key made from the secret, the proof that each side
//! knows it, and the tag on every later frame.
//!
//! Both sides contribute a nonce, and both proofs cover the whole handshake ([`Transcript`]): nothing of it can be
//! changed on the way, and no proof is valid for another connection. Each proof and each direction has a different
//! label, so nothing that one side has sent can be replayed to it. The tags cover the position of a frame in its
//! direction: frames cannot be added, dropped, repeated or moved, so a process between two nodes can only delay or end
//! their connection.
//!
//! A process that has a proof, by connecting or by listening, can compare guesses at the secret with it. The key is
//! therefore made by a function that is slow and takes memory, once for each process: each guess costs as much
//! (docs/protocol.md).
//! Not here: the order of messages (`handshake.rs`), frames (`codec.rs`).

use super::Hello;
use crate::types::Identity;
use argon2::Argon2;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt;
use uuid::Uuid;

/// Bytes of the tag after each frame.
pub(super) const TAG_BYTES: usize = 16;
/// Distinguishes this use of the secret from any other. Not random: nodes must have the same key before they
/// communicate.
const SALT: &[u8] = b"phalanx peer port";

/// The key made from a `cluster_secret`.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// As slow as [`slow_key`].
    pub fn of(secret: &str) -> Key {
        Key(slow_key(secret, SALT))
    }

    /// Another key that only those know who know the secret; `label` names its use.
    pub fn derive(&self, label: &[u8]) -> [u8; 32] {
        let mut mac = keyed(&self.0);
        mac.update(label);
        mac.finalize().into_bytes().into()
    }
}

/// A key made of a text that can be guessed, by a function that makes guessing slow (Argon2id): about 20 ms of processor
/// time, and 19 MiB meanwhile. `salt` distinguishes its uses.
pub fn slow_key(secret: &str, salt: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    Argon2::default().hash_password_into(secret.as_bytes(), salt, &mut key).expect("the lengths are allowed ones");
    key
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(********)")
    }
}

/// Everything that was sent in a handshake before the first proof.
#[derive(Serialize)]
pub(super) struct Transcript<'a> {
    /// The acceptor's.
    pub nonce: [u8; 16],
    /// With the dialer's nonce, the intended acceptor, its cluster, addresses, purpose and protocol.
    pub hello: &'a Hello,
    /// Who accepts.
    pub who: Identity,
    /// The acceptor's cluster.
    pub cluster: Option<Uuid>,
}

impl Transcript<'_> {
    /// A proof that needs the key.
    pub fn secrets(&self, key: &Key) -> Secrets {
        let bytes = postcard::to_stdvec(self).expect("encoding into memory cannot fail");
        Secrets { key: key.clone(), transcript_hash: Sha256::digest(bytes).into() }
    }
}

/// The proofs and the tags' keys of one connection.
pub(super) struct Secrets {
    key: Key,
    transcript_hash: [u8; 32],
}

/// One side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Acceptor,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        }
    }
}

impl Secrets {
    fn mac(&self, label: &[u8], side: Side) -> Hmac<Sha256> {
        let mut mac = keyed(&self.key.0);
        mac.update(label);
        mac.update(match side {
            Side::Dialer => b" of the dialer",
            Side::Acceptor => b" of the acceptor",
        });
        mac.update(&self.transcript_hash);
        mac
    }

    /// That `side` knows the key.
    pub fn proof(&self, side: Side) -> [u8; 32] {
        self.mac(b"proof", side).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub fn is_proof(&self, side: Side, proof: &[u8; 32]) -> bool {
        self.mac(b"proof", side).verify_slice(proof).is_ok()
    }

    /// For the frames that `side` sends and takes from here on.
    pub fn tags(&self, side: Side) -> ConnectionTags {
        let direction = |side| {
            let key: [u8; 32] = self.mac(b"frames", side).finalize().into_bytes().into();
            FrameTags { keyed: Some(keyed(&key)), next: 0 }
        };
        // Only the dialer sends any.
        let datagrams: [u8; 32] = self.mac(b"datagrams", Side::Dialer).finalize().into_bytes().into();
        ConnectionTags {
            outgoing: direction(side),
            incoming: direction(side.other()),
            datagrams: DatagramTags { keyed: Some(keyed(&datagrams)) },
        }
    }
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Both directions of a connection. The default has no tags: there is no secret.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTags {
    /// For frames that this side sends.
    pub outgoing: FrameTags,
    /// For frames that it takes.
    pub incoming: FrameTags,
    /// For datagrams of the dialer.
    pub datagrams: DatagramTags,
}

/// The tags of a connection's datagrams, which arrive in any order or not at all: the sequence number is in them.
#[derive(Clone, Default)]
pub struct DatagramTags {
    keyed: Option<Hmac<Sha256>>,
}

impl DatagramTags {
    /// Bytes after each datagram.
    pub(super) fn tag_bytes(&self) -> usize {
        if self.keyed.is_some() { TAG_BYTES } else { 0 }
    }

    pub(super) fn tag(&self, bytes: &[u8]) -> Option<[u8; TAG_BYTES]> {
        let mut mac = self.keyed.clone()?;
        mac.update(bytes);
        let whole = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&whole[..TAG_BYTES]);
        Some(tag)
    }

    /// Compares in constant time.
    pub(super) fn is_tag(&self, bytes: &[u8], tag: &[u8]) -> bool {
        self.keyed.clone().is_none_or(|mut mac| {
            mac.update(bytes);
            tag.len() == TAG_BYTES && mac.verify_truncated_left(tag).is_ok()
        })
    }
}

impl fmt::Debug for DatagramTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramTags").field("has_tags", &self.keyed.is_some()).finish()
    }
}

/// One direction of a connection: the tag of each frame, in order.
#[derive(Clone, Default)]
pub struct FrameTags {
    keyed: Option<Hmac<Sha256>>,
    /// Frames before this one.
    next: u64,
}

impl FrameTags {
    /// Bytes after each frame.
    pub(super) fn tag_bytes(&self) -> usize {
        if self.keyed.is_some() { TAG_BYTES } else { 0 }
    }

    /// The tag of the next frame, if this connection has tags.
    pub(super) fn tag(&mut self, body: &[u8]) -> Option<[u8; TAG_BYTES]> {
        let whole = self.mac(body)?.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&whole[..TAG_BYTES]);
        Some(tag)
    }

    /// Whether this is the next frame that the other side sent. Compares in constant time.
    pub(super) fn is_next(&mut self, body: &[u8], tag: &[u8]) -> bool {
        self.mac(body).is_none_or(|mac| tag.len() == TAG_BYTES && mac.verify_truncated_left(tag).is_ok())
    }

    /// The next frame goes by unread.
    pub(super) fn skip(&mut self) {
        self.next += 1;
    }

    fn mac(&mut self, body: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = self.keyed.clone()?;
        mac.update(&self.next.to_le_bytes());
        mac.update(body);
        self.next += 1;
        Some(mac)
    }
}

impl fmt::Debug for FrameTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameTags").field("has_tags", &self.keyed.is_some()).field("next", &self.next).finish()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::types::{Addresses, NodeId, NodeKind};
    use crate::wire::{PROTOCOL, Purpose};

    /// Of a connection with a secret.
    pub fn datagram_tags() -> DatagramTags {
        secrets().tags(Side::Dialer).datagrams
    }

    fn secrets() -> Secrets {
        let from = Identity { id: NodeId(1), uuid: Uuid::from_u128(1) };
        let (addresses, opening, purpose) = (Addresses::default(), vec![1; 16], Purpose::Peer);
        let hello = Hello { protocol: PROTOCOL, cluster: None, from, addresses, opening, purpose };
        Transcript { nonce: [7; 16], hello: &hello, who: from, cluster: None }.secrets(&Key([3; 32]))
    }

    #[test]
    fn a_proof_and_a_tag_are_good_for_one_side_and_one_place_alone() {
        let secrets = secrets();
        let proof = secrets.proof(Side::Acceptor);
        assert!(secrets.is_proof(Side::Acceptor, &proof) && !secrets.is_proof(Side::Dialer, &proof));
        let (mut dialer, acceptor) = (secrets.tags(Side::Dialer), secrets.tags(Side::Acceptor));
        let (first, second) = (dialer.outgoing.tag(b"a").unwrap(), dialer.outgoing.tag(b"a").unwrap());
        let hear = |tags: &[&[u8]]| {
            let mut incoming = acceptor.incoming.clone();
            tags.iter().all(|tag| incoming.is_next(b"a", tag))
        };
        assert!(hear(&[&first, &second]));
        for tags in [&[&second[..]][..], &[&first, &first], &[&first[..15]], &[&[]], &[&[0; 16]]] {
            assert!(!hear(tags), "{tags:?}");
        }
        assert!(!acceptor.incoming.clone().is_next(b"b", &first), "another frame");
        assert!(!dialer.incoming.is_next(b"a", &first), "one's own frame, played back");
        let mut skipping = acceptor.incoming.clone();
        skipping.skip();
        assert!(skipping.is_next(b"a", &second));
    }

    #[test]
    fn the_proof_covers_the_whole_exchange() {
        let from = Identity { id: NodeId(1), uuid: Uuid::from_u128(1) };
        let (addresses, opening, purpose) = (Addresses::default(), vec![1; 16], Purpose::Peer);
        let hello = Hello { protocol: PROTOCOL, cluster: None, from, addresses, opening, purpose };
        let base = || Transcript { nonce: [7; 16], hello: &hello, who: from, cluster: None };
        let key = Key([3; 32]);
        let proofs = |transcript: Transcript, key: &Key| {
            let secrets = transcript.secrets(key);
            [secrets.proof(Side::Dialer), secrets.proof(Side::Acceptor)]
        };
        let cluster = Some(Uuid::from_u128(9));
        let other = Identity { uuid: Uuid::from_u128(2), ..from };
        let at = |addresses: Addresses| Hello { addresses, ..hello.clone() };
        let none = Addresses::default;
        let hellos = [
            Hello { protocol: PROTOCOL + 1, ..hello.clone() },
            Hello { cluster, ..hello.clone() },
            Hello { from: Identity { id: NodeId(2), ..from }, ..hello.clone() },
            Hello { from: other, ..hello.clone() },
            at(Addresses { peer: "a:1".into(), ..none() }),
            at(Addresses { http: "a:1".into(), ..none() }),
            at(Addresses { kv: "a:1".into(), ..none() }),
            Hello { opening: vec![2; 16], ..hello.clone() },
            Hello { purpose: Purpose::Ask, ..hello.clone() },
            Hello { purpose: Purpose::Join { kind: NodeKind::Full }, ..hello.clone() },
            Hello { purpose: Purpose::Join { kind: NodeKind::Gateway }, ..hello.clone() },
        ];
        let mut all: Vec<[u8; 32]> = proofs(base(), &key).to_vec();
        all.extend(hellos.iter().flat_map(|hello| proofs(Transcript { hello, ..base() }, &key)));
        all.extend(proofs(Transcript { nonce: [8; 16], ..base() }, &key));
        all.extend(proofs(Transcript { who: Identity { id: NodeId(2), ..from }, ..base() }, &key));
        all.extend(proofs(Transcript { who: other, ..base() }, &key));
        all.extend(proofs(Transcript { cluster, ..base() }, &key));
        all.extend(proofs(base(), &Key([4; 32])));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "two of the proofs are equal");
    }

    #[test]
    fn a_key_is_slow_to_make() {
        // As OWASP recommends for passwords: 19 MiB and two passes.
        let params = argon2::Params::new(19 << 10, 2, 1, Some(32)).unwrap();
        let slow = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut expected = [0; 32];
        slow.hash_password_into(b"for the phalanx and nobody else", SALT, &mut expected).unwrap();
        assert_eq!(Key::of("for the phalanx and nobody else").0, expected);
    }

    #[test]
    fn keys_do_not_show() {
        let key = Key::of("for the phalanx and nobody else");
        assert_eq!(format!("{key:?}"), "Key(********)");
        assert!(!format!("{:?}", secrets().tags(Side::Dialer)).contains("Hmac"));
    }

    #[test]
    fn both_sides_have_the_datagrams_key_and_it_is_not_that_of_frames() {
        let (dialer, acceptor) = (secrets().tags(Side::Dialer), secrets().tags(Side::Acceptor));
        let tag = dialer.datagrams.tag(b"a").unwrap();
        assert!(acceptor.datagrams.is_tag(b"a", &tag) && !acceptor.datagrams.is_tag(b"b", &tag));
        let mut frames = dialer.outgoing;
        assert!(!acceptor.datagrams.is_tag(b"a", &frames.tag(b"a").unwrap()));
        assert!(!acceptor.datagrams.is_tag(b"a", &tag[..15]));
    }
}
