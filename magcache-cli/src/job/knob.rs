//! The key of a strategy that a target sets.

use anyhow::Result;
use magcache_core::{config::CacheEntry, meta};

use crate::console::bad_input_with;

pub(super) const LEAVE: &str = "leave out --cache: the planner chooses a schedule from the profile";

/// The key and the range to search.
#[derive(Clone, Debug)]
pub(crate) struct Knob {
    pub(crate) key: String,
    /// From a value that skips little to one that skips much.
    pub(crate) range: [f64; 2],
    /// True if the key takes whole numbers.
    pub(crate) whole: bool,
}

impl Knob {
    /// The key of the strategy of a `[[cache]]` table.
    ///
    /// Errors: the strategy is unknown or has no such key.
    pub(crate) fn of(table: &toml::Table) -> Result<Self> {
        let name = table.get("strategy").and_then(toml::Value::as_str).unwrap_or_default();
        let known = meta::strategies();
        let Some(info) = known.iter().find(|info| info.name == name) else {
            return Err(match CacheEntry::from_table("cache[0]", table.clone()) {
                Err(error) => error.into(),
                Ok(_) => bad_input_with(format!("unknown strategy {name:?}"), "magcache list"),
            });
        };
        let keys = (info.keys)();
        let Some((key, range)) = keys.target() else {
            return Err(bad_input_with(format!("{name:?} has no key that a target could set"), LEAVE));
        };
        Ok(Self { key: key.name.clone(), range, whole: key.kind == "whole number" })
    }

    /// `table` with the key set to `value`, rounded if the key takes whole numbers.
    pub(crate) fn set(&self, table: &toml::Table, value: f64) -> toml::Table {
        let mut table = table.clone();
        let value =
            if self.whole { toml::Value::Integer(value.round() as i64) } else { toml::Value::Float(value) };
        table.insert(self.key.clone(), value);
        table
    }
}
