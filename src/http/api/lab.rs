//! `/v1/lab`: faults on demand for the page of a node that runs in a lab. Elsewhere it does not exist (404).
//!
//! Every request needs the token that `GET /v1/lab` returns, which pages of other web sites cannot read, and comes from
//! this machine. Each action has the command line that does the same; what that can do besides is left to it.
//! Not here: what a fault does (`faults/`).

use crate::faults::command::{self, Command};
use crate::faults::control::{self, Action};
use crate::faults::{LinkQuality, switch};
use crate::http::protocol::error::ApiError;
use crate::http::protocol::params;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::types::NodeId;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;
use uuid::Uuid;

/// Shown to the pages of this cluster, and required from them.
static TOKEN: OnceLock<String> = OnceLock::new();

/// Milliseconds that `slow` adds to each direction of a link.
const SLOW_MS: u64 = 100;
/// Nodes that one request may name.
const NODES_MAX: usize = 99;

fn token() -> &'static str {
    TOKEN.get_or_init(|| Uuid::new_v4().simple().to_string())
}

/// The data folder, if this node runs in a lab and the client on this machine.
fn data_dir<'a>(request: &'a Request) -> Result<&'a Path, ApiError> {
    if switch::get().is_none() {
        let why = "this node does not run in a lab; ./run.sh --lab, phalanx dev --lab and phalanx node --lab start nodes that do";
        return Err(ApiError::refused(404, why));
    }
    match request.client.peer().ip().to_canonical().is_loopback() {
        true => Ok(&request.server.host.settings().data_dir),
        false => Err(ApiError::refused(403, "faults are injected from the machine of the nodes only")),
    }
}

/// `GET /v1/lab`: the nodes of the lab with their faults, and the token for [`inject`].
pub(crate) fn show(request: &Request) -> ApiResult {
    let data_dir = data_dir(request)?;
    let ask = |node| control::ask(data_dir, node, &Action::Show).ok();
    let nodes: Vec<_> = control::nodes(data_dir).into_iter().filter_map(ask).collect();
    Ok(Response::json(200, &json!({"token": token(), "nodes": nodes})))
}

/// What a page asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FaultAction {
    Kill,
    Stop,
    Freeze,
    Thaw,
    Start,
    /// Cut these nodes off from all others.
    Partition,
    /// Delay everything from and to these nodes.
    Slow,
    Heal,
}

/// Body of `POST /v1/lab`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    token: String,
    action: FaultAction,
    nodes: Vec<u64>,
    for_ms: Option<u64>,
}

/// `POST /v1/lab`
pub(crate) fn inject(request: &Request) -> ApiResult {
    let fault: Fault = params::object(request.body)?;
    let data_dir = data_dir(request)?;
    if fault.token != token() {
        return Err(ApiError::refused(403, "token: not the one that GET /v1/lab of this node returns"));
    }
    let nodes: BTreeSet<NodeId> = fault.nodes.iter().copied().map(NodeId).collect();
    if nodes.is_empty() || fault.nodes.len() > NODES_MAX {
        return Err(ApiError::refused(400, format!("nodes: 1 to {NODES_MAX} node numbers are possible")));
    }
    let all = control::nodes(data_dir);
    if let Some(unknown) = nodes.iter().find(|node| !all.contains(node)) {
        return Err(ApiError::refused(400, format!("nodes: node {} is not in this lab", unknown.0)));
    }
    let command = command_of(&fault, &nodes, &all).map_err(|why| ApiError::refused(400, format!("nodes: {why}")))?;
    let results: Vec<Value> = command::carry_out(data_dir, &command)
        .into_iter()
        .map(|(node, result)| match result {
            Ok(state) => json!({"node": node, "done": state.done}),
            Err(e) => json!({"node": node, "error": e.to_string()}),
        })
        .collect();
    Ok(Response::json(200, &json!({"command": command_line(&fault), "results": results})))
}

fn command_of(fault: &Fault, nodes: &BTreeSet<NodeId>, all: &[NodeId]) -> Result<Command, String> {
    let (for_ms, list) = (fault.for_ms, || nodes.iter().copied().collect::<Vec<_>>());
    let process = |action| Ok(Command::Process { nodes: list(), action });
    let links = |quality| {
        let others = all.iter().copied().filter(|node| !nodes.contains(node)).collect();
        let links = command::between(&[list(), others], false)?;
        Ok(Command::Links { links, quality, for_ms })
    };
    match fault.action {
        FaultAction::Kill => process(Action::Kill { for_ms }),
        FaultAction::Stop => process(Action::Stop { for_ms }),
        FaultAction::Freeze => process(Action::Freeze { for_ms }),
        FaultAction::Thaw => process(Action::Thaw),
        FaultAction::Start => process(Action::Start),
        FaultAction::Partition => links(LinkQuality { is_cut: true, ..LinkQuality::default() }),
        FaultAction::Slow => links(LinkQuality { delay_ms: SLOW_MS, ..LinkQuality::default() }),
        FaultAction::Heal => Ok(Command::Heal { nodes: list(), all: all.to_vec(), kind: None }),
    }
}

/// What does the same on the command line.
fn command_line(fault: &Fault) -> String {
    let list = |between: &str| fault.nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(between);
    let nodes = list(",");
    let what = match fault.action {
        FaultAction::Kill => format!("kill {nodes}"),
        FaultAction::Stop => format!("stop {nodes}"),
        FaultAction::Freeze => format!("pause {nodes}"),
        FaultAction::Thaw => format!("resume {nodes}"),
        FaultAction::Start => format!("restart {nodes}"),
        FaultAction::Partition => format!("partition {nodes}"),
        FaultAction::Slow => format!("delay {nodes} --ms {SLOW_MS}"),
        FaultAction::Heal => format!("heal {nodes}"),
    };
    let lasts = fault.for_ms.map_or(String::new(), |ms| format!(" --for {ms}ms"));
    format!("phalanx chaos {what}{lasts}")
}
