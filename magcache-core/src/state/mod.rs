//! What a session keeps between passes: slots, and how tensors are stored in them.

mod half;
mod slots;
mod storage;

pub use slots::{HookId, SlotKey, Slots};
pub use storage::{StoragePolicy, Stored};
