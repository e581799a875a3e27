//! Strict reading of `config.json`: a key that nothing here reads is an error.

use std::fmt::Display;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{CheckpointError, Folder};

/// Why a `config.json` does not describe a model that is implemented here; who reads the file names it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or a value of the wrong type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The file belongs to another model class.
    #[error("`_class_name` is `{got}`, expected `{expected}`")]
    Class {
        /// What the file says.
        got: String,
        /// The expected class.
        expected: &'static str,
        /// Where such a file usually comes from.
        hint: String,
    },
    /// A key that could change the network and that nothing here reads.
    #[error("unknown key `{key}` = {value}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value as JSON.
        value: String,
    },
    /// A value that the network cannot be built with.
    #[error("`{key}` is {value}, {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value as written.
        value: String,
        /// What it should be.
        expected: String,
    },
}

impl ConfigError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Class { hint, .. } => Some(hint.clone()),
            Self::UnknownKey { .. } => Some("this build knows the keys of diffusers 0.42.1".to_owned()),
            _ => None,
        }
    }
}

/// Reads a configuration of the class `expected` of a `family` of models, without checking its values.
///
/// Keys that start with `_` are ignored, and so are those in `unused`, which published files contain although
/// no network reads them. Any other key that `T` does not have is an error, because it may stand for a part
/// of the network that would be left out silently.
pub fn read<T>(text: &str, expected: &'static str, family: &str, unused: &[&str]) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let map: Map<String, Value> = serde_json::from_str(text)?;
    if let Some(class) = map.get("_class_name").filter(|class| *class != expected) {
        let got = class.as_str().map_or_else(|| class.to_string(), str::to_owned);
        return Err(ConfigError::Class { hint: class_hint(&got, family), expected, got });
    }
    let read = |key: &str| !key.starts_with('_') && !unused.contains(&key);
    let map: Map<String, Value> = map.into_iter().filter(|(key, _)| read(key)).collect();
    let known = serde_json::to_value(T::default())?;
    if let Some((key, value)) = map.iter().find(|(key, _)| known.get(key.as_str()).is_none()) {
        return Err(ConfigError::UnknownKey { key: key.clone(), value: value.to_string() });
    }
    Ok(serde_json::from_value(Value::Object(map))?)
}

/// Reads a configuration file with a parser of its text; `hint` tells what to do about the parser's errors.
///
/// # Errors
/// [`CheckpointError::Config`] with the file, and those of reading it.
pub fn read_file<T, E: Display>(
    folder: &Folder,
    file: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    hint: impl FnOnce(&E) -> Option<String>,
) -> Result<T, CheckpointError> {
    parse(&folder.read_to_string(file)?).map_err(|error| CheckpointError::Config {
        file: folder.describe_file(file),
        reason: error.to_string(),
        hint: hint(&error),
    })
}

/// The key that every configuration of transformers has.
#[derive(Debug, Deserialize)]
pub struct ModelType {
    /// Missing in files of other programs.
    pub model_type: Option<String>,
}

impl ModelType {
    /// Checks that it is one of those `expected`; the message calls the file `place`.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`].
    pub fn check(self, expected: &[&str], place: &str) -> Result<(), CheckpointError> {
        let found = self.model_type.unwrap_or_default();
        if expected.contains(&found.as_str()) {
            return Ok(());
        }
        let expected = format!("{} as model_type", expected.join(" or "));
        Err(CheckpointError::WrongArchitecture { file: place.to_owned(), expected, found })
    }
}

/// `config` if it has no `fault`; the error calls its file `place`.
///
/// # Errors
/// [`CheckpointError::BadConfig`].
pub fn without_fault<T>(config: T, fault: Option<String>, place: &str) -> Result<T, CheckpointError> {
    match fault {
        None => Ok(config),
        Some(reason) => Err(CheckpointError::BadConfig { file: place.to_owned(), reason }),
    }
}

/// What is wrong with a number that is added before a division or a root.
pub fn small_number_fault(key: &str, value: f64) -> Option<String> {
    let fits = value.is_finite() && value > 0.0;
    (!fits).then(|| format!("{key} is {value}, expected a small positive number"))
}

/// A value that is not what it should be.
pub fn wrong(key: &'static str, value: &impl ToString, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), expected: expected.into() }
}

/// Checks that every value is at least 1; the error names the first that is not.
pub fn positive(values: &[(&'static str, usize)]) -> Result<(), ConfigError> {
    match values.iter().find(|(_, value)| *value == 0) {
        Some((key, value)) => Err(wrong(key, value, "expected at least 1")),
        None => Ok(()),
    }
}

/// For `#[serde(deserialize_with)]`: reads null as 0, for keys whose null means "the same as another key".
pub fn null_is_zero<'de, D: serde::Deserializer<'de>>(value: D) -> Result<usize, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

fn class_hint(class: &str, family: &str) -> String {
    let hint = match class {
        "FluxTransformer2DModel" => "this is a FLUX.1 model",
        "Flux2Transformer2DModel" => "this is a FLUX.2 model",
        "WanTransformer3DModel" => "this is a Wan model",
        "WanVACETransformer3DModel" | "WanAnimateTransformer3DModel" => {
            "VACE and Animate have blocks of their own, which are not implemented"
        }
        "AutoencoderKL" | "AutoencoderKLFlux2" | "AutoencoderKLWan" => {
            "this is the autoencoder; the transformer lies in the folder `transformer`"
        }
        _ => return format!("give the folder `transformer` of a {family} model in diffusers layout"),
    };
    hint.to_owned()
}
