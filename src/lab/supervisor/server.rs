//! The supervisor's port on loopback: requests with the right token go to the thread that owns the node.

use crate::faults::control::{self, Action, Answer, ControlFile, Request};
use crate::lab::{LabError, Result};
use crate::node::spawn;
use crate::store;
use crate::types::NodeId;
use crossbeam_channel::Sender;
use rustix::process::Signal;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// Connections that are served at the same time; further ones are closed.
const CONNECTIONS_MAX: usize = 64;
/// A request is one line of a program of this host.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);

/// What the owner of the node takes.
pub enum Input {
    /// A signal to this process.
    Signal(Signal),
    /// A line that was typed.
    Line(String),
    NoMoreLines,
    /// The node, which is to be told its faults.
    Follower(TcpStream),
    /// The node has the faults of this update in force.
    Obeyed(u64),
    Asked(Question),
}

/// A request, and where its answer goes.
pub struct Question {
    pub action: Action,
    stream: TcpStream,
}

impl Question {
    pub fn answer(self, answer: Answer) {
        // The other side may have gone.
        let _ = control::send(&self.stream, &answer);
    }
}

/// The port and its file.
pub struct Server {
    file: PathBuf,
}

impl Server {
    /// Listens from now on, until this process ends.
    pub fn start(data_dir: &Path, node: NodeId, to: Sender<Input>) -> Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(LabError::io("listen on loopback"))?;
        let port = listener.local_addr().map_err(LabError::io("listen on loopback"))?.port();
        let token = Uuid::new_v4().simple().to_string();
        let path = control::file_of(data_dir, node);
        write_file(&path, &ControlFile { node, port, token: token.clone() })
            .map_err(LabError::io(format!("write {}", path.display())))?;
        spawn::spawn("accept", move || accept_all(&listener, &token, &to)).map_err(LabError::io("start a thread"))?;
        Ok(Server { file: path })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// For this user alone; whole or not at all.
fn write_file(path: &Path, file: &ControlFile) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    store::create_private_dir(folder).map_err(std::io::Error::other)?;
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut to = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    to.write_all(&serde_json::to_vec(file)?)?;
    std::fs::rename(&new, path)
}

fn accept_all(listener: &TcpListener, token: &str, to: &Sender<Input>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // No file descriptor is left.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (token, to, counter) = (token.to_string(), to.clone(), Arc::clone(&open));
        let started = spawn::spawn("request", move || {
            serve(stream, &token, &to);
            counter.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(stream: TcpStream, token: &str, to: &Sender<Input>) {
    let Some(request) = read_request(&stream) else { return };
    if !is_same(token, &request.token) {
        let why = "wrong token: it is in the file of this supervisor, which only its user may read".to_string();
        let _ = control::send(&stream, &Answer::Refused(why));
        return;
    }
    if request.action != Action::Follow {
        let _ = to.send(Input::Asked(Question { action: request.action, stream }));
        return;
    }
    let Ok(reader) = stream.try_clone() else { return };
    if reader.set_read_timeout(None).is_err() || to.send(Input::Follower(stream)).is_err() {
        return;
    }
    let mut reader = BufReader::new(reader);
    while let Ok(number) = control::receive(&mut reader) {
        if to.send(Input::Obeyed(number)).is_err() {
            return;
        }
    }
}

/// One line, within its time in total: a byte now and then does not keep the place.
fn read_request(stream: &TcpStream) -> Option<Request> {
    let deadline = std::time::Instant::now() + REQUEST_WITHIN;
    let mut line = Vec::new();
    let mut from = BufReader::new(stream.take(control::LINE_BYTES_MAX));
    loop {
        let left = deadline.checked_duration_since(std::time::Instant::now()).filter(|left| !left.is_zero())?;
        stream.set_read_timeout(Some(left)).ok()?;
        let bytes = std::io::BufRead::fill_buf(&mut from).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(bytes.len(), |end| end + 1);
        if count == 0 {
            return None;
        }
        line.extend_from_slice(&bytes[..count]);
        std::io::BufRead::consume(&mut from, count);
        if end.is_some() {
            return serde_json::from_slice(&line).ok();
        }
    }
}

/// Takes as long whichever byte differs.
fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
