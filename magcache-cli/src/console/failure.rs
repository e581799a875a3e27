//! How a command ends when it does not end well: message, hint and exit code.

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

/// Something wrong with what was typed or given, found by this program itself.
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

/// A check whose answer is no: its report is already printed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failed(pub(crate) String);

/// An error with exit code 2.
pub(crate) fn bad_input(message: impl Into<String>) -> Error {
    BadInput { message: message.into(), hint: None }.into()
}

/// An error with exit code 2 and something that can be typed.
pub(crate) fn bad_input_with(message: impl Into<String>, hint: impl Into<String>) -> Error {
    BadInput { message: message.into(), hint: Some(hint.into()) }.into()
}

/// An error with exit code 2: that of a library about what is at `place`, with its hint.
pub(crate) fn bad_input_at(place: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    BadInput { message: format!("{place}: {error}"), hint: hint::of(error) }.into()
}

/// 128 and the signal's number where one stopped it (130 for Ctrl-C), 2 bad input, 1 anything else.
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

/// What an error says, for people and for scripts.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    /// What to do about it, where somebody knows.
    pub(crate) hint: Option<String>,
}

impl Told {
    pub(crate) fn of(error: &Error) -> Self {
        let mut chain = error.chain().map(ToString::to_string);
        let message = chain.next().unwrap_or_default();
        Self { message, causes: chain.collect(), hint: hint::of(error.as_ref()).map(|hint| flags(&hint)) }
    }
}
