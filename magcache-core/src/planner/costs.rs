//! From rehearsed runs to the cost of skipping a step.

use super::Continuation;

/// The errors that reuse would have caused at one step of a dense run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepErrors {
    /// The steps whose residuals were tried, oldest first; empty if the step must be computed (the first of
    /// an expert).
    pub sources: Vec<usize>,
    /// For each pair of sources, row by row: the mean over the latents of the product of their errors. An
    /// error is the deviation of the latents after the step, so the diagonal holds mean squares.
    pub products: Vec<f64>,
}

/// The errors that reuse would have caused in one dense run.
#[derive(Clone, Debug, PartialEq)]
pub struct ReuseErrors {
    /// One for each step.
    pub steps: Vec<StepErrors>,
    /// The factor by which an error after a step grows until the end of the run, for the steps where it was
    /// measured, in order.
    pub growth: Vec<(usize, f64)>,
    /// Root mean square error of the pixels, in 0..=1, over that of the latents after the last step; 1 if not
    /// measured.
    pub pixels: f64,
    /// Time of a skipped step relative to a computed one, including the overhead of the cache in computed
    /// steps.
    pub cost: f64,
}

impl Default for ReuseErrors {
    fn default() -> Self {
        Self { steps: Vec::new(), growth: Vec::new(), pixels: 1.0, cost: 0.0 }
    }
}

impl ReuseErrors {
    /// The factor by which an error after `step` grows until the end of the run: exponential in the step
    /// between measured steps, constant outside them, 1 if none was measured.
    pub fn growth_at(&self, step: usize) -> f64 {
        let before = self.growth.iter().rev().find(|(at, _)| *at <= step);
        let after = self.growth.iter().find(|(at, _)| *at >= step);
        match (before, after) {
            (Some((a, low)), Some((b, high))) if a < b => {
                let part = (step - a) as f64 / (b - a) as f64;
                (low.ln() * (1.0 - part) + high.ln() * part).exp()
            }
            (Some((_, growth)), _) | (None, Some((_, growth))) => *growth,
            (None, None) => 1.0,
        }
    }
}

/// The cost of skipping each step: the geometric mean over the runs, because quality is a mean of decibels.
#[derive(Debug)]
pub(super) struct Costs<'r> {
    with: Continuation,
    runs: &'r [ReuseErrors],
    /// Pixel error per error of the latents after a step, by run, then by step.
    growth: Vec<Vec<f64>>,
}

impl<'r> Costs<'r> {
    /// From runs that agree in steps and sources.
    pub(super) fn new(runs: &'r [ReuseErrors], with: Continuation) -> Self {
        let of = |run: &ReuseErrors| (0..run.steps.len()).map(|i| run.growth_at(i) * run.pixels).collect();
        let growth = runs.iter().map(of).collect();
        Self { with, runs, growth }
    }

    pub(super) fn len(&self) -> usize {
        self.runs.first().map_or(0, |run| run.steps.len())
    }

    /// Whether no residual can replace the blocks at `step`.
    pub(super) fn must_compute(&self, step: usize) -> bool {
        self.runs.first().and_then(|run| run.steps.get(step)).is_none_or(|s| s.sources.is_empty())
    }

    /// The distance in steps from `step` to the oldest source measured for it; `None` if there are no
    /// sources.
    pub(super) fn reach(&self, step: usize) -> Option<usize> {
        let sources = &self.runs.first()?.steps.get(step)?.sources;
        sources.iter().min().map(|oldest| step.saturating_sub(*oldest))
    }

    /// The error at the end of the run if `step` is skipped after the computed steps `last` and `before`;
    /// `None` if that was not measured.
    pub(super) fn skip(&self, before: Option<usize>, last: usize, step: usize) -> Option<f64> {
        let mut logs = 0.0;
        for (run, growth) in self.runs.iter().zip(&self.growth) {
            let square = run.steps.get(step)?.square(self.with, before, last, step)?;
            logs += (square.max(f64::MIN_POSITIVE).sqrt() * growth.get(step)?).ln();
        }
        Some((logs / self.runs.len() as f64).exp())
    }
}

impl StepErrors {
    /// The mean square error of the replacement at `step` after the computed steps `last` and `before`.
    fn square(&self, with: Continuation, before: Option<usize>, last: usize, step: usize) -> Option<f64> {
        let place = |source: usize| self.sources.iter().position(|s| *s == source);
        let product = |a: usize, b: usize| self.products.get(a * self.sources.len() + b).copied();
        let newest = place(last)?;
        match (with, before) {
            (Continuation::Residual, _) | (Continuation::Line, None) => product(newest, newest),
            (Continuation::Line, Some(before)) => {
                let older = place(before)?;
                let ahead = (step - last) as f64 / (last - before) as f64;
                let own = (1.0 + ahead).powi(2) * product(newest, newest)?;
                let others = ahead.powi(2) * product(older, older)?;
                Some(own + others - 2.0 * (1.0 + ahead) * ahead * product(newest, older)?)
            }
        }
    }
}
