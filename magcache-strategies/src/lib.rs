//! Caching strategies: one file each, with configuration, rule and state.
//!
//! | strategy | decides from | paper |
//! |---|---|---|
//! | [`magcache`] | a calibrated curve; touches no tensor | arXiv 2506.09045 |
//! | [`teacache`] | how far a signal of the model moved | arXiv 2411.19108 |
//! | [`fbcache`] | how far the first block's residual moved | `ParaAttention` |
//! | [`dbcache`] | how far the residual of the first blocks moved | cache-dit |
//! | [`dicache`] | how far what leaves the first blocks moved | arXiv 2508.17356 |
//! | [`seacache`] | how far the latents moved, filtered of noise | arXiv 2602.18993 |
//! | [`easycache`] | how far the latents moved, times the output's rate of change | arXiv 2507.02860 |
//! | [`sencache`] | how far latents and timestep moved, times calibrated sensitivities | arXiv 2602.24208 |
//! | [`cfg_cache`] | a fixed schedule for the unconditional branch | arXiv 2410.19355 |
//! | [`meancache`] | a published schedule | arXiv 2601.19961 |
//! | [`schedule`] | a list of steps | |
//! | [`combine`] | other strategies | |
//!
//! `MagCache`, `TeaCache`, `FBCache`, `DBCache`, `DiCache`, `SeaCache` and a schedule act on blocks;
//! `EasyCache`, `SenCache`, `MeanCache` and the CFG cache on whole forwards. The forecast for skipped blocks
//! is chosen independently: [`taylor`] works with any of them, that of [`dicache`] with those on blocks.

#[cfg(feature = "candle")]
pub mod cfg_cache;
#[cfg(feature = "candle")]
pub mod combine;
pub mod dbcache;
#[cfg(feature = "candle")]
pub mod dicache;
#[cfg(feature = "candle")]
pub mod easycache;
pub mod fbcache;
pub mod magcache;
#[cfg(feature = "candle")]
pub mod meancache;
mod published;
pub mod schedule;
#[cfg(feature = "candle")]
pub mod seacache;
#[cfg(feature = "candle")]
pub mod sencache;
#[cfg(feature = "candle")]
pub mod taylor;
pub mod teacache;

/// The strategies shown when none is named, the one to try first in front.
pub const SHOWN: [&str; 3] = ["magcache", "teacache", "fbcache"];

/// Keeps this crate, and so its registrations, in a binary that names nothing else of it.
pub fn link() {}
