//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod compare;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod hub;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod pareto;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod selftest;
pub(crate) mod shell;
pub(crate) mod verify;
