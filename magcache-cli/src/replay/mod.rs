//! Writes decisions to files and reads them back: traces, exported schedules and compute masks.

pub(crate) mod exchange;
mod schedule;
pub(crate) mod trace;
