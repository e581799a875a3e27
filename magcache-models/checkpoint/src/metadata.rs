//! What a file says besides its tensors.

use std::collections::BTreeMap;

use super::gguf::Value;

/// The entries of a file's header.
#[derive(Clone, Debug)]
pub(crate) enum Metadata {
    /// Texts: `__metadata__` of a safetensors file; empty for PyTorch's.
    Texts(BTreeMap<String, String>),
    /// Values of a GGUF file.
    Gguf(BTreeMap<String, Value>),
}

impl Default for Metadata {
    fn default() -> Self {
        Self::Texts(BTreeMap::new())
    }
}

impl Metadata {
    /// A text by its key.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self {
            Self::Texts(texts) => texts.get(key).map(String::as_str),
            Self::Gguf(values) => match values.get(key)? {
                Value::Text(text) => Some(text),
                _ => None,
            },
        }
    }

    /// A value of a GGUF file.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Texts(_) => None,
            Self::Gguf(values) => values.get(key),
        }
    }
}
