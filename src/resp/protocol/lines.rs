//! Answers to a client that sends plain lines: as in RESP2, but a value has no line with its length.
//!
//! `+OK`, `-ERR ...`, `:5` and `*2` stay as they are, so that the first character tells what an answer is, and programs
//! that only count replies can read them (`redis-cli --pipe`). Nil is `(nil)`.
//! Not here: which requests are answered so (`parse.rs`, `resp/dispatch.rs`).

/// Writes replies of RESP2, each whole, in the form for plain lines.
pub fn write(mut replies: &[u8], out: &mut Vec<u8>) {
    while let Some(end) = replies.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = replies.split_at(end + 1);
        replies = rest;
        match line {
            b"$-1\r\n" | b"*-1\r\n" => out.extend_from_slice(b"(nil)\r\n"),
            [b'$', length @ ..] => {
                let length = std::str::from_utf8(length).ok().and_then(|text| text.trim_end().parse::<usize>().ok());
                let (value, rest) = replies.split_at(length.map_or(0, |length| length + 2).min(replies.len()));
                out.extend_from_slice(value);
                replies = rest;
            }
            line => out.extend_from_slice(line),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_have_no_length_and_all_else_stays() {
        let mut out = Vec::new();
        super::write(b"+OK\r\n$3\r\na\nb\r\n$0\r\n\r\n$-1\r\n*-1\r\n*2\r\n:5\r\n$1\r\nx\r\n-ERR no\r\n", &mut out);
        let expected = "+OK\r\na\nb\r\n\r\n(nil)\r\n(nil)\r\n*2\r\n:5\r\nx\r\n-ERR no\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
