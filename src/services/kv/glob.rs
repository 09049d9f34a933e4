//! Patterns of KEYS and SCAN, as Redis reads them (`stringmatchlen` in its `util.c`): `*`, `?`, `[a-c]`, `[^a]`, `\x`.
//!
//! One loop with a single backtracking point: a later `*` makes every earlier one final, so the number of steps is at
//! most the length of the pattern times the length of the key. That may be billions, so the caller limits the steps. A
//! character class that is not closed ends with the pattern, as in Redis.
//! Not here: which keys are matched (`queries.rs`).

/// Returns whether the whole `text` matches. Each comparison of a pattern byte is a step and is subtracted from
/// `steps`; returns `None` if there are too few.
pub fn matches(pattern: &[u8], text: &[u8], steps: &mut u64) -> Option<bool> {
    let (mut p, mut t) = (0, 0);
    // Backtracking point: the pattern position after the last `*`, and the end of the text that this `*` matches so
    // far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            spend(steps, 1)?;
            p += 1;
            star = Some((p, t));
            continue;
        }
        let (next, is_match) = step(pattern, p, text[t]);
        spend(steps, (next - p).max(1))?;
        if is_match {
            (p, t) = (next, t + 1);
            continue;
        }
        let Some((after, eaten)) = star else { return Some(false) };
        star = Some((after, eaten + 1));
        (p, t) = (after, eaten + 1);
    }
    spend(steps, pattern.len() - p)?;
    Some(pattern[p..].iter().all(|byte| *byte == b'*'))
}

fn spend(steps: &mut u64, count: usize) -> Option<()> {
    *steps = steps.checked_sub(count as u64)?;
    Some(())
}

/// Returns the bytes with which every match begins, which limits the search in the ordered keys.
pub fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let len = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    &pattern[..len]
}

/// Returns where the pattern element at `p` ends, and whether it matches `byte`.
fn step(pattern: &[u8], p: usize, byte: u8) -> (usize, bool) {
    match pattern.get(p) {
        None => (p, false),
        Some(b'?') => (p + 1, true),
        Some(b'[') => class(pattern, p + 1, byte),
        Some(b'\\') if p + 1 < pattern.len() => (p + 2, pattern[p + 1] == byte),
        Some(literal) => (p + 1, *literal == byte),
    }
}

/// Does the same for a character class whose first byte is at `p`.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> (usize, bool) {
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
    (p, is_in != is_negated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &[u8], text: &[u8]) -> bool {
        super::matches(pattern, text, &mut u64::MAX.clone()).unwrap()
    }

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
    fn no_pattern_takes_more_steps_than_it_is_given() {
        let star = |middle: &[u8]| [b"*", middle, b"b"].concat();
        let class = [&b"["[..], &b"b".repeat(1_000), b"]"].concat();
        for (pattern, least) in [
            (star(&b"a".repeat(200)), 200 * 1_800),
            (b"a*".repeat(200), 400),
            (star(&b"?".repeat(200)), 200 * 1_800),
            // A class is read to its end for each byte of the key, and also after the end of the key.
            (star(&class), 1_000 * 2_000),
            ([b"a".repeat(2_000), b"*".repeat(10_000)].concat(), 12_000),
        ] {
            let text = b"a".repeat(2_000);
            let mut steps = u64::MAX;
            assert!(super::matches(&pattern, &text, &mut steps).is_some());
            let taken = u64::MAX - steps;
            assert!(taken >= least, "{taken} of {least}: {}", pattern[..20].escape_ascii());
            let (mut enough, mut too_few) = (taken, taken - 1);
            assert!(super::matches(&pattern, &text, &mut enough).is_some() && enough == 0);
            assert_eq!(super::matches(&pattern, &text, &mut too_few), None);
        }
    }

    #[test]
    fn the_literal_prefix_ends_at_the_first_special_byte() {
        assert_eq!(literal_prefix(b"user:*"), b"user:");
        assert_eq!(literal_prefix(br"a\*b"), b"a");
        assert_eq!(literal_prefix(b"plain"), b"plain");
    }
}
