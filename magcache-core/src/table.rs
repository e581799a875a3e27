//! TOML tables, read strictly and written.

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{ConfigError, error::syntax};

/// Reads a table strictly; serde's "unknown field" becomes an error with the nearest known key.
pub(crate) fn read<T: DeserializeOwned>(place: &str, table: Table) -> Result<T, ConfigError> {
    Value::Table(table).try_into().map_err(|e: toml::de::Error| syntax(place, &e))
}

/// The table that [`read`] reads back; `place` names the value in errors.
///
/// Errors: a value that TOML cannot hold, or one that is no table.
pub(crate) fn write<T: Serialize + ?Sized>(place: &str, value: &T) -> Result<Table, ConfigError> {
    match Value::try_from(value) {
        Ok(Value::Table(table)) => Ok(table),
        Ok(other) => Err(syntax(place, &format!("its keys are no table: {other}"))),
        Err(e) => Err(syntax(place, &e)),
    }
}
