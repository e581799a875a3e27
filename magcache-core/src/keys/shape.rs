//! A JSON schema in words.

use serde_json::{Map, Value};

use super::{Key, Keys};

type Schema = Map<String, Value>;

/// Every key of a root schema.
pub(super) fn keys(schema: &Value) -> Keys {
    let empty = Map::new();
    let schema = schema.as_object().unwrap_or(&empty);
    let mut keys = Vec::new();
    flatten("", schema, &mut keys);
    Keys { about: text(schema), keys }
}

/// A value of a schema in TOML syntax.
fn typed(value: &Value) -> Option<String> {
    toml::Value::try_from(value).ok().map(|value| value.to_string())
}

/// Every key below `schema`; keys of nested tables with their path.
fn flatten(path: &str, schema: &Schema, out: &mut Vec<Key>) {
    for (name, value) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let Some(property) = value.as_object() else { continue };
        let shape = bare(property);
        let mut ranges: Vec<String> = alternatives(shape).into_iter().filter_map(range).collect();
        ranges.dedup();
        let unless = property.get("unless").and_then(Value::as_object).and_then(|pair| pair.iter().next());
        let target = property.get("target").and_then(Value::as_array).map(Vec::as_slice);
        let name = format!("{path}{name}");
        out.push(Key {
            kind: kind(shape, false),
            default: property.get("default").filter(|value| !value.is_null()).and_then(typed),
            range: (!ranges.is_empty()).then(|| ranges.join("; ")),
            meaning: text(property),
            words: words(shape),
            unless: unless.and_then(|(key, value)| Some((key.clone(), typed(value)?))),
            target: match target {
                Some([from, to]) => from.as_f64().zip(to.as_f64()).map(|(from, to)| [from, to]),
                _ => None,
            },
            name: name.clone(),
        });
        for inner in [Some(shape), shape.get("items").and_then(Value::as_object)].into_iter().flatten() {
            flatten(&format!("{name}."), inner, out);
        }
    }
}

/// The doc comment, on one line.
fn text(schema: &Schema) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The schema inside an `Option`.
fn bare(schema: &Schema) -> &Schema {
    let some = alternatives(schema);
    match (some.as_slice(), schema.contains_key("anyOf")) {
        ([one], true) => one,
        _ => schema,
    }
}

/// The alternative schemas of a value; the schema itself if there is only one.
fn alternatives(schema: &Schema) -> Vec<&Schema> {
    let Some(list) = schema.get("anyOf").and_then(Value::as_array) else { return vec![schema] };
    let some = list.iter().filter_map(Value::as_object);
    some.filter(|one| one.get("type").and_then(Value::as_str) != Some("null"))
        .flat_map(alternatives)
        .collect()
}

/// The words of an enumerated value, with their meanings.
fn words(schema: &Schema) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for one in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let Some(one) = one.as_object() else { continue };
        let named = one.get("const").and_then(Value::as_str);
        out.extend(named.map(|word| (word.to_owned(), text(one))));
    }
    out
}

/// The kind of value, in singular or plural.
fn kind(schema: &Schema, many: bool) -> String {
    let of = |key: &str| schema.get(key).and_then(Value::as_object);
    let plural = |one: &str, all: &str| if many { all } else { one }.to_owned();
    if schema.contains_key("oneOf") || schema.contains_key("enum") {
        return plural("word", "words");
    }
    if schema.contains_key("anyOf") {
        let kinds: Vec<String> = alternatives(schema).into_iter().map(|one| kind(one, many)).collect();
        return kinds.join(" or ");
    }
    let named = match schema.get("type") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        Some(name) => name.as_str(),
        None => None,
    };
    match named {
        Some("number") => plural("number", "numbers"),
        Some("integer") => plural("whole number", "whole numbers"),
        Some("boolean") => "true or false".to_owned(),
        Some("string") => plural("text", "texts"),
        Some("array") => {
            let items = of("items").map_or_else(|| "values".to_owned(), |items| kind(items, true));
            let count = |key: &str| schema.get(key).and_then(Value::as_u64);
            let count = count("minItems").filter(|least| count("maxItems") == Some(*least));
            let count = count.map_or(String::new(), |count| format!("{count} "));
            format!("{} of {count}{items}", plural("list", "lists"))
        }
        _ => match of("additionalProperties") {
            Some(each) => {
                format!("{} of names, each with a {}", plural("table", "tables"), kind(each, false))
            }
            None => plural("table", "tables"),
        },
    }
}

/// The bounds of a number, or of each number in a list.
fn range(schema: &Schema) -> Option<String> {
    let of = |key: &str| schema.get(key).and_then(Value::as_f64);
    let (low, above) = (of("minimum"), of("exclusiveMinimum"));
    let (high, below) = (of("maximum"), of("exclusiveMaximum"));
    match (low, above, high, below) {
        (Some(low), None, Some(high), None) => Some(format!("{low} to {high}")),
        _ => {
            let bounds = [("at least", low), ("above", above), ("at most", high), ("below", below)];
            let told = bounds.into_iter().filter_map(|(word, value)| Some(format!("{word} {}", value?)));
            let told: Vec<String> = told.collect();
            if !told.is_empty() {
                return Some(told.join(", "));
            }
            let inner =
                ["items", "additionalProperties"].into_iter().find_map(|key| schema.get(key)?.as_object());
            inner.and_then(range).map(|each| format!("each {}", each.trim_start_matches("each ")))
        }
    }
}
