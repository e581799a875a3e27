//! When to skip: the trait that a strategy author implements, and the adapter between it and the chain.

#[cfg(feature = "candle")]
mod adapter;
#[cfg(feature = "candle")]
pub(crate) mod cache;
#[cfg(feature = "candle")]
mod erased;
pub(crate) mod guards;
#[cfg(feature = "candle")]
pub(crate) mod head;
#[cfg(feature = "candle")]
mod measured;
pub(crate) mod rule;
pub(crate) mod verdict;

#[cfg(feature = "candle")]
pub use adapter::CacheHook;
#[cfg(feature = "candle")]
pub use cache::SlotState;
#[cfg(feature = "candle")]
pub use erased::{AnyCache, AnyState};
pub use guards::Branches;
#[cfg(feature = "candle")]
pub(crate) use measured::Measured;
pub use rule::{Measure, Norm, Quantity, Seen, Since};
pub use verdict::{Base, History};
