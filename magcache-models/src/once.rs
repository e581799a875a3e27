//! Values that are computed on first use.

use std::cell::OnceCell;

/// `OnceCell::get_or_try_init`, which is not stable yet.
pub(crate) fn get_or_try_init<T, E>(
    cell: &OnceCell<T>,
    init: impl FnOnce() -> Result<T, E>,
) -> Result<&T, E> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = init()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}
