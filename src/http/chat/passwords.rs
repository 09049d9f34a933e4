//! Passwords and tokens: what a client says in clear, and what of it may go further.
//!
//! A password is hashed with argon2id (19 MiB, two passes, what OWASP names), under a salt drawn here; only the hash goes on. A
//! token is drawn here, 244 random bits; only its SHA-256 goes on, which is enough for what nobody can guess. How many hashes
//! are under way at once is bounded, because each costs memory and a processor for a moment: who comes too many waits.
//! Not here: who waits how long after failures (`services/chat/accounts.rs`).

use super::super::reply::Reply;
use crate::limits::{CHAT_HASHES_MAX, CHAT_HASHES_WAITING_MAX};
use crate::services::chat::TokenHash;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest, Sha256};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;
use uuid::Uuid;

/// Bytes of a password. Short ones are guessed; long ones are no better, and someone might send a book.
const PASSWORD_BYTES: (usize, usize) = (8, 1024);

/// The hashes that are under way in one node.
#[derive(Debug, Default)]
pub(in crate::http) struct Passwords {
    /// Running, and waiting.
    busy: Mutex<(usize, usize)>,
    changed: Condvar,
    /// A hash that no password has: what is compared with where there is no account, so that it takes as long.
    nobodys: OnceLock<String>,
}

struct Slot<'a>(&'a Passwords);

impl Passwords {
    /// The stored form of a new password.
    pub(super) fn hash(&self, password: &str, deadline: Instant) -> Result<String, Reply> {
        if !(PASSWORD_BYTES.0..=PASSWORD_BYTES.1).contains(&password.len()) {
            let (least, most) = PASSWORD_BYTES;
            return Err(Reply::refused(400, &format!("a password has {least} to {most} bytes")));
        }
        let _slot = self.enter(deadline)?;
        make(password)
    }

    /// Whether a password is the one of a stored hash; without one it takes as long and is wrong.
    pub(super) fn is_right(&self, password: &str, hash: Option<&str>, deadline: Instant) -> Result<bool, Reply> {
        if password.len() > PASSWORD_BYTES.1 {
            return Err(Reply::refused(400, &format!("a password has at most {} bytes", PASSWORD_BYTES.1)));
        }
        let _slot = self.enter(deadline)?;
        let nobodys = self.nobodys.get_or_init(|| make(&Uuid::new_v4().to_string()).unwrap_or_default());
        let stored = PasswordHash::new(hash.unwrap_or(nobodys)).map_err(|_| unusable())?;
        let is_equal = Argon2::default().verify_password(password.as_bytes(), &stored).is_ok();
        Ok(is_equal && hash.is_some())
    }

    fn enter(&self, deadline: Instant) -> Result<Slot<'_>, Reply> {
        let mut busy = self.lock();
        if busy.0 >= CHAT_HASHES_MAX && busy.1 >= CHAT_HASHES_WAITING_MAX {
            return Err(Reply::refused(503, "too many log-ins at once: try again"));
        }
        busy.1 += 1;
        while busy.0 >= CHAT_HASHES_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                busy.1 -= 1;
                return Err(Reply::refused(503, "too many log-ins at once: try again"));
            }
            busy = self.changed.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *busy = (busy.0 + 1, busy.1 - 1);
        Ok(Slot(self))
    }

    /// A poisoned lock means that a thread panicked, and a panic ends the process: the value is still whole.
    fn lock(&self) -> MutexGuard<'_, (usize, usize)> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.lock().0 -= 1;
        self.0.changed.notify_one();
    }
}

fn make(password: &str) -> Result<String, Reply> {
    let hash: PasswordHash = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), Uuid::new_v4().as_bytes())
        .map_err(|_| unusable())?;
    Ok(hash.to_string())
}

fn unusable() -> Reply {
    Reply::error(500, "the stored hash of this password cannot be used", "refused", None)
}

/// A new token, in clear and as it is stored.
pub(super) fn draw_token() -> (String, TokenHash) {
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let token = BASE64.encode([one.as_bytes().as_slice(), two.as_bytes().as_slice()].concat());
    let hash = hash_token(&token);
    (token, hash)
}

/// What is stored of a token.
pub(super) fn hash_token(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let (passwords, soon) = (Passwords::default(), Instant::now() + Duration::from_secs(60));
        let hash = passwords.hash("correct horse", soon).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(passwords.hash("correct horse", soon).unwrap(), hash, "the salt is another");
        assert!(passwords.is_right("correct horse", Some(&hash), soon).unwrap());
        assert!(!passwords.is_right("battery staple", Some(&hash), soon).unwrap());
        assert!(!passwords.is_right("correct horse", None, soon).unwrap());
        assert_eq!(passwords.hash("short", soon).unwrap_err().status, 400);
        assert_eq!(passwords.hash(&"x".repeat(1025), soon).unwrap_err().status, 400);
        assert_eq!(*passwords.lock(), (0, 0), "every place is given back");
    }

    #[test]
    fn who_comes_too_many_waits_and_then_is_told() {
        let passwords = Passwords::default();
        *passwords.lock() = (CHAT_HASHES_MAX, 0);
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(passwords.hash("correct horse", soon).unwrap_err().status, 503);
        assert_eq!(*passwords.lock(), (CHAT_HASHES_MAX, 0));
    }

    #[test]
    fn tokens_differ_and_are_long() {
        let ((one, hash), (two, _)) = (draw_token(), draw_token());
        assert!(one != two && one.len() == 43);
        assert_eq!(hash_token(&one), hash);
    }
}
