//! Between the program and who started it: the command line, answers, progress, errors, the log and signals.

mod failure;
mod flags;
mod interrupt;
mod output;
mod parse;
pub(crate) mod verbose;

pub(crate) use failure::{Failed, Told, bad_input, bad_input_at, bad_input_with};
pub(crate) use interrupt::Interrupt;
pub(crate) use output::Output;
pub(crate) use parse::parse;
