//! The keys of a configuration table, derived from the type that reads the table.
//!
//! A type that derives `JsonSchema` provides everything: meanings from its doc comments, defaults from its
//! `Default`, ranges from its attributes. So the generated reference cannot drift from what is accepted.

#[cfg(feature = "keys")]
mod shape;

use serde::Serialize;

use crate::Problem;

/// The keys of one table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys {
    /// The doc comment of its type.
    pub about: String,
    /// Its keys by name; the keys of a nested table follow its own, as `outer.inner`.
    pub keys: Vec<Key>,
}

/// One key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The name as it is typed.
    pub name: String,
    /// The kind of value: `number`, `list of whole numbers`, ...
    pub kind: String,
    /// The default as it would be typed; `None` if the meaning describes what applies without the key.
    pub default: Option<String>,
    /// The accepted values; `None` if every value of its kind is accepted.
    pub range: Option<String>,
    /// Its meaning: the doc comment.
    pub meaning: String,
    /// The words that it accepts, with their meanings.
    pub words: Vec<(String, String)>,
    /// A setting that disables it: another key, and its value as it would be typed.
    pub unless: Option<(String, String)>,
    /// The range in which a target searches for its value, from a value that skips little to one that skips
    /// much. Marks one key of a strategy: `#[schemars(extend("target" = [0, 4]))]`. Searched in whole numbers
    /// if the key takes those.
    pub target: Option<[f64; 2]>,
}

/// The keys of the table that `T` reads.
///
/// ```
/// use magcache_core::{keys::keys_of, schemars};
/// use serde::Deserialize;
///
/// /// The keys of a strategy.
/// #[derive(Deserialize, schemars::JsonSchema)]
/// struct Config {
///     /// Bound of the error.
///     #[schemars(range(min = 0.0))]
///     threshold: f64,
/// }
///
/// let keys = keys_of::<Config>().keys;
/// assert_eq!((keys[0].name.as_str(), keys[0].kind.as_str()), ("threshold", "number"));
/// assert_eq!(keys[0].range.as_deref(), Some("at least 0"));
/// assert_eq!(keys[0].meaning, "Bound of the error.");
/// ```
#[cfg(feature = "keys")]
pub fn keys_of<T: schemars::JsonSchema>() -> Keys {
    let settings =
        schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    shape::keys(&settings.into_generator().into_root_schema_for::<T>().to_value())
}

/// Nothing, without the feature `keys`.
#[cfg(not(feature = "keys"))]
pub fn keys_of<T>() -> Keys {
    Keys::default()
}

impl Keys {
    /// The key that a target sets, and the range in which it searches.
    pub fn target(&self) -> Option<(&Key, [f64; 2])> {
        self.keys.iter().find_map(|key| Some((key, key.target?)))
    }

    /// A warning for every key of a configuration that another key disables; `place` names its table.
    pub fn idle(&self, place: &str, config: &impl Serialize) -> Vec<Problem> {
        let Ok(toml::Value::Table(table)) = toml::Value::try_from(config) else { return Vec::new() };
        let typed = |key: &str| table.get(key).map(ToString::to_string);
        let told = |key: &Key| {
            let (other, value) = key.unless.as_ref()?;
            let said = typed(&key.name).is_some_and(|own| key.default.as_ref() != Some(&own));
            let message = format!("`{}` has no effect with {other} = {value}", key.name);
            let problem = || Problem::warning(place, message).hint(format!("remove `{}`", key.name));
            (said && typed(other).as_ref() == Some(value)).then(problem)
        };
        self.keys.iter().filter_map(told).collect()
    }
}

#[cfg(test)]
#[cfg(feature = "keys")]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::Warmup;

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Way {
        /// Straight on.
        #[default]
        Ahead,
        /// And back.
        TurnRound,
    }

    /// Some table.
    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Table {
        /// A weight.
        #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
        weight: f64,
        /// The way.
        way: Way,
        /// Another way, over
        /// two lines.
        #[serde(skip_serializing_if = "Option::is_none")]
        other: Option<Way>,
        /// Steps.
        #[schemars(extend("unless" = { "way": "ahead" }))]
        #[serde(skip_serializing_if = "Option::is_none")]
        early: Option<Place>,
        /// Low and high.
        #[serde(skip_serializing_if = "Option::is_none")]
        pair: Option<[f64; 2]>,
        /// Values by name.
        named: BTreeMap<String, Vec<usize>>,
        /// More.
        more: Vec<Inner>,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(untagged)]
    enum Place {
        /// So many.
        Steps(usize),
        /// A part.
        Part(#[schemars(range(min = 0.0, max = 1.0))] f64),
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Inner {
        /// Yes or no.
        on: bool,
    }

    #[test]
    fn a_type_says_everything_about_its_keys() {
        let found = keys_of::<Table>();
        assert_eq!(found.about, "Some table.");
        let told: Vec<String> = found
            .keys
            .iter()
            .map(|k| {
                let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
                format!("{} | {} | {} | {} | {}", k.name, k.kind, or(&k.default), or(&k.range), k.meaning)
            })
            .collect();
        let expected = [
            "early | whole number or number | - | at least 0; 0 to 1 | Steps.",
            "more | list of tables | [] | - | More.",
            "more.on | true or false | - | - | Yes or no.",
            "named | table of names, each with a list of whole numbers | {} | each at least 0 | Values by name.",
            "other | word | - | - | Another way, over two lines.",
            "pair | list of 2 numbers | - | - | Low and high.",
            "way | word | \"ahead\" | - | The way.",
            "weight | number | 0.0 | above 0, at most 1 | A weight.",
        ];
        assert_eq!(told, expected);
        let words: Vec<&str> = found.keys[4].words.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words, ["ahead", "turn-round"]);
        assert_eq!(found.keys[6].words[1].1, "And back.");
    }

    #[test]
    fn a_key_beside_one_that_silences_it_is_found() {
        let told = |text: &str| {
            let found = keys_of::<Table>().idle("table", &toml::from_str::<Table>(text).unwrap());
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told("early = 3"), ["table: `early` has no effect with way = \"ahead\""]);
        assert!(told("way = \"turn-round\"\nearly = 3").is_empty());
        assert!(told("way = \"ahead\"").is_empty());
    }

    #[test]
    fn steps_or_a_fraction_have_both_ranges() {
        #[derive(JsonSchema)]
        #[allow(dead_code, reason = "only its schema is looked at")]
        struct Words {
            /// First.
            warmup: Option<Warmup>,
        }
        let key = keys_of::<Words>().keys.remove(0);
        assert_eq!(key.kind, "whole number or number");
        assert_eq!(key.range.as_deref(), Some("at least 0; 0 to 1"));
    }
}
