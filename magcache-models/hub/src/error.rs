//! What can go wrong with a model on the hub.

use std::{io, path::PathBuf};

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The hub has no such model, or it is private.
    #[error("the hub has no model {name}")]
    NotFound {
        /// The model.
        name: String,
    },
    /// The model is there for those who may have it.
    #[error("the hub does not let us have {name} (status {status})")]
    Denied {
        /// The model.
        name: String,
        /// 401 or 403.
        status: u16,
    },
    /// Nothing may be asked of the network, and something is missing.
    #[error("{name} is not complete in {}, and the network is not to be used", cache.display())]
    Offline {
        /// The model.
        name: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub could not be asked.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// What was received is not what the hub lists.
    #[error("{file} of {name} has the checksum {found}, the hub lists {expected}")]
    WrongChecksum {
        /// The file.
        file: String,
        /// The model.
        name: String,
        /// Of what the hub has.
        expected: String,
        /// Of what came.
        found: String,
    },
    /// An answer that cannot be understood.
    #[error("the hub answered something else than a list of files for {name}: {reason}")]
    BadAnswer {
        /// The model.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No room for what is to be downloaded.
    #[error("{name} needs {needed} bytes more in {}, {free} are free", cache.display())]
    NoSpace {
        /// The model.
        name: String,
        /// Bytes to download.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// The cache.
        cache: PathBuf,
    },
    /// Several files, of which one has to be named.
    #[error("{name} has {}: which one?", what)]
    Ambiguous {
        /// The model.
        name: String,
        /// Number and kind of the files.
        what: String,
        /// Words that tell them apart.
        variants: Vec<String>,
    },
    /// A repository without weights that are read here.
    #[error("{name} has no weights that are read here")]
    NoWeights {
        /// The model.
        name: String,
    },
    /// A repository without a tokenizer.
    #[error("{name} has no tokenizer that is read here")]
    NoTokenizer {
        /// The model.
        name: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl HubError {
    /// Whether another name or another setting helps, and not another time.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Unreachable { .. } | Self::Io { .. } | Self::WrongChecksum { .. })
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { name } => {
                format!("is it spelled like https://huggingface.co/{name}? A private model needs HF_TOKEN")
            }
            Self::Denied { name, .. } => format!(
                "accept its licence on https://huggingface.co/{name}, then set HF_TOKEN to a token that may read it"
            ),
            Self::Offline { name, .. } => {
                format!("unset HF_HUB_OFFLINE, or run `magcache pull {name}` where there is a network")
            }
            Self::Unreachable { .. } => {
                "what has come so far is kept: the same command goes on. HF_ENDPOINT names a mirror"
                    .to_owned()
            }
            Self::WrongChecksum { .. } => "it was removed: the same command downloads it again".to_owned(),
            Self::NoSpace { .. } => "HF_HOME names a folder on a larger disk".to_owned(),
            Self::Ambiguous { name, variants, .. } => {
                format!("{name}:VARIANT with one of {}", variants.join(", "))
            }
            Self::NoTokenizer { .. } => {
                "tokenizer.json, vocab.json with merges.txt, and spiece.model are read".to_owned()
            }
            Self::NoWeights { .. } => "safetensors, GGUF and PyTorch files are read".to_owned(),
            Self::BadAnswer { .. } | Self::Io { .. } => return None,
        })
    }
}
