//! The state that a session keeps between passes: slots, and the storage of tensors in them.

#[cfg(feature = "candle")]
mod half;
#[cfg(feature = "candle")]
mod kept;
#[cfg(feature = "candle")]
mod pinned;
mod slots;
#[cfg(feature = "candle")]
mod storage;

#[cfg(feature = "candle")]
pub use pinned::HostBuffers;
pub use slots::{HookId, SlotKey, Slots};
#[cfg(feature = "candle")]
pub use storage::{StoragePolicy, Stored};
