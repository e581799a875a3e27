//! One `[[cache]]` table.

use crate::{
    CacheConfig, ConfigError,
    config::Words,
    error::{WORDS, nearest, syntax},
    meta,
    profile::Part,
    table::{read, write},
};

/// One `[[cache]]` table.
#[derive(Debug)]
pub struct CacheEntry {
    /// The common keys.
    pub words: Words,
    /// The strategy's name.
    pub name: String,
    /// The strategy's own keys.
    pub config: Box<dyn CacheConfig>,
}

impl CacheEntry {
    /// Reads one table; `place` names it in errors.
    pub fn from_table(place: &str, mut table: toml::Table) -> Result<Self, ConfigError> {
        let name = match table.get("strategy") {
            Some(toml::Value::String(name)) => name.clone(),
            Some(other) => return Err(syntax(place, &format!("`strategy` is {other}, it must be a name"))),
            None => return Err(syntax(place, &"a table without `strategy`")),
        };
        let place = format!("{place} (strategy {name:?})");
        let known = meta::strategies();
        if !known.iter().any(|s| s.name == name) {
            let nearest = nearest(&name, known.iter().map(|s| s.name));
            return Err(ConfigError::UnknownName { place, kind: "strategy", name, nearest });
        }
        let mut words = toml::Table::new();
        for word in WORDS {
            if let Some(value) = table.remove(word) {
                words.insert(word.to_owned(), value);
            }
        }
        Ok(Self { words: read(&place, words)?, config: read(&place, table)?, name })
    }

    /// What the strategies of the table read from its profile, with their names.
    pub fn reads(&self) -> Vec<(&'static str, Part)> {
        fn all(config: &dyn CacheConfig) -> Vec<(&'static str, Part)> {
            let own = config.reads().into_iter().map(|part| (config.typetag_name(), part));
            own.chain(config.members().iter().flat_map(|member| all(&**member))).collect()
        }
        all(&*self.config)
    }

    /// Serialises the entry to a table that reads back as the same entry.
    pub fn to_table(&self) -> Result<toml::Table, ConfigError> {
        let place = format!("strategy {:?}", self.name);
        let mut table = write(&place, &self.config)?;
        table.extend(write(&place, &self.words)?);
        Ok(table)
    }
}
