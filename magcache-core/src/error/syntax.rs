//! Errors of the TOML reader, rephrased in terms of the configuration.

use super::nearest;
use crate::ConfigError;

/// The keys common to all `[[cache]]` tables.
pub(crate) const WORDS: [&str; 10] = [
    "at",
    "profile",
    "variant",
    "warmup",
    "last_steps",
    "max_skips",
    "max_total_skips",
    "branches",
    "experts",
    "forecast",
];

/// Tables that name the plugin that reads them: the type that the reader expects, and the key that holds the
/// name.
const NAMED: [(&str, &str); 2] = [("dyn ForecastConfig", "type"), ("dyn CacheConfig", "strategy")];

/// Converts an error of the TOML reader, taking its message apart where that helps.
pub(crate) fn syntax(place: &str, error: &impl ToString) -> ConfigError {
    let text = error.to_string();
    let text = text.trim_end();
    let mut quoted = text.split('`').skip(1).step_by(2);
    if text.contains("unknown field `")
        && let Some(key) = quoted.next()
    {
        // A common key can be unknown too: in a member of a combination, where the combination holds them.
        let known: Vec<_> = quoted.chain(WORDS).filter(|word| *word != key).collect();
        return ConfigError::UnknownKey {
            place: place.to_owned(),
            key: key.to_owned(),
            nearest: nearest(key, known),
        };
    }
    let (message, hint) = shape(text).unwrap_or_else(|| (text.to_owned(), None));
    ConfigError::Syntax { place: place.to_owned(), message, hint }
}

/// A value of the wrong shape, reported without the Rust type that reads it, which means nothing to a user.
fn shape(text: &str) -> Option<(String, Option<String>)> {
    let (_, after) = text.split_once("invalid type: ").or_else(|| text.split_once("invalid value: "))?;
    let (got, rest) = after.split_once(", expected ")?;
    let expected = rest.lines().next()?;
    let (key, word) = (key(text), got.split('"').nth(1));
    if got == "map" && shown(text).is_some_and(|line| line.starts_with("[[")) {
        // A list can also be read into a table by position, and the reader then complains about the first
        // field.
        let message = format!("`{}` is a list, it must be a table", key.unwrap_or_default());
        return Some((message, key.map(|key| format!("[{key}]"))));
    }
    let (wanted, hint) = match NAMED.iter().find(|(named, _)| expected == *named) {
        Some((_, name)) => {
            let typed = word.map(|word| {
                let table = format!("{{ {name} = {word:?} }}");
                key.map_or(table.clone(), |key| format!("{key} = {table}"))
            });
            (format!("a table with `{name}`"), typed)
        }
        None if expected.starts_with("struct ") => ("a table".to_owned(), key.map(|key| format!("[{key}]"))),
        None if expected == "a sequence" => {
            ("a list".to_owned(), key.filter(|_| got == "map").map(|key| format!("[[{key}]]")))
        }
        None if expected == "a map" => {
            ("a table".to_owned(), key.filter(|_| got == "sequence").map(|key| format!("[{key}]")))
        }
        None if ["usize", "u8", "u16", "u32", "u64"].contains(&expected) => {
            ("a whole number, at least 0".to_owned(), None)
        }
        None if ["f32", "f64"].contains(&expected) => ("a number".to_owned(), None),
        None => return None,
    };
    let got = match got {
        "map" => "a table",
        "sequence" => "a list",
        // `string "x"`, `integer `3``: keep the value alone, which shows its type.
        other => other.find(['"', '`']).map_or(other, |at| other[at..].trim_matches('`')),
    };
    let message = match key {
        Some(key) => format!("`{key}` is {got}, it must be {wanted}"),
        None => format!("got {got}, it must be {wanted}"),
    };
    Some((message, hint))
}

/// The key that an error is about: the innermost one it names, or else the key on the line it shows.
fn key(text: &str) -> Option<&str> {
    let named = text.rsplit_once("in `").and_then(|(_, rest)| rest.split('`').next());
    let typed = || shown(text)?.split('=').next().map(|key| key.trim().trim_matches(['[', ']']));
    let key = named.or_else(typed)?;
    key.rsplit('.').next().filter(|key| !key.is_empty())
}

/// The line of the document that an error shows.
fn shown(text: &str) -> Option<&str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(" | "));
    lines.find(|(number, _)| number.trim().parse::<usize>().is_ok()).map(|(_, line)| line.trim())
}

#[cfg(test)]
mod tests {
    use crate::{CachePlan, hint::Hint};

    /// The message for a document, and its hint.
    fn told(text: &str) -> (String, Option<String>) {
        let error = CachePlan::parse(text).expect_err(text);
        (error.to_string(), error.hint())
    }

    #[test]
    fn a_value_of_another_shape_is_told_in_words_that_can_be_typed() {
        let (text, hint) = told("[cache]\nstrategy = \"fbcache\"");
        assert_eq!(text, "configuration: `cache` is a table, it must be a list");
        assert_eq!(hint.as_deref(), Some("[[cache]]"));
        let (text, hint) = told("[[residuals]]\ndtype = \"f16\"");
        assert_eq!(text, "configuration: `residuals` is a list, it must be a table");
        assert_eq!(hint.as_deref(), Some("[residuals]"));
        let (text, _) = told("audit = 0.1");
        assert_eq!(text, "configuration: `audit` is 0.1, it must be a table");
    }
}
