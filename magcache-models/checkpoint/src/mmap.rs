//! A file mapped into memory: the only `unsafe` code in the libraries.
//!
//! Why it is sound. A mapping is only exposed as `&[u8]`, read-only and private to this process. Two things
//! outside Rust's control could still change or remove those bytes:
//!
//! * another process writes to or truncates the file while it is mapped. The bytes may then change between
//!   two reads, or a read may fault (SIGBUS). Every mapping of a file has this hazard; checkpoints are not
//!   edited while they load, readers copy values out before interpreting them, and no reader relies on two
//!   reads being equal;
//! * [`MappedFile::release`] tells the system that pages are not needed now. For a private mapping that
//!   nobody wrote to, `MADV_DONTNEED` drops the resident copy; the next read brings the same file contents
//!   back, so slices handed out before stay valid.
#![expect(unsafe_code, reason = "mapping a file, and telling the system which pages are no longer read")]

use std::{fs::File, io, ops::Range, path::Path};

use memmap2::Mmap;

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub(super) struct MappedFile(Mmap);

impl MappedFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and lives as long as the slices taken from it; see the module's
        // comment for changes from outside.
        unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }.map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Tells the system that a range is about to be read: it reads all of it at once, not page by page as
    /// they are touched. Its answer is ignored, because without it reading is slower and nothing else.
    pub(super) fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.0.len() {
            let _refused = self.0.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Returns the resident pages of a range that has been copied out to the system.
    ///
    /// Otherwise the file would stay resident next to the copies of its tensors, which takes twice the
    /// memory. If the system refuses, that costs memory, not correctness, so its answer is ignored.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.0.len() {
            // SAFETY: the range is inside the mapping, and the mapping is private and never written: see the
            // module's comment.
            let _refused = unsafe {
                self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
