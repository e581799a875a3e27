//! Work that all cores share, in pieces of a few microseconds.

use std::{
    cell::Cell,
    hint,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use candle_core::Device;

/// How long a core looks for more work before it may sleep. Waking it costs the waker as much time as a small
/// operation, and the operations of a skipped step are small: this way it is woken once per step. OpenMP
/// runtimes wait for the same reason, far longer.
const LINGER: Duration = Duration::from_micros(200);

/// Calls `work` on every piece: each core takes the next one as soon as it is free.
///
/// A core that arrives late is not waited for: the others have done its pieces by then. The caller takes
/// pieces from the front and the others from the back, so that each finds in its cache what it wrote in the
/// operation before.
pub(crate) fn share<T: Send>(
    pieces: impl ExactSizeIterator<Item = T> + DoubleEndedIterator + Send,
    work: impl Fn(T) + Sync,
) {
    let others = rayon::current_num_threads().min(pieces.len()).saturating_sub(1);
    let pieces = Mutex::new(pieces);
    let owner = thread::current().id();
    let run = || {
        let owns = thread::current().id() == owner;
        let next = || {
            let mut pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
            if owns { pieces.next() } else { pieces.next_back() }
        };
        while let Some(piece) = next() {
            work(piece);
        }
    };
    if others == 0 {
        return run();
    }
    occupied(|| {
        rayon::in_place_scope(|scope| {
            for _ in 0..others {
                scope.spawn(|_| {
                    run();
                    if thread::current().id() != owner {
                        linger();
                    }
                });
            }
            run();
        });
    });
}

/// Runs two parts of a step in parallel on a CPU; a device runs one after the other anyway.
pub fn in_parallel<A: Send, B: Send>(
    device: &Device,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    if device.is_cpu() { rayon::join(a, b) } else { (a(), b()) }
}

thread_local! {
    /// Whether this thread has unfinished work to return to: it must not linger then.
    static OCCUPIED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a thread that does not linger until it ends. After a panic the thread never lingers again,
/// which costs time and nothing else.
fn occupied(work: impl FnOnce()) {
    let before = OCCUPIED.replace(true);
    work();
    OCCUPIED.set(before);
}

/// Keeps this thread of the pool awake until [`LINGER`] after its last work, starting once its current work
/// is done.
fn linger() {
    if OCCUPIED.get() {
        return;
    }
    let here = thread::current().id();
    rayon::spawn(move || {
        // Another thread may pick this up, or this one while it waits for others.
        if thread::current().id() != here || OCCUPIED.get() {
            return;
        }
        occupied(|| {
            let mut idle = Instant::now();
            while idle.elapsed() < LINGER {
                match rayon::yield_now() {
                    Some(rayon::Yield::Executed) => idle = Instant::now(),
                    _ => hint::spin_loop(),
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        for len in [0, 1, 2, 7, 1000] {
            let done: Vec<_> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            share(done.iter(), |piece| _ = piece.fetch_add(1, Ordering::Relaxed));
            assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{len} pieces");
        }
    }

    #[test]
    fn a_piece_may_be_shared_itself() {
        let sum = AtomicUsize::new(0);
        share(0..20, |i| share(0..20, |k| _ = sum.fetch_add(i * k, Ordering::Relaxed)));
        assert_eq!(sum.into_inner(), 190 * 190);
    }

    #[test]
    fn all_cores_take_part() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        let threads = Mutex::new(BTreeSet::new());
        let together = || threads.lock().expect("no panic").len() == 3;
        pool.install(|| {
            share(0..3, |_| {
                threads.lock().expect("no panic").insert(rayon::current_thread_index());
                // None continues until all three have arrived; if they never do, this gives up.
                let start = Instant::now();
                while !together() && start.elapsed() < Duration::from_secs(5) {
                    thread::yield_now();
                }
            });
        });
        assert!(together());
    }
}
