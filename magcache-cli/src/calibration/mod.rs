//! Profiles that were measured here: under which conditions, and from which rows.

mod conditions;
mod file;

pub(crate) use conditions::Conditions;
pub(crate) use file::{Measured, rows_beside};
