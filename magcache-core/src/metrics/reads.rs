//! How often metrics read tensors back: on a GPU, each time waits for all that was started before.

#[cfg(feature = "testing")]
use std::cell::Cell;

#[cfg(feature = "testing")]
thread_local! {
    static READS: Cell<usize> = const { Cell::new(0) };
}

/// Notes that values are read back, or would be on a device.
pub(super) fn count() {
    #[cfg(feature = "testing")]
    READS.set(READS.get() + 1);
}

/// How often this thread has read values back.
#[cfg(feature = "testing")]
pub fn total() -> usize {
    READS.get()
}
