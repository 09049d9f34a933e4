//! `/v1/note`: short texts in the node directory.
//!
//! Not here: what a note may be (`services/directory.rs`).

use crate::http::outcome::answered;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::parse::percent_decode;
use crate::http::protocol::response::Response;
use crate::http::protocol::{idempotency, params};
use crate::http::request::{ApiResult, Request};
use crate::node::{Ack, Operation};
use crate::services::{directory, registry};
use serde::Deserialize;
use serde_json::json;

/// Body of `POST /v1/note`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewNote {
    id: String,
    text: String,
}

/// `POST /v1/note`: writing the same one again changes nothing, so a client may ask again after `unknown`.
pub(crate) fn write(request: &Request) -> ApiResult {
    let NewNote { id, text } = params::object(request.body)?;
    let tag = idempotency::tag(request.head, request.body)?;
    let command = registry::directory_command(&directory::Command::Note { id, text });
    let work = Operation::Command { tag, command, ack: Ack::Applied };
    let (index, _) = answered(request.server.host.ask(work, request.deadline()))?;
    Ok(Response::json(200, &json!({"index": index})).at(index))
}

/// `GET /v1/note/{id}`: as fresh as any acknowledged write, or with `level=eventual` what this node has applied.
pub(crate) fn read(request: &Request) -> ApiResult {
    let level = request.level()?;
    let Some(id) = percent_decode(request.args.0).and_then(|id| String::from_utf8(id).ok()) else {
        return Err(ApiError::refused(400, "malformed name"));
    };
    let query = registry::directory_query(&directory::Query::Note { id: id.clone() });
    let (index, bytes) = answered(request.server.host.query(query, level, request.deadline()))?;
    match directory::decode_note(&bytes) {
        Some(note) => Ok(Response::json(200, &json!({"id": id, "text": note.text, "index": note.index})).at(index)),
        None => Err(ApiError::refused(404, "no such note").with_leader().at(index)),
    }
}
