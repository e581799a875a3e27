//! The state that a session keeps between passes: slots, and the storage of tensors in them.

mod half;
mod slots;
mod storage;

pub use slots::{HookId, SlotKey, Slots};
pub use storage::{StoragePolicy, Stored};
