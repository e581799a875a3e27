//! Cleaning of prompts, as in the reference pipelines.

use super::entities::unescape;

/// Cleans a prompt the way diffusers' Wan pipeline does before the tokenizer.
///
/// HTML character references are replaced twice, curly quotes and full-width letters become plain ones,
/// control characters are removed, and every run of white space becomes one space. The reference calls the
/// library ftfy for the middle part, which also repairs text that was decoded as the wrong encoding, composes
/// accents (NFC) and splits ligatures; we do not. Rare named references are left unchanged.
pub fn clean_prompt(prompt: &str) -> String {
    let text: String = unescape(&unescape(prompt)).chars().filter_map(plain).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn plain(character: char) -> Option<char> {
    match character {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => Some('\''),
        '\u{201c}'..='\u{201f}' => Some('"'),
        // The block of full-width forms repeats ASCII from `!` on.
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(character) - 0xff01 + u32::from('!')),
        '\0'..='\u{8}'
        | '\u{b}'
        | '\u{e}'..='\u{1f}'
        | '\u{7f}'
        | '\u{206a}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffc}' => None,
        _ => Some(character),
    }
}
