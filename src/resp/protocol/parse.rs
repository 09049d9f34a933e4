//! Parses requests from a connection's bytes: arrays of bulk strings (RESP), and plain lines with Redis' quoting rules.
//!
//! A request may arrive in any pieces; the parser remembers what it has parsed, so no byte is examined twice however
//! slowly they arrive. Words are returned as ranges of the input; only words of plain lines are copied, because their
//! quotes must be removed.
//!
//! Invariants: P1 nothing is ever allocated from a length that a client declares: memory grows with the bytes that
//! came. P2 after a fault the connection ends, because the start of the next request is unknown.
//! Not here: what words mean (`resp/commands/`), reading from a socket (`resp/conn.rs`).

use crate::limits::{RESP_LINE_BYTES_MAX, RESP_REQUEST_BYTES_MAX, RESP_UNKNOWN_BYTES_MAX, RESP_WORDS_MAX};

/// Words that a client may send in one request before it has authenticated.
const UNKNOWN_WORDS_MAX: i64 = 10;

/// Overhead of the allocator for one piece of memory, at most; large pieces excepted.
const ALLOCATION_BYTES: usize = 32;

/// Why a connection must end: an error text of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub String);

fn fault<T>(why: &str) -> Result<T, ProtocolError> {
    Err(ProtocolError(format!("ERR Protocol error: {why}")))
}

/// A range of the input, or of the parser's own copy of plain words.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u32,
    to: u32,
}

/// One request: its words, the command's name first. It may have none (an empty line), and is then ignored.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
    /// It is a plain line on a connection that began with one: its client reads plain lines.
    pub is_line: bool,
    /// For such a line that begins with one of [`VALUE_LINES`]: all from the third word to its end, as it was sent.
    pub value: Option<&'a [u8]>,
}

/// Commands of a plain line whose third word is a value, which goes on to the end of the line.
const VALUE_LINES: [&str; 5] = ["append", "getset", "publish", "set", "setnx"];

/// Words before that value.
const VALUE_AT: usize = 2;

const UNBALANCED: &str = "unbalanced quotes in request";

/// Whether a word of a request is this name, ignoring case.
pub(crate) fn is_word(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

impl<'a> Request<'a> {
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn word(&self, i: usize) -> &'a [u8] {
        let Span { from, to } = self.spans[i];
        &self.bytes[from as usize..to as usize]
    }

    pub fn words(&self) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, spans) = (self.bytes, self.spans);
        spans.iter().map(move |span| &bytes[span.from as usize..span.to as usize])
    }
}

/// A request that owns its words: a command that waits for EXEC.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Owned {
    /// A copy of a request.
    pub fn of(request: &Request) -> Owned {
        let bytes = request.words().map(<[u8]>::len).sum();
        let mut owned = Owned { bytes: Vec::with_capacity(bytes), spans: Vec::with_capacity(request.len()) };
        request.words().for_each(|word| owned.push(word));
        owned
    }

    pub fn push(&mut self, word: &[u8]) {
        let from = self.bytes.len() as u32;
        self.bytes.extend_from_slice(word);
        self.spans.push(Span { from, to: self.bytes.len() as u32 });
    }

    /// Borrows it as a [`Request`].
    pub fn request(&self) -> Request<'_> {
        Request { bytes: &self.bytes, spans: &self.spans, is_line: false, value: None }
    }

    /// Bytes of memory that it uses in a list, whose capacity may be twice what it needs.
    pub fn size(&self) -> usize {
        let lists = self.bytes.capacity() + self.spans.capacity() * size_of::<Span>();
        lists + 2 * ALLOCATION_BYTES + 2 * size_of::<Owned>()
    }
}

/// What is known of the request that is arriving.
#[derive(Debug, Default)]
pub struct Parser {
    /// Words found so far.
    spans: Vec<Span>,
    /// Words of a plain line, without their quotes.
    plain: Vec<u8>,
    /// Bytes of the request that are parsed.
    at: usize,
    /// Bytes after `at` that contain no end of line.
    searched: usize,
    /// Words still to come, once the request's head has been read.
    left: Option<usize>,
    /// Length of the word that is arriving.
    bulk: Option<usize>,
    /// The last request was returned: the next call starts anew.
    is_done: bool,
    /// Whether the connection began with a plain line; `None`: it has not begun.
    begins_plain: Option<bool>,
}

impl Parser {
    /// Looks for a whole request at the beginning of `input`, which holds the same bytes as at the last call and maybe
    /// more, until a request is found: then the caller has removed that one. Returns the request and its length in the
    /// input. `is_known`: the client has sent the password, or none is set; other clients may send small requests only.
    ///
    /// # Errors
    /// The input is not a valid request: the caller sends the fault and closes.
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        is_known: bool,
    ) -> Result<Option<(Request<'a>, usize)>, ProtocolError> {
        if std::mem::take(&mut self.is_done) {
            self.spans.clear();
            (self.at, self.searched, self.left, self.bulk) = (0, 0, None, None);
        }
        if let Some(first) = input.first() {
            self.begins_plain.get_or_insert(*first != b'*');
        }
        let is_whole = match input.first() {
            None => false,
            Some(b'*') => self.array(input, is_known)?,
            Some(_) => return self.line(input, is_known),
        };
        if !is_whole {
            return Ok(None);
        }
        self.is_done = true;
        Ok(Some((Request { bytes: input, spans: &self.spans, is_line: false, value: None }, self.at)))
    }

    /// Continues with an array of bulk strings; returns whether it is whole.
    fn array(&mut self, input: &[u8], is_known: bool) -> Result<bool, ProtocolError> {
        let mut left = match self.left {
            Some(left) => left,
            None => {
                let Some(head) = self.take_line(input, "too big mbulk count string")? else { return Ok(false) };
                let Some(count) = integer(&head[1..]).filter(|count| *count <= RESP_WORDS_MAX as i64) else {
                    return fault("invalid multibulk length");
                };
                if count > UNKNOWN_WORDS_MAX && !is_known {
                    return fault("unauthenticated multibulk length");
                }
                count.max(0) as usize
            }
        };
        while left > 0 {
            self.left = Some(left);
            let length = match self.bulk {
                Some(length) => length,
                None => {
                    if let Some(first) = input.get(self.at).filter(|first| **first != b'$') {
                        return fault(&format!("expected '$', got '{}'", char::from(*first)));
                    }
                    let Some(head) = self.take_line(input, "too big bulk count string")? else { return Ok(false) };
                    self.bulk_length(integer(&head[1..]), is_known)?
                }
            };
            self.bulk = Some(length);
            let Some(end) = input.get(self.at + length..self.at + length + 2) else { return Ok(false) };
            if end != b"\r\n" {
                return fault("a bulk string is longer than it says");
            }
            self.spans.push(Span { from: self.at as u32, to: (self.at + length) as u32 });
            self.at += length + 2;
            self.bulk = None;
            left -= 1;
        }
        Ok(true)
    }

    fn bulk_length(&self, declared: Option<i64>, is_known: bool) -> Result<usize, ProtocolError> {
        let Some(length) = declared.and_then(|length| usize::try_from(length).ok()) else {
            return fault("invalid bulk length");
        };
        if !is_known && self.at.saturating_add(length) > RESP_UNKNOWN_BYTES_MAX {
            return fault("unauthenticated bulk length");
        }
        if self.at.saturating_add(length) > RESP_REQUEST_BYTES_MAX {
            return fault("invalid bulk length");
        }
        Ok(length)
    }

    /// The line at `at` without its end, once that has arrived.
    fn take_line<'a>(&mut self, input: &'a [u8], too_long: &str) -> Result<Option<&'a [u8]>, ProtocolError> {
        let rest = &input[self.at..];
        match rest[self.searched..].iter().position(|byte| *byte == b'\n') {
            // Also when it arrived in one piece: what is refused must not depend on how the input was split.
            Some(found) if self.searched + found > RESP_LINE_BYTES_MAX => fault(too_long),
            Some(found) => {
                let end = self.searched + found;
                (self.at, self.searched) = (self.at + end + 1, 0);
                // A line feed alone does not end a line here; a number followed by anything else is invalid.
                Ok(Some(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..=end])))
            }
            None if rest.len() > RESP_LINE_BYTES_MAX => fault(too_long),
            None => {
                self.searched = rest.len();
                Ok(None)
            }
        }
    }

    /// A plain line, as typed into netcat.
    fn line<'a>(&'a mut self, input: &'a [u8], is_known: bool) -> Result<Option<(Request<'a>, usize)>, ProtocolError> {
        let end = input[self.searched..].iter().position(|byte| *byte == b'\n').map(|found| self.searched + found);
        let bytes_max = if is_known { RESP_LINE_BYTES_MAX } else { RESP_UNKNOWN_BYTES_MAX };
        if end.unwrap_or(input.len()) > bytes_max {
            return fault("too big inline request");
        }
        let Some(end) = end else {
            self.searched = input.len();
            return Ok(None);
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        self.plain.clear();
        let is_line = self.begins_plain == Some(true);
        // As Redis reads the line as a C string, a zero byte ends its words.
        let text = line.split(|byte| *byte == 0).next().unwrap_or(line);
        let Some(rest) = split_words(text, VALUE_AT, &mut self.plain, &mut self.spans) else {
            return fault(UNBALANCED);
        };
        let value = line[text.len() - rest.len()..].trim_ascii();
        let value = Some(value).filter(|value| is_line && !value.is_empty() && self.begins_value_line());
        let split = self.plain.len();
        if split_words(rest, usize::MAX, &mut self.plain, &mut self.spans).is_none() {
            // An apostrophe in a value is no quote.
            let Some(value) = value else { return fault(UNBALANCED) };
            self.plain.truncate(split);
            self.spans.truncate(VALUE_AT);
            self.plain.extend_from_slice(value);
            self.spans.push(Span { from: split as u32, to: self.plain.len() as u32 });
        }
        self.is_done = true;
        Ok(Some((Request { bytes: &self.plain, spans: &self.spans, is_line, value }, end + 1)))
    }

    /// Whether the words before a value are those of one of [`VALUE_LINES`].
    fn begins_value_line(&self) -> bool {
        let Some(Span { from, to }) = self.spans.first().filter(|_| self.spans.len() == VALUE_AT) else { return false };
        VALUE_LINES.iter().any(|name| is_word(&self.plain[*from as usize..*to as usize], name))
    }
}

/// Splits a plain line as redis-cli and Redis do, up to this number of words, and returns what follows them: words are
/// separated by blanks; in double quotes `\n`, `\x41` and the like are escapes, in single quotes only `\'` is. `None`: a
/// quote is not closed, or its closing quote is not followed by a blank.
fn split_words<'a>(line: &'a [u8], count: usize, bytes: &mut Vec<u8>, spans: &mut Vec<Span>) -> Option<&'a [u8]> {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let mut rest = line;
    let mut found = 0;
    loop {
        let blanks = rest.iter().take_while(|byte| is_blank(byte)).count();
        rest = &rest[blanks..];
        if rest.is_empty() || found == count {
            return Some(rest);
        }
        let from = bytes.len() as u32;
        let mut quote = None;
        loop {
            let used = match (quote, rest) {
                (None, []) => 0,
                (Some(_), []) => return None,
                (Some(b'"'), [b'\\', b'x', high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    bytes.push(hex(*high) << 4 | hex(*low));
                    4
                }
                (Some(b'"'), [b'\\', escaped, ..]) => {
                    bytes.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 0x08,
                        b'a' => 0x07,
                        other => *other,
                    });
                    2
                }
                (Some(b'\''), [b'\\', b'\'', ..]) => {
                    bytes.push(b'\'');
                    2
                }
                (Some(open), [byte, after @ ..]) if open == *byte => {
                    // A closing quote must be followed by a blank or the end.
                    if after.first().is_some_and(|byte| !is_blank(byte)) {
                        return None;
                    }
                    rest = after;
                    0
                }
                (None, [b' ' | b'\t' | b'\r', ..]) => 0,
                (None, [open @ (b'"' | b'\''), ..]) => {
                    quote = Some(*open);
                    1
                }
                (_, [byte, ..]) => {
                    bytes.push(*byte);
                    1
                }
            };
            if used == 0 {
                break;
            }
            rest = &rest[used..];
        }
        spans.push(Span { from, to: bytes.len() as u32 });
        found += 1;
    }
}

fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |value| value as u8)
}

/// A number as Redis accepts it: decimal digits of 64 bits, without plus sign, leading zeros or blanks.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !is_negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    // Summed as negative numbers, whose range is larger by one.
    let negative = digits.iter().try_fold(0i64, |sum, digit| match digit {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_sub(i64::from(digit - b'0')),
        _ => None,
    })?;
    if is_negative { Some(negative) } else { negative.checked_neg() }
}

#[cfg(test)]
#[path = "tests/parse.rs"]
mod tests;
