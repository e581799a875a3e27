//! Caching strategies: one file each, with its configuration, its rule and its state.
//!
//! | strategy | decides from | paper |
//! |---|---|---|
//! | [`magcache`] | a calibrated curve; touches no tensor | arXiv 2506.09045 |
//! | [`teacache`] | how far a signal of the model moved | arXiv 2411.19108 |
//! | [`fbcache`] | how far the first block's residual moved | ParaAttention |
//! | [`combine`] | other strategies | |

pub mod combine;
pub mod fbcache;
pub mod magcache;
pub mod schedule;
pub mod teacache;

/// Keeps this crate, and so its registrations, in a binary that names nothing else of it.
pub fn link() {}
