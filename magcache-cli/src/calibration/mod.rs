//! Profiles that were measured here: under which conditions, and from which rows.

mod conditions;
mod cost;
mod file;
mod plans;
mod rehearse;

pub(crate) use conditions::Conditions;
pub(crate) use cost::skipped_cost;
pub(crate) use file::{Measured, rows_beside};
pub(crate) use rehearse::{Extent, Watched};
