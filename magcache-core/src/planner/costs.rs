//! What skipping a step does to the result, from rehearsed runs.

use super::{Continuation, ReuseErrors, StepErrors};

/// A step and the computed steps before it that its replacement is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skip {
    pub(super) before: Option<usize>,
    pub(super) last: usize,
    pub(super) step: usize,
    /// The place of the window whose blocks run, among the measured ones; none runs without.
    pub(super) window: Option<usize>,
}

impl Skip {
    /// The number of steps between the last computed one and this.
    fn place(self) -> i32 {
        i32::try_from(self.step - self.last - 1).unwrap_or(i32::MAX)
    }
}

/// The errors at the end of the runs.
#[derive(Debug)]
pub(super) struct Costs<'r> {
    with: Continuation,
    max_gap: usize,
    runs: Vec<Run<'r>>,
}

/// One run.
#[derive(Debug)]
struct Run<'r> {
    errors: &'r ReuseErrors,
    /// Pixel error per error of the latents after a step.
    growth: Vec<f64>,
    /// The cosine between the errors of two steps at the end of the run, row by row.
    cosines: Vec<f64>,
}

impl<'r> Costs<'r> {
    /// From runs that agree in steps and sources, for schedules of at most `max_gap` skipped steps in a row.
    pub(super) fn new(runs: &'r [ReuseErrors], with: Continuation, max_gap: usize) -> Self {
        Self { with, max_gap, runs: runs.iter().map(Run::new).collect() }
    }

    pub(super) fn with(&self) -> Continuation {
        self.with
    }

    pub(super) fn len(&self) -> usize {
        self.runs.first().map_or(0, |run| run.errors.steps.len())
    }

    fn first(&self, step: usize) -> Option<&StepErrors> {
        self.runs.first()?.errors.steps.get(step)
    }

    /// Whether no residual can replace the blocks at `step`.
    pub(super) fn must_compute(&self, step: usize) -> bool {
        self.first(step).is_none_or(|errors| errors.sources.is_empty())
    }

    /// The distance in steps from `step` to the oldest source measured for it; `None` if there are no
    /// sources.
    pub(super) fn reach(&self, step: usize) -> Option<usize> {
        self.first(step)?.sources.iter().min().map(|oldest| step.saturating_sub(*oldest))
    }

    /// The error at the end of the run if this alone is skipped: the geometric mean over the runs, because
    /// quality is a mean of decibels. `None` if that was not measured or is ruled out.
    pub(super) fn one(&self, skip: Skip) -> Option<f64> {
        self.allow(skip)?;
        let logs = self.runs.iter().map(|run| Some(run.size(self.with, skip)?.ln()));
        Some(mean(logs.collect::<Option<Vec<_>>>()?).exp())
    }

    /// The error at the end of the run if all of these are skipped: in each run the length of the sum of
    /// their errors, which are vectors; those of lines are orthogonal. `None` as for one.
    pub(super) fn all(&self, skips: &[Skip]) -> Option<f64> {
        if skips.is_empty() {
            return Some(0.0);
        }
        skips.iter().try_for_each(|skip| self.allow(*skip))?;
        let logs = self.runs.iter().map(|run| Some(run.length(self.with, skips)?.ln()));
        Some(mean(logs.collect::<Option<Vec<_>>>()?).exp())
    }

    /// What schedules of lines are compared by: the squares of the errors of their gaps, added up. Within a
    /// gap the errors point the same way, and each step counts for [`COMPOUNDING`] times the one before it.
    /// `None` as for one.
    pub(super) fn gaps(&self, skips: &[Skip]) -> Option<f64> {
        let within = |gap: &[Skip]| {
            let weigh = |skip: &Skip| Some(self.one(*skip)? * COMPOUNDING.powi(skip.place()));
            Some(gap.iter().map(weigh).sum::<Option<f64>>()?.powi(2))
        };
        skips.chunk_by(|a, b| a.last == b.last).map(within).sum()
    }

    fn allow(&self, Skip { last, step, .. }: Skip) -> Option<()> {
        (step - last <= self.max_gap).then_some(())
    }
}

impl<'r> Run<'r> {
    fn new(errors: &'r ReuseErrors) -> Self {
        let steps = errors.steps.len();
        let cosine = |place: usize| errors.cosine(place / steps, place % steps);
        Self {
            errors,
            growth: (0..steps).map(|step| errors.growth_at(step) * errors.pixels).collect(),
            cosines: (0..steps * steps).map(cosine).collect(),
        }
    }

    fn size(&self, with: Continuation, skip: Skip) -> Option<f64> {
        let square = self.errors.steps.get(skip.step)?.square(with, skip)?;
        Some(square.max(f64::MIN_POSITIVE).sqrt() * self.growth.get(skip.step)?)
    }

    fn length(&self, with: Continuation, skips: &[Skip]) -> Option<f64> {
        let sizes: Vec<f64> = skips.iter().map(|skip| self.size(with, *skip)).collect::<Option<_>>()?;
        let mut square = 0.0;
        for (i, (a, size)) in skips.iter().zip(&sizes).enumerate() {
            let row = self.cosines.get(a.step * self.errors.steps.len()..)?;
            let others = skips.iter().zip(&sizes).take(i);
            let along: f64 = match with {
                Continuation::Residual => {
                    others.map(|(b, other)| other * row.get(b.step).unwrap_or(&1.0)).sum()
                }
                Continuation::Line => 0.0,
            };
            square += size * (size + 2.0 * along);
        }
        // Interpolated cosines need not be those of any vectors: the sum may come out below the largest.
        let largest = sizes.iter().fold(f64::MIN_POSITIVE, |a, b| a.max(*b));
        Some(square.max(f64::MIN_POSITIVE).sqrt().max(LEAST * largest))
    }
}

/// The least length of a sum, relative to the longest of its parts: what is left when errors cancel as far as
/// they ever do.
const LEAST: f64 = 0.5;

/// How much more the error of a step counts than that of the step before it in a gap that a line continues:
/// the residuals that the line goes through were computed off the dense run's way, and the further it goes
/// the more that matters. Runs of the embedded models are planned best with 2 to 3, and 2 dB worse with 1.
const COMPOUNDING: f64 = 2.0;

fn mean(values: Vec<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

impl StepErrors {
    /// The mean square error of the replacement.
    fn square(&self, with: Continuation, Skip { before, last, step, window }: Skip) -> Option<f64> {
        let place = |source: usize| self.sources.iter().position(|s| *s == source);
        let products = window.map_or(Some(&self.products), |window| self.windows.get(window))?;
        let product = |a: usize, b: usize| products.get(a * self.sources.len() + b).copied();
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
