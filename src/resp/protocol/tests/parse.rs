//! Requests in any pieces, and everything that is no request.

use super::*;

type Words = Vec<Vec<u8>>;

/// Feeds `input` in pieces that end at `cuts`; the requests found, and the fault that ended it.
fn feed(input: &[u8], cuts: &[usize], is_known: bool) -> (Vec<Words>, Option<String>) {
    let mut parser = Parser::default();
    let (mut found, mut from) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([input.len()]) {
        loop {
            match parser.next(&input[from..end], is_known) {
                Ok(Some((request, length))) => {
                    found.push(request.words().map(<[u8]>::to_vec).collect());
                    from += length;
                }
                Ok(None) => break,
                Err(ProtocolError(why)) => return (found, Some(why)),
            }
        }
    }
    (found, None)
}

fn words(list: &[&str]) -> Words {
    list.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn fault_of(input: &[u8]) -> String {
    let (_, fault) = feed(input, &[], true);
    fault.unwrap_or_else(|| panic!("no fault in {:?}", String::from_utf8_lossy(&input[..input.len().min(80)])))
}

#[test]
fn requests_are_the_same_however_they_are_cut() {
    let input = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nSET \"a b\" 'c'\r\n*0\r\n\r\n*-1\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n*1\r\nPING\n";
    let (whole, fault) = feed(input, &[], true);
    assert_eq!(fault, None);
    let expected = vec![
        words(&["GET", "k"]),
        words(&["SET", "a b", "c"]),
        words(&[]),
        words(&[]),
        words(&[]),
        words(&["SET", "", "\r\n*1"]),
        words(&["PING"]),
    ];
    assert_eq!(whole, expected);
    for one in 0..=input.len() {
        assert_eq!(feed(input, &[one], true).0, expected, "cut at {one}");
        for two in one..=input.len() {
            assert_eq!(feed(input, &[one, two], true).0, expected, "cut at {one} and {two}");
        }
    }
    let every: Vec<usize> = (0..input.len()).collect();
    assert_eq!(feed(input, &every, true).0, expected, "byte by byte");
}

#[test]
fn plain_lines_are_quoted_as_in_redis() {
    let line = |text: &str| feed(format!("{text}\r\n").as_bytes(), &[], true);
    let one = |text: &str| line(text).0.remove(0);
    assert_eq!(one("  get   \t k  "), words(&["get", "k"]));
    assert_eq!(one(r#"set k "\x41\n\r\t\b\a\\\"\q""#), words(&["set", "k", "A\n\r\t\u{8}\u{7}\\\"q"]));
    assert_eq!(one(r#"set k '\n it\'s'"#), words(&["set", "k", r"\n it's"]));
    assert_eq!(one(r#"set a"b c" """#), words(&["set", "ab c", ""]));
    assert_eq!(one(r#"set k "\xzz""#), words(&["set", "k", "xzz"]));
    assert_eq!(one("set k v\0 rest"), words(&["set", "k", "v"]));
    for bad in [r#"set k "v"#, "set k 'v", r#"set k "v"w"#, "set k 'v'w", r#"set k "v\"#] {
        // On a connection that began with a plain line these are values.
        let (found, fault) = line(&format!("*0\r\n{bad}"));
        assert_eq!(found, [words(&[])]);
        assert_eq!(fault.as_deref(), Some("ERR Protocol error: unbalanced quotes in request"), "{bad}");
    }
}

#[test]
fn the_value_of_an_inline_command_extends_to_the_line_end() {
    let value = |first: &str, line: &str| {
        let mut parser = Parser::default();
        let (_, length) = parser.next(format!("{first}\r\n").as_bytes(), true).unwrap().unwrap();
        assert_eq!(length, first.len() + 2);
        let line = format!("{line}\r\n");
        let (request, _) = parser.next(line.as_bytes(), true).unwrap().unwrap();
        let found = request.words().map(<[u8]>::to_vec).collect::<Words>();
        (found, request.is_line, request.value.map(|value| String::from_utf8_lossy(value).into_owned()))
    };
    let some = |text: &str| Some(text.to_string());
    let split = words(&["SET", "msg", "hello", "big", "world"]);
    assert_eq!(value("PING", "SET msg  hello  big world "), (split.clone(), true, some("hello  big world")));
    assert_eq!(value("PING", "set k it's"), (words(&["set", "k", "it's"]), true, some("it's")));
    assert_eq!(value("PING", "SET k it's \"a"), (words(&["SET", "k", "it's \"a"]), true, some("it's \"a")));
    assert_eq!(value("PING", "SET k 'a b'"), (words(&["SET", "k", "a b"]), true, some("'a b'")));
    // The key is read as in Redis, whatever follows.
    assert_eq!(value("PING", "SET \"a b\" it's"), (words(&["SET", "a b", "it's"]), true, some("it's")));
    let two = words(&["SET", "a b", "c", "d"]);
    assert_eq!(value("PING", "SET \"a b\"  c d"), (two, true, some("c d")));
    assert_eq!(value("PING", "SET k a b\0c"), (words(&["SET", "k", "a", "b"]), true, some("a b\0c")));
    assert_eq!(value("PING", "GET k"), (words(&["GET", "k"]), true, None));
    assert_eq!(value("*0", "SET msg hello big world"), (split, false, None), "a connection that began with *");
}

#[test]
fn an_open_quote_before_the_value_is_a_fault() {
    for bad in [r#"SET """key""" value"#, r#"SET "key value"#, r#"SET k" value"#] {
        assert_eq!(
            fault_of(format!("{bad}\r\n").as_bytes()),
            "ERR Protocol error: unbalanced quotes in request",
            "{bad}"
        );
    }
}

#[test]
fn bad_lengths_are_faults() {
    for bad in
        ["*a\r\n", "*\r\n", "*1x\r\n", "*01\r\n", "*+1\r\n", "* 1\r\n", "*1048577\r\n", "*9999999999\r\n", "*1\n"]
    {
        assert_eq!(fault_of(bad.as_bytes()), "ERR Protocol error: invalid multibulk length", "{bad:?}");
    }
    for bad in ["$-1", "$-5", "$a", "$", "$536870912", "$99999999999999999999", "$01", "$8388609"] {
        let input = format!("*1\r\n{bad}\r\n");
        assert_eq!(fault_of(input.as_bytes()), "ERR Protocol error: invalid bulk length", "{bad:?}");
    }
    assert_eq!(fault_of(b"*1\r\n:3\r\n"), "ERR Protocol error: expected '$', got ':'");
    assert_eq!(fault_of(b"*1\r\n$1\r\nxyz"), "ERR Protocol error: a bulk string is longer than it says");
    assert_eq!(feed(b"*-10\r\n+PING\r\n", &[], true).0, [words(&[]), words(&["+PING"])], "no words: no request");
}

#[test]
fn many_small_words_are_bounded_in_all() {
    let half = RESP_REQUEST_BYTES_MAX / 2;
    let mut input = format!("*3\r\n${half}\r\n").into_bytes();
    input.resize(input.len() + half, b'x');
    input.extend_from_slice(format!("\r\n${half}\r\n").as_bytes());
    assert_eq!(fault_of(&input), "ERR Protocol error: invalid bulk length");
}

#[test]
fn nothing_is_allocated_from_a_declared_length() {
    let mut parser = Parser::default();
    assert!(parser.next(b"*1048576\r\n$8000000\r\nabc", true).unwrap().is_none());
    assert!(parser.spans.capacity() < 16 && parser.plain.capacity() < 16);
}

#[test]
fn lines_without_an_end_are_faults() {
    let endless = |first: &str| fault_of(&[first.as_bytes(), &vec![b'1'; RESP_LINE_BYTES_MAX + 1]].concat());
    assert_eq!(endless("*"), "ERR Protocol error: too big mbulk count string");
    assert_eq!(endless("*1\r\n$"), "ERR Protocol error: too big bulk count string");
    assert_eq!(endless("get"), "ERR Protocol error: too big inline request");
}

#[test]
fn a_client_without_the_password_sends_little() {
    let fault = |input: &[u8]| feed(input, &[], false).1;
    assert_eq!(fault(b"*11\r\n").as_deref(), Some("ERR Protocol error: unauthenticated multibulk length"));
    assert_eq!(fault(b"*1\r\n$16384\r\n").as_deref(), Some("ERR Protocol error: unauthenticated bulk length"));
    assert_eq!(fault(&vec![b'x'; 16385]).as_deref(), Some("ERR Protocol error: too big inline request"));
    let login = b"*2\r\n$4\r\nAUTH\r\n$3\r\nabc\r\n";
    assert_eq!(feed(login, &[], false), (vec![words(&["AUTH", "abc"])], None));
}

#[test]
fn integers_are_strict() {
    for (text, value) in [("0", 0), ("-1", -1), ("42", 42), ("9223372036854775807", i64::MAX)] {
        assert_eq!(integer(text.as_bytes()), Some(value));
    }
    assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
    for bad in
        ["", "-", "-0", "00", "01", "+1", " 1", "1 ", "1.0", "0x1", "9223372036854775808", "-9223372036854775809"]
    {
        assert_eq!(integer(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn a_request_can_be_kept() {
    let mut parser = Parser::default();
    let (request, _) = parser.next(b"SET k v\n", true).unwrap().unwrap();
    let owned = Owned::of(&request);
    assert!((5..200).contains(&owned.size()), "{}", owned.size());
    assert_eq!(owned.request().words().collect::<Vec<_>>(), [&b"SET"[..], b"k", b"v"]);
}

/// Requests of all kinds, then broken in every way: nothing panics, and what is found is the same however it is cut.
#[test]
fn mutated_requests_never_break_the_parser() {
    let seed = std::env::var("PHALANX_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("PHALANX_FUZZ_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..20_000 {
        let input = crate::resp::protocol::request_fuzzing::input(&mut rng);
        crate::resp::protocol::request_fuzzing::check(&input, &mut rng);
    }
}
