//! Dynamic programming over pairs of computed steps.

use super::{Objective, Planned, costs::Costs};

/// The newest computed step and the one before it in the same expert.
type Pair = (Option<usize>, usize);

/// How a state is best reached.
#[derive(Clone, Copy)]
struct Reached {
    sum: f64,
    worst: f64,
    from: Option<Pair>,
}

/// Every way to reach a pair of computed steps, the best one of each number of computed steps.
struct Table {
    steps: usize,
    /// By number of computed steps, then by pair.
    reached: Vec<Vec<Option<Reached>>>,
}

impl Table {
    fn new(steps: usize) -> Self {
        Self { steps, reached: vec![vec![None; (steps + 1) * steps]; steps + 1] }
    }

    fn place(&self, (before, last): Pair) -> usize {
        before.map_or(0, |b| b + 1) * self.steps + last
    }

    fn at(&self, computed: usize, pair: Pair) -> Option<Reached> {
        self.reached.get(computed)?.get(self.place(pair)).copied().flatten()
    }

    fn offer(&mut self, computed: usize, pair: Pair, offer: Reached, better: fn(&Reached, &Reached) -> bool) {
        let place = self.place(pair);
        if let Some(own) = self.reached.get_mut(computed).and_then(|row| row.get_mut(place))
            && own.as_ref().is_none_or(|own| better(&offer, own))
        {
            *own = Some(offer);
        }
    }
}

fn smaller_sum(a: &Reached, b: &Reached) -> bool {
    a.sum < b.sum
}

fn smaller_worst(a: &Reached, b: &Reached) -> bool {
    a.worst < b.worst
}

/// The best schedule for each number of computed steps.
pub(super) fn best(costs: &Costs<'_>, objective: Objective) -> Vec<Planned> {
    if costs.len() == 0 {
        return Vec::new();
    }
    match objective {
        Objective::Sum => walk(costs, f64::INFINITY, smaller_sum),
        // A prefix with a larger worst error and a smaller sum can be part of the best whole, so the two are not compared
        // at once: first the smallest largest error, then the smallest sum under it.
        Objective::Minimax => walk(costs, f64::INFINITY, smaller_worst)
            .into_iter()
            .filter_map(|bound| {
                let under = walk(costs, bound.worst, smaller_sum);
                under.into_iter().find(|plan| plan.computed == bound.computed)
            })
            .collect(),
    }
}

/// The best schedules of which no skip costs more than `limit`.
fn walk(costs: &Costs<'_>, limit: f64, better: fn(&Reached, &Reached) -> bool) -> Vec<Planned> {
    let steps = costs.len();
    let mut table = Table::new(steps);
    let mut ends: Vec<Option<(Pair, Reached)>> = vec![None; steps + 1];
    table.offer(1, (None, 0), Reached { sum: 0.0, worst: 0.0, from: None }, better);
    for last in 0..steps {
        for before in (0..last).map(Some).chain([None]) {
            let pair = (before, last);
            for (computed, end) in ends.iter_mut().enumerate().skip(1) {
                let Some(here) = table.at(computed, pair) else { continue };
                let (mut sum, mut worst) = (here.sum, here.worst);
                // The next computed step, or the end.
                for next in last + 1..=steps {
                    let reached = Reached { sum, worst, from: Some(pair) };
                    if next == steps {
                        if end.as_ref().is_none_or(|(_, own)| better(&reached, own)) {
                            *end = Some((pair, reached));
                        }
                        break;
                    }
                    let fresh = costs.must_compute(next);
                    table.offer(computed + 1, (Some(last).filter(|_| !fresh), next), reached, better);
                    // Go on behind it as a skipped step.
                    let Some(error) = costs.skip(before, last, next).filter(|error| *error <= limit) else {
                        break;
                    };
                    (sum, worst) = (sum + error, worst.max(error));
                }
            }
        }
    }
    let found = ends.iter().enumerate().filter_map(|(computed, end)| Some((computed, (*end)?)));
    found.map(|(computed, (pair, end))| trace(&table, computed, pair, end)).collect()
}

fn trace(table: &Table, computed: usize, last: Pair, end: Reached) -> Planned {
    let mut kept = vec![false; table.steps];
    let mut next = Some(last);
    let mut left = computed;
    while let Some(pair) = next {
        if let Some(own) = kept.get_mut(pair.1) {
            *own = true;
        }
        next = table.at(left, pair).and_then(|reached| reached.from);
        left = left.saturating_sub(1);
    }
    let skip = kept.iter().enumerate().filter(|(_, kept)| !**kept).map(|(step, _)| step).collect();
    Planned { computed, skip, error: end.sum, worst: end.worst }
}

/// The cost of one schedule.
pub(super) fn price(costs: &Costs<'_>, skip: &[usize]) -> Option<Planned> {
    let mut plan = Planned { computed: 0, skip: skip.to_vec(), error: 0.0, worst: 0.0 };
    let mut pair: Option<Pair> = None;
    for step in 0..costs.len() {
        if skip.contains(&step) {
            let (before, last) = pair?;
            let error = costs.skip(before, last, step)?;
            (plan.error, plan.worst) = (plan.error + error, plan.worst.max(error));
        } else {
            plan.computed += 1;
            let before = pair.map(|(_, last)| last).filter(|_| !costs.must_compute(step));
            pair = Some((before, step));
        }
    }
    Some(plan)
}
