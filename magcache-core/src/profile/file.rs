//! A profile as text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::{OwnPart, Profile};
use crate::{
    ConfigError,
    error::syntax,
    table::{read, write},
};

/// The keys of a profile; the tables of each measurement are read one by one, so that errors name theirs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    model: Option<String>,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    curve: Vec<Table>,
    #[serde(default)]
    fit: Vec<Table>,
    #[serde(default)]
    sensitivity: Vec<Table>,
    #[serde(default)]
    plan: Vec<Table>,
    #[serde(default)]
    part: BTreeMap<String, Vec<Table>>,
}

impl Profile {
    /// Parses and checks a profile; `place` names it in errors.
    pub fn parse(text: &str, place: &str) -> Result<Self, ConfigError> {
        let table: Table = toml::from_str(text).map_err(|e| syntax(place, &e))?;
        let document: Document = read(place, table)?;
        let own = |(kind, tables): (String, _)| {
            let read = each(&format!("{place}, part.{kind}"), tables, OwnPart::from_table)?;
            Ok((kind, read))
        };
        let profile = Self {
            name: document.name,
            model: document.model,
            summary: document.summary,
            curves: tables(place, "curve", document.curve)?,
            fits: tables(place, "fit", document.fit)?,
            sensitivities: tables(place, "sensitivity", document.sensitivity)?,
            plans: tables(place, "plan", document.plan)?,
            parts: document.part.into_iter().map(own).collect::<Result<_, ConfigError>>()?,
        };
        let problems = profile.problems();
        if problems.is_empty() { Ok(profile) } else { Err(ConfigError::Problems(problems)) }
    }

    /// The profile as a table, with the keys of the text.
    ///
    /// Errors: a value that TOML cannot hold.
    pub fn to_table(&self) -> Result<Table, ConfigError> {
        let place = format!("profile {:?}", self.name);
        let Self { name, model, summary, .. } = self;
        let parts = self.parts.iter().map(|(kind, own)| {
            let tables = own.iter().map(|part| part.to_table(&place)).collect::<Result<Vec<_>, _>>()?;
            Ok((kind.clone(), Value::from(tables)))
        });
        let words = [("name", Some(name.as_str())), ("model", model.as_deref()), ("summary", Some(summary))];
        let words = words.map(|(key, word)| (key, word.filter(|word| !word.is_empty()).map(Value::from)));
        let lists = [
            ("curve", written(&place, &self.curves)?),
            ("fit", written(&place, &self.fits)?),
            ("sensitivity", written(&place, &self.sensitivities)?),
            ("plan", written(&place, &self.plans)?),
        ];
        let lists = lists.map(|(key, list)| (key, (!list.is_empty()).then(|| list.into())));
        let mut table: Table = words
            .into_iter()
            .chain(lists)
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect();
        if !self.parts.is_empty() {
            table.insert("part".to_owned(), Value::Table(parts.collect::<Result<_, ConfigError>>()?));
        }
        Ok(table)
    }

    /// The profile as TOML, which [`Profile::parse`] reads back.
    ///
    /// Errors: a value that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut table = self.to_table()?;
        // What a reader looks for first comes first; the rest is in the order of the alphabet.
        let first: Table = table.remove_entry("name").into_iter().collect();
        Ok(format!("{first}{table}"))
    }
}

fn tables<T: DeserializeOwned>(place: &str, key: &str, tables: Vec<Table>) -> Result<Vec<T>, ConfigError> {
    each(&format!("{place}, {key}"), tables, read)
}

fn each<T>(
    place: &str,
    tables: Vec<Table>,
    read: impl Fn(&str, Table) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    tables.into_iter().enumerate().map(|(i, table)| read(&format!("{place}[{i}]"), table)).collect()
}

fn written<T: Serialize>(place: &str, values: &[T]) -> Result<Vec<Table>, ConfigError> {
    values.iter().map(|value| write(place, value)).collect()
}
