//! `GET /chat`: the page of the chat.
//!
//! Style and script are part of the page, so that it needs nothing more from a node that may die the next moment: it
//! continues with another node, whose address it has been given here. Its policy runs only scripts with this response's
//! nonce, and allows connections to nodes of the cluster only. Not here: what the page does (`static/chat.js`,
//! `static/chat_client.js`).

use super::static_files::{CHAT_PAGE, CHAT_SCRIPTS, CHAT_STYLE, fill, nodes_json, policy, with_page_headers};
use crate::http::access;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use serde_json::json;

/// The page with the addresses of the nodes that this node knows.
pub(crate) fn page(request: &Request) -> ApiResult {
    let host = &request.server.host;
    let addresses = host.http_addresses();
    let (nodes, front_port) = (nodes_json(&addresses), host.settings().service_port);
    let hello = json!({
        "node": host.identity().id, "nodes": nodes, "front_port": front_port,
        "access": access::new_session(request.server),
    });
    let hello = hello.to_string().replace('<', "\\u003c");
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let html = fill(
        CHAT_PAGE,
        &[
            ("{{style}}", &format!("<style nonce=\"{nonce}\">{CHAT_STYLE}</style>")),
            ("{{hello}}", &format!("<script nonce=\"{nonce}\">const HELLO = {hello};</script>")),
            ("{{script}}", &format!("<script nonce=\"{nonce}\">{}</script>", CHAT_SCRIPTS.concat())),
        ],
    );
    let response = Response { content_type: "text/html; charset=utf-8", ..Response::text(200, html) };
    Ok(with_page_headers(response, policy(&addresses, &request.head.host, &nonce)))
}
