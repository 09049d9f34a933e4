//! `/v1/members`, `/v1/leader/transfer`, `/v1/digests`: the members of the cluster, its leader, and whether their
//! states agree.
//!
//! Not here: which change is allowed (`raft/membership.rs`), comparing digests (`node/snapshots/checkpoints.rs`).

use crate::http::outcome::done;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::params;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::raft::Change;
use crate::types::{Identity, NodeId};
use serde::Deserialize;
use serde_json::json;

/// `GET /v1/members`: the members by the log, and what this node knows of each.
pub(crate) fn list(request: &Request) -> ApiResult {
    let frame = request.server.host.fresh_frame().frame;
    let (cluster, nodes) = (&frame.status.cluster, &frame.status.nodes);
    Ok(Response::json(
        200,
        &json!({
            "leader": cluster.leader, "term": cluster.term,
            "voters": cluster.voters, "learners": cluster.learners, "members": nodes,
        }),
    ))
}

/// `GET /v1/members/{id}`
pub(crate) fn show(request: &Request) -> ApiResult {
    let frame = request.server.host.fresh_frame().frame;
    let id = node_id(request.args.0);
    match id.and_then(|id| frame.status.nodes.iter().find(|row| row.id == id)) {
        Some(row) => Ok(Response::json(200, row)),
        None => Err(ApiError::refused(404, "no such node")),
    }
}

/// Body of `POST /v1/members[/{id}]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    id: Option<u64>,
    /// `add` (the default), `promote`, `demote`, `remove`.
    action: Option<String>,
    /// Alternative to `action`: the new membership, `voter` or `learner`.
    membership: Option<String>,
    /// For `add`: the identity of the new node.
    uuid: Option<uuid::Uuid>,
}

/// `POST /v1/members`: the body names the node.
pub(crate) fn change(request: &Request) -> ApiResult {
    let member: Member = params::object(request.body)?;
    let id = member.id.map(NodeId);
    change_to(request, id, &member)
}

/// `POST /v1/members/{id}`: if the body names a node too, it must be the same one.
pub(crate) fn change_one(request: &Request) -> ApiResult {
    let member: Member = params::object(request.body)?;
    let id = node_id(request.args.0).filter(|id| member.id.is_none_or(|other| id.0 == other));
    change_to(request, id, &member)
}

/// `DELETE /v1/members/{id}`
pub(crate) fn remove(request: &Request) -> ApiResult {
    let member = Member { action: Some("remove".to_owned()), ..Member::default() };
    change_to(request, node_id(request.args.0), &member)
}

fn change_to(request: &Request, id: Option<NodeId>, member: &Member) -> ApiResult {
    let id = id.filter(|id| (1..=NodeId::MAX).contains(&id.0)).ok_or_else(not_a_node)?;
    let action = match (member.action.as_deref(), member.membership.as_deref()) {
        (Some(action), None) => action,
        (None, Some("voter")) => "promote",
        (None, Some("learner")) => "demote",
        (None, None) => "add",
        _ => return Err(ApiError::refused(400, "body needs an action, or a membership of voter or learner")),
    };
    let change = match (action, member.uuid) {
        ("add", Some(uuid)) => Change::AddLearner(Identity { id, uuid }),
        ("add", None) => return Err(ApiError::refused(400, "adding a node needs its id and uuid")),
        ("promote", _) => Change::Promote(id),
        ("demote", _) => Change::Demote(id),
        ("remove", _) => Change::Remove(id),
        _ => return Err(ApiError::refused(400, "action must be add, promote, demote or remove")),
    };
    let index = done(request.server.host.change(change, request.deadline()))?;
    Ok(Response::json(200, &json!({"id": id, "index": index})).at(index))
}

/// Body of `POST /v1/leader/transfer`; without `to`, the best live voter is chosen.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    to: Option<u64>,
}

/// `POST /v1/leader/transfer`
pub(crate) fn transfer(request: &Request) -> ApiResult {
    let Transfer { to } = if request.body.is_empty() { Transfer::default() } else { params::object(request.body)? };
    if to.is_some_and(|id| !(1..=NodeId::MAX).contains(&id)) {
        return Err(not_a_node());
    }
    let leader = done(request.server.host.transfer(to.map(NodeId), request.deadline()))?;
    Ok(Response::json(200, &json!({"leader": leader})))
}

/// `GET /v1/digests`: the digests of this node.
pub(crate) fn digests(request: &Request) -> ApiResult {
    Ok(Response::json(200, &request.server.host.integrity()))
}

/// Body of `POST /v1/digests`: empty or `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {}

/// `POST /v1/digests`: has every node digest its state at the index that is returned.
pub(crate) fn checkpoint(request: &Request) -> ApiResult {
    if !request.body.is_empty() {
        params::object::<Checkpoint>(request.body)?;
    }
    let index = done(request.server.host.checkpoint(request.deadline()))?;
    Ok(Response::json(200, &json!({"index": index})).at(index))
}

fn not_a_node() -> ApiError {
    ApiError::refused(400, "the node id must be 1 to 999")
}

fn node_id(text: &str) -> Option<NodeId> {
    params::digits(text).map(NodeId)
}
