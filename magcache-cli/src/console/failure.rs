//! How a failed command ends: message, hint and exit code. Hints of libraries name keys of a configuration;
//! here they become the flags that the user types.

use anyhow::Error;
use clap::CommandFactory;
use magcache_core::{
    ConfigError,
    error::nearest,
    hint::{self, Hint},
};
use magcache_hub::HubError;
use magcache_models::{
    checkpoint::CheckpointError, image::PictureError, pipeline::PipelineError, sampler::SamplerError,
};

use super::interrupt;
use crate::{args::Args, media::MediaError};

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

/// An error that is reported elsewhere: by another rank, or already. Its exit code counts.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) Error);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Told {}

/// An error with exit code 2.
pub(crate) fn bad_input(message: impl Into<String>) -> Error {
    BadInput { message: message.into(), hint: None }.into()
}

/// An error with exit code 2 and a hint that can be typed.
pub(crate) fn bad_input_with(message: impl Into<String>, hint: impl Into<String>) -> Error {
    BadInput { message: message.into(), hint: Some(hint.into()) }.into()
}

/// The hint for a name that is none of `known`: the nearest of them, or `otherwise`.
pub(crate) fn did_you_mean<'k>(name: &str, known: impl Iterator<Item = &'k str>, otherwise: &str) -> String {
    nearest(name, known).map_or_else(|| otherwise.to_owned(), |near| format!("did you mean {near:?}?"))
}

/// An error with exit code 2: a library's error about the input at `place`, with its hint.
pub(crate) fn bad_input_at(place: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    BadInput { message: format!("{place}: {error}"), hint: hint::of(error) }.into()
}

/// 128 plus the signal's number if a signal stopped the run (130 for Ctrl-C), 2 for bad input, 1 for anything
/// else.
pub(crate) fn exit_code(error: &Error) -> u8 {
    if let Some(Told(error)) = error.downcast_ref() {
        return exit_code(error);
    }
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
            || cause.downcast_ref::<HubError>().is_some_and(HubError::is_bad_input)
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

/// The value of a key in a hint that means the key itself, whatever its value.
const ANY: &str = "N";

/// Rewrites the keys in a hint as flags: `` `flow_shift = 3` `` becomes `--flow-shift 3`, and
/// `` `guidance = N` `` becomes `--guidance`. Keys without a flag stay as they are.
pub(super) fn flags(hint: &str) -> String {
    let mut text = String::new();
    // Every second part is between backticks.
    for (place, part) in hint.split('`').enumerate() {
        let quoted = place % 2 == 1;
        let setting = part.split_once(" = ").filter(|_| quoted);
        match setting.and_then(|(key, value)| Some((flag(key)?, value))) {
            Some((flag, ANY)) => text += &format!("--{flag}"),
            Some((flag, value)) => text += &format!("--{flag} {}", value.trim_matches('"')),
            None if quoted => text += &format!("`{part}`"),
            None => text += part,
        }
    }
    text
}

/// The flag of a key: it has the same name, except for the table `[audit]`.
fn flag(key: &str) -> Option<String> {
    let name = if key == "fraction" { "audit".to_owned() } else { key.replace('_', "-") };
    let commands = Args::command();
    let mut known = commands.get_subcommands().flat_map(clap::Command::get_arguments);
    known.any(|argument| argument.get_long() == Some(&name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_set_are_flags() {
        let hint = "`sampler = \"euler\"`, or a static shift: `flow_shift = 3`";
        assert_eq!(flags(hint), "--sampler euler, or a static shift: --flow-shift 3");
        assert_eq!(flags("`fraction = 0.1`"), "--audit 0.1");
        let named = "`guidance = N` is its scale of classifier-free guidance";
        assert_eq!(flags(named), "--guidance is its scale of classifier-free guidance");
        for same in ["did you mean `steps`?", "remove `at`", "`warmup = 3` at least", "a b"] {
            assert_eq!(flags(same), same);
        }
    }
}
