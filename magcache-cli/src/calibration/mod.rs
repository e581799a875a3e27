//! Profiles measured here: their conditions, their rows, and the runs they are valid for.

mod conditions;
mod cost;
pub(crate) mod diff;
mod file;
pub(crate) mod judge;
mod plans;
mod rehearse;
mod verdict;

pub(crate) use conditions::{Conditions, Facts, facts};
pub(crate) use cost::costs;
pub(crate) use file::{Measured, rows_of};
pub(crate) use plans::Planning;
use plans::plans;
pub(crate) use rehearse::{Extent, Watched};
pub(crate) use verdict::Judged;
