//! Text from outside: its encoding, and how it is escaped for terminals and logs, and for URLs.
//!
//! A terminal obeys control characters: they move its cursor, change its title, or make it send input that the user did
//! not type. Direction marks show text in another order than it is written, and zero-width characters are invisible.
//! All of them are shown by their code point. U+200D (which joins emoji) and the characters of all scripts are kept.
//! Not here: the output itself (`cli/term.rs`, `node/process/logging.rs`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt::Write;

/// Text that programs on Windows have saved in UTF-16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is in UTF-16; save it in UTF-8")]
pub struct Utf16;

/// A JSON or SQL text without the byte order mark that editors on Windows put before UTF-8. Such a text begins with two
/// ASCII characters; a zero byte among the first two shows UTF-16 without a mark.
///
/// # Errors
/// It is in UTF-16.
pub fn without_byte_order_mark(text: &[u8]) -> Result<&[u8], Utf16> {
    match text {
        [0xfe, 0xff, ..] | [0xff, 0xfe, ..] => Err(Utf16),
        [0, other, ..] | [other, 0, ..] if *other != 0 => Err(Utf16),
        [0xef, 0xbb, 0xbf, rest @ ..] => Ok(rest),
        _ => Ok(text),
    }
}

/// Whether a terminal would obey this character, or a reader would not see it: control characters, direction marks,
/// line separators, zero-width characters.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Text from outside, on one line and without anything that a terminal would obey. All text of users goes through here,
/// [`plain_lines`] or [`escaped`] before a terminal or a log gets it.
pub fn plain(text: &str) -> String {
    shown(text, |_| false)
}

/// As [`plain`], but keeps line feeds and tabs.
pub fn plain_lines(text: &str) -> String {
    shown(text, |c| matches!(c, '\n' | '\t'))
}

fn shown(text: &str, is_kept: fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let written = match c {
            c if !is_obeyed(c) || is_kept(c) => {
                out.push(c);
                Ok(())
            }
            '\n' | '\r' | '\t' => write!(out, "{}", c.escape_default()),
            c if (c as u32) < 0x100 => write!(out, "\\x{:02x}", c as u32),
            c => write!(out, "\\u{{{:x}}}", c as u32),
        };
        written.expect("a String takes all");
    }
    out
}

/// Value of `Authorization` that presents the setting `client_password` to a node, which reads no user name.
pub fn basic_credentials(password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("default:{password}")))
}

/// Escapes bytes that arrive in pieces, as [`plain_lines`]; bytes that are not UTF-8 are shown as `\xff`.
#[derive(Debug, Default)]
pub struct Pieces {
    /// The beginning of an incomplete character.
    begun: Vec<u8>,
}

impl Pieces {
    /// Escapes the next piece, up to its last complete character.
    pub fn next(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(piece);
        let is_begun = |end: &[u8]| std::str::from_utf8(end).is_err_and(|e| e.error_len().is_none());
        let mut out = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out += &plain_lines(chunk.valid());
            if chunks.peek().is_none() && is_begun(chunk.invalid()) {
                self.begun = chunk.invalid().to_vec();
                break;
            }
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}").expect("a String takes all");
            }
        }
        out
    }
}

/// JSON that means the same, without anything that a terminal would obey but its line breaks.
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // All such characters are in strings, and none needs two UTF-16 units.
        if is_obeyed(c) && c != '\n' { text += &format!("\\u{:04x}", c as u32) } else { text.push(c) }
    }
    text
}

/// Escapes everything but letters, digits and `-._~` as `%41`, for the path or the parameters of a URL.
pub fn percent_encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(*byte)),
            _ => write!(text, "%{byte:02X}").expect("a String takes every write"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_skipped_and_utf_16_is_named() {
        assert_eq!(without_byte_order_mark("\u{feff}{}".as_bytes()), Ok(&b"{}"[..]));
        for plain in ["", "{", "{}", "\u{e9}"] {
            assert_eq!(without_byte_order_mark(plain.as_bytes()), Ok(plain.as_bytes()));
        }
        for utf_16 in [b"\xff\xfe{\0".as_slice(), b"\xfe\xff\0{", b"{\0", b"\0{\0}"] {
            assert_eq!(without_byte_order_mark(utf_16), Err(Utf16), "{utf_16:?}");
        }
    }

    #[test]
    fn pieces_of_output_are_shown_whole() {
        let said = "grün 👩 \u{9b}2J\n".as_bytes();
        for cut in 0..said.len() {
            let mut pieces = Pieces::default();
            assert_eq!(pieces.next(&said[..cut]) + &pieces.next(&said[cut..]), "grün 👩 \\x9b2J\n", "cut at {cut}");
        }
        assert_eq!(Pieces::default().next(b"a\x1b[2J\xff\x00b"), r"a\x1b[2J\xff\x00b");
    }

    #[test]
    fn control_characters_are_escaped() {
        let bad = "a\u{1b}[2J\tb\u{9b}\u{202e}c\u{2066}\u{200f}\u{61c}\u{2028}\n";
        assert_eq!(plain(bad), r"a\x1b[2J\tb\x9b\u{202e}c\u{2066}\u{200f}\u{61c}\u{2028}\n");
        assert_eq!(plain_lines(bad), "a\\x1b[2J\tb\\x9b\\u{202e}c\\u{2066}\\u{200f}\\u{61c}\\u{2028}\n");
        let json = serde_json::json!({"a\u{2067}": bad}).to_string();
        let shown = escaped(&json);
        assert!(!shown.contains(is_obeyed), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap().to_string(), json, "it means the same");
        assert_eq!(plain("pass\u{200b}word\u{feff}"), r"pass\u{200b}word\u{feff}", "what cannot be seen is shown");
        assert_eq!(plain("👩\u{200d}🚀 日本 é"), "👩\u{200d}🚀 日本 é");
    }
}
