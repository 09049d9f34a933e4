//! Who may ask: pages on localhost can be reached from any web site that a person visits.
//!
//! - A `Host` that is not ours means a name that someone else points at this machine (DNS rebinding): 421.
//! - A state change must come from our own pages or from no page at all (a script): 403. A POST must be JSON (or Java source,
//!   where that is wanted), which no plain form of another site can send: 415. PUT and DELETE need no such rule: a browser asks before it lets a page of
//!   another site send them (a preflight), and this door says no.
//! - Pages of the other nodes may read the status and the stream, so that a page survives its node. The chat they may use as a
//!   whole, after asking (a preflight): who acts there is a matter of a token, which no page of another site has.
//!
//! Not here: secrets; beyond loopback the node refuses to start without one (`settings.rs`).

use super::host::Host;
use super::parse::Head;
use super::reply::Reply;
use std::net::IpAddr;

/// Refuses a `Host` header that does not name this machine.
pub fn check_host(host: &dyn Host, head: &Head) -> Result<(), Reply> {
    let name = split_authority(&head.host).map(|(name, _)| name);
    match name {
        Some(name) if is_loopback(name) => Ok(()),
        Some(name) => {
            let ours = host.bind_host();
            let is_ours = name.eq_ignore_ascii_case(ours.trim_matches(['[', ']']));
            // Bound to every address: any address literal is one of ours, and rebinding needs a name.
            let is_any = ours.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
            if is_ours || (is_any && name.parse::<IpAddr>().is_ok()) {
                return Ok(());
            }
            Err(Reply::refused(421, "this Host is not served here"))
        }
        None => Err(Reply::refused(400, "malformed Host")),
    }
}

/// Media type of most bodies.
pub const JSON: &str = "application/json";

/// Refuses a state change that a page of another site could have caused; `wanted`: what its body must be said to be.
pub fn check_change(head: &Head, wanted: Option<&str>) -> Result<(), Reply> {
    if head.fetch_site.as_deref().is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(Reply::refused(403, "changes are taken from pages of this node only"));
    }
    if let Some(origin) = &head.origin
        && !origin.strip_prefix("http://").is_some_and(|authority| authority.eq_ignore_ascii_case(&head.host))
    {
        return Err(Reply::refused(403, "changes are taken from pages of this node only"));
    }
    check_media(head, wanted)
}

fn check_media(head: &Head, wanted: Option<&str>) -> Result<(), Reply> {
    if let Some(wanted) = wanted {
        let media = head.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case(wanted) {
            return Err(Reply::refused(415, &format!("send Content-Type: {wanted}")));
        }
    }
    Ok(())
}

/// The same for paths where a token is shown and no cookie counts: pages of the cluster's other nodes may use them too.
pub fn check_change_by_token(host: &dyn Host, head: &Head, wanted: Option<&str>) -> Result<(), Reply> {
    if allowed_origin(host, head).is_none() {
        return check_change(head, wanted);
    }
    check_media(head, wanted)
}

/// The value of `Access-Control-Allow-Origin`, if the asking page belongs to a node of this cluster or a front door.
pub fn allowed_origin(host: &dyn Host, head: &Head) -> Option<String> {
    let origin = head.origin.as_deref()?;
    let (name, port) = split_authority(origin.strip_prefix("http://")?)?;
    let port = port.unwrap_or(80);
    let same = |other: &str| {
        name.eq_ignore_ascii_case(other) || (is_loopback(name) && (is_loopback(other) || is_unspecified(other)))
    };
    let is_node = host.http_addresses().iter().any(|(_, address)| {
        split_authority(address).is_some_and(|(other, other_port)| same(other) && other_port == Some(port))
    });
    let is_door = || {
        port == host.front_port()
            && (same(&host.bind_host())
                || host
                    .http_addresses()
                    .iter()
                    .any(|(_, address)| split_authority(address).is_some_and(|(o, _)| same(o))))
    };
    (is_node || is_door()).then(|| origin.to_owned())
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
    use super::*;

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
