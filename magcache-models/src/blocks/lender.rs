//! Blocks that are made when they are needed, one ahead.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use candle_core::Device;

use super::{Fetcher, LoadResult};
use crate::checkpoint::{CheckpointError, Milestone};

/// Lends blocks by number. Which are fetched, and in which order, follows from the calls alone, not from
/// times.
pub(crate) struct Lender<B> {
    /// Stored bytes of each block.
    sizes: Vec<u64>,
    /// Where they run.
    device: Device,
    fetcher: Fetcher,
    fetch: Arc<dyn Fn(usize) -> LoadResult<B> + Send + Sync>,
    shelf: Arc<Shelf<B>>,
}

/// What was fetched and what is on its way, by number; at most two.
struct Shelf<B> {
    places: Mutex<Vec<(usize, State<B>)>>,
    changed: Condvar,
}

enum State<B> {
    Asked,
    Here(Arc<B>),
    Failed(CheckpointError),
}

/// Puts a block on the shelf, or why there is none; also if its making panics or never begins.
struct Delivery<B> {
    shelf: Arc<Shelf<B>>,
    block: usize,
    state: Option<State<B>>,
}

impl<B> Shelf<B> {
    fn places(&self) -> MutexGuard<'_, Vec<(usize, State<B>)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Delivery<B> {
    fn is(&mut self, state: State<B>) {
        self.state = Some(state);
    }
}

impl<B> Drop for Delivery<B> {
    fn drop(&mut self) {
        let lost = || State::Failed(candle_core::Error::msg("the thread that fetches blocks ended").into());
        let state = self.state.take().unwrap_or_else(lost);
        // A place that is gone, or filled, needs it no more.
        let mut places = self.shelf.places();
        if let Some((_, place)) = places.iter_mut().find(|(at, _)| *at == self.block)
            && matches!(place, State::Asked)
        {
            *place = state;
        }
        drop(places);
        self.shelf.changed.notify_all();
    }
}

impl<B: Send + Sync + 'static> Lender<B> {
    pub(super) fn new(
        sizes: Vec<u64>,
        device: Device,
        fetcher: Fetcher,
        fetch: impl Fn(usize) -> LoadResult<B> + Send + Sync + 'static,
    ) -> Self {
        let shelf = Arc::new(Shelf { places: Mutex::default(), changed: Condvar::new() });
        Self { sizes, device, fetcher, fetch: Arc::new(fetch), shelf }
    }

    pub(super) fn len(&self) -> usize {
        self.sizes.len()
    }

    /// A block, and asks for the one after it, or for the first one after the last. What is neither leaves
    /// the shelf.
    pub(super) fn get(&self, block: usize) -> LoadResult<Arc<B>> {
        let count = self.sizes.len();
        if block >= count {
            return Err(candle_core::Error::msg(format!("block {block} of {count}")).into());
        }
        let wanted = [block, (block + 1) % count];
        let mut places = self.shelf.places();
        places.retain(|(at, _)| wanted.contains(at));
        loop {
            let is_missing = |at: &usize| places.iter().all(|(there, _)| there != at);
            let mut missing: Vec<usize> = wanted.into_iter().filter(is_missing).collect();
            missing.dedup();
            if !missing.is_empty() {
                places.extend(missing.iter().map(|at| (*at, State::Asked)));
                // A thread that has ended drops what it is asked at once, and that needs the shelf.
                drop(places);
                missing.into_iter().for_each(|at| self.ask(at));
                places = self.shelf.places();
            }
            let here = places.iter().position(|(at, state)| *at == block && !matches!(state, State::Asked));
            match here.map(|here| (here, &places[here].1)) {
                Some((_, State::Here(block))) => return Ok(Arc::clone(block)),
                Some((here, _)) => {
                    if let (_, State::Failed(error)) = places.remove(here) {
                        return Err(error);
                    }
                }
                None => places = self.shelf.changed.wait(places).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn ask(&self, block: usize) {
        let mut delivery = Delivery { shelf: Arc::clone(&self.shelf), block, state: None };
        let fetch = Arc::clone(&self.fetch);
        let bytes = self.sizes.get(block).copied().unwrap_or_default();
        // A device computes behind who asks it: the block before the last one may still be running, and its
        // memory is needed.
        let before = Milestone::now(&self.device);
        self.fetcher.fetch(bytes, move || {
            before.wait();
            delivery.is(match fetch(block) {
                Ok(made) => State::Here(Arc::new(made)),
                Err(error) => State::Failed(error),
            });
        });
    }
}

impl<B> fmt::Debug for Lender<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lender").field("blocks", &self.sizes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::blocks::Traffic;

    /// A lender of numbers, and what it fetched, in order.
    fn numbers(count: usize) -> (Lender<usize>, mpsc::Receiver<usize>) {
        let (tell, fetched) = mpsc::channel();
        let fetcher = Fetcher::start(Traffic::default()).unwrap();
        let lender = Lender::new(vec![10; count], Device::Cpu, fetcher, move |i| {
            tell.send(i).unwrap();
            if i == 7 { Err(candle_core::Error::msg("no seven").into()) } else { Ok(i) }
        });
        (lender, fetched)
    }

    fn fetched(lender: &Lender<usize>, by: &mpsc::Receiver<usize>, asked: &[usize]) -> Vec<usize> {
        for block in asked {
            assert_eq!(*lender.get(*block).unwrap(), *block);
        }
        lender.fetcher.settle();
        by.try_iter().collect()
    }

    #[test]
    fn the_next_one_is_fetched_ahead_and_what_is_there_is_not_fetched_again() {
        let (lender, by) = numbers(4);
        assert_eq!(fetched(&lender, &by, &[0]), [0, 1]);
        assert_eq!(fetched(&lender, &by, &[1, 2, 3]), [2, 3, 0]);
        // The next pass has its first block, and one that looks at it and skips the rest fetches one ahead.
        assert_eq!(fetched(&lender, &by, &[0]), [1]);
        assert_eq!(fetched(&lender, &by, &[0, 0, 0]), [0usize; 0]);
        assert_eq!(fetched(&lender, &by, &[1, 2]), [2, 3]);
        // From any place to any other.
        assert_eq!(fetched(&lender, &by, &[0]), [0, 1]);
        for (count, first) in [(1, vec![0]), (2, vec![0, 1])] {
            let (lender, by) = numbers(count);
            assert_eq!(fetched(&lender, &by, &[0]), first);
            assert_eq!(fetched(&lender, &by, &(0..count).collect::<Vec<_>>()), [0usize; 0]);
        }
    }

    #[test]
    fn at_most_two_are_in_memory() {
        let (lender, _by) = numbers(5);
        let first = Arc::downgrade(&lender.get(0).unwrap());
        lender.get(1).unwrap();
        assert!(first.upgrade().is_none(), "a block that has run is gone");
        lender.fetcher.settle();
        assert_eq!(lender.shelf.places().len(), 2);
    }

    #[test]
    fn an_error_is_told_when_the_block_is_needed_and_a_panic_too() {
        let (lender, by) = numbers(9);
        assert_eq!(fetched(&lender, &by, &[6]), [6, 7]);
        let error = lender.get(7).unwrap_err().to_string();
        assert!(error.contains("no seven"), "{error}");
        assert!(lender.get(9).unwrap_err().to_string().contains("block 9 of 9"));
        let fetcher = Fetcher::start(Traffic::default()).unwrap();
        let lender =
            Lender::new(vec![10; 3], Device::Cpu, fetcher, |i| -> LoadResult<usize> { panic!("{i}") });
        for block in [0, 2] {
            let error = lender.get(block).unwrap_err().to_string();
            assert!(error.contains("the thread that fetches blocks ended"), "{error}");
        }
    }
}
