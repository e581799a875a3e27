//! Hints inside candle errors, which keep only the text of what they wrap.

use std::{error::Error, fmt};

use super::{MARK, of};

/// An error as candle holds it: the alternate form carries the hint.
struct Wrapped {
    message: String,
    hint: Option<String>,
}

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) if f.alternate() => write!(f, "{MARK}{hint}"),
            _ => Ok(()),
        }
    }
}

/// Wraps an error in a candle error that keeps the hint. It captures no backtrace, which candle would print
/// as part of the message: the message and the hint are for whoever made the mistake.
pub fn wrap(error: impl Error + 'static) -> candle_core::Error {
    wrapped(error.to_string(), of(&error))
}

/// A candle error with a hint and no backtrace.
pub fn tensor_error(message: impl Into<String>, hint: impl Into<String>) -> candle_core::Error {
    wrapped(message.into(), Some(hint.into()))
}

fn wrapped(message: String, hint: Option<String>) -> candle_core::Error {
    candle_core::Error::Wrapped(Box::new(Wrapped { message, hint }))
}

/// The hint of an error wrapped by candle, which does not expose it as a source.
pub(super) fn hint(error: &candle_core::Error) -> Option<String> {
    use candle_core::Error as E;
    match error {
        E::Wrapped(text) => Some(format!("{text:#}").split_once(MARK)?.1.to_owned()),
        E::WithBacktrace { inner, .. } | E::Context { inner, .. } | E::WithPath { inner, .. } => hint(inner),
        E::WrappedContext { wrapped, .. } => of(wrapped.as_ref()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_found_wherever_it_is() {
        let unknown = || crate::ConfigError::UnknownName {
            place: "p".to_owned(),
            kind: "strategy",
            name: "magcash".to_owned(),
            nearest: Some("magcache".to_owned()),
        };
        let found = Some("did you mean \"magcache\"?");
        assert_eq!(of(&unknown()).as_deref(), found);
        let wrapped = wrap(unknown());
        assert_eq!(wrapped.to_string().lines().next(), Some("p: unknown strategy \"magcash\""));
        assert_eq!(of(&wrapped).as_deref(), found);
        assert_eq!(of(&wrapped.context("outer").with_path("file")).as_deref(), found);
        let context =
            candle_core::Error::WrappedContext { wrapped: Box::new(unknown()), context: String::new() };
        assert_eq!(of(&context).as_deref(), found);
        assert_eq!(of(&tensor_error("m", "do it")).as_deref(), Some("do it"));
        assert_eq!(of(&candle_core::Error::Msg("m".to_owned())), None);
        // The hint of a source, and an error type whose hint is `None`.
        let missing = crate::calibrate::RecordingError::Missing("x".to_owned());
        assert_eq!(of(&missing), None);
    }
}
