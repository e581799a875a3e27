//! Decisions as files, and the way back: traces, exported schedules and compute masks.

pub(crate) mod exchange;
mod schedule;
pub(crate) mod trace;
