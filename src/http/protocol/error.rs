//! Why a request has no result: a status, a sentence for people, and whether anything may have been done.
//!
//! The body is `{"error", "outcome", "leader", "retry_after_ms"}`. `outcome` is `refused` (certainly not done) or
//! `unknown` (it may or may not have been done), and one is never reported as the other.
//! Not here: which outcome of the node has which status (`http/outcome.rs`).

use super::head::RequestError;
use super::response::Response;
use crate::types::Index;
use serde_json::json;
use std::borrow::Cow;

/// Time after which a client should try again, if nothing better is known.
const RETRY_MS: u64 = 200;

/// Why a request has no result.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: u16,
    why: Cow<'static, str>,
    is_unknown: bool,
    /// The body names the leader: the node was asked.
    names_leader: bool,
    retry_after_ms: Option<u64>,
    headers: Vec<(&'static str, String)>,
    index: Option<u64>,
}

impl ApiError {
    /// Certainly not done.
    pub fn refused(status: u16, why: impl Into<Cow<'static, str>>) -> ApiError {
        let retry_after_ms = (status == 503).then_some(RETRY_MS);
        ApiError {
            status,
            why: why.into(),
            is_unknown: false,
            names_leader: false,
            retry_after_ms,
            headers: Vec::new(),
            index: None,
        }
    }

    /// It may or may not have been done.
    pub fn unknown(status: u16, why: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError { is_unknown: true, ..ApiError::refused(status, why) }
    }

    /// The body names the leader that this node knows: for errors of the node or its services.
    pub fn with_leader(mut self) -> ApiError {
        self.names_leader = true;
        self
    }

    /// Sets after which time the client should try again.
    pub fn retry_after(mut self, ms: u64) -> ApiError {
        self.retry_after_ms = Some(ms);
        self
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> ApiError {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the log index of the error.
    pub fn at(mut self, index: Index) -> ApiError {
        self.index = Some(index.0);
        self
    }

    /// The response to send; `leader` is the one that this node knows.
    pub fn into_response(self, leader: Option<u64>) -> Response {
        let outcome = if self.is_unknown { "unknown" } else { "refused" };
        let leader = leader.filter(|_| self.names_leader);
        let retry_after_ms = self.retry_after_ms;
        let body = json!({"error": self.why, "outcome": outcome, "leader": leader, "retry_after_ms": retry_after_ms});
        let mut response = Response::json(self.status, &body);
        if let Some(ms) = retry_after_ms {
            response = response.with("Retry-After", ms.div_ceil(1000).to_string());
        }
        response.headers.extend(self.headers);
        Response { index: self.index, ..response }
    }
}

impl From<RequestError> for ApiError {
    fn from(fault: RequestError) -> ApiError {
        ApiError::refused(fault.status, fault.why)
    }
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::error::*;

    fn body(error: ApiError) -> serde_json::Value {
        serde_json::from_slice(&error.into_response(Some(3)).body).unwrap()
    }

    #[test]
    fn an_error_says_what_may_have_happened() {
        let error = ApiError::refused(503, "no quorum").with_leader();
        let response = error.clone().into_response(Some(3));
        assert_eq!(
            body(error),
            json!({"error": "no quorum", "outcome": "refused", "leader": 3, "retry_after_ms": 200})
        );
        assert!(response.headers.iter().any(|(name, value)| *name == "Retry-After" && value == "1"));
        let error = ApiError::unknown(504, "timeout");
        assert_eq!(
            body(error),
            json!({"error": "timeout", "outcome": "unknown", "leader": null, "retry_after_ms": null})
        );
    }
}
