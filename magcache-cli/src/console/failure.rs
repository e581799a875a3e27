//! How a command ends when it does not end well: message, hint and exit code.

use anyhow::Error;
use magcache_core::ConfigError;
use magcache_models::{
    checkpoint::CheckpointError, image::PictureError, pipeline::PipelineError, sampler::SamplerError,
};

use super::interrupt;
use crate::media::MediaError;

/// Something wrong with what was typed or given, found by this program itself.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct BadInput {
    message: String,
    hint: Option<String>,
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
        let mut hint = error.chain().find_map(own_hint);
        // Errors of the libraries end with their hint.
        let mut chain = error.chain().map(|cause| {
            let text = cause.to_string();
            match text.split_once(HINT) {
                Some((message, rest)) => {
                    hint.get_or_insert_with(|| rest.to_owned());
                    message.to_owned()
                }
                None => text,
            }
        });
        let message = chain.next().unwrap_or_default();
        let causes = chain.collect();
        Self { message, causes, hint }
    }
}

/// How the end of a message begins that says what to do.
const HINT: &str = "\nhint: ";

fn own_hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(e) = cause.downcast_ref::<BadInput>() {
        return e.hint.clone();
    }
    if let Some(e) = cause.downcast_ref::<PipelineError>() {
        return e.hint();
    }
    cause.downcast_ref::<ConfigError>().and_then(ConfigError::hint)
}
