//! Python writes infinities and NaN into JSON as bare words, which are not valid JSON.
//!
//! diffusers stores `"lambda_min_clipped": -Infinity` in every `scheduler_config.json` of a DPM-Solver. The
//! words become `null` here: no setting that a solver reads may be infinite, and `null` is then refused for
//! its type.

/// `text` with `NaN`, `Infinity` and `-Infinity` outside of strings replaced by `null`.
pub(super) fn to_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let (mut in_string, mut escaped) = (false, false);
    while let Some(c) = rest.chars().next() {
        if !in_string
            && let Some(word) = ["-Infinity", "Infinity", "NaN"].into_iter().find(|w| rest.starts_with(w))
        {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::to_json;

    #[test]
    fn only_bare_words_change() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity], "Infinity": "say \"NaN\"", "é": "\\"}"#;
        assert_eq!(to_json(text), r#"{"a": null, "b": [null, null], "Infinity": "say \"NaN\"", "é": "\\"}"#);
    }
}
