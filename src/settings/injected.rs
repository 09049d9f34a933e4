//! Environment variables that Kubernetes and Docker make for a service, such as one that is called `phalanx`: they look
//! like settings and are none.
//!
//! For a service `s` a pod gets `S_SERVICE_HOST`, `S_SERVICE_PORT`, `S_SERVICE_PORT_<NAME>`, `S_PORT` (a URL), and for
//! each port `S_PORT_<n>_TCP` (a URL) with `_PROTO`, `_PORT` and `_ADDR` behind it (Kubernetes, Service, Environment
//! variables). Each is recognized by its name and by what it holds, so that a mistyped setting is still an error. The
//! port alone looks like a setting (`PHALANX_SERVICE_PORT=8080` is one): it counts as injected if a URL of the service
//! names it as well.
//! Not here: what is done with the others (`gather.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// The names of injected variables.
pub(crate) fn names(variables: &BTreeMap<String, String>) -> Vec<String> {
    variables.iter().filter(|(name, value)| is_injected(name, value, variables)).map(|(name, _)| name.clone()).collect()
}

fn is_injected(name: &str, value: &str, all: &BTreeMap<String, String>) -> bool {
    if let Some(service) = name.strip_suffix("_SERVICE_HOST") {
        return !service.is_empty() && value.parse::<IpAddr>().is_ok();
    }
    if name.ends_with("_PORT") && url_port(value).is_some() {
        return true;
    }
    if let Some((service, _)) = name.split_once("_SERVICE_PORT") {
        let is_service = all.get(&format!("{service}_SERVICE_HOST")).is_some_and(|host| host.parse::<IpAddr>().is_ok());
        return is_service && value.parse().is_ok_and(|port| has_url(service, port, all));
    }
    is_of_port(name, value)
}

/// Whether a URL of this service names the port.
fn has_url(service: &str, port: u16, all: &BTreeMap<String, String>) -> bool {
    let first = format!("{service}_PORT");
    let is_url = |name: &str| {
        name == first || PROTOCOLS.iter().any(|it| name == format!("{first}_{port}_{}", it.to_ascii_uppercase()))
    };
    all.iter().any(|(name, value)| is_url(name) && url_port(value) == Some(port))
}

/// `S_PORT_<n>_TCP`, and what is behind it.
fn is_of_port(name: &str, value: &str) -> bool {
    let Some((_, rest)) = name.split_once("_PORT_") else { return false };
    let mut words = rest.split('_');
    let is_port = words.next().is_some_and(|number| number.parse::<u16>().is_ok());
    let is_protocol = words.next().is_some_and(|word| PROTOCOLS.iter().any(|it| word.eq_ignore_ascii_case(it)));
    is_port
        && is_protocol
        && match (words.next(), words.next()) {
            (None, _) => url_port(value).is_some(),
            (Some("PROTO"), None) => PROTOCOLS.contains(&value),
            (Some("PORT"), None) => value.parse::<u16>().is_ok(),
            (Some("ADDR"), None) => value.parse::<IpAddr>().is_ok(),
            _ => false,
        }
}

/// The port of `tcp://10.0.0.1:8080`.
fn url_port(value: &str) -> Option<u16> {
    let (protocol, authority) = value.split_once("://")?;
    let (_, port) = authority.rsplit_once(':')?;
    port.parse().ok().filter(|_| PROTOCOLS.contains(&protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Vec<String> {
        names(&variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    const SERVICE: [(&str, &str); 8] = [
        ("PHALANX_PORT", "tcp://10.0.0.1:8080"),
        ("PHALANX_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("PHALANX_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("PHALANX_PORT_8080_TCP_PORT", "8080"),
        ("PHALANX_PORT_8080_TCP_PROTO", "tcp"),
        ("PHALANX_SERVICE_HOST", "10.0.0.1"),
        ("PHALANX_SERVICE_PORT", "8080"),
        ("PHALANX_SERVICE_PORT_HTTP", "8080"),
    ];

    #[test]
    fn settings_of_a_service_are_recognized() {
        assert_eq!(found(&SERVICE), SERVICE.map(|(name, _)| name));
        let front = SERVICE.map(|(name, value)| (name.replace("PHALANX", "PHALANX_FRONT"), value));
        let front: Vec<_> = front.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(found(&front).len(), front.len(), "a service phalanx-front");
        let ipv6 = [("PHALANX_PORT", "tcp://[fd00::1]:80"), ("PHALANX_SERVICE_HOST", "fd00::1")];
        assert_eq!(found(&ipv6).len(), 2);
    }

    #[test]
    fn settings_and_misspelt_ones_are_not() {
        for alone in [
            ("PHALANX_SERVICE_PORT", "8080"),
            ("PHALANX_SERVICE_PORT_BASE", "6700"),
            ("PHALANX_SERVICE_PORT_BAES", "6700"),
            ("PHALANX_SERVICE_HOST", "node1"),
            ("PHALANX_PORT", "8080"),
            ("PHALANX_PORT_8080_TCP", "8080"),
            ("PHALANX_PORT_8080_TCP_ADR", "10.0.0.1"),
            ("PHALANX_SERVICE_PROT", "8080"),
        ] {
            assert_eq!(found(&[alone]), Vec::<String>::new(), "{alone:?}");
        }
        // Beside a service, too.
        for (name, value) in [("PHALANX_SERVICE_PORT_BASE", "6700"), ("PHALANX_SERVICE_PORT_BAES", "6700")] {
            let all: Vec<_> = SERVICE.into_iter().chain([(name, value)]).collect();
            assert_eq!(found(&all), SERVICE.map(|(name, _)| name), "{name}");
        }
        let chosen: Vec<_> =
            SERVICE.map(|(name, value)| (name, if name == "PHALANX_SERVICE_PORT" { "9000" } else { value })).into();
        assert!(!found(&chosen).contains(&"PHALANX_SERVICE_PORT".to_string()), "the pod has set it itself");
    }
}
