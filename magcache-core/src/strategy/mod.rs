//! When to skip: the trait that a strategy author implements, and the adapter between it and the chain.

mod adapter;
pub(crate) mod cache;
mod erased;
pub(crate) mod guards;
pub(crate) mod head;
pub(crate) mod verdict;

pub use adapter::CacheHook;
pub use cache::SlotState;
pub use erased::{AnyCache, AnyState};
pub use guards::Branches;
pub use verdict::{Base, History};
