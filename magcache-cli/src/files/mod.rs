//! The files of a command: their names, their content, and whether they may be written.

mod names;
mod writes;

pub(crate) use names::{config_of, folder_of, has_content, unused, utf8, wrote};
pub(crate) use writes::Writes;
