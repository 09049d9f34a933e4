//! The answers that never end: frames to the monitor page and to `/v1/stream`, each encoded once for all viewers.
//!
//! A node holds thousands of these, so a streaming connection keeps no buffer, only a small stack; a frame leaves in
//! one system call; a reader that does not keep up skips frames (only the newest one is ever sent), and one that takes
//! nothing at all is dropped at the write deadline.
//! Not here: the page and its table (`monitor.rs`), when a frame is due (`node/threads/monitor.rs`).

use super::monitor;
use crate::http::host::HostSession;
use crate::http::protocol::conn::Conn;
use crate::http::protocol::guard;
use crate::http::protocol::parse::Head;
use crate::http::protocol::reply::{self, Reply};
use crate::http::server::Server;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long to wait for a frame before looking whether the node is stopping.
const WAIT: Duration = Duration::from_secs(1);

/// Between two line feeds of a held request, which find out that the client is gone.
const HOLD_BEAT: Duration = Duration::from_secs(2);

/// What goes around each frame.
pub(crate) struct Shape {
    headers: Reply,
    /// What comes before the first frame.
    opening: String,
    before: String,
    after: &'static str,
    /// Adds the frame as a table: the client shows text.
    has_table: bool,
    is_chunked: bool,
    since: u64,
}

impl Shape {
    /// The shape that a request asks for; tells the session what it is.
    pub(crate) fn of(server: &Server, head: &Head, is_lines: bool, session: &dyn HostSession) -> Result<Shape, Reply> {
        let session_id = session.id();
        let headers = Reply::empty(200).with("X-Phalanx-Session", session_id.clone()).with("X-Accel-Buffering", "no");
        if is_lines {
            let Ok(since) = head.query("since").unwrap_or("0").parse() else {
                let refusal = Reply::refused(400, "since must be the number of a frame");
                return Err(guard::with_cors(&*server.host, head, refusal));
            };
            session.set_kind("stream");
            let headers =
                guard::with_cors(&*server.host, head, Reply { content_type: "application/x-ndjson", ..headers });
            return Ok(Shape {
                headers,
                opening: String::new(),
                before: String::new(),
                after: "\n",
                has_table: false,
                is_chunked: head.is_http11,
                since,
            });
        }
        session.set_kind("monitor");
        let page = monitor::Page::of(server, head, &session_id);
        Ok(Shape {
            headers: Reply { content_type: "text/html; charset=utf-8", ..headers }
                .with("Content-Security-Policy", page.policy)
                .with("Referrer-Policy", "same-origin")
                .with("X-Frame-Options", "DENY"),
            opening: page.html,
            before: page.before_frame,
            after: page.after_frame,
            has_table: page.has_table,
            is_chunked: head.is_http11,
            since: 0,
        })
    }

    /// The answer to HEAD.
    pub(crate) fn head_only(self) -> Reply {
        Reply { is_stream: true, ..self.headers }
    }

    fn head(&self, server: &Server) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        reply::status_line(&mut out, 200);
        reply::header(&mut out, "Content-Type", self.headers.content_type);
        reply::header(&mut out, "Cache-Control", "no-store");
        reply::header(&mut out, "X-Content-Type-Options", "nosniff");
        server.origin().write(&mut out);
        for (name, value) in &self.headers.headers {
            reply::header(&mut out, name, value);
        }
        if self.is_chunked {
            reply::header(&mut out, "Transfer-Encoding", "chunked");
        }
        reply::header(&mut out, "Connection", "close");
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// `GET /v1/hold`: says nothing, and ends when the node does. A browser does not tell a page that its own document broke
/// off (a killed node ends it without a last chunk), but it does tell it about a request like this one.
pub(crate) fn hold(server: &Server, mut conn: Conn) {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n\n";
    conn.output().extend_from_slice(head);
    if conn.flush().is_err() {
        return;
    }
    conn.free_buffers();
    while !server.host.is_stopping() {
        // No frame has this number: the wait ends early only when the node stops.
        server.host.wait_frame(u64::MAX, Instant::now() + HOLD_BEAT);
        if conn.send(&[b"\n"]).is_err() {
            return;
        }
    }
}

/// Streams until the client goes away, does not keep up, or the node stops.
pub(crate) fn run(server: &Server, mut conn: Conn, mut shape: Shape) {
    let head = shape.head(server);
    conn.output().extend_from_slice(&head);
    drop(head);
    if conn.flush().is_err() {
        return;
    }
    conn.free_buffers();
    let result = stream(server, &conn, &mut shape);
    if result.is_err_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)) {
        server.counts.slow_readers_dropped.fetch_add(1, Relaxed);
    }
}

fn stream(server: &Server, conn: &Conn, shape: &mut Shape) -> io::Result<()> {
    if !shape.opening.is_empty() {
        send(conn, shape.is_chunked, &[shape.opening.as_bytes()])?;
        shape.opening = String::new();
    }
    shape.headers.headers = Vec::new();
    let newest = server.host.frame();
    // A number from another process, or from before a restart, means nothing here: start with what there is.
    let mut seq = if shape.since > newest.seq { 0 } else { shape.since };
    let mut waited = Some(newest);
    loop {
        if let Some(published) = waited.take().filter(|published| published.seq != seq) {
            seq = published.seq;
            let table = if shape.has_table { monitor::table(server, &published) } else { "".into() };
            let parts = [shape.before.as_bytes(), published.json.as_bytes(), shape.after.as_bytes(), table.as_bytes()];
            send(conn, shape.is_chunked, &parts)?;
        }
        if server.host.is_stopping() {
            // A proper end tells the client that this was no accident.
            return if shape.is_chunked { conn.send(&[b"0\r\n\r\n"]) } else { Ok(()) };
        }
        waited = server.host.wait_frame(seq, Instant::now() + WAIT);
    }
}

/// One chunk.
fn send(conn: &Conn, is_chunked: bool, parts: &[&[u8]]) -> io::Result<()> {
    if !is_chunked {
        return conn.send(parts);
    }
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let size = format!("{length:x}\r\n");
    let mut framed: [&[u8]; 8] = [b""; 8];
    framed[0] = size.as_bytes();
    framed[1..=parts.len()].copy_from_slice(parts);
    framed[parts.len() + 1] = b"\r\n";
    conn.send(&framed[..parts.len() + 2])
}
