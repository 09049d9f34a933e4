//! The OpenAPI document, against which requests and answers are checked.
//!
//! Requests are HTTP/1.0, so that a body ends with its connection and an endless one may be cut anywhere between two lines.
//! Not here: which requests are sent (`requests.rs`, `nodes.rs`), tools that read the document (`tools.rs`).

mod nodes;
mod requests;
pub mod tools;

use boon::{Compiler, Draft, Schemas};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Where the document stands for the schemas in it.
const PLACE: &str = "http://phalanx/openapi.json";
/// Statuses that any path may return before the request is handled: the response `CommonError`.
pub const COMMON_STATUSES: [u16; 14] = [400, 403, 405, 408, 413, 414, 415, 417, 421, 429, 431, 501, 503, 505];

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.head.lines().skip(1).filter_map(|line| line.split_once(": "))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn media(&self) -> &str {
        self.header("Content-Type").unwrap_or_default().split(';').next().unwrap_or_default()
    }
}

/// Asks and reads until the other side closes; an endless answer until there is so much of its body.
pub fn ask(address: &str, method: &str, target: &str, headers: &str, body: &[u8], bytes_max: usize) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "{method} {target} HTTP/1.0\r\nHost: {address}\r\n{headers}{length}\r\n").unwrap();
    stream.write_all(body).unwrap();
    let (mut all, mut bytes) = (Vec::new(), [0; 16 << 10]);
    loop {
        let head = all.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let read = match head {
            Some(head) if all.len() - head >= bytes_max => 0,
            _ => stream.read(&mut bytes).unwrap(),
        };
        all.extend_from_slice(&bytes[..read]);
        if read == 0 {
            let head = head.unwrap_or_else(|| panic!("no answer to {method} {target}"));
            let text = std::str::from_utf8(&all[..head]).unwrap().to_string();
            let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
            return Answer { status, head: text, body: all[head..].to_vec() };
        }
    }
}

/// One method of one path of the document.
#[derive(Clone, Debug)]
pub struct Operation {
    pub path: String,
    /// In capitals.
    pub method: String,
    /// Where it stands.
    pub pointer: String,
    pub value: Value,
}

/// The document.
pub struct Document {
    pub value: Value,
}

impl Document {
    pub fn new(text: &[u8]) -> Document {
        Document { value: serde_json::from_slice(text).unwrap() }
    }

    pub fn operations(&self) -> Vec<Operation> {
        let paths = self.value["paths"].as_object().unwrap();
        let each = paths.iter().flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(move |(method, value)| Operation {
                path: path.clone(),
                method: method.to_uppercase(),
                pointer: format!("/paths/{}/{method}", escape(path)),
                value: value.clone(),
            })
        });
        each.collect()
    }

    /// The operation of a request: the path that names it with the fewest parameters.
    pub fn find(&self, method: &str, target: &str) -> Operation {
        let path = target.split('?').next().unwrap();
        let fits = |template: &str| {
            let (ours, theirs): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            ours.len() == theirs.len()
                && ours.iter().zip(&theirs).all(|(our, their)| our.starts_with('{') || our == their)
        };
        let mut found: Vec<_> = self.operations();
        found.retain(|operation| operation.method == method && fits(&operation.path));
        found.sort_by_key(|operation| operation.path.matches('{').count());
        assert!(!found.is_empty(), "{method} {target} is not described");
        found.swap_remove(0)
    }

    /// What a `$ref` stands for, and where that is.
    pub fn resolve<'a>(&'a self, pointer: &str, value: &'a Value) -> (String, &'a Value) {
        match value["$ref"].as_str() {
            None => (pointer.to_string(), value),
            Some(reference) => {
                let target = reference.strip_prefix('#').expect("references stay in the document");
                let found = self.value.pointer(target).unwrap_or_else(|| panic!("{reference} names nothing"));
                (target.to_string(), found)
            }
        }
    }

    /// Parameters of an operation that stand in one place: `query`, `path`, `header`.
    pub fn params<'a>(&'a self, operation: &'a Operation, place: &str) -> Vec<&'a Value> {
        let all = operation.value["parameters"].as_array().into_iter().flatten();
        all.map(|param| self.resolve("", param).1).filter(|param| param["in"] == place).collect()
    }

    /// Panics unless the document says that this answer may come; the operation's name.
    pub fn check(&self, operation: &Operation, answer: &Answer) -> String {
        let what = || format!("{} {}: {} {answer:?}", operation.method, operation.path, answer.text());
        let status = answer.status.to_string();
        let responses = &operation.value["responses"];
        let is_named = responses.get(&status).is_some();
        assert!(is_named || COMMON_STATUSES.contains(&answer.status), "status is not described: {}", what());
        let key = if is_named { status.as_str() } else { "default" };
        let pointer = format!("{}/responses/{key}", operation.pointer);
        let (pointer, response) = self.resolve(&pointer, &responses[key]);
        for (name, _) in answer.headers().filter(|(name, _)| name.starts_with("X-Phalanx-")) {
            let is_of_all = ["X-Phalanx-Node", "X-Phalanx-Leader", "X-Phalanx-Term", "X-Phalanx-Index"].contains(&name);
            assert!(is_of_all || response["headers"].get(name).is_some(), "{name} is not described: {}", what());
        }
        if answer.body.is_empty() {
            return operation.value["operationId"].as_str().unwrap().to_string();
        }
        let media = answer.media();
        let content = &response["content"][media];
        assert!(content.is_object(), "{media:?} is not described: {}", what());
        let schema = format!("{pointer}/content/{}/schema", escape(media));
        let bodies: Vec<Value> = match media {
            "application/json" => vec![answer.json()],
            "application/x-ndjson" => {
                let text = answer.text();
                let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
                let lines: Vec<_> = whole.lines().filter(|line| !line.is_empty()).collect();
                assert!(!lines.is_empty(), "no line: {}", what());
                lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
            }
            _ => Vec::new(),
        };
        for body in bodies.iter().filter(|_| content["schema"].is_object()) {
            if let Err(why) = self.validate(&schema, body) {
                panic!("{}\n{why}", what());
            }
        }
        operation.value["operationId"].as_str().unwrap().to_string()
    }

    /// Whether a value is as the schema at a pointer says.
    pub fn validate(&self, pointer: &str, value: &Value) -> Result<(), String> {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Draft::V2020_12);
        compiler.enable_format_assertions();
        compiler.add_resource(PLACE, self.value.clone()).map_err(|error| error.to_string())?;
        let index = compiler.compile(&format!("{PLACE}#{}", encode(pointer)), &mut schemas);
        let index = index.map_err(|error| format!("{pointer}: {error}"))?;
        schemas.validate(value, index).map_err(|error| format!("{error:#}"))
    }
}

/// A name as a part of a JSON pointer.
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A JSON pointer as a fragment.
fn encode(pointer: &str) -> String {
    pointer.replace('{', "%7B").replace('}', "%7D").replace('*', "%2A")
}

/// Every value below one, with its pointer.
pub fn walk(pointer: &str, value: &Value, each: &mut dyn FnMut(&str, &Value)) {
    each(pointer, value);
    match value {
        Value::Object(map) => map.iter().for_each(|(name, it)| walk(&format!("{pointer}/{}", escape(name)), it, each)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, it)| walk(&format!("{pointer}/{at}"), it, each)),
        _ => {}
    }
}

/// Names of operations that are not among those seen.
pub fn missing(document: &Document, seen: &BTreeSet<String>) -> Vec<String> {
    let names = document.operations().into_iter().map(|it| it.value["operationId"].as_str().unwrap().to_string());
    names.filter(|name| !seen.contains(name)).collect()
}
