//! Characters that are invisible, or change how their neighbours are displayed.
//!
//! The list is Unicode's `Default_Ignorable_Code_Point` (which contains all `Bidi_Control`), the separators of lines
//! and paragraphs, invisible format characters and noncharacters, and the letters and symbols that are drawn as empty
//! space. It is here rather than in a crate because few crates have the first and none the last. Endpoints use it, the
//! service does not: what an old log did must not change when the list grows.
//! Not here: which names are valid (`names.rs`).

/// Characters that a name must not contain. White space is not among them, except line and paragraph separators.
pub fn is_hidden(c: char) -> bool {
    let is_ignorable = matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    // Lines and paragraphs; interlinear annotation; formats of hieroglyphs; noncharacters.
    let is_format = matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{13430}'..='\u{13440}'
        | '\u{fdd0}'..='\u{fdef}')
        || c as u32 & 0xfffe == 0xfffe;
    // Braille without dots, the null notehead, a filler of Khitan, blank hieroglyphs.
    let is_empty = matches!(c, '\u{2800}' | '\u{1d159}' | '\u{16fe4}' | '\u{13441}' | '\u{13442}');
    is_ignorable || is_format || is_empty
}

/// Whether a reader of this text sees anything.
pub fn has_visible_text(text: &str) -> bool {
    text.chars().any(|c| !c.is_whitespace() && !c.is_control() && !is_hidden(c))
}

#[cfg(test)]
mod tests {
    use crate::services::chat::invisible_chars::*;

    #[test]
    fn invisible_text_counts_as_empty() {
        for text in
            ["", " \n\t", "\u{200b}", "\u{2028}", "\u{2800}\u{3164} ", "\u{202e}\u{2066}", "\u{3000}", "\u{feff}"]
        {
            assert!(!has_visible_text(text), "{text:?}");
        }
        for text in ["x", "\u{200b}.", "日", "👩\u{200d}🚀", "\u{301}", "می\u{200c}خواهم"] {
            assert!(has_visible_text(text), "{text:?}");
        }
    }

    #[test]
    fn every_bidi_control_and_blank_letter_is_hidden_and_no_letter_is() {
        let bidi = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain(['\u{61c}', '\u{200e}', '\u{200f}']);
        for c in bidi.chain("\u{115f}\u{1160}\u{3164}\u{ffa0}\u{2800}\u{200d}\u{10ffff}".chars()) {
            assert!(is_hidden(c), "U+{:04X}", c as u32);
        }
        assert!(!"aZ0é日한🦀\u{e000}\u{601}\u{301}\u{fffd}\u{fffc} \u{3000}".chars().any(is_hidden));
    }
}
