//! The configuration reference: every table and key, derived from the types that read them.

use magcache_core::{
    keys::{Key, Keys, keys_of},
    meta,
};
use serde_json::{Value, json};

use crate::job::Config;

#[derive(Debug)]
pub(crate) struct Section {
    /// The kind of its reader: `table`, `strategy` or `forecast`.
    pub(crate) kind: &'static str,
    /// Its name, as `list --keys` takes it.
    pub(crate) name: String,
    /// Its heading as written in a file.
    heading: String,
    summary: String,
    keys: Keys,
}

/// Every section: the tables of a file, the strategies, the forecasts.
pub(crate) fn sections() -> Vec<Section> {
    let mut out = tables();
    out.extend(meta::strategies().into_iter().map(|s| Section {
        kind: "strategy",
        name: s.name.to_owned(),
        heading: format!("strategy = {:?}", s.name),
        summary: sentence(s.summary),
        keys: (s.keys)(),
    }));
    out.extend(meta::forecasts().into_iter().map(|f| Section {
        kind: "forecast",
        name: f.name.to_owned(),
        heading: format!("forecast = {{ type = {:?} }}", f.name),
        summary: sentence(f.summary),
        keys: (f.keys)(),
    }));
    out
}

/// The file itself and its tables; keys that hold tables become sections of their own.
fn tables() -> Vec<Section> {
    let file = keys_of::<Config>();
    let is_table = |key: &Key| !key.name.contains('.') && key.kind.contains("table");
    let (named, rest): (Vec<Key>, Vec<Key>) = file.keys.into_iter().partition(is_table);
    let plain = rest.iter().filter(|key| !key.name.contains('.')).cloned().collect();
    let table = |key: &Key| {
        let of = format!("{}.", key.name);
        let inner = |k: &Key| Some(Key { name: k.name.strip_prefix(&of)?.to_owned(), ..k.clone() });
        Section {
            kind: "table",
            name: key.name.clone(),
            heading: if key.kind.starts_with("list") {
                format!("[[{}]]", key.name)
            } else {
                format!("[{}]", key.name)
            },
            summary: key.meaning.clone(),
            keys: Keys { about: String::new(), keys: rest.iter().filter_map(inner).collect() },
        }
    };
    let first = Section {
        kind: "table",
        name: "file".to_owned(),
        heading: "the file itself".to_owned(),
        summary: file.about,
        keys: Keys { about: String::new(), keys: plain },
    };
    std::iter::once(first).chain(named.iter().map(table)).collect()
}

impl Section {
    pub(crate) fn text(&self, bold: impl Fn(&str) -> String) -> String {
        let mut out = format!("{}\n  {}\n", bold(&self.heading), self.summary);
        for key in &self.keys.keys {
            out += &format!("  {}  {}\n", bold(&key.name), facts(key).join(", "));
            out += &format!("      {}\n", meaning(key));
            for (word, meaning) in &key.words {
                out += &format!("      {word:?}: {meaning}\n");
            }
        }
        if self.keys.keys.is_empty() {
            out += "  no keys of its own\n";
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        let key = |key: &Key| {
            let words: Vec<Value> =
                key.words.iter().map(|(word, meaning)| json!({ "word": word, "meaning": meaning })).collect();
            json!({
                "key": key.name,
                "type": key.kind,
                "default": key.default,
                "range": key.range,
                "meaning": key.meaning,
                "words": words,
                "unless": key.unless.as_ref().map(|(other, value)| format!("{other} = {value}")),
            })
        };
        let keys: Vec<Value> = self.keys.keys.iter().map(key).collect();
        json!({ "kind": self.kind, "name": self.name, "summary": self.summary, "keys": keys })
    }

    fn markdown(&self) -> String {
        let mut out = format!("### `{}`\n\n{}\n\n", self.heading, self.summary);
        if self.keys.keys.is_empty() {
            return out + "No keys of its own.\n\n";
        }
        out += "| key | type | default | range | meaning |\n|---|---|---|---|---|\n";
        for key in &self.keys.keys {
            let default = key.default.as_ref().map(|typed| format!("`{typed}`")).unwrap_or_default();
            let range = key.range.as_deref().unwrap_or_default();
            let words = key.words.iter().map(|(word, meaning)| format!("<br>`{word:?}`: {meaning}"));
            let text = meaning(key) + &words.collect::<String>();
            out += &format!(
                "| `{}` | {} | {default} | {range} | {} |\n",
                key.name,
                key.kind,
                text.replace('|', "\\|")
            );
        }
        out + "\n"
    }
}

/// Renders the page `docs/reference/configuration.md`.
pub(crate) fn page() -> String {
    let mut out = "# Configuration\n\n\
        Every table and key of a configuration file (`--config`), of `--set` and of the tables that `magcache-core` reads. \
        Made from the types that read them:\n`magcache list --keys --markdown > docs/reference/configuration.md`. For one \
        of them: `magcache list --keys fbcache`.\n\n"
        .to_owned();
    for (kind, title) in [("table", "Tables"), ("strategy", "Strategies"), ("forecast", "Forecasts")] {
        out += &format!("## {title}\n\n");
        out += &sections().iter().filter(|s| s.kind == kind).map(Section::markdown).collect::<String>();
    }
    out.trim_end().to_owned() + "\n"
}

/// Type, range and default in a few words.
fn facts(key: &Key) -> Vec<String> {
    let default = key.default.as_ref().map(|typed| format!("default {typed}"));
    [Some(key.kind.clone()), key.range.clone(), default].into_iter().flatten().collect()
}

fn meaning(key: &Key) -> String {
    match &key.unless {
        Some((other, value)) => format!("{} No effect with `{other} = {value}`.", key.meaning),
        None => key.meaning.clone(),
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_every_word_says_what_it_means() {
        magcache_strategies::link();
        magcache_models::link();
        let (mut keys, mut words) = (0, 0);
        for section in sections() {
            let place = section.heading.clone();
            assert!(section.summary.len() > 10, "{place}: no summary");
            for key in &section.keys.keys {
                assert!(key.meaning.len() > 5 && key.meaning.ends_with('.'), "{place}: `{}`", key.name);
                assert!(
                    !key.meaning.contains("[`"),
                    "{place}: `{}` links to the documentation of Rust",
                    key.name
                );
                assert!(!key.kind.is_empty(), "{place}: `{}`", key.name);
                assert!(key.words.iter().all(|(_, meaning)| meaning.len() > 5), "{place}: {:?}", key.words);
                assert!(key.kind != "word" || key.words.len() > 1, "{place}: `{}`", key.name);
                keys += 1;
                words += key.words.len();
            }
        }
        assert!(keys > 60 && words > 20, "only {keys} keys and {words} words");
    }
}
