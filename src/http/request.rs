//! What a handler receives and what it returns.
//!
//! Most handlers are a function from a [`Request`] to an [`ApiResult`]; one whose response is written while it is
//! produced returns a [`Stream`]; one that reads a large body itself returns an [`Upload`].
//! Not here: which handler a request has (`routes.rs`), the checks before it is called (`router.rs`).

use super::outcome::answered;
use super::protocol::body::BodyError;
use super::protocol::conn::Conn;
use super::protocol::error::ApiError;
use super::protocol::head::Head;
use super::protocol::params::Params;
use super::protocol::response::Response;
use super::server::Server;
use crate::address;
use crate::node::shared::memory;
use crate::node::{Level, Reservation, SessionGuard};
use crate::types::Index;
use std::borrow::Cow;
use std::cell::RefCell;
use std::time::Instant;

/// Number of copies of a reply that exist at once: as received, decoded, as JSON values and as text.
const REPLY_TIMES: usize = 4;

/// The result of most handlers. [`ApiError`] becomes a response in one place, `router.rs`.
pub(crate) type ApiResult = Result<Response, ApiError>;

/// One request, after all checks.
pub(crate) struct Request<'a> {
    pub server: &'a Server,
    /// The connection, to check whether the client is still connected.
    pub client: &'a Conn,
    pub head: &'a Head,
    /// The variable segments of the path, undecoded; `""` where it has fewer than two.
    pub args: (&'a str, &'a str),
    /// Empty for GET and HEAD.
    pub body: &'a [u8],
    /// The guard that counts the connection as load.
    pub session: Option<&'a SessionGuard>,
    /// Reservation in the memory budget that lasts until the response is ready.
    pub held: RefCell<Reservation>,
}

impl<'a> Request<'a> {
    pub(crate) fn params(&self) -> Params<'a> {
        Params::of(self.head)
    }

    /// A node's address as this client reaches it.
    pub(crate) fn seen<'b>(&self, address: &'b str) -> Cow<'b, str> {
        match self.server.host_for(self.head, self.client) {
            Some(by) => Cow::Owned(address::as_seen_by(&by, address)),
            None => Cow::Borrowed(address),
        }
    }

    /// Parameter `level`; linearizable by default.
    pub(crate) fn level(&self) -> Result<Level, ApiError> {
        match self.head.query("level") {
            None | Some("linearizable") => Ok(Level::Linearizable),
            Some("eventual") => Ok(Level::Eventual),
            Some(_) => Err(ApiError::refused(400, "level must be linearizable or eventual")),
        }
    }

    /// Reserves so many more bytes in the memory budget, for as long as this request is handled.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), memory::Full> {
        let mut held = self.held.borrow_mut();
        let all = held.bytes() + bytes;
        held.resize(all)
    }

    /// The reply to a query. Memory for it, decoded and as JSON, has been reserved.
    pub(crate) fn read(&self, query: Vec<u8>, level: Level) -> Result<(Index, Vec<u8>), ApiError> {
        let (index, bytes) = answered(self.server.host.query(query, level, self.deadline()))?;
        self.hold(REPLY_TIMES * bytes.len()).map_err(|full| ApiError::refused(503, full.to_string()))?;
        Ok((index, bytes))
    }

    /// The deadline of a request that begins to wait for the node now.
    pub(crate) fn deadline(&self) -> Instant {
        self.server.deadline()
    }
}

/// A response whose length is unknown beforehand. Its connection ends with it.
pub(crate) struct Stream {
    /// Its head: the whole response to HEAD.
    pub head: Response,
    pub run: StreamBody,
}

/// Writes the head and then the body, until either side ends; returns an error if nothing was written yet.
pub(crate) type StreamBody = Box<dyn FnOnce(&Server, &mut Conn, Response) -> Result<(), ApiError>>;

/// The result of a handler that reads its body itself.
pub(crate) enum Upload {
    /// All of it was read.
    Read(ApiResult),
    /// The body was not read, or not completely: the connection closes after the response.
    Unread(ApiError),
    /// The client has disconnected.
    Gone,
}

impl From<BodyError> for Upload {
    fn from(broken: BodyError) -> Upload {
        match broken {
            BodyError::Gone => Upload::Gone,
            BodyError::Fault(fault) => Upload::Unread(fault.into()),
        }
    }
}
