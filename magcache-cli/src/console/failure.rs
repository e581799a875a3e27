//! How a failed command ends: message, hint and exit code.

use anyhow::Error;
use magcache_core::{
    ConfigError,
    hint::{self, Hint},
};
use magcache_models::{
    checkpoint::CheckpointError, image::PictureError, pipeline::PipelineError, sampler::SamplerError,
};

use super::{flags::flags, interrupt};
use crate::media::MediaError;

/// Invalid input that this program itself found.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct BadInput {
    message: String,
    hint: Option<String>,
}

magcache_core::hints!(BadInput);

impl Hint for BadInput {
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// A check that did not pass; its report is already printed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failed(pub(crate) String);

/// An error with exit code 2.
pub(crate) fn bad_input(message: impl Into<String>) -> Error {
    BadInput { message: message.into(), hint: None }.into()
}

/// An error with exit code 2 and a hint that can be typed.
pub(crate) fn bad_input_with(message: impl Into<String>, hint: impl Into<String>) -> Error {
    BadInput { message: message.into(), hint: Some(hint.into()) }.into()
}

/// An error with exit code 2: a library's error about the input at `place`, with its hint.
pub(crate) fn bad_input_at(place: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    BadInput { message: format!("{place}: {error}"), hint: hint::of(error) }.into()
}

/// 128 plus the signal's number if a signal stopped the run (130 for Ctrl-C), 2 for bad input, 1 for anything
/// else.
pub(crate) fn exit_code(error: &Error) -> u8 {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<PipelineError>() {
            return match error {
                PipelineError::Interrupted { .. } => interrupt::exit_code(),
                error if error.is_bad_input() => 2,
                _ => 1,
            };
        }
        if cause.is::<BadInput>()
            || cause.is::<ConfigError>()
            || cause.is::<CheckpointError>()
            || cause.is::<PictureError>()
            || cause.is::<SamplerError>()
            || cause.is::<MediaError>()
        {
            return 2;
        }
    }
    1
}

/// An error as reported to people and to scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    /// What to do about it, if known.
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn of(error: &Error) -> Self {
        let mut chain = error.chain().map(ToString::to_string);
        let message = chain.next().unwrap_or_default();
        Self { message, causes: chain.collect(), hint: hint::of(error.as_ref()).map(|hint| flags(&hint)) }
    }
}
