//! The protocol of a node's supervisor: a line of JSON asks, a line of JSON answers, over a TCP connection of loopback.
//!
//! Each supervisor listens on a port of its own and writes it, with a random token, into a file that only its user may
//! read; a request without the token is refused. So no other user and no web page can break a node.
//! Not here: what the supervisor does (`lab/supervisor/`).

use super::{Fault, FaultKind};
use crate::types::NodeId;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folder of the supervisors' files below the data folder.
pub const FOLDER: &str = "lab";
/// Largest line of the protocol.
pub const LINE_BYTES_MAX: u64 = 256 << 10;
/// A supervisor proves that a fault has happened before it answers, or says that it has not.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How a supervisor is reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControlFile {
    pub node: NodeId,
    pub port: u16,
    pub token: String,
}

/// The file of a node's supervisor.
pub fn file_of(data_dir: &Path, node: NodeId) -> PathBuf {
    data_dir.join(FOLDER).join(format!("node-{}.json", node.0))
}

/// A request with the proof that it may be made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub token: String,
    pub action: Action,
}

/// What a supervisor does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing: tell the state.
    Show,
    /// For the node itself: a line of all faults at each change ([`FaultUpdate`]), acknowledged by its number.
    Follow,
    /// SIGKILL; the node starts again after this time, if one is given. So with each of these actions.
    Kill { for_ms: Option<u64> },
    /// As Ctrl+C stops it.
    Stop { for_ms: Option<u64> },
    /// SIGSTOP.
    Freeze { for_ms: Option<u64> },
    /// SIGCONT.
    Thaw,
    /// Start it; kill it before if it runs.
    Start,
    /// Kill it and remove its data folder.
    Wipe,
    /// Kill it and change one bit in the middle of its log.
    DamageLog,
    /// These faults, until they are healed.
    Add { faults: Vec<Fault>, for_ms: Option<u64> },
    /// End all faults, or those of one kind; `None` also thaws the node, and starts it if the lab has ended it.
    Heal { kind: Option<FaultKind> },
    /// End the faults of the links to these nodes, which are healed.
    HealLinks { to: Vec<NodeId> },
}

/// All faults of a node, as its supervisor tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultUpdate {
    pub number: u64,
    pub faults: Vec<Fault>,
}

/// What a node's process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    Running,
    Frozen,
    Ended,
}

/// A fault that a node has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActiveFault {
    #[serde(flatten)]
    pub fault: Fault,
    /// Milliseconds until it heals by itself.
    pub left_ms: Option<u64>,
}

/// A node of the lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabNode {
    pub node: NodeId,
    /// `None` if it does not run.
    pub pid: Option<u32>,
    pub process: ProcessState,
    /// Milliseconds until it starts or thaws by itself.
    pub left_ms: Option<u64>,
    pub faults: Vec<ActiveFault>,
    /// What was done, proved where that is possible; empty if nothing was asked.
    pub done: String,
}

/// An answer: the state after the action, or why it was not done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Done(LabNode),
    Refused(String),
}

/// Why a supervisor has not done what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("node {0} is not in a lab on this host: start it with phalanx node --lab, ./run.sh --lab or phalanx dev --lab", .node.0)]
    NoSupervisor { node: NodeId },
    #[error("the supervisor of node {0} does not answer: {source}", .node.0)]
    Io { node: NodeId, source: io::Error },
    #[error("node {0}: {why}", .node.0)]
    Refused { node: NodeId, why: String },
}

/// Has the supervisor of a node do something.
///
/// # Errors
/// There is none, it does not answer, or it refuses.
pub fn ask(data_dir: &Path, node: NodeId, action: &Action) -> Result<LabNode, ControlError> {
    let file = read_file(&file_of(data_dir, node)).ok_or(ControlError::NoSupervisor { node })?;
    let io = |source| ControlError::Io { node, source };
    let stream = match dial(&file) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Err(ControlError::NoSupervisor { node }),
        stream => stream.map_err(io)?,
    };
    send(&stream, &Request { token: file.token, action: action.clone() }).map_err(io)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(io)?;
    match receive(&mut BufReader::new(&stream)).map_err(io)? {
        Answer::Done(state) => Ok(state),
        Answer::Refused(why) => Err(ControlError::Refused { node, why }),
    }
}

/// Opens the stream of a node's own faults.
///
/// # Errors
/// No supervisor answers.
pub fn follow(data_dir: &Path, node: NodeId) -> io::Result<TcpStream> {
    let file = read_file(&file_of(data_dir, node)).ok_or(io::ErrorKind::NotFound)?;
    let stream = dial(&file)?;
    send(&stream, &Request { token: file.token, action: Action::Follow })?;
    Ok(stream)
}

/// The nodes that have a file, in order; their supervisors may have ended.
pub fn nodes(data_dir: &Path) -> Vec<NodeId> {
    let entries = std::fs::read_dir(data_dir.join(FOLDER)).into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("node-")?.strip_suffix(".json")?.parse::<u64>().ok();
    let mut nodes: Vec<NodeId> = entries.filter_map(|it| number(it.file_name().to_str()?)).map(NodeId).collect();
    nodes.sort_unstable();
    nodes
}

fn read_file(path: &Path) -> Option<ControlFile> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LINE_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn dial(file: &ControlFile) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, file.port)), CONNECT_WITHIN)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes a line.
///
/// # Errors
/// The other side has gone.
pub fn send(mut to: &TcpStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads a line.
///
/// # Errors
/// The other side has gone, or sends something else.
pub fn receive<T: for<'a> Deserialize<'a>>(from: &mut impl BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
