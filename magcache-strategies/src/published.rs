//! What profiles have for a strategy: the settings that were published for their model, as
//! `[[part.STRATEGY]]` with the source of each.

use magcache_core::{BuildCx, ConfigError};
use serde::de::DeserializeOwned;

/// The settings for the strategy of this name in the profile of a table, the default first: those of the
/// variant that the table names, or all of them.
///
/// Errors: an unknown variant, or keys that the strategy does not know.
pub(crate) fn published<T: DeserializeOwned>(cx: &BuildCx<'_>, name: &str) -> Result<Vec<T>, ConfigError> {
    let place = || format!("profile {:?}, part.{name}", cx.words.profile().map_or("", |own| &own.name));
    cx.words.parts(name)?.into_iter().map(|part| part.read(&place())).collect()
}
