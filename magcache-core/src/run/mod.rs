//! The position of a pass in a run, and the steps of a run.

pub(crate) mod step;
pub(crate) mod trajectory;

pub use step::UnknownBranch;
pub use trajectory::steps_above;
