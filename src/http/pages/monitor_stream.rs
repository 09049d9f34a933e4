//! Endless responses: frames to the monitor page, to `/v1/stream` and to `/v1/watch`, each encoded once for all viewers.
//!
//! A node serves thousands of these, so a streaming connection has no buffer, only a small stack; a frame is sent in
//! one system call; a reader that does not keep up skips frames (only the newest one is sent), and a reader that
//! accepts nothing is disconnected at the write deadline.
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

/// How long to wait for a frame before checking whether the node is stopping.
const WAIT: Duration = Duration::from_secs(1);

/// Its connections do not count as load.
pub(crate) const HOLD_PATH: &str = "/v1/hold";
/// Time between two line feeds of a held request, by which a client that is gone is noticed.
const HOLD_BEAT: Duration = Duration::from_secs(2);

/// How each frame is sent.
struct FrameStyle {
    /// Sent before the first frame.
    opening: String,
    /// The text around its JSON; `None`: no JSON.
    json: Option<(String, &'static str)>,
    /// The text around its table; `None`: no table.
    table: Option<(&'static str, &'static str)>,
    since: u64,
}

/// `GET /v1/hold`: sends only line feeds, and ends when the node does. A browser does not notify a page when its own
/// document is cut short (a killed node sends no last chunk), but it does so for a request like this one.
pub(crate) fn hold(_: &Request) -> Result<Stream, ApiError> {
    let run = |server: &Server, conn: &mut Conn, _| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n\
                     X-Accel-Buffering: no\r\nConnection: close\r\n\r\n\n";
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
    let shape = FrameStyle { opening: String::new(), json: Some((String::new(), "\n")), table: None, since };
    Ok(Stream { head, run: Box::new(move |server, conn, head| run(server, conn, head, shape)) })
}

/// `GET /v1/watch`: a table for each frame.
pub(crate) fn watch(request: &Request) -> Result<Stream, ApiError> {
    let head = head_of("text/plain; charset=utf-8", &session_id(request));
    let shape = FrameStyle { opening: String::new(), json: None, table: Some(("", "\n")), since: 0 };
    Ok(Stream { head, run: Box::new(move |server, conn, head| run(server, conn, head, shape)) })
}

/// `GET /`: the monitor page, and a script element for each frame; as [`watch`] for a client that asks for plain text.
pub(crate) fn page(request: &Request) -> Result<Stream, ApiError> {
    let accept = request.head.accept.as_deref().unwrap_or_default();
    if accept.contains("text/plain") && !accept.contains("text/html") {
        return watch(request);
    }
    let session_id = session_id(request);
    let page = monitor::Page::of(request.server, request.head, &session_id);
    let head = with_page_headers(head_of("text/html; charset=utf-8", &session_id), page.policy);
    let shape = FrameStyle {
        opening: page.html,
        json: Some((page.before_frame, page.after_frame)),
        table: page.has_table.then_some(("<!--\n", "-->\n")),
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
fn run(server: &Server, conn: &mut Conn, head: Response, mut shape: FrameStyle) -> Result<(), ApiError> {
    if conn.begin_stream(head, server.origin()).is_ok() {
        server.count_slow_reader(&stream(server, conn, &mut shape));
    }
    Ok(())
}

fn stream(server: &Server, conn: &Conn, shape: &mut FrameStyle) -> io::Result<()> {
    conn.send_piece(&[shape.opening.as_bytes()])?;
    shape.opening = String::new();
    let newest = server.host.frame();
    // A number from another process, or from before a restart, has no meaning here: start with the newest frame.
    let mut seq = if shape.since > newest.seq { 0 } else { shape.since };
    let mut waited = Some(newest);
    loop {
        if let Some(published) = waited.take().filter(|published| published.seq != seq) {
            seq = published.seq;
            let json = shape.json.as_ref().map(|(before, after)| [before.as_str(), &published.json, after]);
            let table = shape.table.map(|around| (around, monitor::table(server, &published)));
            let table = table.as_ref().map(|((before, after), table)| [*before, table, after]);
            let ([a, b, c], [d, e, f]) = (json.unwrap_or_default(), table.unwrap_or_default());
            conn.send_piece(&[a, b, c, d, e, f].map(str::as_bytes))?;
        }
        if server.host.is_stopping() {
            return conn.end_stream();
        }
        waited = server.host.wait_frame(seq, Instant::now() + WAIT);
    }
}
