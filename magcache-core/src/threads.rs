//! Loops over long slices on all cores.

use std::{
    ops::Range,
    panic,
    sync::{Mutex, OnceLock, PoisonError},
    thread::{self, available_parallelism},
};

/// About so many values are a part: fewer are not worth a thread.
pub(crate) const PART: usize = 1 << 16;

/// Minimum number of parts per thread: starting one takes some ten microseconds.
const PARTS: usize = 4;

/// Values per part, if `unit` values belong together.
fn part_of(unit: usize) -> usize {
    (PART / unit.max(1)).max(1) * unit.max(1)
}

/// Runs `work` on every part of `len` values, each of whole units of `unit` values; the results are in order,
/// whichever thread produced them.
pub(crate) fn by_part<R: Send>(len: usize, unit: usize, work: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
    let size = part_of(unit);
    let parts = len.div_ceil(size);
    let threads = count().min(parts / PARTS).max(1);
    let run = |first: usize, end: usize| -> Vec<R> {
        (first..end).map(|part| work(part * size..((part + 1) * size).min(len))).collect()
    };
    if threads == 1 {
        return run(0, parts);
    }
    let run = &run;
    thread::scope(|scope| {
        let cut = |i: usize| i * parts / threads;
        let others: Vec<_> = (1..threads).map(|i| scope.spawn(move || run(cut(i), cut(i + 1)))).collect();
        let mut all = run(0, cut(1));
        for other in others {
            all.extend(other.join().unwrap_or_else(|fault| panic::resume_unwind(fault)));
        }
        all
    })
}

/// The same for work that writes: `work` also gets the corresponding part of `out`.
pub(crate) fn by_part_of<T: Send, R: Send>(
    out: &mut [T],
    unit: usize,
    work: impl Fn(Range<usize>, &mut [T]) -> R + Sync,
) -> Vec<R> {
    let (len, size) = (out.len(), part_of(unit));
    let cells: Vec<Mutex<&mut [T]>> = out.chunks_mut(size).map(Mutex::new).collect();
    by_part(len, unit, |part| {
        // Each part is processed once, so the lock is never contended.
        let mut own = cells[part.start / size].lock().unwrap_or_else(PoisonError::into_inner);
        work(part, &mut own)
    })
}

/// The number of threads that rayon would use: what the user set, or else what is available to the process.
fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let set = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
        set.unwrap_or_else(|| available_parallelism().map_or(1, std::num::NonZero::get))
    })
}
