//! MeanCache's schedules of a number of computed steps: the cheapest paths over edges between them, found by
//! the planner.
//!
//! An edge from `i` to `j` computes step `i` and skips those up to `j`. It costs as a whole, and the planner
//! adds up what skipped steps cost. So with `C(i, j)` the cost of an edge to the power of the objective, step
//! `t` after `i` costs it `C(i, t + 1) − C(i, t) + offset`: added up, that is the edge's cost and one offset
//! for each skipped step, of which all schedules with as many computed steps have as many. The offset keeps
//! every summand positive.

use anyhow::Result;
use magcache_core::planner::{Continuation, Objective, Planner, ReuseErrors, StepErrors};
use serde::Deserialize;

use super::{Tally, inputs, search::digits};
use crate::verify::report::CaseReport;

/// The orders of an edge; it costs as much as with the cheapest of them.
const ORDERS: [usize; 4] = [2, 3, 4, 5];

/// Relative difference of the costs of paths that are equally cheap.
const TIE: f64 = 1e-9;

#[derive(Deserialize)]
pub(super) struct Row {
    steps: usize,
    budget: usize,
    gamma: f64,
    /// Steps that are computed, at the start and at the end.
    first: usize,
    last: usize,
    /// The longest edge.
    reach: usize,
    cost_seed: u64,
    /// Costs are multiples of it where it is not 0: many paths are equally cheap.
    quantum: f64,
    /// `None` if there is no path.
    computed: Option<Vec<usize>>,
}

pub(super) fn check(rows: &[Row], report: &mut CaseReport) -> Result<()> {
    let mut tally = Tally::default();
    for (i, row) in rows.iter().enumerate() {
        let edges = Edges::of(row);
        let plans = Planner::new(&[edges.errors(row)])?;
        let plans = plans.schedules(Continuation::Residual, Objective::Power(row.gamma));
        let own = plans.into_iter().find(|plan| plan.computed == row.budget).map(|plan| plan.skip);
        let skipped = |computed: &Vec<usize>| (0..row.steps).filter(|t| !computed.contains(t)).collect();
        let want: Option<Vec<usize>> = row.computed.as_ref().map(skipped);
        let told =
            |skip: &Option<Vec<usize>>| skip.as_ref().map_or("none".to_owned(), |s| digits(s, row.steps));
        let tied = row.quantum != 0.0 && same(edges.cost(own.as_deref()), edges.cost(want.as_deref()));
        tally.row(i, "path", &told(if tied { &want } else { &own }), &told(&want));
    }
    tally.tell(report, "paths");
    Ok(())
}

fn same(a: Option<f64>, b: Option<f64>) -> bool {
    a.zip(b).is_some_and(|(a, b)| (a - b).abs() <= TIE * a.abs().max(b.abs()))
}

/// The costs of edges to the power of the objective, by their ends.
struct Edges(Vec<Vec<Option<f64>>>);

impl Edges {
    /// Made from integers, as the table's generator does.
    fn of(row: &Row) -> Self {
        let ends = row.steps + 1;
        let noise = inputs::noise(row.cost_seed, ORDERS.len() * ends * ends);
        let cost = |i: usize, j: usize| {
            if j == i + 1 {
                return Some(0.0);
            }
            let of = |place: usize| {
                let length = ((j - i - 1) as f64).powf(1.5) / row.steps as f64;
                let cost = (1.0 + noise[(place * ends + i) * ends + j]) * length;
                if row.quantum == 0.0 { cost } else { (cost / row.quantum).floor() * row.quantum }
            };
            let known = (0..ORDERS.len()).filter(|place| j <= i + row.reach && ORDERS[*place] <= i);
            known.map(of).min_by(f64::total_cmp).map(|cost| cost.powf(row.gamma))
        };
        let from = |i: usize| (0..ends).map(|j| if j > i { cost(i, j) } else { None }).collect();
        Self((0..row.steps).map(from).collect())
    }

    fn at(&self, i: usize, j: usize) -> Option<f64> {
        *self.0.get(i)?.get(j)?
    }

    /// The cost of a path that skips these steps.
    fn cost(&self, skip: Option<&[usize]>) -> Option<f64> {
        let (skip, end) = (skip?, self.0.len());
        let mut computed = (0..=end).filter(|step| !skip.contains(step));
        let mut from = computed.next()?;
        computed.try_fold(0.0, |sum, to| Some(sum + self.at(std::mem::replace(&mut from, to), to)?))
    }

    /// The same as errors of a rehearsed run.
    fn errors(&self, row: &Row) -> ReuseErrors {
        let more = |i: usize, t: usize| Some(self.at(i, t + 1)? - self.at(i, t)?);
        let all = (0..row.steps).flat_map(|i| (i + 1..row.steps).filter_map(move |t| more(i, t)));
        let offset = 1.0 - all.fold(0.0, f64::min);
        let step = |t: usize| {
            let skippable = t >= row.first.max(1) && t + row.last < row.steps;
            let sources: Vec<(usize, f64)> =
                (0..t).filter(|_| skippable).filter_map(|i| Some((i, more(i, t)?))).collect();
            let mut products = vec![0.0; sources.len() * sources.len()];
            for (place, (_, more)) in sources.iter().enumerate() {
                products[place * sources.len() + place] = (more + offset).powf(2.0 / row.gamma);
            }
            StepErrors {
                sources: sources.into_iter().map(|(i, _)| i).collect(),
                products,
                windows: Vec::new(),
            }
        };
        ReuseErrors { steps: (0..row.steps).map(step).collect(), ..ReuseErrors::default() }
    }
}
