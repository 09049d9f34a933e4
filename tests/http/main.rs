//! The HTTP server, before a host of the tests' own ([`fake_host`]) where that is enough; what it says of itself
//! ([`openapi`]) and what a person sees of it in a browser ([`browser`]), also with real nodes.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

mod access;
mod addresses;
mod api;
mod browser;
mod browser_login;
mod db;
mod descriptors;
mod fake_host;
mod front;
mod metrics;
mod openapi;
mod page;
mod proxies;
mod server;
mod uploads;
mod webdriver;

/// The binary under test.
const EXE: &str = env!("CARGO_BIN_EXE_phalanx");
