//! Quality against computed steps: strategies, planned schedules and fewer steps on the same axes.

mod contender;
mod points;

pub(crate) use contender::{Contender, Setting};
pub(crate) use points::{Point, Points, margin, with_error};
