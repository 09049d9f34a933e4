//! The files of `static/`, compiled in: exact names, nothing read from disk, so no path can lead anywhere else.
//!
//! Not here: the page around them (`monitor.rs`).

use crate::address;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::head::Head;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::types::NodeId;
use serde_json::{Value as Json, json};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The page with its placeholders; `monitor.rs` fills them.
pub(crate) const PAGE: &str = include_str!("../../../static/index.html");
/// The page's style.
pub(crate) const STYLE: &str = include_str!("../../../static/style.css");
/// The page's script: its files in the order in which they run.
pub(crate) const SCRIPTS: [&str; 4] = [
    include_str!("../../../static/jobs.js"),
    include_str!("../../../static/run.js"),
    include_str!("../../../static/lab.js"),
    include_str!("../../../static/app.js"),
];

/// The page of the chat with its placeholders; `chat_page.rs` fills them.
pub(crate) const CHAT_PAGE: &str = include_str!("../../../static/chat.html");
pub(crate) const CHAT_STYLE: &str = include_str!("../../../static/chat.css");
/// Its script: its files in the order in which they run.
pub(crate) const CHAT_SCRIPTS: [&str; 2] =
    [include_str!("../../../static/chat_client.js"), include_str!("../../../static/chat.js")];

/// The log-in page with its placeholders; `login.rs` fills them.
pub(crate) const LOGIN_PAGE: &str = include_str!("../../../static/login.html");

/// The description of all paths, see `http/routes.rs`.
pub(crate) const OPENAPI: &str = include_str!("../../../static/openapi.json");

const FILES: [(&str, &str, &str); 7] = [
    ("style.css", "text/css; charset=utf-8", STYLE),
    ("jobs.js", "text/javascript; charset=utf-8", SCRIPTS[0]),
    ("run.js", "text/javascript; charset=utf-8", SCRIPTS[1]),
    ("lab.js", "text/javascript; charset=utf-8", SCRIPTS[2]),
    ("app.js", "text/javascript; charset=utf-8", SCRIPTS[3]),
    ("shield.svg", "image/svg+xml", include_str!("../../../static/shield.svg")),
    ("openapi.json", "application/json", OPENAPI),
];

/// `GET /static/{name}`
pub(crate) fn file(request: &Request) -> ApiResult {
    named(request.args.0, request.head)
}

/// `GET /openapi.json`
pub(crate) fn openapi(request: &Request) -> ApiResult {
    named("openapi.json", request.head)
}

fn named(name: &str, head: &Head) -> ApiResult {
    let Some((_, content_type, text)) = FILES.iter().find(|(file, _, _)| *file == name) else {
        return Err(ApiError::refused(404, "no such file"));
    };
    let tag = format!("\"{:08x}\"", crc32fast::hash(text.as_bytes()));
    let known = head.if_none_match.as_deref().unwrap_or_default();
    let is_known =
        known.split(',').any(|other| matches!(other.trim(), "*") || other.trim().trim_start_matches("W/") == tag);
    let response = if is_known {
        Response::empty(304)
    } else {
        Response { content_type, body: Cow::Borrowed(text.as_bytes()), ..Response::empty(200) }
    };
    Ok(response.with("ETag", tag).with("Cache-Control", "no-cache"))
}

/// Fills the placeholders of a page, each of which it has once and in this order.
pub(crate) fn fill(page: &str, values: &[(&str, &str)]) -> String {
    let mut html = String::with_capacity(page.len() + values.iter().map(|(_, value)| value.len()).sum::<usize>());
    let mut rest = page;
    for (name, value) in values {
        let (before, after) = rest.split_once(name).expect("a page has each placeholder once, in order");
        html.push_str(before);
        html.push_str(value);
        rest = after;
    }
    html.push_str(rest);
    html
}

/// The nodes as a list for the page's script.
pub(crate) fn nodes_json(addresses: &[(NodeId, String)]) -> Json {
    addresses.iter().map(|(id, http)| json!({"id": id, "http": http})).collect()
}

/// Adds the headers of a page.
pub(crate) fn with_page_headers(response: Response, policy: String) -> Response {
    response
        .with("Content-Security-Policy", policy)
        .with("Referrer-Policy", "same-origin")
        .with("X-Frame-Options", "DENY")
}

/// A policy that allows only scripts and styles with this nonce, and connections to this node, under the name `host` by
/// which its client came, and to the hosts of the others, on any port: nodes may join while the page is open.
pub(crate) fn policy(addresses: &[(NodeId, String)], host: &str, nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; \
         connect-src 'self' {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        reachable_hosts(addresses, host)
    )
}

/// This node's host as its client names it, and the hosts of all nodes, on any port, as sources of a policy.
pub(crate) fn reachable_hosts(addresses: &[(NodeId, String)], host: &str) -> String {
    let mut hosts = BTreeSet::from(["http://127.0.0.1:*".to_owned(), "http://localhost:*".to_owned()]);
    for address in addresses.iter().map(|(_, address)| address.as_str()).chain([host]) {
        match address::split(address) {
            Some((name, _)) if !name.contains(':') => hosts.insert(format!("http://{name}:*")),
            // A policy cannot name an IPv6 address.
            Some(_) => hosts.insert("http:".to_owned()),
            None => false,
        };
    }
    hosts.into_iter().collect::<Vec<_>>().join(" ")
}
