//! Schedules whose steps' errors are the least, added up, gap by gap or one by one: dynamic programming over
//! pairs of computed steps, exact because the replacement of a step depends on nothing but the last two.

use super::costs::{Costs, Skip};

/// The computed step before the newest one, if it is of the same expert, and the newest one.
type Pair = (Option<usize>, usize);

/// The best way to reach a state.
#[derive(Clone, Copy)]
struct Reached {
    sum: f64,
    worst: f64,
    /// Index of the previous pair.
    from: Option<u32>,
}

/// The best way to each number of computed steps, beginning with the fewest for which there is one.
#[derive(Clone, Default)]
struct Counts {
    fewest: usize,
    reached: Vec<Option<Reached>>,
}

impl Counts {
    fn at(&self, computed: usize) -> Option<Reached> {
        self.reached.get(computed.checked_sub(self.fewest)?).copied().flatten()
    }

    fn offer(&mut self, computed: usize, offer: Reached, better: fn(&Reached, &Reached) -> bool) {
        if self.reached.is_empty() {
            self.fewest = computed;
        }
        let missing = self.fewest.saturating_sub(computed);
        self.reached.splice(0..0, std::iter::repeat_n(None, missing));
        self.fewest -= missing;
        let place = computed - self.fewest;
        if place >= self.reached.len() {
            self.reached.resize(place + 1, None);
        }
        if let Some(own) = self.reached.get_mut(place)
            && own.as_ref().is_none_or(|own| better(&offer, own))
        {
            *own = Some(offer);
        }
    }
}

/// Every pair of consecutive computed steps that a schedule can have. The steps between them are skipped, and
/// replacements were measured only for a few steps back.
struct Pairs {
    steps: usize,
    /// The largest distance from one computed step to the next within an expert.
    gap: usize,
    /// By pair: what skipping the steps after it costs, up to the first that cannot be skipped.
    gaps: Vec<Vec<Cost>>,
}

/// What skipping a step costs.
#[derive(Clone, Copy)]
struct Cost {
    /// The error of this step alone.
    error: f64,
    /// What this and the steps before it in the gap add to the sum.
    so_far: f64,
}

impl Pairs {
    fn new(costs: &Costs<'_>, of_gap: impl Fn(&[Skip]) -> Option<f64>) -> Self {
        let steps = costs.len();
        let gap = 1 + (0..steps).filter_map(|step| costs.reach(step)).max().unwrap_or(0);
        let mut pairs = Self { steps, gap, gaps: Vec::new() };
        let after = |(before, last): Pair| {
            let mut skips = Vec::new();
            let cost = |step| {
                let skip = Skip { before, last, step, window: None };
                skips.push(skip);
                Some(Cost { error: costs.one(skip)?, so_far: of_gap(&skips)? })
            };
            (last + 1..steps).map_while(cost).collect::<Vec<Cost>>()
        };
        pairs.gaps =
            (0..steps * (gap + 1)).map(|place| pairs.pair(place).map_or_else(Vec::new, after)).collect();
        pairs
    }

    fn place(&self, (before, last): Pair) -> usize {
        last * (self.gap + 1) + before.map_or(0, |before| last - before)
    }

    fn pair(&self, place: usize) -> Option<Pair> {
        let (last, distance) = (place / (self.gap + 1), place % (self.gap + 1));
        if distance == 0 {
            Some((None, last))
        } else {
            last.checked_sub(distance).map(|before| (Some(before), last))
        }
    }

    /// The pairs whose newest step is `last`, in the order of expansion: by the step before it, `None` last.
    fn of(&self, last: usize) -> impl Iterator<Item = Pair> + use<> {
        (last.saturating_sub(self.gap)..last).map(Some).chain([None]).map(move |before| (before, last))
    }

    /// The costs after a pair, up to the first error above `limit`.
    fn costs(&self, pair: Pair, limit: f64) -> impl Iterator<Item = Cost> {
        self.gaps[self.place(pair)].iter().copied().take_while(move |cost| cost.error <= limit)
    }
}

fn smaller_sum(a: &Reached, b: &Reached) -> bool {
    a.sum < b.sum
}

fn smaller_worst(a: &Reached, b: &Reached) -> bool {
    a.worst < b.worst
}

/// The skipped steps of the schedule with the smallest sum of errors, each to `power`, for each feasible
/// number of computed steps.
pub(super) fn least_sum(costs: &Costs<'_>, power: f64) -> Vec<Vec<usize>> {
    least(&Search::new(costs, |skips| sum_of_powers(costs, skips, power)))
}

/// Those of the schedule whose gaps cost the least ([`Costs::gaps`]).
pub(super) fn least_gaps(costs: &Costs<'_>) -> Vec<Vec<usize>> {
    least(&Search::new(costs, |skips| costs.gaps(skips)))
}

fn least(search: &Search) -> Vec<Vec<usize>> {
    let found = search.walk(f64::INFINITY, None, smaller_sum);
    found.into_iter().map(|found| found.skip).collect()
}

fn sum_of_powers(costs: &Costs<'_>, skips: &[Skip], power: f64) -> Option<f64> {
    skips.iter().map(|skip| Some(costs.one(*skip)?.powf(power))).sum()
}

/// Those of the schedule with the smallest largest error, and among these with the smallest sum.
pub(super) fn least_worst(costs: &Costs<'_>) -> Vec<Vec<usize>> {
    let search = Search::new(costs, |skips| sum_of_powers(costs, skips, 1.0));
    // A prefix with a larger worst error and a smaller sum can be part of the best schedule, so the two
    // criteria are minimised separately: first the largest error, then the sum under that bound.
    let bounds = search.walk(f64::INFINITY, None, smaller_worst);
    let under = |bound: Found| {
        let under = search.walk(bound.worst, Some(bound.computed), smaller_sum);
        under.into_iter().find(|found| found.computed == bound.computed)
    };
    bounds.into_iter().filter_map(under).map(|found| found.skip).collect()
}

/// A schedule at the end of a walk.
struct Found {
    computed: usize,
    skip: Vec<usize>,
    worst: f64,
}

/// The state graph that every walk traverses.
struct Search {
    pairs: Pairs,
    /// By step: whether nothing can replace it (the first of an expert).
    fresh: Vec<bool>,
}

impl Search {
    fn new(costs: &Costs<'_>, of_gap: impl Fn(&[Skip]) -> Option<f64>) -> Self {
        let fresh = (0..costs.len()).map(|step| costs.must_compute(step)).collect();
        Self { pairs: Pairs::new(costs, of_gap), fresh }
    }

    /// The best schedules in which no skip costs more than `limit`, for all numbers of computed steps or for
    /// `wanted` only.
    fn walk(&self, limit: f64, wanted: Option<usize>, better: fn(&Reached, &Reached) -> bool) -> Vec<Found> {
        let Self { pairs, .. } = self;
        let steps = pairs.steps;
        if steps == 0 {
            return Vec::new();
        }
        let left = wanted.map(|wanted| (wanted, self.fewest_left(limit)));
        let mut table = vec![Counts::default(); pairs.gaps.len()];
        let mut ends: Vec<Option<(Pair, Reached)>> = vec![None; steps + 1];
        self.offer(&mut table, 1, (None, 0), Reached { sum: 0.0, worst: 0.0, from: None }, better);
        for pair in (0..steps).flat_map(|last| pairs.of(last)) {
            let place = pairs.place(pair);
            let Some(Counts { fewest, reached }) = table.get(place).cloned() else { continue };
            // Prune ways that can no longer end with as few computed steps as wanted.
            let most = left.as_ref().map_or(steps, |(wanted, left)| wanted.saturating_sub(left[place]));
            for (computed, here) in (fewest..=most).zip(reached) {
                let Some(Reached { sum: before, mut worst, .. }) = here else { continue };
                let (mut sum, mut costs) = (before, pairs.costs(pair, limit));
                // `next` is the next computed step, or the end.
                for next in pair.1 + 1..=steps {
                    let reached = Reached { sum, worst, from: u32::try_from(place).ok() };
                    if next == steps {
                        let end = &mut ends[computed];
                        if end.as_ref().is_none_or(|(_, own)| better(&reached, own)) {
                            *end = Some((pair, reached));
                        }
                        break;
                    }
                    self.offer(&mut table, computed + 1, self.after(pair, next), reached, better);
                    // Otherwise skip it.
                    let Some(cost) = costs.next() else { break };
                    (sum, worst) = (before + cost.so_far, worst.max(cost.error));
                }
            }
        }
        let found = ends.iter().enumerate().filter_map(|(computed, end)| Some((computed, (*end)?)));
        found.map(|(computed, (pair, end))| self.trace(&table, computed, pair, end)).collect()
    }

    /// The pair when `next` is computed after `pair`.
    fn after(&self, (_, last): Pair, next: usize) -> Pair {
        let fresh = self.fresh.get(next).copied().unwrap_or(true);
        (Some(last).filter(|_| !fresh), next)
    }

    fn offer(
        &self,
        table: &mut [Counts],
        computed: usize,
        pair: Pair,
        offer: Reached,
        better: fn(&Reached, &Reached) -> bool,
    ) {
        if let Some(counts) = table.get_mut(self.pairs.place(pair)) {
            counts.offer(computed, offer, better);
        }
    }

    /// By pair, the fewest steps that must be computed after it.
    fn fewest_left(&self, limit: f64) -> Vec<usize> {
        let Self { pairs, .. } = self;
        let steps = pairs.steps;
        let mut left = vec![usize::MAX; pairs.gaps.len()];
        for last in (0..steps).rev() {
            for pair in pairs.of(last) {
                let skipped = pairs.costs(pair, limit).count();
                // `next` is the end or the next computed step.
                let next = (last + 1..=(last + 1 + skipped).min(steps)).map(|next| match next {
                    next if next == steps => 0,
                    next => left[pairs.place(self.after(pair, next))].saturating_add(1),
                });
                let fewest = next.min().unwrap_or(usize::MAX);
                left[pairs.place(pair)] = fewest;
            }
        }
        left
    }

    fn trace(&self, table: &[Counts], computed: usize, last: Pair, end: Reached) -> Found {
        let mut kept = vec![false; self.pairs.steps];
        let mut next = Some(last);
        let mut left = computed;
        while let Some(pair) = next {
            if let Some(own) = kept.get_mut(pair.1) {
                *own = true;
            }
            let reached = table.get(self.pairs.place(pair)).and_then(|counts| counts.at(left));
            next = reached.and_then(|reached| self.pairs.pair(usize::try_from(reached.from?).ok()?));
            left = left.saturating_sub(1);
        }
        let skip = kept.iter().enumerate().filter(|(_, kept)| !**kept).map(|(step, _)| step).collect();
        Found { computed, skip, worst: end.worst }
    }
}
