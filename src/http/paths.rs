//! The one table of paths: what each is called, which methods it takes, and what they know behind the question mark.
//!
//! Everything about a request that can be said without asking the node stands here, so that the door, its refusals and the
//! description at `/openapi.json` cannot drift apart: the router finds its answers in this table, and a test compares the
//! description with it, both ways.
//! Not here: what is done (`routes.rs`, `http/api/mod.rs`), what a parameter means (each handler).

use super::api::jobs;
use super::chat::Place;
use super::db::{self, files};
use super::protocol::guard;
use super::protocol::guard::Audience;
use super::protocol::parse::Method;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Monitor,
    Stream,
    Hold,
    Status,
    Events,
    Gossip,
    Members(Option<&'a str>),
    Transfer,
    Digests,
    Notes,
    Note(&'a str),
    Keys,
    Key(&'a str),
    Lock(&'a str),
    Acquire(&'a str),
    Renew(&'a str),
    Release(&'a str),
    CompileAndRun,
    Jobs,
    Job(&'a str),
    Output(&'a str),
    Runtimes,
    ChatPage,
    Chat(Place<'a>),
    Execute,
    Query,
    Request,
    Backup,
    Load,
    Digest,
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Static(&'a str),
}

/// One path.
pub(crate) struct Path {
    /// As it is called: `{id}` is one part of the path and not empty, `{+key}` takes slashes too and may be empty (the
    /// notation of RFC 6570). What they stand for is undecoded.
    pub template: &'static str,
    /// What it takes. HEAD is taken wherever GET is.
    pub operations: &'static [Operation],
    name: Name,
}

/// How a path becomes a [`Route`].
enum Name {
    Plain(Route<'static>),
    One(for<'a> fn(&'a str) -> Route<'a>),
    Two(for<'a> fn(&'a str, &'a str) -> Route<'a>),
}

/// One method of a path.
pub(crate) struct Operation {
    pub method: Method,
    /// What may stand behind the question mark, in groups.
    params: &'static [&'static [&'static str]],
    /// What its body must be said to be; `None`: anything, or there is none.
    pub media: Option<&'static str>,
    /// Whose pages may ask for it.
    pub audience: Audience,
    /// It changes nothing: a reply that there was no room for may be asked for again.
    pub is_read: bool,
    /// Health, status, administration: answered also when everything is in use.
    pub is_vital: bool,
}

impl Operation {
    const fn open_to(mut self, audience: Audience) -> Operation {
        self.audience = audience;
        self
    }

    const fn read(mut self) -> Operation {
        self.is_read = true;
        self
    }

    const fn vital(mut self) -> Operation {
        self.is_vital = true;
        self
    }

    /// The parameters that it knows.
    pub(crate) fn params(&self) -> impl Iterator<Item = &'static str> {
        self.params.iter().copied().flatten().copied()
    }

    /// A read that knows none leaves what others hang on its address alone: nothing can go wrong by a misspelt one.
    pub(crate) fn refuses_unknown(&self) -> bool {
        self.method != Method::Get || self.params().next().is_some()
    }
}

/// What only the node's own pages may ask for.
const fn operation(
    method: Method,
    media: Option<&'static str>,
    params: &'static [&'static [&'static str]],
) -> Operation {
    let is_read = matches!(method, Method::Get);
    Operation { method, params, media, audience: Audience::Node, is_read, is_vital: false }
}

const fn get(params: &'static [&'static [&'static str]]) -> Operation {
    operation(Method::Get, None, params)
}

const fn put(params: &'static [&'static [&'static str]]) -> Operation {
    operation(Method::Put, None, params)
}

const fn post(params: &'static [&'static [&'static str]]) -> Operation {
    post_media(guard::JSON, params)
}

const fn post_media(media: &'static str, params: &'static [&'static [&'static str]]) -> Operation {
    operation(Method::Post, Some(media), params)
}

/// A body is not needed; one that comes is JSON.
const fn delete(params: &'static [&'static [&'static str]]) -> Operation {
    operation(Method::Delete, Some(guard::JSON), params)
}

const fn plain(template: &'static str, route: Route<'static>, operations: &'static [Operation]) -> Path {
    Path { template, operations, name: Name::Plain(route) }
}

const fn one(template: &'static str, name: for<'a> fn(&'a str) -> Route<'a>, operations: &'static [Operation]) -> Path {
    Path { template, operations, name: Name::One(name) }
}

const fn two(
    template: &'static str,
    name: for<'a> fn(&'a str, &'a str) -> Route<'a>,
    operations: &'static [Operation],
) -> Path {
    Path { template, operations, name: Name::Two(name) }
}

const CLUSTER: Audience = Audience::Cluster;
const WINDOW: Audience = Audience::Window;
const ANYONE: Audience = Audience::Anyone;

/// Pages of names, and of what is in a conversation.
const LISTING: &[&str] = &["level", "match", "after", "limit"];
const LEVEL: &[&str] = &["level"];

/// Every path of the door; the first that fits counts.
pub(crate) const PATHS: &[Path] = &[
    one(
        "/v1/kv/{+key}",
        |key| Route::Key(key),
        &[
            get(&[&["level", "watch", "wait"]]),
            put(&[&["level", "cas", "ttl_ms"]]),
            post(&[LEVEL]),
            delete(&[&["level", "cas"]]),
        ],
    ),
    plain("/v1/kv", Route::Keys, &[get(&[&["level", "prefix", "after", "limit"]])]),
    one("/v1/lock/{+name}/acquire", |name| Route::Acquire(name), &[post(&[])]),
    one("/v1/lock/{+name}/renew", |name| Route::Renew(name), &[post(&[])]),
    one("/v1/lock/{+name}/release", |name| Route::Release(name), &[post(&[])]),
    one("/v1/lock/{+name}", |name| Route::Lock(name), &[get(&[LEVEL])]),
    plain("/db/execute", Route::Execute, &[post(&[&db::OF_ALL, &db::OF_WRITES, &["associative", "blob_array"]])]),
    plain(
        "/db/query",
        Route::Query,
        &[get(&[&db::OF_ALL, &db::OF_READS, &["q"]]), post(&[&db::OF_ALL, &db::OF_READS]).read()],
    ),
    plain("/db/request", Route::Request, &[post(&[&db::OF_ALL, &db::OF_READS, &["queue", "wait"]])]),
    plain("/db/backup", Route::Backup, &[get(&[&["fmt", "level", "noleader", "redirect"]])]),
    plain("/db/load", Route::Load, &[post_media(files::FILE, &[&["redirect"]])]),
    plain("/db/digest", Route::Digest, &[get(&[&["level", "noleader"]])]),
    plain("/compileandrun", Route::CompileAndRun, &[post_media(jobs::JAVA_SOURCE, &[&["wait"]])]),
    plain("/v1/jobs", Route::Jobs, &[get(&[&["before", "limit", "level"]]), post(&[&["wait"]])]),
    one("/v1/jobs/{id}/output", |id| Route::Output(id), &[get(&[&["follow", "format", "stream", "attempt"]])]),
    one("/v1/jobs/{id}", |id| Route::Job(id), &[get(&[&["wait", "level"]]), delete(&[])]),
    plain("/v1/runtimes", Route::Runtimes, &[get(&[])]),
    plain(
        "/v1/chat/accounts",
        Route::Chat(Place::Accounts),
        &[get(&[LISTING]).open_to(CLUSTER), post(&[]).open_to(CLUSTER)],
    ),
    plain("/v1/chat/account", Route::Chat(Place::Account), &[delete(&[]).open_to(CLUSTER)]),
    plain("/v1/chat/me", Route::Chat(Place::Me), &[get(&[LEVEL]).open_to(CLUSTER)]),
    plain("/v1/chat/login", Route::Chat(Place::LogIn), &[post(&[]).open_to(CLUSTER)]),
    plain("/v1/chat/logout", Route::Chat(Place::LogOut), &[post(&[]).open_to(CLUSTER)]),
    plain("/v1/chat/direct", Route::Chat(Place::Direct), &[post(&[]).open_to(CLUSTER)]),
    plain("/v1/chat/rooms", Route::Chat(Place::Rooms), &[get(&[LISTING]).open_to(CLUSTER), post(&[]).open_to(CLUSTER)]),
    one("/v1/chat/rooms/{id}/join", |id| Route::Chat(Place::Join(id)), &[post(&[]).open_to(CLUSTER)]),
    one("/v1/chat/rooms/{id}/leave", |id| Route::Chat(Place::Leave(id)), &[post(&[]).open_to(CLUSTER)]),
    one(
        "/v1/chat/rooms/{id}/members",
        |id| Route::Chat(Place::Members(id)),
        &[get(&[&["level", "after", "limit"]]).open_to(CLUSTER)],
    ),
    plain("/v1/chat/messages", Route::Chat(Place::Messages), &[post(&[]).open_to(CLUSTER)]),
    plain("/v1/chat/conversations", Route::Chat(Place::Conversations), &[get(&[LEVEL]).open_to(CLUSTER)]),
    one("/v1/chat/conversations/{id}", |id| Route::Chat(Place::Conversation(id)), &[get(&[LEVEL]).open_to(CLUSTER)]),
    one(
        "/v1/chat/conversations/{id}/messages",
        |id| Route::Chat(Place::History(id)),
        &[get(&[&["level", "before", "after", "limit"]]).open_to(CLUSTER)],
    ),
    two(
        "/v1/chat/conversations/{id}/messages/{number}",
        |id, number| Route::Chat(Place::Message(id, number)),
        &[delete(&[]).open_to(CLUSTER)],
    ),
    one("/v1/chat/conversations/{id}/read", |id| Route::Chat(Place::Read(id)), &[post(&[]).open_to(CLUSTER)]),
    plain("/v1/chat/stream", Route::Chat(Place::Stream), &[get(&[&["after"]]).open_to(CLUSTER)]),
    plain("/v1/status", Route::Status, &[get(&[]).open_to(ANYONE).vital()]),
    plain("/v1/stream", Route::Stream, &[get(&[&["since"]]).open_to(CLUSTER)]),
    plain("/v1/hold", Route::Hold, &[get(&[])]),
    plain("/v1/events", Route::Events, &[get(&[&["since", "wait"]]).open_to(WINDOW)]),
    plain("/v1/gossip", Route::Gossip, &[get(&[]).open_to(WINDOW)]),
    plain("/v1/members", Route::Members(None), &[get(&[]).vital(), post(&[]).vital()]),
    one("/v1/members/{id}", |id| Route::Members(Some(id)), &[get(&[]).vital(), post(&[]).vital(), delete(&[]).vital()]),
    plain("/v1/digests", Route::Digests, &[get(&[]), post(&[])]),
    plain("/v1/leader/transfer", Route::Transfer, &[post(&[]).vital()]),
    plain("/v1/note", Route::Notes, &[post(&[])]),
    one("/v1/note/{+id}", |id| Route::Note(id), &[get(&[LEVEL])]),
    plain("/livez", Route::Livez, &[get(&[]).open_to(ANYONE).vital()]),
    plain("/readyz", Route::Readyz, &[get(&[&["verbose"]]).open_to(ANYONE).vital()]),
    plain("/metrics", Route::Metrics, &[get(&[]).open_to(ANYONE).vital()]),
    plain("/", Route::Monitor, &[get(&[]).open_to(WINDOW)]),
    plain("/chat", Route::ChatPage, &[get(&[]).open_to(WINDOW)]),
    one("/static/{name}", |name| Route::Static(name), &[get(&[]).open_to(ANYONE)]),
    plain("/openapi.json", Route::OpenApi, &[get(&[]).open_to(ANYONE)]),
];

/// The path that a request names, and what it is. Compared byte by byte, undecoded: `/%761/status` is nobody's.
pub(crate) fn find(path: &str) -> Option<(&'static Path, Route<'_>)> {
    PATHS.iter().find_map(|entry| {
        let (first, second) = entry.parts(path)?;
        let route = match entry.name {
            Name::Plain(route) => route,
            Name::One(name) => name(first),
            Name::Two(name) => name(first, second),
        };
        Some((entry, route))
    })
}

impl Path {
    /// What stands in place of the template's names, `""` where it has fewer than two.
    fn parts<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let Some((before, rest)) = self.template.split_once('{') else {
            return (self.template == path).then_some(("", ""));
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

    /// The operation of a method. HEAD is GET without the body.
    pub(crate) fn operation(&self, method: Method) -> Option<&'static Operation> {
        let method = if method == Method::Head { Method::Get } else { method };
        self.operations.iter().find(|operation| operation.method == method)
    }

    /// Value of `Allow`.
    pub(crate) fn allow(&self) -> String {
        let names = self.operations.iter().map(|operation| match operation.method {
            Method::Get => "GET, HEAD",
            other => other.name(),
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

/// A part of a path that is not empty, and what follows it.
fn part(path: &str) -> Option<(&str, &str)> {
    let (part, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
    (!part.is_empty()).then_some((part, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;
    use std::collections::{BTreeMap, BTreeSet};

    fn route(path: &str) -> Option<Route<'_>> {
        find(path).map(|(_, route)| route)
    }

    #[test]
    fn paths_are_exact() {
        assert_eq!(route("/v1/members/3"), Some(Route::Members(Some("3"))));
        assert_eq!(route("/v1/kv/a/b%2Fc"), Some(Route::Key("a/b%2Fc")));
        assert_eq!((route("/v1/kv"), route("/v1/kv/")), (Some(Route::Keys), Some(Route::Key(""))));
        assert_eq!(route("/v1/jobs/7"), Some(Route::Job("7")));
        assert_eq!(route("/v1/jobs/7/output"), Some(Route::Output("7")));
        assert_eq!(route("/v1/lock/a/b/renew"), Some(Route::Renew("a/b")));
        assert_eq!(route("/v1/lock/a%2Frenew"), Some(Route::Lock("a%2Frenew")));
        assert_eq!(route("/static/app.js"), Some(Route::Static("app.js")));
        assert_eq!(route("/v1/chat/conversations/7/messages/3"), Some(Route::Chat(Place::Message("7", "3"))));
        assert_eq!(route("/v1/chat/conversations/7/messages"), Some(Route::Chat(Place::History("7"))));
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
            assert_eq!(route(path), None, "{path}");
        }
    }

    #[test]
    fn methods_are_those_of_the_table() {
        let allow = |path| find(path).unwrap().0.allow();
        assert_eq!(allow("/v1/kv/a"), "GET, HEAD, PUT, POST, DELETE");
        assert_eq!((allow("/v1/note"), allow("/v1/status")), ("POST".to_string(), "GET, HEAD".to_string()));
        let status = find("/v1/status").unwrap().0;
        assert!(status.operation(Method::Head).is_some() && status.operation(Method::Post).is_none());
        assert!(status.operation(Method::Options).is_none() && status.operation(Method::Other).is_none());
    }

    #[test]
    fn no_path_hides_another() {
        for (at, path) in PATHS.iter().enumerate() {
            let example = path.template.replace("{+", "{").replace(['{', '}'], "");
            let (found, _) = find(&example).unwrap();
            assert_eq!(found.template, path.template, "line {at}");
            assert!(PATHS[..at].iter().all(|other| other.template != path.template), "{} twice", path.template);
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
        for path in PATHS {
            let template = path.template.replace("{+", "{");
            for operation in path.operations {
                let method = operation.method.name();
                let found = described.remove(&(method.to_string(), template.clone()));
                let (params, media) = found.unwrap_or_else(|| panic!("{method} {template} is not described"));
                let known: BTreeSet<String> = operation.params().map(str::to_string).collect();
                assert_eq!(params, known, "parameters of {method} {template}");
                match (operation.method, operation.media) {
                    (Method::Get, _) => assert!(media.is_empty(), "a body of {method} {template}"),
                    // A body that is not needed need not be described.
                    (Method::Delete, Some(wanted)) => assert!(media.iter().all(|it| it == wanted), "{template}"),
                    (_, Some(wanted)) => assert_eq!(media, [wanted], "media type of {method} {template}"),
                    (_, None) => assert!(!media.is_empty(), "a body of {method} {template}"),
                }
            }
        }
        assert!(described.is_empty(), "described, but nobody's: {:?}", described.keys());
    }
}
