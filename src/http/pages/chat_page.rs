//! `GET /chat`: the page on which people talk.
//!
//! Style and script stand inside, so that the page needs nothing more from a node that may die the next moment; it goes on with
//! another, of which it is told here. Its policy runs only what carries this answer's nonce and talks to nodes of the cluster
//! alone. Not here: what the page does (`static/chat.js`).

use super::static_files::{CHAT_PAGE, CHAT_SCRIPT, CHAT_STYLE, policy};
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use serde_json::json;
use std::borrow::Cow;

/// The page with this node's view of who else is there.
pub(crate) fn page(request: &Request) -> ApiResult {
    let server = request.server;
    let addresses = server.host.http_addresses();
    let nodes: Vec<_> = addresses.iter().map(|(id, http)| json!({"id": id, "http": http})).collect();
    let hello = json!({"node": server.host.identity().id, "nodes": nodes}).to_string().replace('<', "\\u003c");
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let mut html = String::with_capacity(CHAT_PAGE.len() + CHAT_STYLE.len() + CHAT_SCRIPT.len() + hello.len() + 512);
    let mut rest = CHAT_PAGE;
    for (mark, with) in [
        ("{{style}}", format!("<style nonce=\"{nonce}\">{CHAT_STYLE}</style>")),
        ("{{hello}}", format!("<script nonce=\"{nonce}\">const HELLO = {hello};</script>")),
        ("{{script}}", format!("<script nonce=\"{nonce}\">{CHAT_SCRIPT}</script>")),
    ] {
        let (before, after) = rest.split_once(mark).expect("the page has each of its marks, in this order");
        html.push_str(before);
        html.push_str(&with);
        rest = after;
    }
    html.push_str(rest);
    let addresses: Vec<&str> = addresses.iter().map(|(_, address)| address.as_str()).collect();
    let response = Response {
        content_type: "text/html; charset=utf-8",
        body: Cow::Owned(html.into_bytes()),
        ..Response::empty(200)
    };
    Ok(response
        .with("Content-Security-Policy", policy(&addresses, &nonce))
        .with("Referrer-Policy", "same-origin")
        .with("X-Frame-Options", "DENY"))
}
