//! Which names are valid, and which two names are the same.
//!
//! A name is 1 to 32 characters after Unicode's canonical composition (NFC), without control characters, without
//! characters that are invisible or change the direction of writing, unless they are part of a visible sequence, and
//! without white space at its ends; an account name has none inside either. Two names are the same if they are equal
//! after compatibility composition (NFKC) and lower case, without joiners and variation selectors: `Zoë`, `ZOË` and
//! `Ｚoë`. An endpoint computes both forms and puts them into the command, because
//! Unicode's tables change with each version, and an old log must have the same effect with any version.
//! Not here: which characters are invisible (`invisible_chars.rs`), and where they are visible after all
//! (`sequences.rs`); look-alikes of other scripts: a client that must
//! distinguish accounts reliably compares their numbers.

use super::commands::{NAME_CHARS_MAX, Name};
use super::invisible_chars::has_visible_text;
use super::sequences::{first_hidden, is_joiner_or_selector};
use unicode_normalization::UnicodeNormalization;

/// Returns the name of an account.
///
/// # Errors
/// Returns a message for the user that says why the name is invalid.
pub fn account(text: &str) -> Result<Name, String> {
    let name = name(text)?;
    match name.shown.chars().find(|c| c.is_whitespace() || matches!(c, '#' | '@' | '/' | ',')) {
        Some(c) => Err(format!("the name of an account cannot contain {c:?}")),
        None => Ok(name),
    }
}

/// Returns the name of a room.
///
/// # Errors
/// Returns a message for the user that says why the name is invalid.
pub fn room(text: &str) -> Result<Name, String> {
    // The keycap of `#` begins with that character, too.
    name(text.strip_prefix('#').filter(|rest| !rest.starts_with('\u{fe0f}')).unwrap_or(text))
}

/// Returns the key of a name, which is equal for names that are the same.
pub fn key_of(name: &str) -> String {
    // Lower case of a composed text may be composed differently, so compose once more.
    name.chars().filter(|c| !is_joiner_or_selector(*c)).nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

/// Folds a glob pattern like a key. Special characters of the pattern stay special. A character that is folded into a
/// special one, such as the full-width question mark, is escaped, because it is an ordinary character in a name.
pub fn pattern_of(text: &str) -> String {
    let mut pattern = String::new();
    let mut plain = String::new();
    let put = |plain: &mut String, pattern: &mut String| {
        for c in key_of(plain).chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        plain.clear();
    };
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // The following character is literal.
            '\\' => plain.extend(chars.next().or(Some(c))),
            '*' | '?' | '[' | ']' | '^' | '-' => {
                put(&mut plain, &mut pattern);
                pattern.push(c);
            }
            c => plain.push(c),
        }
    }
    put(&mut plain, &mut pattern);
    pattern
}

fn name(text: &str) -> Result<Name, String> {
    if text.len() > 16 * NAME_CHARS_MAX {
        return Err(format!("a name has at most {NAME_CHARS_MAX} characters"));
    }
    let shown: String = text.nfc().collect();
    let count = shown.chars().count();
    if count == 0 || count > NAME_CHARS_MAX {
        return Err(format!("a name has 1 to {NAME_CHARS_MAX} characters, this one has {count}"));
    }
    if let Some(c) = shown.chars().find(|c| c.is_control()).or_else(|| first_hidden(&shown)) {
        return Err(format!(
            "a name cannot contain control or invisible characters; this one contains U+{:04X}",
            c as u32
        ));
    }
    if shown.trim() != shown {
        return Err("a name cannot begin or end with white space".to_string());
    }
    let key = key_of(&shown);
    if !has_visible_text(&key) {
        return Err("a name must contain a visible character".to_string());
    }
    Ok(Name { shown, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_one_have_one_key() {
        let key = |text: &str| account(text).unwrap().key;
        assert_eq!(key("Zoë"), key("ZOE\u{308}"));
        assert_eq!(key("alice"), key("\u{ff21}LICE"));
        assert_eq!(account("Zoe\u{308}").unwrap().shown, "Zoë");
        assert_ne!(key("alice"), key("alicе"), "the last letter is Cyrillic: another name");
        assert_eq!(key("می\u{200c}خواهم"), key("میخواهم"), "joiners make no other name");
        assert_eq!(key("❤\u{fe0f}"), key("❤"));
        assert_eq!(account("👩\u{200d}🚀").unwrap().shown, "👩\u{200d}🚀");
        assert_eq!(room("#\u{fe0f}\u{20e3} one").unwrap().shown, "#\u{fe0f}\u{20e3} one");
        assert_eq!(room("#Tea & biscuits").unwrap().shown, "Tea & biscuits");
        assert_eq!(room("<script>alert(1)</script>").unwrap().shown, "<script>alert(1)</script>");
    }

    #[test]
    fn folded_characters_become_no_pattern_syntax() {
        for (text, pattern) in [
            ("Do*", "do*"),
            ("do it\u{ff1f}", "do it\\?"),
            ("\\\u{ff1f}\\?\\", "\\?\\?\\\\"),
            ("[A-C]\u{ff3b}", "[a-c]\\["),
            ("ZOE\u{308}?", "zoë?"),
        ] {
            assert_eq!(pattern_of(text), pattern, "{text}");
        }
    }

    #[test]
    fn invalid_names_are_refused() {
        for bad in ["", " a", "a ", "a b", "a\nb", "a\0", "\u{200b}", "a\u{202e}b", "#a", "@a", "a/b", "a\u{ad}"] {
            assert!(account(bad).is_err(), "{bad:?}");
        }
        // Marks of direction, blank letters, braille without dots: names that look like another's, or like nothing.
        for hidden in
            "\u{2800}\u{115f}\u{1160}\u{3164}\u{ffa0}\u{200b}\u{2067}\u{1bca0}\u{1d159}\u{1d173}\u{16fe4}\u{2029}"
                .chars()
        {
            for bad in [format!("{hidden}"), format!("a{hidden}"), format!("a{hidden}b")] {
                assert!(account(&bad).is_err() && room(&bad).is_err(), "{bad:?}");
            }
        }
        assert!(account(&"x".repeat(32)).is_ok() && account(&"x".repeat(33)).is_err());
        assert!(account(&"é".repeat(32)).is_ok() && room(&"é".repeat(600)).is_err());
        assert!(room(" ").is_err() && room("a\tb").is_err());
    }
}
