//! `GET /v1/chat/stream?after=POSITION`: the events of a user's conversations as they happen, one line of JSON each.
//!
//! A reader that reconnects after a position, on any node, receives the events it missed and none twice. A node that is
//! behind that position waits until it has caught up. Usually a reader receives the lines that were written once for
//! all readers (`node/views/chat_feed.rs`) and belong to its conversations; only what it missed, or what concerns it
//! alone, is looked up and written for it. A line `{"type":"beat","position":N}` comes every two seconds without
//! another. The stream ends with `{"type":"logged_out"}` when its log-in ends, and with an orderly end when the node
//! stops. When it breaks off without either, the client continues on another node. A slow reader holds only the piece
//! that it has not read: no state of the chat, and of memory only its share of what all slow readers may hold together.
//! Not here: waking readers (`node/views/chat_feed.rs`), the form of a line (`node/views/chat_lines.rs`).

use super::requests::{ask_at, token};
use crate::http::outcome::unexpected;
use crate::http::protocol::conn::Conn;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::response::Response;
use crate::http::request::{Request, Stream};
use crate::http::server::Server;
use crate::limits::{CHAT_PIECE_BYTES, CHAT_PIECE_EVENTS_MAX, CHAT_SOCKET_BYTES};
use crate::node::Level;
use crate::node::views::chat_feed::{ChatReader, ChatView};
use crate::node::views::chat_lines;
use crate::services::chat::{AccountId, Query, TokenHash, View};
use std::io;
use std::time::{Duration, Instant};

/// Longest time without a line.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// A valid log-in, and the position after which its owner reads.
struct Login {
    token: TokenHash,
    who: AccountId,
    position: u64,
    /// The chat's revision at which the log-in was found valid.
    revision: u64,
}

/// `GET /v1/chat/stream`: checks the log-in and the position.
pub(crate) fn open(request: &Request) -> Result<Stream, ApiError> {
    let (after, token) = (request.params().number("after")?, token(request.head)?);
    // Linearizable: a log-in that was ended on any node opens no stream here.
    let (_, View::Me { account, position, revision, .. }) =
        ask_at(request.server, Level::Linearizable, &Query::Me(token))?
    else {
        return Err(unexpected());
    };
    if after.is_some_and(|after| after > position) {
        return Err(ApiError::refused(
            400,
            format!("after must be at most {position}, the current position of the chat"),
        ));
    }
    let position = after.unwrap_or(position);
    let login = Login { token, who: account, position, revision };
    let head = Response::stream("application/x-ndjson").with("X-Accel-Buffering", "no");
    Ok(Stream { head, run: Box::new(move |server, conn, head| run(server, conn, head, login)) })
}

/// Streams until the client disconnects, does not keep up, is logged out, or the node stops or its state is found to be
/// corrupt.
fn run(server: &Server, conn: &mut Conn, head: Response, login: Login) -> Result<(), ApiError> {
    let Some(epoch) = server.host.state_epoch() else {
        return Err(ApiError::refused(503, "this node is rebuilding its state: ask another node"));
    };
    let feed = server.host.follow_chat();
    // The services have the log-in; the published view may be a moment behind.
    let mut view = feed.view();
    if view.chat.revision() < login.revision {
        match feed.wait(login.revision - 1, server.deadline()) {
            Some(newer) => view = newer,
            None => return Err(ApiError::refused(503, "this node is behind: try again")),
        }
    }
    if conn.begin_stream(head, server.origin()).is_err() {
        return Ok(());
    }
    conn.bound_system_buffer(CHAT_SOCKET_BYTES);
    let mut reader = Reader { conn, position: login.position, login, epoch };
    server.count_slow_reader(&reader.stream(server, &feed, view));
    Ok(())
}

struct Reader<'a> {
    conn: &'a Conn,
    position: u64,
    login: Login,
    /// Epoch of the state that it reads: after a corrupt state was replaced, the stream must not continue.
    epoch: u64,
}

impl Reader<'_> {
    fn stream(&mut self, server: &Server, feed: &ChatReader, mut view: std::sync::Arc<ChatView>) -> io::Result<()> {
        self.send_heartbeat()?;
        let mut said_at = Instant::now();
        loop {
            if server.host.is_stopping() || server.host.state_epoch() != Some(self.epoch) {
                return self.conn.end_stream();
            }
            let revision = view.chat.revision();
            if view.chat.who(&self.login.token) != Some(self.login.who) {
                self.conn.send_piece(&[b"{\"type\":\"logged_out\"}\n"])?;
                return self.conn.end_stream();
            }
            let (piece, until) = self.next(&view);
            let is_behind = until < view.chat.position();
            // Dropped before sending, so that a slow reader keeps no old view in memory.
            drop(view);
            if !piece.is_empty() {
                self.conn.send_piece(&[piece.as_bytes()])?;
                said_at = Instant::now();
            }
            drop(piece);
            self.position = until;
            if is_behind {
                view = feed.view();
                continue;
            }
            loop {
                if server.host.is_stopping() || server.host.state_epoch() != Some(self.epoch) {
                    return self.conn.end_stream();
                }
                if let Some(newer) = feed.wait(revision, said_at + HEARTBEAT_INTERVAL) {
                    view = newer;
                    break;
                }
                if said_at.elapsed() >= HEARTBEAT_INTERVAL {
                    self.send_heartbeat()?;
                    said_at = Instant::now();
                }
            }
        }
    }

    /// The next lines, and the position from which to continue.
    fn next(&self, view: &ChatView) -> (String, u64) {
        let (chat, who) = (&view.chat, self.login.who);
        let is_near = view.runs.first().is_some_and(|first| first.from <= self.position);
        let mut text = String::new();
        if is_near && !chat.is_touched_after(who, self.position) {
            let new = view.runs.iter().filter(|run| run.to > self.position).flat_map(|run| &run.lines);
            for (position, conversation, line) in new {
                if *position > self.position && chat.is_in(who, *conversation) {
                    text.push_str(line);
                    if text.len() >= CHAT_PIECE_BYTES {
                        return (text, *position);
                    }
                }
            }
            (text, chat.position().max(self.position))
        } else {
            let (events, until) = chat.events_after(who, self.position, CHAT_PIECE_EVENTS_MAX);
            for (position, conversation, event) in events {
                text.push_str(&chat_lines::for_one(chat, who, position, conversation, &event));
                if text.len() >= CHAT_PIECE_BYTES {
                    return (text, position);
                }
            }
            (text, until)
        }
    }

    fn send_heartbeat(&self) -> io::Result<()> {
        self.conn.send_piece(&[format!("{{\"type\":\"beat\",\"position\":{}}}\n", self.position).as_bytes()])
    }
}
