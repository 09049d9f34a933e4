//! Which requests are allowed: pages on localhost can be reached from any web site that a person visits.
//!
//! - A `Host` that is not ours is a name that someone else points at this machine (DNS rebinding): 421.
//! - A request caused by a page of another site is refused with 403, regardless of its method: a GET of `/db/query` costs a
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
//! Behind a proxy the page's origin is the proxy's, and `Host` may be either one: the setting `http_hosts` lists such
//! names and origins, and a listed origin is one of our pages. `X-Forwarded-Host` and `-Proto` are not read: a page under
//! a rebound name could send them too, and what is listed has its scheme.
//!
//! Not here: the password of clients (`http/access.rs`). Which operation has which
//! audience (`http/routes.rs`).

use super::error::ApiError;
use super::head::{Head, Method};
use crate::address;
use crate::node::Addressing;
use crate::settings::Settings;
use std::net::IpAddr;

/// Refuses a `Host` header that does not name this machine. Without one, which only HTTP/1.0 allows, no browser sent it.
pub fn check_host(node: &dyn Addressing, head: &Head) -> Result<(), ApiError> {
    if head.host.is_empty() {
        return Ok(());
    }
    let Some((name, _)) = address::split(&head.host) else {
        return Err(ApiError::refused(400, "malformed Host"));
    };
    if is_ours(node.settings(), name) {
        return Ok(());
    }
    Err(ApiError::refused(421, "this server does not serve this Host: add it to the setting http_hosts"))
}

/// Whether a name is one of this machine's.
fn is_ours(settings: &Settings, name: &str) -> bool {
    let is_named = |known: &str| address::is_same_host(name, known);
    // A node that was given a name, or every address, accepts any address: rebinding needs a name.
    let is_name = !address::is_loopback(&settings.host) && settings.host.parse::<IpAddr>().is_err();
    let has_addresses = is_name || address::is_unspecified(&settings.host);
    address::is_loopback(name)
        || is_named(&settings.host)
        || settings.advertise_host.as_deref().is_some_and(is_named)
        || (has_addresses && name.parse::<IpAddr>().is_ok())
        || listed(settings).any(|known| is_named(known.name))
}

/// `http://name:port`, as in `Origin`, and with the scheme or the port left out in the setting `http_hosts`.
#[derive(Clone, Copy)]
struct Site<'a> {
    scheme: Option<&'a str>,
    name: &'a str,
    port: Option<u16>,
}

impl<'a> Site<'a> {
    fn of(text: &'a str) -> Option<Site<'a>> {
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), authority)) => (Some(scheme), authority),
            Some(_) => return None,
            None => (None, text),
        };
        let (name, port) = address::split(authority)?;
        Some(Site { scheme, name, port })
    }

    /// The port in use; without one in the text it is the scheme's.
    fn port(self, scheme: Option<&str>) -> u16 {
        self.port.unwrap_or(if scheme == Some("https") { 443 } else { 80 })
    }

    /// Whether an entry of the setting stands for an origin.
    fn covers(self, origin: Site) -> bool {
        (self.scheme.is_none() || self.scheme == origin.scheme)
            && address::is_same_host(self.name, origin.name)
            && self.port(origin.scheme) == origin.port(origin.scheme)
    }
}

/// The setting `http_hosts`.
fn listed(settings: &Settings) -> impl Iterator<Item = Site<'_>> {
    settings.http_hosts.iter().filter_map(|text| Site::of(text))
}

/// Whether the setting lists this origin, or that of an address.
fn is_listed(settings: &Settings, origin: &str) -> bool {
    Site::of(origin).filter(|site| site.scheme.is_some()).is_some_and(|site| listed(settings).any(|it| it.covers(site)))
}

/// Media type of most bodies.
pub const JSON: &str = "application/json";

/// Whose pages may request an operation; each variant includes the one before it. A program that is not a browser may
/// request all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    /// The node's own pages.
    Node,
    /// Pages of the cluster's other nodes and front doors. No cookie is read from them that they could not read
    /// themselves: the chat identifies its user by a token, and so does a page of another host itself.
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
    let settings = node.settings();
    let is_own = |origin: &str| {
        let is_host = |authority: &str| !authority.is_empty() && authority.eq_ignore_ascii_case(&head.host);
        origin.strip_prefix("http://").is_some_and(is_host) || is_listed(settings, origin)
    };
    match (head.origin.as_deref(), site) {
        (Some(origin), None | Some("same-origin" | "none")) if is_own(origin) => Some(Audience::Node),
        (Some(_), _) if allowed_origin(node, head).is_some() => Some(Audience::Cluster),
        (Some(_), _) => Some(Audience::Anyone),
        (None, Some("same-origin" | "none")) => Some(Audience::Node),
        (None, Some(_)) => Some(window()),
        (None, None) if !head.is_browser => None,
        (None, None) => Some(if head.referer.as_deref().and_then(origin_of).is_some_and(is_own) {
            Audience::Node
        } else {
            window()
        }),
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

/// The origin in an address: what is before the path.
fn origin_of(address: &str) -> Option<&str> {
    let authority = address.find("://")? + 3;
    let length = address[authority..].find('/').unwrap_or(address.len() - authority);
    Some(&address[..authority + length])
}

/// The value of `Access-Control-Allow-Origin`, if the requesting page belongs to a node of this cluster, a front door,
/// or a proxy before one.
pub fn allowed_origin(node: &dyn Addressing, head: &Head) -> Option<String> {
    let (origin, settings) = (head.origin.as_deref()?, node.settings());
    if is_listed(settings, origin) {
        return Some(origin.to_owned());
    }
    let (name, port) = address::split(origin.strip_prefix("http://")?)?;
    let port = port.unwrap_or(80);
    // Nodes on every address are known as loopback, and a client from elsewhere calls them as it calls us.
    let is_as_we = address::is_unspecified(&settings.host)
        && check_host(node, head).is_ok()
        && address::split(&head.host).is_some_and(|(ours, _)| address::is_same_host(name, ours));
    let same = |other: &str| {
        address::is_same_host(name, other) || (address::is_loopback(other) && (address::is_loopback(name) || is_as_we))
    };
    let addresses = node.http_addresses();
    let mut nodes = addresses.iter().filter_map(|(_, at)| address::split(at)).filter(|(other, _)| same(other));
    let is_ours = if port == settings.service_port {
        same(settings.advertised_host()) || nodes.next().is_some()
    } else {
        nodes.any(|(_, other)| other == Some(port))
    };
    is_ours.then(|| origin.to_owned())
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

#[cfg(test)]
mod tests {
    use crate::http::protocol::guard::*;

    #[test]
    fn entries_stand_for_origins() {
        for (entry, origin, expected) in [
            ("phalanx.example", "http://phalanx.example", true),
            ("phalanx.example", "https://Phalanx.Example", true),
            ("phalanx.example", "https://phalanx.example:443", true),
            ("phalanx.example", "http://phalanx.example:8080", false),
            ("phalanx.example", "http://evil.example", false),
            ("phalanx.example", "http://phalanx.example.evil.example", false),
            ("phalanx.example:8080", "http://phalanx.example:8080", true),
            ("phalanx.example:8080", "http://phalanx.example", false),
            ("https://phalanx.example", "https://phalanx.example", true),
            ("https://phalanx.example", "http://phalanx.example", false),
            ("http://[fd00::1]:80", "http://[fd00:0::1]", true),
            ("phalanx.example", "null", false),
            ("phalanx.example", "phalanx.example", false),
            ("phalanx.example", "ftp://phalanx.example", false),
        ] {
            let settings = Settings { http_hosts: vec![entry.to_string()], ..Settings::default() };
            assert_eq!(is_listed(&settings, origin), expected, "{entry} {origin}");
        }
    }

    #[test]
    fn a_machine_has_the_names_in_its_settings() {
        let with = |host: &str, advertised: Option<&str>, listed: &[&str]| Settings {
            host: host.into(),
            advertise_host: advertised.map(String::from),
            http_hosts: listed.iter().map(|it| it.to_string()).collect(),
            ..Settings::default()
        };
        for (settings, name, expected) in [
            (with("127.0.0.1", None, &[]), "10.0.0.1", false),
            (with("127.0.0.1", None, &["phalanx.example:8080"]), "phalanx.example", true),
            (with("127.0.0.1", None, &["phalanx.example"]), "evil.example", false),
            (with("10.0.0.1", None, &[]), "10.0.0.1", true),
            (with("10.0.0.1", None, &[]), "10.0.0.2", false),
            (with("fd00::1", None, &[]), "fd00:0::1", true),
            (with("0.0.0.0", None, &[]), "10.0.0.2", true),
            (with("::", None, &[]), "fd00::2", true),
            (with("::", None, &[]), "node1.example", false),
            (with("::", Some("node1.example"), &[]), "Node1.example", true),
            (with("node1.example", None, &[]), "node1.example", true),
            (with("node1.example", None, &[]), "10.0.0.1", true),
            (with("node1.example", None, &[]), "node2.example", false),
            (with("localhost", None, &[]), "127.0.0.1", true),
        ] {
            assert_eq!(is_ours(&settings, name), expected, "{} {name}", settings.host);
        }
    }

    #[test]
    fn an_origin_ends_at_the_path() {
        assert_eq!(origin_of("http://a:1/b/c"), Some("http://a:1"));
        assert_eq!(origin_of("https://a"), Some("https://a"));
        assert_eq!(origin_of("a/b"), None);
    }
}
