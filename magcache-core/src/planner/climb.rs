//! Climbing from a schedule to better ones near it, by any score.
//!
//! A move computes one of the skipped steps and skips a computed one in its place. Source: BudCache
//! (arXiv 2606.13496) and the Golden Path Hypothesis (arXiv 2609.39343), which score whole runs.

use std::collections::BTreeMap;

use super::Skipped;

/// The result of a climb.
#[derive(Clone, Debug, PartialEq)]
pub struct Climbed {
    /// Skipped steps of each schedule on the way, the start first; the last one has no better neighbour.
    pub way: Vec<Skipped>,
    /// How many schedules were scored.
    pub scored: usize,
}

/// The schedules one move away from the one that skips `skip`, in the order of their masks, in which 1 is a
/// skipped step. A computed step moves at most `window` steps, and those of `fixed` stay computed.
pub fn neighbours(skip: &[usize], steps: usize, window: usize, fixed: &[usize]) -> Vec<Skipped> {
    let computed = (0..steps).filter(|step| !skip.contains(step) && !fixed.contains(step));
    let near = |a: usize| skip.iter().filter(move |b| a.abs_diff(**b) <= window);
    let moved = |a: usize, b: usize| {
        let mut moved: Vec<usize> = skip.iter().copied().filter(|step| *step != b).chain([a]).collect();
        moved.sort_unstable();
        moved
    };
    let mut all: Vec<Skipped> =
        computed.flat_map(|a| near(a).map(move |b| moved(a, *b)).collect::<Vec<_>>()).collect();
    // Of two masks the larger is the one that skips first, so lists are in the opposite order.
    all.sort_by(|a, b| b.cmp(a));
    all.dedup();
    all
}

/// Steepest ascent from `start`: to the neighbour with the highest score while that is higher, of equal ones
/// to the first. `score` is asked once for each round, for the schedules it has not scored, and may leave
/// some without a score: they are not moved to.
///
/// # Errors
/// Those of `score`.
pub fn climb<E>(
    start: Skipped,
    near: &dyn Fn(&[usize]) -> Vec<Skipped>,
    mut score: impl FnMut(&[Skipped]) -> Result<Vec<Option<f64>>, E>,
) -> Result<Climbed, E> {
    let mut known: BTreeMap<Skipped, Option<f64>> = BTreeMap::new();
    let mut way = vec![start.clone()];
    let mut at = start;
    loop {
        let round: Vec<Skipped> = std::iter::once(at.clone()).chain(near(&at)).collect();
        let fresh: Vec<Skipped> = round.iter().filter(|one| !known.contains_key(*one)).cloned().collect();
        let scores = score(&fresh)?;
        known.extend(fresh.into_iter().zip(scores));
        let of = |one: &Skipped| known.get(one).copied().flatten();
        let mut best = &at;
        for one in &round {
            if let Some(own) = of(one)
                && of(best).is_none_or(|best| own > best)
            {
                best = one;
            }
        }
        if *best == at {
            let scored = known.values().flatten().count();
            return Ok(Climbed { way, scored });
        }
        at = best.clone();
        way.push(at.clone());
    }
}
