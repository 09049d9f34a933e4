//! What a handler is given and what it gives back.
//!
//! Most handlers are a function from a [`Request`] to an [`ApiResult`]; one whose response is written while it comes into
//! being gives a [`Stream`]; one that reads a large body itself gives an [`Upload`].
//! Not here: which handler a request has (`routes.rs`), what is checked before it is called (`router.rs`).

use super::outcome::answered;
use super::protocol::conn::{Broken, Conn};
use super::protocol::error::ApiError;
use super::protocol::params::Params;
use super::protocol::parse::Head;
use super::protocol::response::Response;
use super::server::Server;
use crate::node::shared::memory;
use crate::node::{Level, Reservation, SessionGuard};
use crate::types::Index;
use std::cell::RefCell;
use std::time::Instant;

/// How often the bytes of a reply are there at once: as they came, decoded, as values of JSON and as text.
const REPLY_TIMES: usize = 4;

/// What most handlers give back. [`ApiError`] becomes a response in one place, `router.rs`.
pub(crate) type ApiResult = Result<Response, ApiError>;

/// One request, after all checks.
pub(crate) struct Request<'a> {
    pub server: &'a Server,
    /// Tells whether the client is still there.
    pub client: &'a Conn,
    pub head: &'a Head,
    /// What stands in the place of the path's names, undecoded; `""` where it has fewer than two.
    pub args: (&'a str, &'a str),
    /// Empty for GET and HEAD.
    pub body: &'a [u8],
    /// What counts the connection as load.
    pub session: Option<&'a SessionGuard>,
    /// Bytes of the memory budget that its handler holds until the response is there.
    pub held: RefCell<Reservation>,
}

impl<'a> Request<'a> {
    pub(crate) fn params(&self) -> Params<'a> {
        Params::of(self.head)
    }

    /// Parameter `level`; linearizable without it.
    pub(crate) fn level(&self) -> Result<Level, ApiError> {
        match self.head.query("level") {
            None | Some("linearizable") => Ok(Level::Linearizable),
            Some("eventual") => Ok(Level::Eventual),
            Some(_) => Err(ApiError::refused(400, "level must be linearizable or eventual")),
        }
    }

    /// Makes room in the memory budget for so many bytes more, which this request holds while it is handled.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), memory::Full> {
        let mut held = self.held.borrow_mut();
        let all = held.bytes() + bytes;
        held.resize(all)
    }

    /// The reply to a query. There is room for it, decoded and as JSON.
    pub(crate) fn read(&self, query: Vec<u8>, level: Level) -> Result<(Index, Vec<u8>), ApiError> {
        let (index, bytes) = answered(self.server.host.query(query, level, self.deadline()))?;
        self.hold(REPLY_TIMES * bytes.len()).map_err(|full| ApiError::refused(503, full.to_string()))?;
        Ok((index, bytes))
    }

    /// When the request, if it begins to wait for the node now, has waited for long enough.
    pub(crate) fn deadline(&self) -> Instant {
        self.server.deadline()
    }
}

/// A response whose length nobody knows beforehand. Its connection ends with it.
pub(crate) struct Stream {
    /// Its head: all that HEAD is told.
    pub head: Response,
    pub run: StreamBody,
}

/// Writes the head and then the body, until either side ends; an error if nothing was written yet.
pub(crate) type StreamBody = Box<dyn FnOnce(&Server, &mut Conn, Response) -> Result<(), ApiError>>;

/// What became of a body that its handler read.
pub(crate) enum Upload {
    /// All of it was read.
    Read(ApiResult),
    /// It was not, or not whole: the connection ends after the response.
    Unread(ApiError),
    /// The client went away.
    Gone,
}

impl From<Broken> for Upload {
    fn from(broken: Broken) -> Upload {
        match broken {
            Broken::Gone => Upload::Gone,
            Broken::Fault(fault) => Upload::Unread(fault.into()),
        }
    }
}
