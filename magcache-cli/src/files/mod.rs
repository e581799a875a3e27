//! The files of a command: what they are called, what they say, and whether they may be written.

mod names;
mod writes;

pub(crate) use names::{config_of, folder_of, says, unused, utf8};
pub(crate) use writes::Writes;
