//! The parts of the `magcache` program: what it writes and how it runs, apart from the entry point.

pub mod media;
