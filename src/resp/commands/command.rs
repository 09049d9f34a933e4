//! COMMAND: what the table says, in the form of Redis.

use super::spec::{Spec, takes};
use super::store::context::SYNTAX;
use crate::resp::conn::Conn;
use crate::resp::protocol::parse::{Request, integer, is};
use crate::resp::protocol::reply::{self, Proto};
use crate::services::kv::glob;

/// Steps of comparing a pattern with the name of a command.
const PATTERN_STEPS_MAX: u64 = 1 << 20;

/// `COMMAND`: the table, in the form of Redis.
pub(crate) fn command(table: &'static [Spec], conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let proto = conn.proto;
    let find = |name: &[u8]| table.iter().find(|spec| is(name, spec.name));
    let named = || request.words().skip(2).map(find);
    let sub = if request.len() == 1 { &b"info"[..] } else { request.word(1) };
    match sub {
        _ if is(sub, "count") => reply::int(out, table.len() as i64),
        _ if is(sub, "list") => list(table, request, out),
        _ if is(sub, "getkeys") => get_keys(find(request.word(2)), request, out),
        _ if is(sub, "docs") && request.len() == 2 => write_docs(out, proto, table.iter()),
        _ if is(sub, "docs") => {
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
fn write_spec(out: &mut Vec<u8>, proto: Proto, spec: &Spec) {
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

fn write_docs<'a>(out: &mut Vec<u8>, proto: Proto, specs: impl ExactSizeIterator<Item = &'a Spec>) {
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
    let matches = |spec: &&Spec| match (request.word(3), request.word(4)) {
        (kind, _) if is(kind, "module") => Some(false),
        (kind, value) if is(kind, "aclcat") => {
            let value = value.to_ascii_lowercase();
            Some(categories(spec).iter().any(|category| category.as_bytes()[1..] == value))
        }
        (kind, value) if is(kind, "pattern") => {
            glob::matches(&value.to_ascii_lowercase(), spec.name.as_bytes(), &mut PATTERN_STEPS_MAX.clone())
        }
        _ => None,
    };
    let found: Option<Vec<&Spec>> = match request.len() {
        2 => Some(table.iter().collect()),
        5 if is(request.word(2), "filterby") => {
            let each = table.iter().map(|spec| matches(&spec).map(|is_so| is_so.then_some(spec)));
            each.collect::<Option<Vec<_>>>().map(|found| found.into_iter().flatten().collect())
        }
        _ => None,
    };
    match found {
        Some(found) => {
            reply::array(out, found.len());
            found.iter().for_each(|spec| reply::bulk(out, spec.name.as_bytes()));
        }
        None => reply::error(out, SYNTAX),
    }
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
    let kind = if spec.has_flag("write") { "@write" } else { "@read" };
    let speed = if spec.has_flag("fast") { "@fast" } else { "@slow" };
    if spec.keys.0 > 0 { vec![kind, speed] } else { vec![speed] }
}
