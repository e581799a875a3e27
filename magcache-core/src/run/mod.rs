//! The position of a pass in a run, and the steps of a run.

mod cursor;
pub(crate) mod step;
pub(crate) mod trajectory;

pub use cursor::{Cursor, NoStep};
pub use step::UnknownBranch;
pub use trajectory::steps_above;
