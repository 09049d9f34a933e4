//! COMMAND: what the table says, in the form of Redis.

use super::spec::{Spec, takes};
use super::store::context::SYNTAX;
use crate::resp::conn::Conn;
use crate::resp::protocol::parse::{Request, integer, is_word};
use crate::resp::protocol::reply::{self, RespVersion};
use crate::services::kv::glob;

/// Steps of comparing a pattern with the names of all commands; beyond, it matches none.
const PATTERN_STEPS_MAX: u64 = 1 << 20;

/// `COMMAND`: the table, in the form of Redis.
pub(crate) fn command(table: &'static [Spec], conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let proto = conn.proto;
    let find = |name: &[u8]| table.iter().find(|spec| is_word(name, spec.name));
    let named = || request.words().skip(2).map(find);
    let sub = if request.len() == 1 { &b"info"[..] } else { request.word(1) };
    match sub {
        _ if is_word(sub, "count") => reply::int(out, table.len() as i64),
        _ if is_word(sub, "list") => list(table, request, out),
        _ if is_word(sub, "getkeys") => get_keys(find(request.word(2)), request, out),
        _ if is_word(sub, "docs") && request.len() == 2 => write_docs(out, proto, table.iter()),
        _ if is_word(sub, "docs") => {
            let found: Vec<&Spec> = named().flatten().collect();
            write_docs(out, proto, found.into_iter());
        }
        _ if request.len() <= 2 => {
            reply::array(out, table.len());
            table.iter().for_each(|spec| write_spec(out, proto, spec));
        }
        _ => {
            reply::array(out, request.len() - 2);
            for spec in named() {
                match spec {
                    Some(spec) => write_spec(out, proto, spec),
                    None => reply::nil(out, proto),
                }
            }
        }
    }
}

/// Name, arity, flags, first key, last key, step, categories; tips, key specifications and subcommands are empty.
fn write_spec(out: &mut Vec<u8>, proto: RespVersion, spec: &Spec) {
    let (first, last, step) = spec.keys;
    reply::array(out, 10);
    reply::bulk(out, spec.name.as_bytes());
    reply::int(out, spec.arity);
    reply::set(out, proto, spec.flags.split(' ').count());
    spec.flags.split(' ').for_each(|flag| reply::simple(out, flag));
    for place in [first, last, step] {
        reply::int(out, place);
    }
    let categories = categories(spec);
    reply::set(out, proto, categories.len());
    categories.iter().for_each(|category| reply::simple(out, category));
    for _ in 0..3 {
        reply::array(out, 0);
    }
}

fn write_docs<'a>(out: &mut Vec<u8>, proto: RespVersion, specs: impl ExactSizeIterator<Item = &'a Spec>) {
    reply::map(out, proto, specs.len());
    for spec in specs {
        reply::bulk(out, spec.name.as_bytes());
        reply::map(out, proto, 3);
        for (name, value) in [("summary", spec.summary), ("since", spec.since), ("group", spec.group)] {
            reply::bulk(out, name.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
    }
}

fn list(table: &[Spec], request: &Request, out: &mut Vec<u8>) {
    let mut named: Vec<(&Spec, String)> = table.iter().flat_map(with_subcommands).collect();
    match request.len() {
        2 => {}
        5 if is_word(request.word(2), "filterby") => {
            let value = request.word(4).to_ascii_lowercase();
            match request.word(3) {
                kind if is_word(kind, "module") => named.clear(),
                kind if is_word(kind, "aclcat") => {
                    named.retain(|(spec, _)| categories(spec).iter().any(|category| category.as_bytes()[1..] == value));
                }
                kind if is_word(kind, "pattern") => {
                    let mut steps = PATTERN_STEPS_MAX;
                    named.retain(|(_, name)| glob::matches(&value, name.as_bytes(), &mut steps) == Some(true));
                }
                _ => return reply::error(out, SYNTAX),
            }
        }
        _ => return reply::error(out, SYNTAX),
    }
    reply::array(out, named.len());
    named.iter().for_each(|(_, name)| reply::bulk(out, name.as_bytes()));
}

/// A command by its name and by those of its subcommands, as in `client|list`.
fn with_subcommands(spec: &Spec) -> impl Iterator<Item = (&Spec, String)> {
    let help = (!spec.subs.is_empty()).then_some("help");
    let subs = spec.subs.iter().map(|(sub, ..)| *sub).chain(help).map(|sub| format!("{}|{sub}", spec.name));
    std::iter::once(spec.name.to_string()).chain(subs).map(move |name| (spec, name))
}

fn get_keys(spec: Option<&Spec>, request: &Request, out: &mut Vec<u8>) {
    const SKIPPED: usize = 2;
    let Some(spec) = spec else { return reply::error(out, "ERR Invalid command specified") };
    let is_script = matches!(spec.name, "eval" | "evalsha");
    if spec.keys.0 == 0 && !is_script {
        return reply::error(out, "ERR The command has no key arguments");
    }
    let words = request.len() - SKIPPED;
    if !takes(spec.arity, words) {
        return reply::error(out, "ERR Invalid number of arguments specified for command");
    }
    let (first, last, step) = match spec.keys {
        _ if is_script => match integer(request.word(SKIPPED + 2)) {
            Some(keys) if keys >= 0 && keys as usize + 3 <= words => (3, 2 + keys, 1),
            _ => return reply::array(out, 0),
        },
        (first, last, step) if last < 0 => (first, last + words as i64, step),
        keys => keys,
    };
    let places: Vec<usize> = (first..=last).step_by(step as usize).map(|at| at as usize).collect();
    if places.iter().any(|at| *at >= words) {
        return reply::error(out, "ERR Invalid arguments specified for command");
    }
    reply::array(out, places.len());
    places.iter().for_each(|at| reply::bulk(out, request.word(SKIPPED + at)));
}

/// Categories of access control, as Redis names them.
fn categories(spec: &Spec) -> Vec<&'static str> {
    let group = match spec.group {
        "string" => "@string",
        "generic" => "@keyspace",
        "connection" => "@connection",
        "transactions" => "@transaction",
        "pubsub" => "@pubsub",
        "scripting" => "@scripting",
        _ => "",
    };
    let kind = if spec.has_flag("write") { "@write" } else { "@read" };
    let kind = if spec.keys.0 > 0 { kind } else { "" };
    let speed = if spec.has_flag("fast") { "@fast" } else { "@slow" };
    [kind, group, speed].into_iter().filter(|category| !category.is_empty()).collect()
}
