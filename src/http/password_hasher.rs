//! Passwords and tokens: hashes what clients send in clear, so that only hashes leave this file.
//!
//! A password is normalized, then hashed with argon2id (19 MiB, two passes, as OWASP recommends), under a salt drawn
//! here; only the hash is passed on. A token is drawn here, 244 random bits; only its SHA-256 is passed on, which is
//! enough for a value that cannot be guessed. The number of concurrent hashes is bounded, because each costs memory and
//! a processor for a moment: further requests wait.
//!
//! Invariants: P1 the memory of hashes is [`CHAT_HASHES_MAX`] pieces, allocated when they are first needed and then
//! kept: an allocator would keep one for each thread that ever hashed. P2 between two hashes a piece holds zeros.
//! Not here: how long a client waits after failures (`services/chat/accounts.rs`).

use super::protocol::error::ApiError;
use crate::limits::{CHAT_HASHES_MAX, CHAT_HASHES_WAITING_MAX};
use crate::lock::{Mutex, lock, wait_while};
use crate::services::chat::TokenHash;
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest, Sha256};
use std::sync::{Condvar, OnceLock};
use std::time::Instant;
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

/// Bytes of a password. Short ones can be guessed; very long ones are not more secure and cost time.
const PASSWORD_BYTES: (usize, usize) = (8, 1024);

/// The hashes in progress in one node.
#[derive(Debug, Default)]
pub(crate) struct Passwords {
    busy: Mutex<HasherState>,
    changed: Condvar,
    /// A hash that matches no password: it is compared where there is no account, so that the comparison takes as long.
    nobodys: OnceLock<String>,
}

#[derive(Debug, Default)]
struct HasherState {
    running: usize,
    waiting: usize,
    /// Memory that no thread uses at present (P1).
    spare: Vec<Vec<Block>>,
}

/// The right to hash, and the memory for it; returned when dropped.
pub(crate) struct HashPermit<'a> {
    passwords: &'a Passwords,
    memory: Vec<Block>,
}

impl Passwords {
    /// Waits for a free slot until the deadline.
    pub(crate) fn enter(&self, deadline: Instant) -> Result<HashPermit<'_>, ApiError> {
        let too_many = || ApiError::refused(503, "too many logins at once: try again");
        let mut busy = lock(&self.busy);
        if busy.running >= CHAT_HASHES_MAX && busy.waiting >= CHAT_HASHES_WAITING_MAX {
            return Err(too_many());
        }
        busy.waiting += 1;
        let is_full = |busy: &mut HasherState| busy.running >= CHAT_HASHES_MAX;
        busy = wait_while(&self.changed, busy, deadline, is_full);
        busy.waiting -= 1;
        if is_full(&mut busy) {
            return Err(too_many());
        }
        busy.running += 1;
        let spare = busy.spare.pop();
        drop(busy);
        let memory = spare.unwrap_or_else(|| vec![Block::new(); Params::default().block_count()]);
        Ok(HashPermit { passwords: self, memory })
    }
}

impl HashPermit<'_> {
    /// The stored form of a new password.
    pub(crate) fn hash(&mut self, password: &str) -> Result<String, ApiError> {
        self.make(&normalized(password)).ok_or_else(unusable)
    }

    /// Whether a password matches a stored hash; without a hash it takes as long and returns `false`. Earlier versions
    /// hashed what was sent: if that is another string than the normalized one, it is compared as well.
    pub(crate) fn is_right(&mut self, password: &str, hash: Option<&str>) -> Result<bool, ApiError> {
        let passwords = self.passwords;
        let nobodys = || self.make(&Uuid::new_v4().to_string()).unwrap_or_default();
        let nobodys = passwords.nobodys.get_or_init(nobodys);
        let stored = hash.unwrap_or(nobodys);
        let prepared = normalized(password);
        let mut is_equal = self.compare(&prepared, stored).ok_or_else(unusable)?;
        if !is_equal && prepared != password {
            is_equal = self.compare(password, stored).ok_or_else(unusable)?;
        }
        Ok(is_equal && hash.is_some())
    }

    fn make(&mut self, password: &str) -> Option<String> {
        let (salt, params) = (Salt::new(Uuid::new_v4().as_bytes()).ok()?, Params::default());
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).ok()?,
            salt: Some(salt),
            hash: Some(self.fill(Algorithm::Argon2id, Version::V0x13, params, password, &salt)?),
        };
        Some(hash.to_string())
    }

    /// `None`: the stored hash is malformed, or needs more memory than this node has for a hash.
    fn compare(&mut self, password: &str, stored: &str) -> Option<bool> {
        let stored = PasswordHash::new(stored).ok()?;
        let algorithm = Algorithm::try_from(stored.algorithm.as_str()).ok()?;
        let version = Version::try_from(stored.version?).ok()?;
        let params = Params::try_from(&stored).ok()?;
        let output = self.fill(algorithm, version, params, password, &stored.salt?)?;
        // Compared in constant time by the type's `==`.
        Some(output == stored.hash?)
    }

    fn fill(
        &mut self,
        algorithm: Algorithm,
        version: Version,
        params: Params,
        password: &str,
        salt: &[u8],
    ) -> Option<Output> {
        let mut output = [0; Output::MAX_LENGTH];
        let output = output.get_mut(..params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN))?;
        let argon2 = Argon2::new(algorithm, version, params);
        let filled = argon2.hash_password_into_with_memory(password.as_bytes(), salt, output, &mut self.memory);
        // Nothing of a password may remain in the memory, which is kept (P2).
        self.memory.fill(Block::new());
        filled.ok()?;
        Output::new(output).ok()
    }
}

impl Drop for HashPermit<'_> {
    fn drop(&mut self) {
        let mut busy = lock(&self.passwords.busy);
        busy.running -= 1;
        busy.spare.push(std::mem::take(&mut self.memory));
        drop(busy);
        self.passwords.changed.notify_one();
    }
}

/// What is hashed: one person's devices send the same password composed or decomposed, and with different spaces. The
/// mapping and normalization of OpaqueString (RFC 8265, section 4.2.1).
fn normalized(password: &str) -> String {
    // White space outside of ASCII, except control characters and separators of lines and paragraphs: category Zs.
    let is_space = |c: char| c.is_whitespace() && !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
    password.chars().map(|c| if is_space(c) { ' ' } else { c }).nfc().collect()
}

/// Refuses a new password of invalid length.
pub(crate) fn check_new(password: &str) -> Result<(), ApiError> {
    let (least, most) = PASSWORD_BYTES;
    check_given(password)?;
    match (least..=most).contains(&normalized(password).len()) {
        true => Ok(()),
        false => Err(ApiError::refused(400, format!("a password has {least} to {most} bytes"))),
    }
}

/// Refuses a given password that cannot be right and would only cost time.
pub(crate) fn check_given(password: &str) -> Result<(), ApiError> {
    let most = PASSWORD_BYTES.1;
    match password.len() <= most {
        true => Ok(()),
        false => Err(ApiError::refused(400, format!("a password has at most {most} bytes"))),
    }
}

fn unusable() -> ApiError {
    ApiError::refused(500, "the stored hash of this password cannot be used")
}

/// A new token, in clear and as stored.
pub(crate) fn draw_token() -> (String, TokenHash) {
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let token = BASE64.encode([one.as_bytes().as_slice(), two.as_bytes().as_slice()].concat());
    let hash = hash_token(&token);
    (token, hash)
}

/// The stored form of a token.
pub(crate) fn hash_token(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use crate::http::password_hasher::*;
    use argon2::PasswordVerifier;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let passwords = Passwords::default();
        let mut slot = passwords.enter(soon()).unwrap();
        let hash = slot.hash("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(slot.hash("correct horse").unwrap(), hash, "the salt is another");
        assert!(slot.is_right("correct horse", Some(&hash)).unwrap());
        assert!(!slot.is_right("battery staple", Some(&hash)).unwrap());
        assert!(!slot.is_right("correct horse", None).unwrap());
        // Checked against the crate's own implementation: hashes stored by earlier versions or elsewhere must remain
        // valid.
        let stored = PasswordHash::new(&hash).unwrap();
        assert!(Argon2::default().verify_password(b"correct horse", &stored).is_ok());
        for bad in ["", "hash", &hash.replace("m=19456", "m=20480"), &hash.replace("argon2id", "scrypt")] {
            assert_eq!(slot.is_right("correct horse", Some(bad)).unwrap_err().status, 500, "{bad}");
        }
        assert_eq!(
            (check_new("short").unwrap_err().status, check_new(&"x".repeat(1025)).unwrap_err().status),
            (400, 400)
        );
        assert!(check_new("just long").is_ok() && check_given("").is_ok() && check_given(&"x".repeat(1025)).is_err());
    }

    #[test]
    fn a_password_is_the_same_however_a_device_composes_it() {
        let passwords = Passwords::default();
        let mut slot = passwords.enter(soon()).unwrap();
        let (composed, decomposed) = ("caf\u{e9} au\u{a0}lait", "cafe\u{301} au\u{3000}lait");
        for (new, given) in [(composed, decomposed), (decomposed, composed), (decomposed, "caf\u{e9} au lait")] {
            let hash = slot.hash(new).unwrap();
            assert!(slot.is_right(given, Some(&hash)).unwrap(), "{new:?} {given:?}");
            assert!(!slot.is_right("cafe au lait", Some(&hash)).unwrap());
        }
        // As earlier versions hashed it.
        let old = slot.make(decomposed).unwrap();
        assert!(slot.is_right(decomposed, Some(&old)).unwrap());
        assert!(!slot.is_right(decomposed, None).unwrap());
        assert!(check_new("e\u{301}e\u{301}e\u{301}").is_err(), "six bytes as it is hashed");
    }

    #[test]
    fn there_is_memory_for_so_many_hashes_and_it_is_used_again_without_a_trace() {
        let passwords = Passwords::default();
        for thread in 0..3 * CHAT_HASHES_MAX {
            let hashed = std::thread::scope(|scope| {
                let one = || passwords.enter(soon()).unwrap().hash("correct horse").unwrap();
                let both = [scope.spawn(one), scope.spawn(one)];
                both.map(|thread| thread.join().unwrap()).len()
            });
            assert_eq!(hashed, 2, "{thread}");
            let busy = lock(&passwords.busy);
            assert!((1..=CHAT_HASHES_MAX).contains(&busy.spare.len()), "P1: {} pieces", busy.spare.len());
            let is_zero = |block: &Block| AsRef::<[u64]>::as_ref(block).iter().all(|word| *word == 0);
            assert!(busy.spare.iter().flatten().all(is_zero), "P2");
            assert_eq!((busy.running, busy.waiting), (0, 0), "every place is given back");
        }
    }

    #[test]
    fn a_request_beyond_the_slots_waits_and_is_then_refused() {
        let passwords = Passwords::default();
        let slots: Vec<_> = (0..CHAT_HASHES_MAX).map(|_| passwords.enter(soon()).unwrap()).collect();
        let refused = passwords.enter(Instant::now() + Duration::from_millis(5)).err().unwrap();
        assert_eq!(refused.status, 503);
        let busy = lock(&passwords.busy);
        assert_eq!((busy.running, busy.waiting), (CHAT_HASHES_MAX, 0));
        drop(busy);
        drop(slots);
        assert!(passwords.enter(Instant::now()).is_ok());
    }

    #[test]
    fn tokens_differ_and_are_long() {
        let ((one, hash), (two, _)) = (draw_token(), draw_token());
        assert!(one != two && one.len() == 43);
        assert_eq!(hash_token(&one), hash);
    }
}
