//! The meaning of one network's recorded configuration here.

use magcache_core::config::Residuals;
use toml::Table;

/// The configuration of one network.
pub(super) enum Network {
    Dense,
    Measure,
    Tables { tables: Vec<Table>, residuals: Residuals },
    Unknown(String),
}

impl Network {
    pub(super) fn table(entries: impl IntoIterator<Item = (String, toml::Value)>) -> Self {
        Self::Tables { tables: vec![Table::from_iter(entries)], residuals: Residuals::default() }
    }
}

pub(super) fn integer(n: usize) -> toml::Value {
    toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}
