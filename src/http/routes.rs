//! The table of routes: one row for each method of each path, with its handler and its parameters.
//!
//! Everything about a request that does not depend on the node is in this table, so that the server, its refusals and
//! the description at `/openapi.json` agree: `router.rs` finds handlers in it, and a test compares the description with
//! it, both ways.
//! Not here: what is checked before a handler is called (`router.rs`), what a parameter means (each handler).

use super::api::{health, job_output, jobs, kv, lab, locks, members};
use super::chat::{self, accounts, conversations};
use super::db::{files, rqlite_status, settings, statements};
use super::pages::{chat_page, login, monitor_stream, static_files};
use super::protocol::conn::Conn;
use super::protocol::error::ApiError;
use super::protocol::guard;
use super::protocol::guard::Audience;
use super::protocol::head::{Head, Method};
use super::request::{ApiResult, Request, Stream, Upload};
use super::request_times::RouteName;
use super::server::Server;
use crate::settings::Settings;

/// Parameter names, in groups.
type Names = &'static [&'static [&'static str]];

/// One method of one path.
pub(crate) struct Route {
    /// GET includes HEAD.
    pub method: Method,
    /// A template: `{id}` is one segment of the path and not empty, `{+key}` may contain slashes and may be empty (the
    /// notation of RFC 6570). The values are undecoded.
    pub path: &'static str,
    pub handler: Handler,
    /// Bytes of the path before its first name.
    literal_bytes: usize,
    params: Names,
    /// It belongs to rqlite's API: unknown parameters are ignored, and the response names rqlite's version.
    pub is_rqlite: bool,
    /// Required `Content-Type`; `None`: any, or there is no body.
    pub media: Option<&'static str>,
    /// The pages that may request it.
    pub audience: Audience,
    /// Who may use it without the password.
    pub openness: Openness,
    /// It is served under any `Host` while it is open: probes and scrapers use whatever name or address they know.
    pub has_any_host: bool,
    /// Pages of the cluster's other nodes may read the response.
    pub has_cors: bool,
    /// A browser may ask beforehand whether a page of another node may send it (preflight request).
    pub has_preflight: bool,
    /// It changes nothing: a request whose response did not fit into memory may be repeated.
    pub is_read: bool,
    /// Health, status, administration: answered also when all connections are in use.
    pub is_vital: bool,
    /// A node answers it by itself, also while it knows no leader.
    pub is_local: bool,
    /// Kind of the session on the page.
    pub session_kind: Option<&'static str>,
    /// Hint for a client that sends POST to a path without it.
    pub post_hint: Option<&'static str>,
}

/// Whether a route needs the setting `client_password` where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Openness {
    /// It needs the password.
    Closed,
    /// It needs the password unless `health_open` is set.
    Health,
    /// It never does.
    Open,
}

/// A function that answers a request.
pub(crate) enum Handler {
    /// The body, if the method has one, is read first.
    Respond(fn(&Request) -> ApiResult),
    /// The connection ends with the response.
    Stream(fn(&Request) -> Result<Stream, ApiError>),
    /// Reads the body itself.
    Upload(fn(&Server, &mut Conn, &Head) -> Upload),
}

impl Route {
    /// A route for the node's own pages only.
    const fn new(method: Method, path: &'static str, handler: Handler, media: Option<&'static str>) -> Route {
        Route {
            method,
            path,
            handler,
            literal_bytes: literal_bytes(path),
            params: &[],
            is_rqlite: false,
            media,
            audience: Audience::Node,
            openness: Openness::Closed,
            has_any_host: false,
            has_cors: false,
            has_preflight: false,
            is_read: matches!(method, Method::Get),
            is_vital: false,
            is_local: false,
            session_kind: None,
            post_hint: None,
        }
    }

    const fn params(mut self, params: Names) -> Route {
        self.params = params;
        self
    }

    const fn open_to(mut self, audience: Audience) -> Route {
        self.audience = audience;
        self.has_cors = audience.is_shared();
        self
    }

    /// For probes and scrapers.
    const fn health(mut self) -> Route {
        self.has_any_host = true;
        self.openness = Openness::Health;
        self
    }

    const fn without_password(mut self) -> Route {
        self.openness = Openness::Open;
        self
    }

    const fn without_cors(mut self) -> Route {
        self.has_cors = false;
        self
    }

    /// Used by pages of the cluster's other nodes, also with headers and methods that need a preflight request.
    const fn for_cluster_pages(self) -> Route {
        let mut route = self.open_to(Audience::Cluster);
        route.has_preflight = true;
        route
    }

    const fn rqlite(mut self) -> Route {
        self.is_rqlite = true;
        self
    }

    const fn read(mut self) -> Route {
        self.is_read = true;
        self
    }

    const fn vital(mut self) -> Route {
        self.is_vital = true;
        self
    }

    const fn local(mut self) -> Route {
        self.is_local = true;
        self
    }

    const fn session(mut self, kind: &'static str) -> Route {
        self.session_kind = Some(kind);
        self
    }

    const fn post_hint(mut self, hint: &'static str) -> Route {
        self.post_hint = Some(hint);
        self
    }

    /// Whether it is answered without the password.
    pub(crate) fn is_open(&self, settings: &Settings) -> bool {
        match self.openness {
            Openness::Closed => false,
            Openness::Health => settings.health_open,
            Openness::Open => true,
        }
    }

    pub(crate) fn known_params(&self) -> impl Iterator<Item = &'static str> {
        self.params.iter().copied().flatten().copied()
    }

    /// A read without parameters ignores unknown ones: a misspelt parameter can do no harm there.
    pub(crate) fn refuses_unknown(&self) -> bool {
        !self.is_rqlite && (self.method != Method::Get || self.known_params().next().is_some())
    }
}

const fn get(path: &'static str, handler: fn(&Request) -> ApiResult) -> Route {
    Route::new(Method::Get, path, Handler::Respond(handler), None)
}

const fn stream(path: &'static str, handler: fn(&Request) -> Result<Stream, ApiError>) -> Route {
    Route::new(Method::Get, path, Handler::Stream(handler), None)
}

const fn put(path: &'static str, handler: fn(&Request) -> ApiResult) -> Route {
    Route::new(Method::Put, path, Handler::Respond(handler), None)
}

const fn put_json(path: &'static str, handler: fn(&Request) -> ApiResult) -> Route {
    Route::new(Method::Put, path, Handler::Respond(handler), Some(guard::JSON))
}

const fn post(path: &'static str, handler: fn(&Request) -> ApiResult) -> Route {
    post_media(path, guard::JSON, handler)
}

const fn post_media(path: &'static str, media: &'static str, handler: fn(&Request) -> ApiResult) -> Route {
    Route::new(Method::Post, path, Handler::Respond(handler), Some(media))
}

const fn upload(path: &'static str, handler: fn(&Server, &mut Conn, &Head) -> Upload) -> Route {
    Route::new(Method::Post, path, Handler::Upload(handler), None)
}

/// A body is optional, and must be JSON.
const fn delete(path: &'static str, handler: fn(&Request) -> ApiResult) -> Route {
    Route::new(Method::Delete, path, Handler::Respond(handler), Some(guard::JSON))
}

const WINDOW: Audience = Audience::Window;
const ANYONE: Audience = Audience::Anyone;

/// Pages of names, and of what is in a conversation.
const LISTING: Names = &[&["level", "match", "after", "limit"]];
const LEVEL: Names = &[&["level"]];

/// Every route of the server. The first path that matches counts; the rows of one path are adjacent.
pub(crate) static ROUTES: &[Route] = &[
    get("/v1/kv/{+key}", kv::read).params(&[&["level", "watch", "wait"]]),
    put("/v1/kv/{+key}", kv::write).params(&[&["level", "cas", "ttl_ms"]]),
    post("/v1/kv/{+key}", kv::add).params(LEVEL),
    delete("/v1/kv/{+key}", kv::remove).params(&[&["level", "cas"]]),
    get("/v1/kv", kv::range).params(&[&["level", "prefix", "after", "limit"]]),
    post("/v1/lock/{+name}/acquire", locks::acquire),
    post("/v1/lock/{+name}/renew", locks::renew),
    post("/v1/lock/{+name}/release", locks::release),
    get("/v1/lock/{+name}", locks::show)
        .params(LEVEL)
        .post_hint("use POST /v1/lock/{name}/acquire, /renew or /release"),
    post("/db/execute", statements::execute).params(&[&statements::PARAMS]).rqlite(),
    get("/db/query", statements::query).params(&[&statements::PARAMS, &["q"]]).rqlite(),
    post("/db/query", statements::query).params(&[&statements::PARAMS]).read().rqlite(),
    post("/db/request", statements::request).params(&[&statements::PARAMS]).rqlite(),
    get("/db/sql", statements::check).params(&[&["q"]]).rqlite(),
    post("/db/sql", statements::check).read().rqlite(),
    stream("/db/backup", files::backup)
        .params(&[&["fmt", "compress", "vacuum", "tables", "level", "noleader", "redirect"]])
        .rqlite(),
    upload("/db/load", files::load).params(&[&["redirect"]]).rqlite(),
    get("/db/digest", statements::digest).params(&[&["level", "noleader"]]),
    get("/db/settings", settings::show),
    put_json("/db/settings", settings::change),
    get("/status", rqlite_status::status).params(&[&["pretty"]]).vital().rqlite(),
    get("/nodes", rqlite_status::nodes).params(&[&["ver", "nonvoters", "pretty"]]).vital().rqlite(),
    post_media("/compileandrun", jobs::JAVA_SOURCE, jobs::compile_and_run).params(&[&["wait"]]),
    get("/v1/jobs", jobs::list).params(&[&["before", "limit", "level"]]),
    post("/v1/jobs", jobs::submit).params(&[&["wait"]]).for_cluster_pages(),
    stream("/v1/jobs/{id}/output", job_output::output)
        .params(&[&["follow", "format", "stream", "attempt"]])
        .for_cluster_pages(),
    get("/v1/jobs/{id}", jobs::show).params(&[&["wait", "level"]]),
    delete("/v1/jobs/{id}", jobs::cancel).for_cluster_pages(),
    get("/v1/runtimes", jobs::runtimes),
    get("/v1/chat/accounts", conversations::accounts).params(LISTING).for_cluster_pages(),
    post("/v1/chat/accounts", accounts::create).for_cluster_pages(),
    delete("/v1/chat/account", conversations::delete_account).for_cluster_pages(),
    get("/v1/chat/me", conversations::me).params(LEVEL).for_cluster_pages(),
    post("/v1/chat/login", accounts::log_in).for_cluster_pages(),
    post("/v1/chat/logout", conversations::log_out).for_cluster_pages(),
    post("/v1/chat/direct", conversations::direct).for_cluster_pages(),
    get("/v1/chat/rooms", conversations::rooms).params(LISTING).for_cluster_pages(),
    post("/v1/chat/rooms", conversations::make_room).for_cluster_pages(),
    post("/v1/chat/rooms/{id}/join", conversations::join).for_cluster_pages(),
    post("/v1/chat/rooms/{id}/leave", conversations::leave).for_cluster_pages(),
    get("/v1/chat/rooms/{id}/members", conversations::members)
        .params(&[&["level", "after", "limit"]])
        .for_cluster_pages(),
    post("/v1/chat/messages", conversations::send).for_cluster_pages(),
    get("/v1/chat/conversations", conversations::inbox).params(LEVEL).for_cluster_pages(),
    get("/v1/chat/conversations/{id}", conversations::one).params(LEVEL).for_cluster_pages(),
    get("/v1/chat/conversations/{id}/messages", conversations::history)
        .params(&[&["level", "before", "after", "limit"]])
        .for_cluster_pages(),
    delete("/v1/chat/conversations/{id}/messages/{number}", conversations::erase).for_cluster_pages(),
    post("/v1/chat/conversations/{id}/read", conversations::mark).for_cluster_pages(),
    stream("/v1/chat/stream", chat::stream::open).session("chat").params(&[&["after"]]).for_cluster_pages(),
    get("/v1/status", health::status).local().open_to(ANYONE).vital(),
    stream("/v1/stream", monitor_stream::frames).local().session("stream").params(&[&["since"]]).for_cluster_pages(),
    stream("/v1/watch", monitor_stream::watch).local().session("stream"),
    stream(monitor_stream::HOLD_PATH, monitor_stream::hold).local(),
    get("/v1/events", health::events).local().params(&[&["since", "incarnation", "wait"]]).open_to(WINDOW),
    get("/v1/gossip", health::gossip).local().open_to(WINDOW),
    get("/v1/members", members::list).local().vital(),
    post("/v1/members", members::change).vital(),
    get("/v1/members/{id}", members::show).local().vital(),
    post("/v1/members/{id}", members::change_one).vital(),
    delete("/v1/members/{id}", members::remove).vital(),
    get("/v1/digests", members::digests).local(),
    post("/v1/digests", members::checkpoint),
    post("/v1/leader/transfer", members::transfer).vital(),
    get("/v1/lab", lab::show).local().vital().for_cluster_pages(),
    post("/v1/lab", lab::inject).local().vital().for_cluster_pages(),
    get("/livez", health::live).local().open_to(ANYONE).vital().health(),
    get("/readyz", health::ready)
        .local()
        .params(&[&["verbose", "noleader", "sync", "timeout"]])
        .open_to(ANYONE)
        .vital()
        .health(),
    get("/metrics", health::metrics).local().open_to(ANYONE).vital().health(),
    Route::new(Method::Post, login::LOGIN_PATH, Handler::Upload(login::log_in), Some(login::FORM))
        .without_password()
        .local(),
    post("/logout", login::log_out).local(),
    stream("/", monitor_stream::page).local().session("monitor").open_to(WINDOW),
    get("/chat", chat_page::page).local().open_to(WINDOW),
    get("/static/{name}", static_files::file).local().open_to(ANYONE).without_cors(),
    get("/openapi.json", static_files::openapi).local().open_to(ANYONE).without_cors(),
];

/// Method and template of each route, in the table's order, and last a row for requests that none of them answers.
pub(crate) fn names() -> Vec<RouteName> {
    let names = ROUTES.iter().map(|route| (route.method.name(), route.path));
    names.chain([("other", "other")]).collect()
}

/// Position of a route among [`names`].
pub(crate) fn position(route: Option<&Route>) -> usize {
    let position = route.and_then(|route| ROUTES.iter().position(|row| std::ptr::eq(row, route)));
    position.unwrap_or(ROUTES.len())
}

/// The routes of the path of a request.
pub(crate) struct Path<'a> {
    routes: &'static [Route],
    /// Values of the template's names, `""` where it has fewer than two.
    pub args: (&'a str, &'a str),
}

/// The path is compared undecoded: nothing is served at `/%761/status`.
pub(crate) fn find(path: &str) -> Option<Path<'_>> {
    let rows = ROUTES.iter().enumerate();
    let is_candidate = |route: &Route| path.as_bytes().starts_with(&route.path.as_bytes()[..route.literal_bytes]);
    let mut rows = rows.filter(|(_, route)| is_candidate(route));
    let (first, args) = rows.find_map(|(at, route)| Some((at, args(route.path, path)?)))?;
    let rest = &ROUTES[first..];
    let count = rest.iter().take_while(|route| route.path == rest[0].path).count();
    Some(Path { routes: &rest[..count], args })
}

const fn literal_bytes(template: &str) -> usize {
    let (bytes, mut at) = (template.as_bytes(), 0);
    while at < bytes.len() && bytes[at] != b'{' {
        at += 1;
    }
    at
}

/// Values of a template's names, if the path matches it.
fn args<'a>(template: &str, path: &'a str) -> Option<(&'a str, &'a str)> {
    let Some((before, rest)) = template.split_once('{') else {
        return (template == path).then_some(("", ""));
    };
    let path = path.strip_prefix(before)?;
    let (name, after) = rest.split_once('}').expect("a template closes what it opens");
    if name.starts_with('+') {
        return path.strip_suffix(after).map(|part| (part, ""));
    }
    let (first, path) = part(path)?;
    let Some((between, _)) = after.split_once('{') else {
        return (path == after).then_some((first, ""));
    };
    let (second, path) = part(path.strip_prefix(between)?)?;
    path.is_empty().then_some((first, second))
}

/// The first segment of a path, if it is not empty, and the rest.
fn part(path: &str) -> Option<(&str, &str)> {
    let (part, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
    (!part.is_empty()).then_some((part, rest))
}

impl Path<'_> {
    /// The route of a method. HEAD is GET without the body.
    pub(crate) fn route(&self, method: Method) -> Option<&'static Route> {
        let method = if method == Method::Head { Method::Get } else { method };
        self.routes.iter().find(|route| route.method == method)
    }

    /// Whether `Host` does not matter. It does where the password is asked for: under a rebound name a page of another
    /// site could guess in its reader's name, and make the others at that address wait.
    pub(crate) fn has_any_host(&self, settings: &Settings) -> bool {
        let is_open = |route: &Route| settings.client_password.is_none() || route.is_open(settings);
        self.routes.iter().all(|route| route.has_any_host && is_open(route))
    }

    /// Value of `Allow`.
    pub(crate) fn allow(&self) -> String {
        let names = self.routes.iter().map(|route| match route.method {
            Method::Get => "GET, HEAD",
            other => other.name(),
        });
        names.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn has_preflight(&self) -> bool {
        self.routes.iter().any(|route| route.has_preflight)
    }

    pub(crate) fn post_hint(&self) -> Option<&'static str> {
        self.routes.iter().find_map(|route| route.post_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;
    use std::collections::{BTreeMap, BTreeSet};

    /// The template that a path fits, and what stands in place of its names.
    fn fits(path: &str) -> Option<(&'static str, (&str, &str))> {
        find(path).map(|path| (path.routes[0].path, path.args))
    }

    #[test]
    fn paths_are_exact() {
        for (path, template, args) in [
            ("/v1/members/3", "/v1/members/{id}", ("3", "")),
            ("/v1/kv/a/b%2Fc", "/v1/kv/{+key}", ("a/b%2Fc", "")),
            ("/v1/kv", "/v1/kv", ("", "")),
            ("/v1/kv/", "/v1/kv/{+key}", ("", "")),
            ("/v1/jobs/7", "/v1/jobs/{id}", ("7", "")),
            ("/v1/jobs/7/output", "/v1/jobs/{id}/output", ("7", "")),
            ("/v1/lock/a/b/renew", "/v1/lock/{+name}/renew", ("a/b", "")),
            ("/v1/lock/a%2Frenew", "/v1/lock/{+name}", ("a%2Frenew", "")),
            ("/static/app.js", "/static/{name}", ("app.js", "")),
            ("/v1/chat/conversations/7/messages/3", "/v1/chat/conversations/{id}/messages/{number}", ("7", "3")),
            ("/v1/chat/conversations/7/messages", "/v1/chat/conversations/{id}/messages", ("7", "")),
        ] {
            assert_eq!(fits(path), Some((template, args)), "{path}");
        }
        for path in [
            "/v1",
            "/v1/",
            "/v1/status/",
            "/V1/status",
            "//",
            "/%761/status",
            "/static",
            "/index.html",
            "/v1/members/",
            "/v1/members/3/4",
            "/v1/jobs/7/output/",
            "/v1/jobs//output",
            "/v1/chat/",
            "/v1/chat/accounts/",
            "/v1/chat/rooms/1",
            "/v1/chat/rooms/1/join/",
            "/v1/chat/conversations/1/messages/2/3",
            "/v1/chat/Stream",
        ] {
            assert_eq!(fits(path), None, "{path}");
        }
    }

    #[test]
    fn methods_are_those_of_the_table() {
        let allow = |path| find(path).unwrap().allow();
        assert_eq!(allow("/v1/kv/a"), "GET, HEAD, PUT, POST, DELETE");
        assert_eq!((allow("/v1/leader/transfer"), allow("/v1/status")), ("POST".to_string(), "GET, HEAD".to_string()));
        let status = find("/v1/status").unwrap();
        assert!(status.route(Method::Head).is_some() && status.route(Method::Post).is_none());
        assert!(status.route(Method::Options).is_none() && status.route(Method::Other).is_none());
    }

    #[test]
    fn few_routes_are_open_without_the_password() {
        let open = |health_open| {
            let settings = Settings { health_open, ..Settings::default() };
            ROUTES.iter().filter(|route| route.is_open(&settings)).map(|route| route.path).collect::<Vec<_>>()
        };
        assert_eq!(open(true), ["/livez", "/readyz", "/metrics", "/login"]);
        assert_eq!(open(false), ["/login"]);
    }

    #[test]
    fn no_route_hides_another() {
        for (at, route) in ROUTES.iter().enumerate() {
            let example = route.path.replace("{+", "{").replace(['{', '}'], "");
            let found = find(&example).and_then(|path| path.route(route.method));
            assert!(found.is_some_and(|found| std::ptr::eq(found, route)), "row {at}: {}", route.path);
        }
    }

    /// All that the description says of a path's methods, as the table would say it.
    fn described() -> BTreeMap<(String, String), (BTreeSet<String>, Vec<String>)> {
        let document: Json = serde_json::from_str(crate::http::pages::static_files::OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap().iter();
        let each = paths.flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |it| (path, it)));
        let all = each.map(|(path, (method, operation))| {
            let params = operation["parameters"].as_array().into_iter().flatten();
            let params = params.map(|param| match param["$ref"].as_str() {
                Some(reference) => document.pointer(&reference[1..]).unwrap(),
                None => param,
            });
            let params =
                params.filter(|param| param["in"] == "query").map(|param| param["name"].as_str().unwrap().into());
            let media = operation["requestBody"]["content"].as_object().into_iter().flat_map(|it| it.keys().cloned());
            ((method.to_uppercase(), path.clone()), (params.collect(), media.collect()))
        });
        all.collect()
    }

    #[test]
    fn the_description_names_what_the_table_does_and_nothing_else() {
        let mut described = described();
        for route in ROUTES {
            let (method, path) = (route.method.name(), route.path.replace("{+", "{"));
            let found = described.remove(&(method.to_string(), path.clone()));
            let (params, media) = found.unwrap_or_else(|| panic!("{method} {path} is not described"));
            let known: BTreeSet<String> = route.known_params().map(str::to_string).collect();
            assert_eq!(params, known, "parameters of {method} {path}");
            match (route.method, route.media) {
                (Method::Get, _) => assert!(media.is_empty(), "a body of {method} {path}"),
                // A body that is not needed need not be described.
                (Method::Delete, Some(wanted)) => assert!(media.iter().all(|it| it == wanted), "{path}"),
                // Programs other than browsers may send it as bytes.
                (_, Some(wanted)) => {
                    let others = media.iter().filter(|it| *it != wanted).map(String::as_str).collect::<Vec<_>>();
                    let is_named = media.iter().any(|it| it == wanted);
                    assert!(
                        is_named && matches!(others[..], [] | ["application/octet-stream"]),
                        "{method} {path}: {media:?}"
                    );
                }
                (_, None) => assert!(!media.is_empty(), "a body of {method} {path}"),
            }
        }
        assert!(described.is_empty(), "described, but nobody's: {:?}", described.keys());
    }
}
