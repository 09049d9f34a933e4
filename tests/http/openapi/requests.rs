//! `/openapi.json`: a consistent document, and invalid input of each kind that it describes, each refused by name.
//!
//! That the document and the router name the same paths is compared where the table is (`src/http/routes.rs`); real
//! answers are judged in `nodes.rs`.

use crate::fake_host::{Served, patient, serve, serve_front};
use crate::openapi::{Answer, Document, Operation, ask, walk};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};

const TEXT: &str = include_str!("../../../static/openapi.json");
/// Shown wherever a log-in is wanted: the fake host asks nobody whether it holds.
const TOKEN: &str = "Authorization: Bearer abc\r\n";

fn document() -> Document {
    Document::new(TEXT.as_bytes())
}

#[test]
fn nodes_and_the_front_door_serve_the_document() {
    let served = serve(patient());
    let answer = served.get("/openapi.json");
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")));
    assert_eq!(answer.body, TEXT);
    let tag = format!("If-None-Match: {}\r\n", answer.header("ETag").unwrap());
    assert_eq!(served.ask("GET", "/openapi.json", &tag, "").status, 304);
    let front = serve_front(patient()).get("/openapi.json");
    assert_eq!((front.status, front.header("Location")), (307, Some("http://127.0.0.1:6702/openapi.json")));
    let document = document();
    assert_eq!(document.value["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(document.value["openapi"].as_str().unwrap().starts_with("3.1."));
}

#[test]
fn the_document_holds_together() {
    let document = document();
    let (mut names, mut used) = (BTreeSet::new(), BTreeSet::new());
    walk("", &document.value, &mut |pointer, value| {
        if let Some(reference) = value.as_str().filter(|_| pointer.ends_with("/$ref")) {
            let target = reference.strip_prefix('#').expect("references stay in the document");
            assert!(document.value.pointer(target).is_some(), "{pointer}: {reference} names nothing");
            used.insert(target.to_string());
        }
    });
    for kind in ["parameters", "headers", "responses", "schemas"] {
        for name in document.value["components"][kind].as_object().unwrap().keys() {
            assert!(used.contains(&format!("/components/{kind}/{name}")), "{kind}/{name} is used nowhere");
        }
    }
    let tags: Vec<_> = document.value["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for operation in document.operations() {
        let Operation { path, method, value, .. } = &operation;
        assert!(!value["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path} has no summary");
        assert!(names.insert(value["operationId"].as_str().unwrap().to_string()), "{method} {path}: name used twice");
        let statuses = value["responses"].as_object().unwrap();
        assert!(
            statuses.keys().any(|status| status.starts_with('2') || status == "303"),
            "{method} {path} never succeeds"
        );
        assert!(
            value["tags"].as_array().unwrap().iter().all(|tag| tags.contains(&tag)),
            "{method} {path}: unknown tag"
        );
        let declared: BTreeSet<_> = document
            .params(&operation, "path")
            .iter()
            .map(|param| param["name"].as_str().unwrap().to_string())
            .collect();
        let named: BTreeSet<_> =
            path.split('{').skip(1).map(|part| part.split('}').next().unwrap().to_string()).collect();
        assert_eq!(declared, named, "{method} {path}");
    }
}

#[test]
fn schemas_can_be_used_and_examples_fit_them() {
    let document = document();
    let mut examples = 0;
    walk("", &document.value, &mut |pointer, value| {
        let Some(content) = pointer.strip_suffix("/example") else { return };
        document.validate(&format!("{content}/schema"), value).unwrap();
        examples += 1;
    });
    assert!(examples > 10, "{examples}");
    for name in document.value["components"]["schemas"].as_object().unwrap().keys() {
        // Whatever it says of null: it can be compiled.
        let why = document.validate(&format!("/components/schemas/{name}"), &Value::Null).err().unwrap_or_default();
        assert!(!why.contains("compil") && !why.contains("metaschema"), "{name}: {why}");
    }
    let error = "/components/schemas/Error";
    assert!(document.validate(error, &serde_json::json!({"error": "x", "outcome": "maybe"})).is_err());
}

/// Asks the fake node; `more` are header lines. Whatever comes back must be described.
fn tell(served: &Served, document: &Document, operation: &Operation, query: &str, more: &str, body: &[u8]) -> Answer {
    let path = operation.path.replace("{id}", "1").replace("{number}", "1").replace("{key}", "k");
    let path = path.replace("{name}", if path.starts_with("/static") { "app.js" } else { "l" });
    tell_at(served, document, operation, &format!("{path}{query}"), more, body)
}

fn tell_at(
    served: &Served,
    document: &Document,
    operation: &Operation,
    target: &str,
    more: &str,
    body: &[u8],
) -> Answer {
    let headers = format!("{TOKEN}{more}");
    let answer = ask(&served.address.to_string(), &operation.method, target, &headers, body, 1);
    if operation.value["responses"].get("default").is_some() && answer.status != 200 {
        document.check(operation, &answer);
    }
    answer
}

fn refused(what: &str, operation: &Operation, answer: &Answer, status: u16) {
    let Operation { method, path, .. } = operation;
    assert_eq!(answer.status, status, "{what}: {method} {path}: {}", answer.text());
    assert!(!answer.json()["error"].as_str().unwrap().is_empty());
}

fn content_type(operation: &Operation) -> Option<String> {
    let content = operation.value["requestBody"]["content"].as_object()?;
    content.keys().next().map(|media| format!("Content-Type: {media}\r\n"))
}

/// A query that makes the rest of the request whole, so that only what is tried can be wrong.
fn rest_of_query(name: &str) -> &'static str {
    if name == "wait" { "&watch=0" } else { "" }
}

/// Operations of rqlite's API ignore unknown parameters and values of flags, as rqlite does.
fn is_of_rqlite(path: &str) -> bool {
    ["/db/execute", "/db/query", "/db/request", "/db/backup", "/db/load", "/db/sql", "/status", "/nodes"]
        .contains(&path)
}

#[test]
fn bad_parameters_are_refused_by_name() {
    let (served, document) = (serve(patient()), document());
    let mut tried = 0;
    for operation in document.operations() {
        let media = content_type(&operation).unwrap_or_default();
        let body = example(&operation);
        let params = document.params(&operation, "query");
        if is_of_rqlite(&operation.path) {
            let answer = tell(&served, &document, &operation, "?nonsense=1&nonsense=2", &media, &body);
            assert!(!answer.text().contains("nonsense"), "{}: {}", operation.path, answer.text());
        } else if operation.method != "GET" || !params.is_empty() {
            refused("unknown", &operation, &tell(&served, &document, &operation, "?nonsense=1", &media, &body), 400);
        }
        for param in params {
            let name = param["name"].as_str().unwrap();
            let (_, schema) = document.resolve("", &param["schema"]);
            // What a flag may be and a number may not: nothing.
            let mut bad = match (schema["type"].as_str(), schema["enum"].is_array(), schema["pattern"].is_string()) {
                (Some("integer"), ..) => vec!["x", "-1", "", "1.5", "99999999999999999999"],
                (_, true, _) => vec!["nonsense"],
                (_, _, true) => vec!["soon", "-1s", "1x"],
                _ if name == "verbose" || is_of_rqlite(&operation.path) && name != "q" => vec![],
                _ if schema["description"].as_str().is_some_and(|text| text.contains("regardless of its value")) => {
                    vec![]
                }
                _ => vec!["%zz"],
            };
            let beyond = [&schema["minimum"], &schema["maximum"]].map(|bound| bound.as_i64());
            let beyond = [beyond[0].filter(|it| *it > 0).map(|it| it - 1), beyond[1].map(|it| it + 1)];
            let beyond: Vec<_> = beyond.into_iter().flatten().map(|number| number.to_string()).collect();
            bad.extend(beyond.iter().map(String::as_str));
            for value in bad {
                let rest = if operation.path == "/v1/kv/{key}" { rest_of_query(name) } else { "" };
                let query = format!("?{name}={value}{rest}");
                let answer = tell(&served, &document, &operation, &query, &media, &body);
                refused(&query, &operation, &answer, 400);
                tried += 1;
            }
            let query = format!("?{name}=1&{name}=1");
            if is_of_rqlite(&operation.path) {
                continue;
            }
            refused(&query, &operation, &tell(&served, &document, &operation, &query, &media, &body), 400);
        }
    }
    assert!(tried > 200, "{tried}");
}

#[test]
fn bad_names_in_paths_are_refused() {
    let (served, document) = (serve(patient()), document());
    for operation in document.operations() {
        for param in document.params(&operation, "path") {
            let (_, schema) = document.resolve("", &param["schema"]);
            let is_number = schema["type"] == "integer";
            for bad in if is_number { vec!["x", "-1", "99999999999999999999"] } else { vec!["%zz", "%"] } {
                let name = format!("{{{}}}", param["name"].as_str().unwrap());
                let path = operation.path.replace(&name, bad).replace("{id}", "1").replace("{number}", "1");
                let media = content_type(&operation).unwrap_or_default();
                let answer = tell_at(&served, &document, &operation, &path, &media, &example(&operation));
                assert!(matches!(answer.status, 400 | 404), "{} {path}: {}", operation.method, answer.text());
                assert_eq!(answer.json()["outcome"], "refused");
            }
        }
    }
}

#[test]
fn bad_bodies_are_refused() {
    let (served, document) = (serve(patient()), document());
    for operation in document.operations().into_iter().filter(|operation| operation.method != "GET") {
        let tell = |more: &str, body: &[u8]| tell(&served, &document, &operation, "", more, body);
        let media = content_type(&operation);
        let takes_any = operation.path == "/v1/kv/{key}" && operation.method == "PUT" || operation.path == "/db/load";
        if !takes_any {
            let page = format!("Origin: http://{}\r\n", served.address);
            refused("no media type", &operation, &tell(&page, b"x"), 415);
            refused("a form", &operation, &tell(&format!("{page}Content-Type: text/plain\r\n"), b"x"), 415);
        }
        if media.as_deref() == Some("Content-Type: application/json\r\n") {
            let media = media.unwrap();
            for bad in [&b"not json"[..], b"[1]", b"7", b"\"x\"", b"{\"nonsense\": 1}", b"{", b"{} {}", b"\xff"] {
                refused("body", &operation, &tell(&media, bad), 400);
            }
        }
        let length = format!("{}Content-Length: 2000000000\r\n", content_type(&operation).unwrap_or_default());
        let length = if length.contains("Content-Type") {
            length
        } else {
            format!("Content-Type: application/json\r\n{length}")
        };
        refused("too large", &operation, &tell(&length, b""), 413);
    }
}

/// Whose pages may ask for what is said here once more: a new path is for nobody's but the node's own until it is named
/// here too.
#[test]
fn pages_of_other_sites_are_refused_everywhere_but_here() {
    const ANYONE: [&str; 6] = ["/v1/status", "/livez", "/readyz", "/metrics", "/openapi.json", "/static/{name}"];
    const WINDOW: [&str; 4] = ["/", "/chat", "/v1/events", "/v1/gossip"];
    const OF_THE_PAGE: [(&str, &str); 5] = [
        ("POST", "/v1/jobs"),
        ("DELETE", "/v1/jobs/{id}"),
        ("GET", "/v1/jobs/{id}/output"),
        ("GET", "/v1/lab"),
        ("POST", "/v1/lab"),
    ];
    const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11)\r\n";
    const FOREIGN: [&str; 8] = [
        "Origin: http://evil.example\r\n",
        "Origin: http://evil.example\r\nSec-Fetch-Site: none\r\n",
        "Origin: null\r\n",
        // Another program's port on the same machine.
        "Origin: http://127.0.0.1:3000\r\nSec-Fetch-Site: same-site\r\n",
        // What an `<img>` sends, also to another port, and to a page that frames it.
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
        "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
        "Referer: http://evil.example/\r\n",
    ];
    const LINKS: [&str; 2] = [
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
        "Upgrade-Insecure-Requests: 1\r\n",
    ];
    let (served, document) = (serve(patient()), document());
    for operation in document.operations() {
        let Operation { method, path, .. } = &operation;
        let media = content_type(&operation).unwrap_or_default();
        let status = |who: &str| {
            let head = format!("{} HTTP/1.1\r\nHost: {}\r\n{TOKEN}{media}{who}\r\n", path, served.address);
            let mut stream = served.connect();
            stream.write_all(format!("{method} {head}").as_bytes()).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
        };
        let (anyone, window) = (ANYONE.contains(&path.as_str()), WINDOW.contains(&path.as_str()));
        let is_of_the_page = OF_THE_PAGE.contains(&(method.as_str(), path.as_str()));
        let cluster = anyone || window || path == "/v1/stream" || path.starts_with("/v1/chat/") || is_of_the_page;
        for foreign in FOREIGN {
            assert_eq!(status(&format!("{BROWSER}{foreign}")) != 403, anyone, "{method} {path} {foreign}");
        }
        for link in LINKS {
            assert_eq!(status(&format!("{BROWSER}{link}")) != 403, anyone || window, "{method} {path} {link}");
        }
        for port in [6702, 8080] {
            let other = format!("{BROWSER}Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-site\r\n");
            assert_eq!(status(&other) != 403, cluster, "{method} {path} of port {port}");
        }
        let own = served.address;
        for own in [
            format!("Origin: http://{own}\r\nSec-Fetch-Site: same-origin\r\n"),
            format!("Referer: http://{own}/chat\r\n"),
            "Sec-Fetch-Site: none\r\n".to_string(),
        ] {
            assert_ne!(status(&format!("{BROWSER}{own}")), 403, "{method} {path} {own}");
        }
        assert!(!matches!(status("User-Agent: curl/8.5\r\n"), 403 | 415), "{method} {path}");
    }
    let front = serve_front(patient());
    let page = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!((front.ask("GET", "/db/query?q=x", page, "").status, front.get("/db/query?q=x").status), (403, 307));
}

#[test]
fn methods_that_a_path_does_not_take_are_refused() {
    let (served, document) = (serve(patient()), document());
    for operation in document.operations() {
        let taken: Vec<_> =
            document.operations().into_iter().filter(|it| it.path == operation.path).map(|it| it.method).collect();
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "TRACE"] {
            if taken.iter().all(|it| it != method) {
                let other = Operation { method: method.to_string(), ..operation.clone() };
                let answer = tell(&served, &document, &other, "", "", b"");
                if (method, operation.path.as_str()) == ("POST", "/v1/lock/{name}") {
                    // Something that cannot be done with a lock: a path that there is not.
                    assert_eq!(answer.status, 404);
                    continue;
                }
                assert_eq!(answer.status, 405, "{method} {}", operation.path);
                assert!(taken.iter().all(|it| answer.header("Allow").unwrap().contains(it)), "{answer:?}");
            }
        }
    }
}

/// `Idempotency-Key` is described exactly where it is looked at.
#[test]
fn bad_idempotency_keys_are_refused_where_they_count() {
    let (served, document) = (serve(patient()), document());
    let long = "k".repeat(256);
    for operation in document.operations().into_iter().filter(|operation| operation.method != "GET") {
        let counts = !document.params(&operation, "header").is_empty();
        for key in ["", &long] {
            let headers = format!("Idempotency-Key: {key}\r\n{}", content_type(&operation).unwrap_or_default());
            let answer = tell(&served, &document, &operation, "", &headers, &example(&operation));
            let is_refused = answer.status == 400 && answer.text().contains("Idempotency-Key");
            assert_eq!(is_refused, counts, "{} {}: {}", operation.method, operation.path, answer.text());
        }
    }
}

/// A body that the operation takes.
fn example(operation: &Operation) -> Vec<u8> {
    let content = &operation.value["requestBody"]["content"];
    match &content["application/json"]["example"] {
        Value::Null if content["application/json"].is_object() => b"{}".to_vec(),
        Value::Null if content.is_object() => b"x".to_vec(),
        Value::Null => Vec::new(),
        example => example.to_string().into_bytes(),
    }
}
