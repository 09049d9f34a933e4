//! What the fuzzers share: broken requests from a seed, and what must hold of any bytes whatever.
//!
//! `fuzz/` (cargo-fuzz) gives [`check`] bytes of its own, guided by coverage; the tests draw theirs here.

use super::parse::{Parser, ProtocolError};
use crate::resp::commands::store::context::Context;
use crate::resp::commands::store::scripts::Loaded;
use crate::resp::commands::{self, Handler, TABLE};

/// Requests of all kinds, with some bytes broken.
pub fn input(rng: &mut fastrand::Rng) -> Vec<u8> {
    const WORDS: &[&str] = &[
        "k",
        "",
        "0",
        "1",
        "-1",
        "10",
        "ex",
        "px",
        "nx",
        "xx",
        "get",
        "keepttl",
        "match",
        "count",
        "type",
        "string",
        "*",
        "9223372036854775807",
        "-9223372036854775808",
        "load",
        "return 1",
        "\"",
        "'",
        "\\x4",
        "gt",
        "lt",
        "async",
    ];
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let mut words = vec![TABLE[rng.usize(..TABLE.len())].name];
        words.extend((0..rng.usize(..6)).map(|_| WORDS[rng.usize(..WORDS.len())]));
        if rng.bool() {
            bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
            for word in words {
                bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
            }
        } else {
            bytes.extend_from_slice(words.join(" ").as_bytes());
            bytes.extend_from_slice(if rng.bool() { b"\r\n" } else { b"\n" });
        }
    }
    for _ in 0..rng.usize(..4) {
        let at = rng.usize(..bytes.len());
        match rng.u8(..4) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes.insert(at, b"*$-0\r\n\"' 9"[rng.usize(..10)]),
            2 => bytes.truncate(at.max(1)),
            _ => {
                let again = bytes[at..].to_vec();
                bytes.extend_from_slice(&again);
            }
        }
    }
    bytes
}

/// Parses the bytes in one piece and in several, compares what comes out, and translates it.
///
/// # Panics
/// When something does not hold.
pub fn check(input: &[u8], rng: &mut fastrand::Rng) {
    let is_known = rng.bool();
    let whole = parse(input, &[input.len()], is_known);
    let mut cuts: Vec<usize> = (0..rng.usize(..8)).map(|_| rng.usize(..=input.len())).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let cut = parse(input, &cuts, is_known);
    assert_eq!(whole, cut, "cut at {cuts:?}: {:?}", String::from_utf8_lossy(input));
    let total: usize = whole.0.iter().flatten().map(Vec::len).sum();
    assert!(total <= input.len(), "{total} bytes of words in {} of input", input.len());
}

type Found = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

fn parse(input: &[u8], cuts: &[usize], is_known: bool) -> Found {
    let scripts = Loaded::default();
    let context = Context { position: &|_| None, scripts: &scripts, now_ms: 1_800_000_000_000, draw: || 7 };
    let mut parser = Parser::default();
    let (mut found, mut from) = (Vec::new(), 0);
    for end in cuts {
        loop {
            match parser.next(&input[from..*end], is_known) {
                Ok(None) => break,
                Ok(Some((request, length))) => {
                    assert!(length > 0 && from + length <= *end, "a request of {length} bytes at {from} of {end}");
                    if !request.is_empty()
                        && let Some(spec) = commands::find(request.word(0))
                        && spec.check(&request).is_ok()
                        && let Handler::Store(translate) = spec.handler
                        && let Err(why) = translate(&request, &context)
                    {
                        assert!(!why.is_empty(), "{} is refused without a word", spec.name);
                    }
                    found.push(request.words().map(<[u8]>::to_vec).collect());
                    from += length;
                }
                Err(fault) => return (found, Some(fault)),
            }
        }
    }
    (found, None)
}
