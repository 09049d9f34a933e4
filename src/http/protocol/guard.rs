//! Which requests are allowed: pages on localhost can be reached from any web site that a person visits.
//!
//! - A `Host` that is not ours is a name that someone else points at this machine (DNS rebinding): 421.
//! - A request caused by a page of another site is refused with 403, whatever its method: a GET of `/db/query` costs a
//!   node whatever the query asks for, and an `<img>` sends one. The table of routes says for each operation whose
//!   pages may request it ([`Audience`]); without an entry only the node's own pages may.
//! - A browser must declare what it sends (415): a plain form of another site cannot declare JSON. This supplements the
//!   rule above and does not replace it.
//! - A client that is not a browser sends none of these headers and is accepted: curl, database clients, other
//!   programs.
//!
//! What browsers send: `Sec-Fetch-Site` on each request to a loopback address (all since 2023), `Origin` on each POST,
//! PUT and DELETE and on each request whose response a page wants to read. A page can forge neither. Pages of another
//! port of this machine are `same-site`, not `same-origin`: they are foreign, unless their origin is a node of this
//! cluster. Over plain HTTP to other addresses, and in older browsers, an `<img>` has neither header: then a browser,
//! recognized by its `User-Agent`, must show by `Referer` that the request comes from one of our pages, or open a
//! window.
//!
//! Not here: secrets; beyond loopback the node refuses to start without one (`settings.rs`). Which operation has which
//! audience (`http/routes.rs`).

use super::error::ApiError;
use super::head::{Head, Method};
use crate::node::Addressing;
use std::net::IpAddr;

/// Refuses a `Host` header that does not name this machine.
pub fn check_host(node: &dyn Addressing, head: &Head) -> Result<(), ApiError> {
    let name = split_authority(&head.host).map(|(name, _)| name);
    match name {
        Some(name) if is_loopback(name) => Ok(()),
        Some(name) => {
            let ours = &node.settings().host;
            let is_ours = name.eq_ignore_ascii_case(ours.trim_matches(['[', ']']));
            // Bound to every address: any IP literal is accepted, since rebinding needs a name.
            let is_any = ours.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
            if is_ours || (is_any && name.parse::<IpAddr>().is_ok()) {
                return Ok(());
            }
            Err(ApiError::refused(421, "this server does not serve this Host"))
        }
        None => Err(ApiError::refused(400, "malformed Host")),
    }
}

/// Media type of most bodies.
pub const JSON: &str = "application/json";

/// Whose pages may request an operation; each variant includes the one before it. A program that is not a browser may
/// request all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    /// The node's own pages.
    Node,
    /// Pages of the cluster's other nodes and front doors: there are no cookies, and the chat identifies its user by a
    /// token.
    Cluster,
    /// Any site may open it in a window, by a link, but cannot read it.
    Window,
    /// Any site: the operation costs nothing and changes nothing, and without permission by CORS no foreign page can
    /// read the response.
    Anyone,
}

impl Audience {
    /// Whether pages of the cluster's other nodes may read the response (CORS).
    pub const fn is_shared(self) -> bool {
        matches!(self, Audience::Cluster | Audience::Anyone)
    }
}

/// The narrowest audience that a request belongs to; `None`: a program that is not a browser.
fn caller(node: &dyn Addressing, head: &Head) -> Option<Audience> {
    let site = head.fetch_site.as_deref();
    let window = || {
        let is_read = matches!(head.method, Some(Method::Get | Method::Head));
        if is_read && head.is_navigation { Audience::Window } else { Audience::Anyone }
    };
    let is_own = |origin: &str| {
        origin.strip_prefix("http://").is_some_and(|authority| authority.eq_ignore_ascii_case(&head.host))
    };
    match (head.origin.as_deref(), site) {
        (Some(origin), None | Some("same-origin" | "none")) if is_own(origin) => Some(Audience::Node),
        (Some(_), _) if allowed_origin(node, head).is_some() => Some(Audience::Cluster),
        (Some(_), _) => Some(Audience::Anyone),
        (None, Some("same-origin" | "none")) => Some(Audience::Node),
        (None, Some(_)) => Some(window()),
        (None, None) if !head.is_browser => None,
        (None, None) => {
            let from = head.referer.as_deref().and_then(|address| address.strip_prefix("http://")?.split('/').next());
            let is_ours = from.is_some_and(|authority| authority.eq_ignore_ascii_case(&head.host));
            Some(if is_ours { Audience::Node } else { window() })
        }
    }
}

/// Refuses a request caused by a page outside of the operation's audience, and a request of a browser whose content
/// type is not `media` (where a body is expected).
pub fn check(node: &dyn Addressing, head: &Head, audience: Audience, media: Option<&str>) -> Result<(), ApiError> {
    let Some(caller) = caller(node, head) else { return Ok(()) };
    if caller > audience {
        return Err(ApiError::refused(
            403,
            "requests from pages of other sites are refused; use a page of this node, or a client other than a browser",
        ));
    }
    if let Some(wanted) = media {
        let said = head.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !said.eq_ignore_ascii_case(wanted) {
            return Err(ApiError::refused(415, format!("Content-Type must be {wanted}")));
        }
    }
    Ok(())
}

/// The value of `Access-Control-Allow-Origin`, if the requesting page belongs to a node of this cluster or a front
/// door.
pub fn allowed_origin(node: &dyn Addressing, head: &Head) -> Option<String> {
    let origin = head.origin.as_deref()?;
    let (name, port) = split_authority(origin.strip_prefix("http://")?)?;
    let port = port.unwrap_or(80);
    let same = |other: &str| {
        name.eq_ignore_ascii_case(other) || (is_loopback(name) && (is_loopback(other) || is_unspecified(other)))
    };
    let is_node = node.http_addresses().iter().any(|(_, address)| {
        split_authority(address).is_some_and(|(other, other_port)| same(other) && other_port == Some(port))
    });
    let is_door = || {
        let settings = node.settings();
        port == settings.service_port
            && (same(&settings.host)
                || node
                    .http_addresses()
                    .iter()
                    .any(|(_, address)| split_authority(address).is_some_and(|(o, _)| same(o))))
    };
    (is_node || is_door()).then(|| origin.to_owned())
}

/// The headers that let pages of the cluster's other nodes read a response.
pub(crate) fn cors_headers(node: &dyn Addressing, head: &Head) -> Vec<(&'static str, String)> {
    let mut headers = vec![("Vary", "Origin".to_string())];
    if let Some(origin) = allowed_origin(node, head) {
        let exposed =
            "X-Phalanx-Node, X-Phalanx-Leader, X-Phalanx-Term, X-Phalanx-Index, X-Phalanx-Session, Retry-After";
        headers.push(("Access-Control-Allow-Origin", origin));
        headers.push(("Access-Control-Expose-Headers", exposed.to_string()));
    }
    headers
}

/// `name`, `name:port`, `[v6]`, `[v6]:port`; `None` if it is none of these.
pub fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (name, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (name, rest) = rest.split_once(']')?;
        name.parse::<std::net::Ipv6Addr>().ok()?;
        (name, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        let (name, port) = authority.split_once(':').map_or((authority, None), |(name, port)| (name, Some(port)));
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        {
            return None;
        }
        (name, port)
    };
    match port {
        None => Some((name, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some((name, Some(digits.parse().ok()?))),
        Some(_) => None,
    }
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_unspecified(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::guard::*;

    #[test]
    fn splits_authorities() {
        for (text, expected) in [
            ("localhost", Some(("localhost", None))),
            ("127.0.0.1:80", Some(("127.0.0.1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("[::1]:6701", Some(("::1", Some(6701)))),
            ("", None),
            ("a:b", None),
            ("a:99999", None),
            ("a:1:2", None),
            ("a@b", None),
            ("a b", None),
            ("[::1", None),
            ("[x]:1", None),
        ] {
            assert_eq!(split_authority(text), expected, "{text:?}");
        }
        assert!(
            is_loopback("LocalHost") && is_loopback("127.9.9.9") && is_loopback("::1") && !is_loopback("evil.example")
        );
    }
}
