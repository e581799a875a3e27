//! The user interface: the command line, answers, progress, errors, the log and signals.

mod answers;
mod failure;
mod interrupt;
mod parse;
pub(crate) mod verbose;

pub(crate) use answers::Console;
pub(crate) use failure::{Failed, Failure, Told, bad_input, bad_input_at, bad_input_with, did_you_mean};
pub(crate) use interrupt::Interrupt;
pub(crate) use parse::parse;
