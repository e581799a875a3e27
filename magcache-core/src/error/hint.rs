//! Hints: what to do about an error, kept apart from its message.

use std::{error::Error, fmt};

/// An error that can suggest a remedy, if possible as text that can be typed. A configuration key is written
/// as in the file, `` `flow_shift = 3` ``; a program may translate it into a flag.
///
/// Register the type with [`hints!`](crate::hints), so that [`of`] finds it in any chain of errors.
pub trait Hint: Error {
    /// What to do about the error, if known.
    fn hint(&self) -> Option<String>;
}

/// How to get the hint from errors of one type.
#[derive(Debug)]
pub struct Known(#[doc(hidden)] pub fn(&(dyn Error + 'static)) -> Option<String>);

inventory::collect!(Known);

/// Registers error types with [`hint::of`](crate::hint::of). Each implements [`Hint`](crate::hint::Hint), or,
/// if its crate cannot depend on this one, has a method of the same name and signature.
#[macro_export]
macro_rules! hints {
    ($($error:ty),+ $(,)?) => {
        $($crate::inventory::submit! {
            $crate::hint::Known(|error| {
                // Named once, so that a type with a method of its own leaves no unused import.
                use $crate::hint::Hint;
                let _: Option<&dyn Hint> = None;
                error.downcast_ref::<$error>().and_then(|error| error.hint())
            })
        })+
    };
}

/// The first hint of an error and its sources, including errors wrapped in candle errors.
pub fn of(error: &(dyn Error + 'static)) -> Option<String> {
    let known = inventory::iter::<Known>.into_iter().find_map(|known| known.0(error));
    let found = known.or_else(|| inside(error.downcast_ref()?));
    found.or_else(|| of(error.source()?))
}

/// The hint of an error wrapped by candle, which does not expose it as a source.
fn inside(error: &candle_core::Error) -> Option<String> {
    use candle_core::Error as E;
    match error {
        E::Wrapped(text) => Some(format!("{text:#}").split_once(MARK)?.1.to_owned()),
        E::WithBacktrace { inner, .. } | E::Context { inner, .. } | E::WithPath { inner, .. } => {
            inside(inner)
        }
        E::WrappedContext { wrapped, .. } => of(wrapped.as_ref()),
        _ => None,
    }
}

/// Separates a message from its hint.
const MARK: &str = "\nhint: ";

/// An error as candle holds it. Candle keeps only the text of what it wraps, so the alternate form carries
/// the hint.
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

/// The text of an error and, on a line of its own, its hint.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let hint = of(error).map(|hint| format!("{MARK}{hint}")).unwrap_or_default();
    format!("{error}{hint}")
}

/// Wraps an error in a candle error that keeps the hint.
pub fn wrap(error: impl Error + 'static) -> candle_core::Error {
    candle_core::Error::wrap(Wrapped { message: error.to_string(), hint: of(&error) })
}

/// A candle error with a hint.
pub fn tensor_error(message: impl Into<String>, hint: impl Into<String>) -> candle_core::Error {
    candle_core::Error::wrap(Wrapped { message: message.into(), hint: Some(hint.into()) })
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
