//! How much was fetched for blocks that are lent.

use std::{
    ops::Sub,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Counts what is asked for: since what is fetched follows from the calls alone, so do the counts, however
/// long a file or another rank takes. Cloning copies a handle.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    blocks: AtomicU64,
    bytes: AtomicU64,
}

/// What was fetched so far, or between two of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Blocks, as often as each was fetched.
    pub blocks: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Traffic {
    /// Everything up to now.
    pub fn fetched(&self) -> Fetched {
        let Counts { blocks, bytes } = &*self.0;
        Fetched { blocks: blocks.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
    }

    pub(super) fn add(&self, bytes: u64) {
        self.0.blocks.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Sub for Fetched {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { blocks: self.blocks - before.blocks, bytes: self.bytes - before.bytes }
    }
}
