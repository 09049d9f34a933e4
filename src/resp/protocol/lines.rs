//! Answers to a client that sends plain lines: as in RESP2, but a single value has no line with its length.
//!
//! `+OK`, `-ERR ...`, `:5` and lists stay as they are, so that the first character tells what an answer is, a list can be
//! read whatever is in it, and programs that only count replies can read them (`redis-cli --pipe`). Nil is `(nil)`.
//! Not here: which requests are answered so (`parse.rs`, `resp/dispatch.rs`).

/// Writes replies of RESP2, each whole, in the form for plain lines.
pub fn write(mut replies: &[u8], out: &mut Vec<u8>) {
    while let Some((line, bulk, rest)) = next(replies) {
        replies = rest;
        match line {
            b"$-1\r\n" | b"*-1\r\n" => out.extend_from_slice(b"(nil)\r\n"),
            [b'$', ..] => out.extend_from_slice(bulk),
            line => out.extend_from_slice(line),
        }
        let mut elements = length(line, b'*');
        while elements > 0
            && let Some((line, bulk, rest)) = next(replies)
        {
            replies = rest;
            elements = elements - 1 + length(line, b'*');
            out.extend_from_slice(line);
            out.extend_from_slice(bulk);
        }
    }
}

/// The first line of the replies, the value after it if it is a length, and the rest.
fn next(replies: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let end = replies.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = replies.split_at(end + 1);
    let bytes = if line.starts_with(b"$") && line != b"$-1\r\n" { length(line, b'$') + 2 } else { 0 };
    let (bulk, rest) = rest.split_at_checked(bytes)?;
    Some((line, bulk, rest))
}

/// The number in a line of this kind; 0 if there is none.
fn length(line: &[u8], kind: u8) -> usize {
    let number = line.strip_prefix(&[kind]).and_then(|number| std::str::from_utf8(number).ok());
    number.and_then(|number| number.trim_end().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn single_values_have_no_length_and_all_else_stays() {
        let lists = b"*3\r\n:5\r\n*2\r\n$1\r\nx\r\n$-1\r\n$4\r\n\r\n*9\r\n*0\r\n";
        let mut out = Vec::new();
        super::write(b"+OK\r\n$3\r\na\nb\r\n$0\r\n\r\n$-1\r\n*-1\r\n", &mut out);
        super::write(lists, &mut out);
        super::write(b"$1\r\nx\r\n-ERR no\r\n", &mut out);
        let lists = String::from_utf8_lossy(lists);
        let expected = format!("+OK\r\na\nb\r\n\r\n(nil)\r\n(nil)\r\n{lists}x\r\n-ERR no\r\n");
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
