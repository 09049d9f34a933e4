//! The answers that never end: frames to the monitor page and to `/v1/stream`, each encoded once for all viewers.
//!
//! A node holds thousands of these, so a streaming connection keeps no buffer, only a small stack; a frame leaves in
//! one system call; a reader that does not keep up skips frames (only the newest one is ever sent), and one that takes
//! nothing at all is dropped at the write deadline.
//! Not here: the page and its table (`monitor.rs`), when a frame is due (`node/threads/monitor.rs`).

use super::monitor;
use super::static_files::with_page_headers;
use crate::http::protocol::conn::Conn;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::response::Response;
use crate::http::request::{Request, Stream};
use crate::http::server::Server;
use std::io;
use std::time::{Duration, Instant};

/// How long to wait for a frame before looking whether the node is stopping.
const WAIT: Duration = Duration::from_secs(1);

/// Its connections are no load.
pub(crate) const HOLD_PATH: &str = "/v1/hold";
/// Between two line feeds of a held request, which find out that the client is gone.
const HOLD_BEAT: Duration = Duration::from_secs(2);

/// What goes around each frame.
struct Shape {
    /// What comes before the first frame.
    opening: String,
    before: String,
    after: &'static str,
    /// Adds the frame as a table: the client shows text.
    has_table: bool,
    since: u64,
}

/// `GET /v1/hold`: says nothing, and ends when the node does. A browser does not tell a page that its own document broke
/// off (a killed node ends it without a last chunk), but it does tell it about a request like this one.
pub(crate) fn hold(_: &Request) -> Result<Stream, ApiError> {
    let run = |server: &Server, conn: &mut Conn, _| {
        let head =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n\n";
        conn.output().extend_from_slice(head);
        if conn.flush().is_err() {
            return Ok(());
        }
        conn.free_buffers();
        while !server.host.is_stopping() {
            // No frame has this number: the wait ends early only when the node stops.
            server.host.wait_frame(u64::MAX, Instant::now() + HOLD_BEAT);
            if conn.send(&[b"\n"]).is_err() {
                break;
            }
        }
        Ok(())
    };
    Ok(Stream { head: Response::empty(200), run: Box::new(run) })
}

/// `GET /v1/stream`: frames, a line of JSON for each.
pub(crate) fn frames(request: &Request) -> Result<Stream, ApiError> {
    let Ok(since) = request.head.query("since").unwrap_or("0").parse() else {
        return Err(ApiError::refused(400, "since must be the sequence number of a frame"));
    };
    let head = head_of("application/x-ndjson", &session_id(request));
    let shape = Shape { opening: String::new(), before: String::new(), after: "\n", has_table: false, since };
    Ok(Stream { head, run: Box::new(move |server, conn, head| run(server, conn, head, shape)) })
}

/// `GET /`: the monitor page, and a script element for each frame.
pub(crate) fn page(request: &Request) -> Result<Stream, ApiError> {
    let session_id = session_id(request);
    let page = monitor::Page::of(request.server, request.head, &session_id);
    let head = with_page_headers(head_of("text/html; charset=utf-8", &session_id), page.policy);
    let shape = Shape {
        opening: page.html,
        before: page.before_frame,
        after: page.after_frame,
        has_table: page.has_table,
        since: 0,
    };
    Ok(Stream { head, run: Box::new(move |server, conn, head| run(server, conn, head, shape)) })
}

fn session_id(request: &Request) -> String {
    request.session.expect("every request but that of /v1/hold opens a session").id().to_owned()
}

fn head_of(content_type: &'static str, session_id: &str) -> Response {
    Response::stream(content_type).with("X-Phalanx-Session", session_id).with("X-Accel-Buffering", "no")
}

/// Streams until the client goes away, does not keep up, or the node stops.
fn run(server: &Server, conn: &mut Conn, head: Response, mut shape: Shape) -> Result<(), ApiError> {
    if conn.begin_stream(head, server.origin()).is_ok() {
        server.count_slow_reader(&stream(server, conn, &mut shape));
    }
    Ok(())
}

fn stream(server: &Server, conn: &Conn, shape: &mut Shape) -> io::Result<()> {
    conn.send_piece(&[shape.opening.as_bytes()])?;
    shape.opening = String::new();
    let newest = server.host.frame();
    // A number from another process, or from before a restart, means nothing here: start with what there is.
    let mut seq = if shape.since > newest.seq { 0 } else { shape.since };
    let mut waited = Some(newest);
    loop {
        if let Some(published) = waited.take().filter(|published| published.seq != seq) {
            seq = published.seq;
            let table = if shape.has_table { monitor::table(server, &published) } else { "".into() };
            let parts = [shape.before.as_bytes(), published.json.as_bytes(), shape.after.as_bytes(), table.as_bytes()];
            conn.send_piece(&parts)?;
        }
        if server.host.is_stopping() {
            return conn.end_stream();
        }
        waited = server.host.wait_frame(seq, Instant::now() + WAIT);
    }
}
