//! The bytes of one file, wherever they are.

use std::{borrow::Cow, ops::Range, path::Path};

use super::{CheckpointError, mmap::MappedFile};

/// Bytes on disk, mapped, or in memory.
#[derive(Debug)]
pub(super) enum Blob {
    Mapped(MappedFile),
    Memory(Cow<'static, [u8]>),
}

impl Blob {
    pub(super) fn map(path: &Path) -> Result<Self, CheckpointError> {
        MappedFile::open(path)
            .map(Self::Mapped)
            .map_err(|source| CheckpointError::Io { path: path.to_owned(), source })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Memory(bytes) => bytes,
        }
    }

    /// Tells the system that a range is about to be read.
    pub(super) fn will_need(&self, range: Range<usize>) {
        if let Self::Mapped(file) = self {
            file.will_need(range);
        }
    }

    /// Tells the system that a range will not be read again soon.
    pub(super) fn release(&self, range: Range<usize>) {
        if let Self::Mapped(file) = self {
            file.release(range);
        }
    }
}
