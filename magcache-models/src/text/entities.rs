//! HTML character references.

/// Names of U+00A0 to U+00FF in order. Like [`ASCII`], they are also recognised without a semicolon.
const LATIN_1: [&str; 96] = [
    "nbsp", "iexcl", "cent", "pound", "curren", "yen", "brvbar", "sect", "uml", "copy", "ordf", "laquo",
    "not", "shy", "reg", "macr", "deg", "plusmn", "sup2", "sup3", "acute", "micro", "para", "middot",
    "cedil", "sup1", "ordm", "raquo", "frac14", "frac12", "frac34", "iquest", "Agrave", "Aacute", "Acirc",
    "Atilde", "Auml", "Aring", "AElig", "Ccedil", "Egrave", "Eacute", "Ecirc", "Euml", "Igrave", "Iacute",
    "Icirc", "Iuml", "ETH", "Ntilde", "Ograve", "Oacute", "Ocirc", "Otilde", "Ouml", "times", "Oslash",
    "Ugrave", "Uacute", "Ucirc", "Uuml", "Yacute", "THORN", "szlig", "agrave", "aacute", "acirc", "atilde",
    "auml", "aring", "aelig", "ccedil", "egrave", "eacute", "ecirc", "euml", "igrave", "iacute", "icirc",
    "iuml", "eth", "ntilde", "ograve", "oacute", "ocirc", "otilde", "ouml", "divide", "oslash", "ugrave",
    "uacute", "ucirc", "uuml", "yacute", "thorn", "yuml",
];

const ASCII: [(&str, char); 10] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("AMP", '&'),
    ("LT", '<'),
    ("GT", '>'),
    ("QUOT", '"'),
    ("COPY", '©'),
    ("REG", '®'),
];

/// Names that require a semicolon: punctuation, arrows and signs that occur in running text.
const OTHERS: [(&str, char); 42] = [
    ("apos", '\''),
    ("hellip", '…'),
    ("ndash", '–'),
    ("mdash", '—'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("sbquo", '‚'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("bdquo", '„'),
    ("lsaquo", '‹'),
    ("rsaquo", '›'),
    ("bull", '•'),
    ("dagger", '†'),
    ("Dagger", '‡'),
    ("permil", '‰'),
    ("prime", '′'),
    ("Prime", '″'),
    ("euro", '€'),
    ("trade", '™'),
    ("fnof", 'ƒ'),
    ("circ", 'ˆ'),
    ("tilde", '˜'),
    ("OElig", 'Œ'),
    ("oelig", 'œ'),
    ("Scaron", 'Š'),
    ("scaron", 'š'),
    ("Yuml", 'Ÿ'),
    ("ensp", '\u{2002}'),
    ("emsp", '\u{2003}'),
    ("thinsp", '\u{2009}'),
    ("zwnj", '\u{200c}'),
    ("zwj", '\u{200d}'),
    ("larr", '←'),
    ("uarr", '↑'),
    ("rarr", '→'),
    ("darr", '↓'),
    ("minus", '−'),
    ("infin", '∞'),
    ("ne", '≠'),
    ("le", '≤'),
    ("ge", '≥'),
];

/// Bytes of the longest name in the tables. All names consist of ASCII letters and digits.
const LONGEST: usize = 6;

/// How browsers interpret U+0080 to U+009F: as Windows-1252.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Replaces numeric and the common named character references, by the rules of `html.unescape` in Python.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        rest = match numeric(after).or_else(|| named(after)) {
            Some((character, after)) => {
                out.extend(character);
                after
            }
            None => {
                out.push('&');
                after
            }
        };
    }
    out.push_str(rest);
    out
}

/// The character, if the reference denotes one, and the text after the reference.
type Reference<'a> = Option<(Option<char>, &'a str)>;

fn numeric(text: &str) -> Reference<'_> {
    let text = text.strip_prefix('#')?;
    let (text, radix) = text.strip_prefix(['x', 'X']).map_or((text, 10), |text| (text, 16));
    let after = text.trim_start_matches(|c: char| c.is_digit(radix));
    let digits = text.strip_suffix(after).filter(|digits| !digits.is_empty())?;
    let code = digits
        .chars()
        .filter_map(|c| c.to_digit(radix))
        .fold(0u32, |code, digit| code.saturating_mul(radix).saturating_add(digit));
    let character = match code {
        0x80..=0x9f => WINDOWS_1252.get(code as usize - 0x80).copied(),
        1..=8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        0..=0x0010_ffff if code & 0xfffe == 0xfffe => None,
        0 => Some(char::REPLACEMENT_CHARACTER),
        _ => Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
    };
    Some((character, after.strip_prefix(';').unwrap_or(after)))
}

fn named(text: &str) -> Reference<'_> {
    let length = text.bytes().take(LONGEST).take_while(u8::is_ascii_alphanumeric).count();
    let whole = text.get(..length)?;
    if let Some(after) = text.get(length..)?.strip_prefix(';')
        && let Some(character) = without_semicolon(whole).or_else(|| find(&OTHERS, whole))
    {
        return Some((Some(character), after));
    }
    (2..=length).rev().find_map(|end| {
        let (name, after) = text.split_at_checked(end)?;
        Some((Some(without_semicolon(name)?), after))
    })
}

fn without_semicolon(name: &str) -> Option<char> {
    let latin = || LATIN_1.iter().position(|latin| *latin == name);
    find(&ASCII, name).or_else(|| char::from_u32(0xa0 + latin()? as u32))
}

fn find(table: &[(&str, char)], name: &str) -> Option<char> {
    table.iter().find(|(known, _)| *known == name).map(|(_, character)| *character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_characters_as_in_python() {
        // Expected values from html.unescape of Python 3.12.
        for (text, expected) in [
            ("plain", "plain"),
            ("&amp;lt;", "&lt;"),
            ("a&lt;b&gtc&quot;", "a<b>c\""),
            ("&notit; &copyright &euro &euro;", "¬it; ©right &euro €"),
            ("&#65;&#x41&#X42;", "AAB"),
            ("&#0;&#128;&#x9f;&#xD800;&#1114112;&#99999999999;", "\u{fffd}€Ÿ\u{fffd}\u{fffd}\u{fffd}"),
            ("[&#1;&#11;&#xFFFE;&#x1FFFF;&#xfdd0;]", "[]"),
            ("& &; &# &#; &#x; &#xg; &&amp;", "& &; &# &#; &#x; &#xg; &&"),
            ("&yuml;&nbsp&AElig;&frac34;&rsaquo;&Dagger;", "ÿ\u{a0}Æ¾›‡"),
            ("&é &\u{1f600};", "&é &\u{1f600};"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    #[test]
    fn no_name_is_longer_than_the_search() {
        let names = LATIN_1.into_iter().chain(ASCII.into_iter().chain(OTHERS).map(|(name, _)| name));
        assert_eq!(names.map(str::len).max(), Some(LONGEST));
    }
}
