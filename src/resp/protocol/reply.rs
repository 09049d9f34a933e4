//! Writes replies in the Redis protocol, version 2 or 3.
//!
//! Replies are appended to the caller's buffer; none allocates its own.
//! Not here: which reply a command gets (`resp/reply_plan.rs` for the store's answers, `resp/commands/connection.rs`
//! and `resp/commands/server.rs` for the rest).

/// Version of the protocol that a client chose with HELLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RespVersion {
    #[default]
    Resp2,
    /// With types for nil, maps, sets and texts.
    Resp3,
}

pub fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK\r\n");
}

/// A text without line breaks.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// An error: code, space, message. Line breaks become spaces.
pub fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    let text = text.trim_end_matches(['\r', '\n']);
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

pub fn int(out: &mut Vec<u8>, value: i64) {
    line(out, b':', value);
}

pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    line(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A text that a client should show as it is.
pub fn verbatim(out: &mut Vec<u8>, proto: RespVersion, text: &str) {
    match proto {
        RespVersion::Resp2 => bulk(out, text.as_bytes()),
        RespVersion::Resp3 => {
            line(out, b'=', text.len() as i64 + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Nil in place of a value.
pub fn nil(out: &mut Vec<u8>, proto: RespVersion) {
    out.extend_from_slice(match proto {
        RespVersion::Resp2 => b"$-1\r\n",
        RespVersion::Resp3 => b"_\r\n",
    });
}

/// Nil in place of an array.
pub fn nil_array(out: &mut Vec<u8>, proto: RespVersion) {
    out.extend_from_slice(match proto {
        RespVersion::Resp2 => b"*-1\r\n",
        RespVersion::Resp3 => b"_\r\n",
    });
}

/// The head of an array; so many replies follow.
pub fn array(out: &mut Vec<u8>, count: usize) {
    line(out, b'*', count as i64);
}

/// The head of a message that answers no request; so many parts follow.
pub fn push(out: &mut Vec<u8>, proto: RespVersion, count: usize) {
    line(out, if proto == RespVersion::Resp2 { b'*' } else { b'>' }, count as i64);
}

/// A message as it is sent to a subscriber.
pub fn message(out: &mut Vec<u8>, proto: RespVersion, channel: &[u8], message: &[u8], pattern: Option<&[u8]>) {
    match pattern {
        None => {
            push(out, proto, 3);
            bulk(out, b"message");
        }
        Some(pattern) => {
            push(out, proto, 4);
            bulk(out, b"pmessage");
            bulk(out, pattern);
        }
    }
    bulk(out, channel);
    bulk(out, message);
}

/// The head of a map; so many pairs of replies follow.
pub fn map(out: &mut Vec<u8>, proto: RespVersion, pairs: usize) {
    match proto {
        RespVersion::Resp2 => line(out, b'*', pairs as i64 * 2),
        RespVersion::Resp3 => line(out, b'%', pairs as i64),
    }
}

/// The head of a set; so many replies follow.
pub fn set(out: &mut Vec<u8>, proto: RespVersion, count: usize) {
    line(out, if proto == RespVersion::Resp2 { b'*' } else { b'~' }, count as i64);
}

fn line(out: &mut Vec<u8>, kind: u8, value: i64) {
    out.push(kind);
    digits(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Decimal digits. Not with `write!`, which is slower: every reply has some.
fn digits(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    let mut text = [0u8; 20];
    let mut from = text.len();
    let mut rest = value.unsigned_abs();
    loop {
        from -= 1;
        text[from] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[from..]);
}

/// The error of Redis for too few or too many words.
pub(crate) fn wrong_arity(command: &str) -> String {
    format!("ERR wrong number of arguments for '{command}' command")
}

#[cfg(test)]
mod tests {
    use crate::resp::protocol::reply::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_have_all_their_digits() {
        for value in [0, 1, -1, 9, 10, 1234567890, i64::MAX, i64::MIN] {
            assert_eq!(written(|out| int(out, value)), format!(":{value}\r\n"));
        }
    }

    #[test]
    fn both_versions_have_a_word_for_nothing() {
        assert_eq!(written(|out| nil(out, RespVersion::Resp2)), "$-1\r\n");
        assert_eq!(written(|out| nil_array(out, RespVersion::Resp2)), "*-1\r\n");
        assert_eq!(written(|out| nil(out, RespVersion::Resp3)), "_\r\n");
        assert_eq!(written(|out| nil_array(out, RespVersion::Resp3)), "_\r\n");
    }

    #[test]
    fn maps_and_texts_differ_by_version() {
        assert_eq!(written(|out| map(out, RespVersion::Resp2, 2)), "*4\r\n");
        assert_eq!(written(|out| map(out, RespVersion::Resp3, 2)), "%2\r\n");
        assert_eq!(written(|out| verbatim(out, RespVersion::Resp2, "hey")), "$3\r\nhey\r\n");
        assert_eq!(written(|out| verbatim(out, RespVersion::Resp3, "hey")), "=7\r\ntxt:hey\r\n");
        assert_eq!(written(|out| set(out, RespVersion::Resp3, 1)), "~1\r\n");
    }

    #[test]
    fn an_error_stays_on_its_line() {
        assert_eq!(written(|out| error(out, "ERR a\r\n+OK\r\nb\n")), "-ERR a  +OK  b\r\n");
    }
}
