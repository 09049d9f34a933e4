//! Where an invisible character is part of what a reader sees: emoji sequences, and words of Arabic and Indic scripts.
//!
//! - Joiners (ZWNJ U+200C, ZWJ U+200D) by the rules CONTEXTJ of RFC 5892 (appendix A.1 and A.2), which PRECIS takes
//!   over (RFC 8264, section 9.8), narrowed as in UAX #31, section 2.3: the neighbours are letters of the same script.
//!   ZWNJ between two Arabic letters that would join otherwise; ZWNJ and ZWJ after a virama; ZWJ between Bengali RA and
//!   virama (Unicode, section 12.2).
//! - Variation selectors after a pictograph, keycaps, ZWJ between pictographs, and the three flags with tags that
//!   Unicode recommends for general interchange (UTS #51).
//!
//! Everywhere else these characters make two names look like one, and are refused. Keys of names omit joiners and
//! variation selectors (`names.rs`), so that not even an unusual font makes two accounts look alike.
//! Not here: which characters are invisible (`invisible_chars.rs`).

use super::invisible_chars::is_hidden;
use unicode_normalization::char::canonical_combining_class;

const ZWNJ: char = '\u{200c}';
const ZWJ: char = '\u{200d}';
const KEYCAP: char = '\u{20e3}';
/// Asks for a picture.
const VS16: char = '\u{fe0f}';
/// Asks for a character of text.
const VS15: char = '\u{fe0e}';
/// Canonical combining class of viramas.
const VIRAMA: u8 = 9;
/// Canonical combining class of nuktas, which stand between a letter and a virama.
const NUKTA: u8 = 7;
/// The flags of England, Scotland and Wales. Other tags are drawn as a black flag alone.
const TAGGED_FLAGS: [&str; 3] = ["gbeng", "gbsct", "gbwls"];

/// The first character of a text that is invisible and not part of a sequence.
pub fn first_hidden(text: &str) -> Option<char> {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        if *c == '\u{1f3f4}' {
            at += tags_after(&chars[at + 1..]);
        } else if is_hidden(*c) && !is_part(*c, &chars[..at], &chars[at + 1..]) {
            return Some(*c);
        }
        at += 1;
    }
    None
}

/// Whether a key of a name omits this character: it changes how its neighbours are drawn, and little else.
pub fn is_joiner_or_selector(c: char) -> bool {
    matches!(c, ZWNJ | ZWJ | VS15 | VS16)
}

/// How many tags follow the black flag.
fn tags_after(rest: &[char]) -> usize {
    let tag_of = |c: char| char::from_u32(0xe0000 + c as u32);
    let is_flag = |name: &&&str| {
        let mut tags = name.chars().map(tag_of).chain([Some('\u{e007f}')]).zip(rest);
        rest.len() > name.len() && tags.all(|(tag, c)| tag == Some(*c))
    };
    TAGGED_FLAGS.iter().find(is_flag).map_or(0, |name| name.len() + 1)
}

/// Whether an invisible character belongs between these.
fn is_part(c: char, before: &[char], after: &[char]) -> bool {
    let next = after.first().copied();
    match c {
        VS15 | VS16 => before.last().is_some_and(|base| {
            is_pictograph(*base) || (matches!(base, '0'..='9' | '#' | '*') && c == VS16 && next == Some(KEYCAP))
        }),
        ZWJ if next.is_some_and(is_pictograph) => ends_in_pictograph(before),
        ZWJ if next == Some('\u{9cd}') => before.last() == Some(&'\u{9b0}'),
        // Before a vowel sign it would have no effect. It may end a word, as in Malayalam.
        ZWJ => follows_virama(before).is_some() && next.is_none_or(|c| !is_indic(c) || is_letter(c)),
        ZWNJ => {
            let script = follows_virama(before);
            next.is_some_and(|c| is_letter(c) && script == Some(block(c))) || is_between_arabic(before, after)
        }
        _ => false,
    }
}

fn ends_in_pictograph(before: &[char]) -> bool {
    let mut before = before.iter().rev().skip_while(|c| matches!(**c, VS16 | '\u{1f3fb}'..='\u{1f3ff}'));
    before.next().is_some_and(|c| is_pictograph(*c))
}

/// The block of the letter whose virama is the last of these characters.
fn follows_virama(before: &[char]) -> Option<u32> {
    let (virama, before) = before.split_last()?;
    let is_virama = is_indic(*virama) && canonical_combining_class(*virama) == VIRAMA;
    let letter = before.iter().rev().find(|c| canonical_combining_class(**c) != NUKTA)?;
    (is_virama && is_letter(*letter) && block(*letter) == block(*virama)).then(|| block(*letter))
}

/// Blocks of Indic scripts, Devanagari to Sinhala, have 128 characters each.
fn is_indic(c: char) -> bool {
    ('\u{900}'..='\u{dff}').contains(&c)
}

fn block(c: char) -> u32 {
    c as u32 >> 7
}

/// Letters without dependent vowel signs, which Rust counts as alphabetic.
fn is_letter(c: char) -> bool {
    // From the anusvara on, each block has its vowels and consonants in its first 58 characters, and vowel signs behind
    // them; Sinhala has its vowel signs from 0DCF on. Malayalam and Bengali have a few more letters near the end.
    let is_sign = match c {
        '\u{900}'..='\u{d7f}' => (0x3e..0x4e).contains(&(c as u32 & 0x7f)),
        '\u{dca}'..='\u{df3}' => true,
        _ => false,
    };
    c.is_alphabetic() && canonical_combining_class(c) == 0 && !is_sign
}

fn is_between_arabic(before: &[char], after: &[char]) -> bool {
    // Marks above and below letters do not stop them from joining (Joining_Type=Transparent).
    let first = before.iter().rev().find(|c| !is_arabic_mark(**c));
    let second = after.iter().find(|c| !is_arabic_mark(**c));
    first.is_some_and(|c| is_dual_joining(*c)) && second.is_some_and(|c| is_dual_joining(*c) || is_right_joining(*c))
}

fn is_arabic_mark(c: char) -> bool {
    matches!(c, '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{670}' | '\u{6d6}'..='\u{6dc}'
        | '\u{6df}'..='\u{6e4}' | '\u{6e7}' | '\u{6e8}' | '\u{6ea}'..='\u{6ed}' | '\u{897}'..='\u{89f}'
        | '\u{8ca}'..='\u{8e1}' | '\u{8e3}'..='\u{8ff}')
}

/// Joining_Type=Dual_Joining of Arabic letters (ArabicShaping.txt of Unicode 16).
fn is_dual_joining(c: char) -> bool {
    matches!(c, '\u{620}' | '\u{626}' | '\u{628}' | '\u{62a}'..='\u{62e}' | '\u{633}'..='\u{63f}'
        | '\u{641}'..='\u{647}' | '\u{649}' | '\u{64a}' | '\u{66e}' | '\u{66f}' | '\u{678}'..='\u{687}'
        | '\u{69a}'..='\u{6bf}' | '\u{6c1}' | '\u{6c2}' | '\u{6cc}' | '\u{6ce}' | '\u{6d0}' | '\u{6d1}'
        | '\u{6fa}'..='\u{6fc}' | '\u{6ff}' | '\u{750}'..='\u{758}' | '\u{75c}'..='\u{76a}' | '\u{76d}'..='\u{770}'
        | '\u{772}' | '\u{775}'..='\u{777}' | '\u{77a}'..='\u{77f}' | '\u{886}' | '\u{889}'..='\u{88d}' | '\u{88f}'
        | '\u{8a0}'..='\u{8a9}' | '\u{8af}' | '\u{8b0}' | '\u{8b3}'..='\u{8b8}' | '\u{8ba}'..='\u{8c8}')
}

/// Joining_Type=Right_Joining of Arabic letters.
fn is_right_joining(c: char) -> bool {
    matches!(c, '\u{622}'..='\u{625}' | '\u{627}' | '\u{629}' | '\u{62f}'..='\u{632}' | '\u{648}'
        | '\u{671}'..='\u{673}' | '\u{675}'..='\u{677}' | '\u{688}'..='\u{699}' | '\u{6c0}' | '\u{6c3}'..='\u{6cb}'
        | '\u{6cd}' | '\u{6cf}' | '\u{6d2}' | '\u{6d3}' | '\u{6d5}' | '\u{6ee}' | '\u{6ef}' | '\u{759}'..='\u{75b}'
        | '\u{76b}' | '\u{76c}' | '\u{771}' | '\u{773}' | '\u{774}' | '\u{778}' | '\u{779}' | '\u{870}'..='\u{882}'
        | '\u{88e}' | '\u{8aa}'..='\u{8ac}' | '\u{8ae}' | '\u{8b1}' | '\u{8b2}' | '\u{8b9}')
}

/// Extended_Pictographic (emoji-data.txt of Unicode 16).
fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{a9}' | '\u{ae}' | '\u{203c}' | '\u{2049}' | '\u{2122}' | '\u{2139}' | '\u{2194}'..='\u{2199}'
        | '\u{21a9}' | '\u{21aa}' | '\u{231a}' | '\u{231b}' | '\u{2328}' | '\u{2388}' | '\u{23cf}'
        | '\u{23e9}'..='\u{23f3}' | '\u{23f8}'..='\u{23fa}' | '\u{24c2}' | '\u{25aa}' | '\u{25ab}' | '\u{25b6}'
        | '\u{25c0}' | '\u{25fb}'..='\u{25fe}' | '\u{2600}'..='\u{2605}' | '\u{2607}'..='\u{2612}'
        | '\u{2614}'..='\u{2685}' | '\u{2690}'..='\u{2705}' | '\u{2708}'..='\u{2712}' | '\u{2714}' | '\u{2716}'
        | '\u{271d}' | '\u{2721}' | '\u{2728}' | '\u{2733}' | '\u{2734}' | '\u{2744}' | '\u{2747}' | '\u{274c}'
        | '\u{274e}' | '\u{2753}'..='\u{2755}' | '\u{2757}' | '\u{2763}'..='\u{2767}' | '\u{2795}'..='\u{2797}'
        | '\u{27a1}' | '\u{27b0}' | '\u{27bf}' | '\u{2934}' | '\u{2935}' | '\u{2b05}'..='\u{2b07}' | '\u{2b1b}'
        | '\u{2b1c}' | '\u{2b50}' | '\u{2b55}' | '\u{3030}' | '\u{303d}' | '\u{3297}' | '\u{3299}'
        | '\u{1f000}'..='\u{1f0ff}' | '\u{1f10d}'..='\u{1f10f}' | '\u{1f12f}' | '\u{1f16c}'..='\u{1f171}'
        | '\u{1f17e}' | '\u{1f17f}' | '\u{1f18e}' | '\u{1f191}'..='\u{1f19a}' | '\u{1f1ad}'..='\u{1f1e5}'
        | '\u{1f201}'..='\u{1f20f}' | '\u{1f21a}' | '\u{1f22f}' | '\u{1f232}'..='\u{1f23a}' | '\u{1f23c}'..='\u{1f23f}'
        | '\u{1f249}'..='\u{1f3fa}' | '\u{1f400}'..='\u{1f53d}' | '\u{1f546}'..='\u{1f64f}' | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f774}'..='\u{1f77f}' | '\u{1f7d5}'..='\u{1f7ff}' | '\u{1f90c}'..='\u{1f93a}' | '\u{1f93c}'..='\u{1f945}'
        | '\u{1f947}'..='\u{1faff}' | '\u{1fc00}'..='\u{1fffd}')
}

#[cfg(test)]
mod tests {
    use crate::services::chat::sequences::*;

    #[test]
    fn emoji_sequences_and_words_with_joiners_have_nothing_hidden() {
        for text in [
            "❤\u{fe0f} team",
            "❤\u{fe0e}",
            "👩\u{200d}🚀",
            "👩🏽\u{200d}🚀",
            "👨\u{200d}👩\u{200d}👧\u{200d}👦",
            "🏳\u{fe0f}\u{200d}🌈",
            "👩\u{200d}❤\u{fe0f}\u{200d}💋\u{200d}👨",
            "👍🏽 ok",
            "🇩🇪",
            "1\u{fe0f}\u{20e3}",
            "🏴\u{e0067}\u{e0062}\u{e0077}\u{e006c}\u{e0073}\u{e007f}",
            "🏴\u{200d}☠\u{fe0f}",
            "می\u{200c}خواهم",
            "خانه\u{200c}ها",
            "بِ\u{200c}ر",
            "क्\u{200d}ष",
            "क्\u{200c}ष",
            "क़्\u{200c}ष",
            "ന്\u{200d}",
            "ශ්\u{200d}රී",
            "র\u{200d}্যাম",
        ] {
            assert_eq!(first_hidden(text), None, "{text:?}");
        }
    }

    #[test]
    fn everywhere_else_they_are_hidden() {
        for (text, hidden) in [
            ("ad\u{200d}min", ZWJ),
            ("ad\u{200c}min", ZWNJ),
            ("a\u{fe0f}", VS16),
            ("1\u{fe0f}", VS16),
            ("1\u{fe0e}\u{20e3}", VS15),
            ("❤\u{fe0f}\u{fe0f}", VS16),
            ("👩\u{200d}", ZWJ),
            ("👩\u{200d}a", ZWJ),
            ("a\u{200d}🚀", ZWJ),
            ("👩\u{200d}\u{200d}🚀", ZWJ),
            ("🏴\u{e0067}\u{e0062}\u{e007f}", '\u{e0067}'),
            ("🏴\u{e0067}\u{e0062}\u{e0077}\u{e006c}\u{e0073}", '\u{e0067}'),
            ("🚀\u{e0067}\u{e0062}\u{e0077}\u{e006c}\u{e0073}\u{e007f}", '\u{e0067}'),
            // After a letter that joins nothing, before a letter of another script, at an end, twice.
            ("دا\u{200c}ر", ZWNJ),
            ("می\u{200c}a", ZWNJ),
            ("می\u{200c}", ZWNJ),
            ("\u{200c}می", ZWNJ),
            ("می\u{200c}\u{200c}خ", ZWNJ),
            ("می\u{200d}خ", ZWJ),
            ("क\u{200d}ष", ZWJ),
            ("क्\u{200d}ा", ZWJ),
            ("क्\u{200c}", ZWNJ),
            ("क्\u{200c}a", ZWNJ),
            ("a्\u{200d}ष", ZWJ),
            ("क्\u{200b}ष", '\u{200b}'),
        ] {
            assert_eq!(first_hidden(text), Some(hidden), "{text:?}");
        }
    }
}
