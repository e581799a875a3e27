//! Configuration: `[[cache]]` tables to hooks.
//!
//! A table names a strategy and holds its keys beside the words that every strategy has in common. Every key is
//! read by somebody or refused; every problem of a configuration is reported at once.

mod entry;
mod exclusion;
mod fixed;
pub(crate) mod plan;
mod residuals;
pub(crate) mod strategy;
mod words;

pub use entry::CacheEntry;
pub use fixed::{FixedSteps, Skips};
pub use plan::Built;
pub use residuals::Residuals;
pub use words::{Given, Words};
