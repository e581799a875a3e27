//! Hints: what to do about an error, kept apart from its message.

#[cfg(feature = "candle")]
mod wrapped;

use std::error::Error;

#[cfg(feature = "candle")]
pub use wrapped::{tensor_error, wrap};

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
    #[cfg(feature = "candle")]
    let known = known.or_else(|| wrapped::hint(error.downcast_ref()?));
    known.or_else(|| of(error.source()?))
}

/// Separates a message from its hint.
const MARK: &str = "\nhint: ";

/// The text of an error and, on a line of its own, its hint.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let hint = of(error).map(|hint| format!("{MARK}{hint}")).unwrap_or_default();
    format!("{error}{hint}")
}
