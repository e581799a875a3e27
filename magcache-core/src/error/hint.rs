//! What to do about an error, apart from what is wrong.

use std::{error::Error, fmt};

/// An error that knows what to do about it, in words that can be typed where possible. A key of a configuration is named as
/// it stands there, as in `` `flow_shift = 3` ``: a program may have a flag for it.
///
/// [`hints!`](crate::hints) makes it known, so that [`of`] finds it in every chain of errors.
pub trait Hint: Error {
    /// What to do about it, where it knows.
    fn hint(&self) -> Option<String>;
}

/// How errors of one type are asked.
#[derive(Debug)]
pub struct Known(#[doc(hidden)] pub fn(&(dyn Error + 'static)) -> Option<String>);

inventory::collect!(Known);

/// Makes errors of these types known to [`hint::of`](crate::hint::of): each is [`Hint`](crate::hint::Hint), or has a method
/// of that name and form because its crate stands below this one.
#[macro_export]
macro_rules! hints {
    ($($error:ty),+ $(,)?) => {
        $($crate::inventory::submit! {
            $crate::hint::Known(|error| {
                #[allow(unused_imports, reason = "a type may have the method itself")]
                use $crate::hint::Hint as _;
                error.downcast_ref::<$error>().and_then(|error| error.hint())
            })
        })+
    };
}

/// The first hint of an error and its sources, those inside errors of candle among them.
pub fn of(error: &(dyn Error + 'static)) -> Option<String> {
    let known = inventory::iter::<Known>.into_iter().find_map(|known| known.0(error));
    let found = known.or_else(|| inside(error.downcast_ref()?));
    found.or_else(|| of(error.source()?))
}

/// The same for what candle wraps, which are no sources of its errors.
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

/// What stands between a message and its hint.
const MARK: &str = "\nhint: ";

/// What candle holds: it keeps nothing but the text of what it wraps, so the hint is in the alternate form of that.
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

/// An error and, on a line of its own, its hint.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let hint = of(error).map(|hint| format!("{MARK}{hint}")).unwrap_or_default();
    format!("{error}{hint}")
}

/// An error as one of candle that keeps its hint.
pub fn wrap(error: impl Error + 'static) -> candle_core::Error {
    candle_core::Error::wrap(Wrapped { message: error.to_string(), hint: of(&error) })
}

/// An error of candle with a hint.
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
        // Of a source, and of an error whose own hint is none.
        let missing = crate::calibrate::RecordingError::Missing("x".to_owned());
        assert_eq!(of(&missing), None);
    }
}
