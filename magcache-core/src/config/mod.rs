//! Configuration: from `[[cache]]` tables to hooks.
//!
//! A table names a strategy and holds its keys along with the keys common to all strategies. A key that
//! nothing reads is refused, and all problems of a configuration are reported at once.

#[cfg(feature = "candle")]
mod build;
mod entry;
pub(crate) mod exclusion;
mod fixed;
pub(crate) mod plan;
mod residuals;
pub(crate) mod strategy;
mod words;

#[cfg(feature = "candle")]
pub use build::Built;
pub use entry::CacheEntry;
pub use fixed::{FixedSteps, Skips};
pub use residuals::{Residuals, byte_size};
pub use words::{Given, Words};
