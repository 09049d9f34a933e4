//! Addresses as text: `host:port` in settings, frames, URLs and headers, and connecting to one.
//!
//! A host is a name, an IPv4 address or an IPv6 address; only in front of a port has the last one brackets (RFC 3986).
//! Not here: which host a node listens on or tells others (`settings.rs`), which ones may be in a request
//! (`http/protocol/guard.rs`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

/// Addresses of one name that are tried.
const TRIED_MAX: usize = 8;

/// `host:port`, with brackets where IPv6 needs them.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Host and port of `name`, `name:port`, `[v6]` or `[v6]:port`, the host without brackets; `None` if it is none of
/// these.
pub fn split(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        if host.is_empty()
            || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        {
            return None;
        }
        (host, port)
    };
    match port {
        None => Some((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some((host, Some(digits.parse().ok()?))),
        Some(_) => None,
    }
}

/// Whether two hosts are the same: names without regard to case, IP addresses in any notation.
pub fn is_same_host(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one.to_canonical() == other.to_canonical(),
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// Whether a host is `localhost` or a loopback address.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether a host is an address that stands for all of a machine: `0.0.0.0` or `::`.
pub fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// Whether every address of a host is one of this machine.
pub fn is_of_this_machine(host: &str) -> bool {
    let all = (host, 1).to_socket_addrs().map(|all| all.collect::<Vec<_>>()).unwrap_or_default();
    !all.is_empty() && all.into_iter().all(is_own)
}

/// The system sends to an address of its own from that address. (It may let a process listen at those of others.)
fn is_own(to: SocketAddr) -> bool {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Nothing is sent.
    let from = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(to).and_then(|()| socket.local_addr()));
    to.ip().to_canonical().is_loopback() || from.is_ok_and(|from| from.ip() == to.ip())
}

/// An address of a node as a client reaches it that came by the host `by`: a node on loopback is on the machine that the
/// client has reached.
pub fn as_seen_by(by: &str, address: &str) -> String {
    match split(address) {
        Some((host, Some(port))) if is_loopback(host) && !is_loopback(by) => join(by, port),
        _ => address.to_string(),
    }
}

/// Connects to `host:port`: a name is resolved now, and each of its addresses is tried.
///
/// # Errors
/// That of the last address; `NotFound` if there is none.
pub fn connect(address: &str, within: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + within;
    let all: Vec<SocketAddr> = address.to_socket_addrs()?.take(TRIED_MAX).collect();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for (tried, at) in all.iter().enumerate() {
        // One that does not answer leaves time for the others.
        let left = until.saturating_duration_since(Instant::now()) / (all.len() - tried) as u32;
        match TcpStream::connect_timeout(at, left.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn splits_and_joins() {
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
            assert_eq!(split(text), expected, "{text:?}");
            if let Some((host, Some(port))) = expected {
                assert_eq!(join(host, port), text);
            }
        }
    }

    #[test]
    fn hosts_are_compared_as_addresses() {
        assert!(is_same_host("::1", "0:0::1") && is_same_host("Node1", "node1") && !is_same_host("::1", "127.0.0.1"));
        assert!(is_same_host("::ffff:10.0.0.1", "10.0.0.1"));
        for (host, loopback, unspecified) in [
            ("LocalHost", true, false),
            ("127.9.9.9", true, false),
            ("::1", true, false),
            ("::ffff:127.0.0.1", true, false),
            ("0.0.0.0", false, true),
            ("::", false, true),
            ("evil.example", false, false),
        ] {
            assert_eq!((is_loopback(host), is_unspecified(host)), (loopback, unspecified), "{host}");
        }
    }

    #[test]
    fn loopback_is_the_machine_that_was_reached() {
        for (by, address, expected) in [
            ("10.0.0.1", "127.0.0.1:6702", "10.0.0.1:6702"),
            ("fd00::1", "[::1]:6702", "[fd00::1]:6702"),
            ("localhost", "127.0.0.1:6702", "127.0.0.1:6702"),
            ("10.0.0.1", "10.0.0.2:6702", "10.0.0.2:6702"),
        ] {
            assert_eq!(as_seen_by(by, address), expected);
        }
    }

    #[test]
    fn this_machine_has_its_own_addresses_only() {
        for host in ["127.0.0.1", "127.0.0.9", "localhost"] {
            assert!(is_of_this_machine(host), "{host}");
        }
        // That from which packets to elsewhere are sent, if there is a network.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("203.0.113.1:1").is_ok() {
            let own = socket.local_addr().unwrap().ip().to_string();
            assert!(is_of_this_machine(&own), "{own}");
        }
        // Of a network that is kept for documents.
        for host in ["203.0.113.1", "2001:db8::1", "no-such-host.invalid", ""] {
            assert!(!is_of_this_machine(host), "{host}");
        }
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connect(&format!("localhost:{port}"), Duration::from_secs(2)).is_ok());
        drop(listener);
        let refused = connect(&format!("127.0.0.1:{port}"), Duration::from_secs(2)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
