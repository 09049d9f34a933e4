//! Patterns of KEYS and SCAN, as Redis reads them (`stringmatchlen` in its `util.c`): `*`, `?`, `[a-c]`, `[^a]`, `\x`.
//!
//! One loop with one place to go back to: a `*` that comes later makes every earlier one final, so no pattern takes
//! longer than its length times the key's. A class that is not closed ends with the pattern, as in Redis.
//! Not here: which keys are looked at (`reads.rs`).

/// Whether all of `text` matches.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // After the newest star: where the pattern goes on, and up to where the star has eaten.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if let Some(next) = step(pattern, p, text[t]) {
            (p, t) = (next, t + 1);
            continue;
        }
        let Some((after, eaten)) = star else { return false };
        star = Some((after, eaten + 1));
        (p, t) = (after, eaten + 1);
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The bytes that every match begins with: where to look in the ordered keys.
pub fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let len = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    &pattern[..len]
}

/// Where the pattern goes on if its part at `p` matches one byte.
fn step(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (literal == byte).then_some(p + 1),
    }
}

/// The same for a class whose first byte is at `p`.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let is_negated = pattern.get(p) == Some(&b'^');
    p += usize::from(is_negated);
    let mut is_in = false;
    loop {
        match pattern.get(p..).unwrap_or_default() {
            [] => break,
            [b'\\', literal, ..] => {
                is_in |= *literal == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [a, b'-', b, ..] => {
                is_in |= (*a.min(b)..=*a.max(b)).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                is_in |= *literal == byte;
                p += 1;
            }
        }
    }
    (is_in != is_negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, yes, no) in [
            ("hello", "hello", "hallo"),
            ("h?llo", "hallo", "hllo"),
            ("h*llo", "heeeello", "heeeell"),
            ("h[ae]llo", "hallo", "hillo"),
            ("h[^e]llo", "hallo", "hello"),
            ("h[a-b]llo", "hbllo", "hcllo"),
            ("h[b-a]llo", "hallo", "hcllo"),
            ("*", "anything", "-"),
            ("a*b*c", "a1b2b3c", "a1c2b"),
            ("a**", "a", "b"),
            (r"a\*c", "a*c", "abc"),
            (r"a\", r"a\", "a"),
            (r"[\]]", "]", r"\"),
            (r"[a\-c]", "-", "b"),
            ("[abc", "c", "d"),
            ("[^", "x", ""),
            ("[]a]", "-", "a"),
            ("x[a-", "x-", "xb"),
        ] {
            assert!(yes == "-" || matches(pattern.as_bytes(), yes.as_bytes()), "{pattern} should match {yes}");
            assert!(no == "-" || !matches(pattern.as_bytes(), no.as_bytes()), "{pattern} should not match {no}");
        }
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        let pattern = b"a*".repeat(2_000);
        let text = b"a".repeat(20_000);
        assert!(!matches(&[&pattern[..], b"b"].concat(), &text));
    }

    #[test]
    fn the_literal_prefix_ends_at_the_first_special_byte() {
        assert_eq!(literal_prefix(b"user:*"), b"user:");
        assert_eq!(literal_prefix(br"a\*b"), b"a");
        assert_eq!(literal_prefix(b"plain"), b"plain");
    }
}
