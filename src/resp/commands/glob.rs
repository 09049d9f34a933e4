//! Patterns of setting names, as CONFIG GET takes them: `*` for any letters, `?` for one, anything else for itself.
//!
//! Not here: patterns of keys, which the store matches.

/// Whether a name matches, whatever the case of its letters.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // On a mismatch the last star takes one letter more: no recursion, so no pattern is slow.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(letter) if *letter == b'?' || letter.eq_ignore_ascii_case(&name[n]) => {
                (p, n) = (p + 1, n + 1);
                continue;
            }
            _ => {}
        }
        let Some((at, taken)) = star else { return false };
        (p, n) = (at + 1, taken + 1);
        star = Some((at, taken + 1));
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use crate::resp::commands::glob::*;

    #[test]
    fn stars_and_question_marks_stand_for_letters() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("save", "SAVE", true),
            ("sav?", "save", true),
            ("s*e", "save", true),
            ("max*mory*", "maxmemory", true),
            ("max*memory", "maxmemory-policy", false),
            ("", "x", false),
            ("**a*b**", "xaab", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
