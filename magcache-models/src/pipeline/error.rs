//! Errors of a generation.

use magcache_core::{
    ConfigError,
    hint::{self, Hint},
    snapshot::SnapshotError,
};

use crate::{autoencoder::AutoencoderError, checkpoint::CheckpointError, sampler::SamplerError};

/// A request that cannot be served, or a failure while serving it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// An invalid value of the request.
    #[error("{message}")]
    Request {
        /// What is wrong, with both values.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// An error in a checkpoint's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An error in a cache configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An error in a sampler's settings.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// An error of a part of the model that has its own error type.
    #[error("{part}: {source}")]
    Part {
        /// Which part.
        part: &'static str,
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// State that cannot be stored, or that belongs to another run.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The network predicted what is not finite.
    #[error("what the network predicted at step {step} is not finite")]
    NotFinite {
        /// The step.
        step: usize,
    },
    /// The caller asked to stop.
    #[error("interrupted at step {step} of {steps}")]
    Interrupted {
        /// Steps done.
        step: usize,
        /// Steps of the run.
        steps: usize,
    },
    /// The consumer of the frames failed.
    #[error("cannot write the frames: {0}")]
    Sink(Box<dyn std::error::Error + Send + Sync>),
}

impl PipelineError {
    /// A request that cannot be served.
    pub fn request(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Request { message: message.into(), hint: Some(hint.into()) }
    }

    /// A tensor error that says what is wrong with the request.
    pub(crate) fn refused(error: candle_core::Error) -> Self {
        Self::Request { hint: hint::of(&error), message: error.to_string() }
    }

    /// The error of a part.
    pub fn part(part: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Part { part, source: source.into() }
    }

    /// Whether the input was wrong rather than the run.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Tensor(_) | Self::NotFinite { .. } | Self::Interrupted { .. } | Self::Sink(_))
    }
}

impl Hint for PipelineError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Request { hint, .. } => hint.clone(),
            Self::Checkpoint(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Sampler(error) => error.hint(),
            Self::Tensor(error) => hint::of(error),
            Self::Sink(error) => hint::of(error.as_ref()),
            _ => None,
        }
    }
}

impl From<AutoencoderError> for PipelineError {
    fn from(error: AutoencoderError) -> Self {
        match error {
            AutoencoderError::Tensor(error) => Self::Tensor(error),
            other => Self::part("autoencoder", other),
        }
    }
}
