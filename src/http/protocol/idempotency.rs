//! `Idempotency-Key`: a write that is sent twice under one key takes effect once, on whichever nodes the two arrive.
//!
//! The key becomes the command's tag, so the session table of the services answers the second copy with the reply to
//! the first, for at least an hour. The tag is a hash of the whole request, not of the key alone: the same key with
//! another method, path or body is another request and is executed. Rejected: refusing it (422), because the table
//! would have to keep every request, and a client that reuses a key has a bug that ignoring its second write would make
//! worse.
//! Not here: the table (`services/sessions.rs`).

use super::error::ApiError;
use super::head::{Head, Method};
use crate::services::sessions::Tag;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Bytes of a key; a UUID has 36.
const KEY_BYTES_MAX: usize = 255;

/// The tag of a request that has a key, else `None`.
pub(crate) fn tag(head: &Head, body: &[u8]) -> Result<Option<Tag>, ApiError> {
    tag_of(head, &head.target, body, b"")
}

/// The same for a body that is not in memory as a whole, by its SHA-256.
pub(crate) fn tag_of_hash(head: &Head, hash: &[u8; 32]) -> Result<Option<Tag>, ApiError> {
    tag_of(head, &head.target, hash, b"hash")
}

/// The same for requests whose parameters only say how to wait: two with different ones are the same request.
pub(crate) fn tag_without_params(head: &Head, body: &[u8]) -> Result<Option<Tag>, ApiError> {
    tag_of(head, head.path(), body, b"")
}

/// The same where two users may choose the same key: their requests are different.
pub(crate) fn tag_for(head: &Head, who: &[u8], body: &[u8]) -> Result<Option<Tag>, ApiError> {
    tag_of(head, &head.target, body, who)
}

/// Refuses a key of a wrong length, where the request may have no effect that needs a tag.
pub(crate) fn check(head: &Head) -> Result<(), ApiError> {
    match &head.idempotency_key {
        Some(key) if key.is_empty() || key.len() > KEY_BYTES_MAX => {
            Err(ApiError::refused(400, "Idempotency-Key must have 1 to 255 bytes"))
        }
        _ => Ok(()),
    }
}

fn tag_of(head: &Head, target: &str, body: &[u8], who: &[u8]) -> Result<Option<Tag>, ApiError> {
    check(head)?;
    let Some(key) = &head.idempotency_key else { return Ok(None) };
    let method = head.method.map_or("", Method::name);
    let mut hasher = Sha256::new();
    hasher.update(b"phalanx idempotency 1");
    // With lengths, so that different requests never give the same bytes.
    let parts = [key.as_bytes(), method.as_bytes(), target.as_bytes(), body, who];
    for part in parts.into_iter().take(if who.is_empty() { 4 } else { 5 }) {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let hash = hasher.finalize();
    let origin = Uuid::from_slice(&hash[..16]).expect("sixteen bytes");
    Ok(Some(Tag { origin, number: 1, done_below: 1 }))
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::idempotency::*;

    fn tag_of(request: &str) -> Option<Tag> {
        let (head, length) = crate::http::protocol::parse::head(request.as_bytes()).unwrap().unwrap();
        tag(&head, &request.as_bytes()[length..]).unwrap()
    }

    #[test]
    fn a_tag_stands_for_the_whole_request() {
        let request = |key: &str, line: &str, body: &str| {
            tag_of(&format!("{line} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\nContent-Length: 1\r\n\r\n{body}"))
        };
        let first = request("k", "PUT /v1/kv/a", "x");
        assert_eq!(request("k", "PUT /v1/kv/a", "x"), first);
        let others = [
            request("l", "PUT /v1/kv/a", "x"),
            request("k", "POST /v1/kv/a", "x"),
            request("k", "PUT /v1/kv/b", "x"),
            request("k", "PUT /v1/kv/a?cas=1", "x"),
            request("k", "PUT /v1/kv/a", "y"),
        ];
        assert!(others.iter().all(|other| other.is_some() && *other != first));
        assert_eq!(tag_of("PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\n\r\n"), None);
    }
}
