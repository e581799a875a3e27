//! The files of a command: their names, their content, and whether they may be written.

mod names;
mod writes;

pub(crate) use names::{config_of, folder_of, says, unused, utf8};
pub(crate) use writes::Writes;
