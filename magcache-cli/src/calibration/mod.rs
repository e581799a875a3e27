//! Profiles measured here: their conditions, their rows, and the runs they are valid for.

mod conditions;
mod cost;
pub(crate) mod diff;
mod file;
pub(crate) mod judge;
mod rehearse;
mod verdict;

pub(crate) use conditions::{Conditions, Facts, facts};
pub(crate) use cost::skipped_cost;
pub(crate) use file::{Measured, Planning, rows_of};
pub(crate) use rehearse::{Extent, Watched};
pub(crate) use verdict::Judged;
