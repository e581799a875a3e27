//! Several ranks on one run: how they start, who speaks, and how all of them end.
//!
//! The first rank reads, writes, decodes and shows. The others say nothing: what goes wrong on one of them is
//! told to all, and the first one reports it. If that is impossible because the first one itself is silent,
//! each reports.

mod options;
mod parts;
mod same;
mod start;

pub(crate) use options::{is_first, way};
pub(crate) use parts::{of_all, own_part};
pub(crate) use same::{announce, check_same};
pub(crate) use start::{absent, start};
