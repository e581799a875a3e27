//! The state that a session keeps between passes: slots, and the storage of tensors in them.

#[cfg(feature = "candle")]
mod half;
mod slots;
#[cfg(feature = "candle")]
mod storage;

pub use slots::{HookId, SlotKey, Slots};
#[cfg(feature = "candle")]
pub use storage::{StoragePolicy, Stored};
