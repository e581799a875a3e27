//! What rehearsed runs measure.

use crate::Window;

/// The errors that reuse would have caused at one step of a dense run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepErrors {
    /// The steps whose residuals were tried, oldest first; empty if the step must be computed (the first of
    /// an expert).
    pub sources: Vec<usize>,
    /// For each pair of sources, row by row: the mean over the latents of the product of their errors. An
    /// error is the deviation of the latents after the step, so the diagonal holds mean squares.
    pub products: Vec<f64>,
    /// The same for each of [`ReuseErrors::windows`], of which the blocks between are replaced.
    pub windows: Vec<Vec<f64>>,
}

/// A step at which some blocks run: the first and the last ones, on what the others would have made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartialStep {
    /// The blocks that run.
    pub window: Window,
    /// Time of such a step relative to a computed one.
    pub cost: f64,
}

/// The errors that reuse would have caused in one dense run.
#[derive(Clone, Debug, PartialEq)]
pub struct ReuseErrors {
    /// One for each step.
    pub steps: Vec<StepErrors>,
    /// The factor by which an error after a step grows until the end of the run, for the steps where it was
    /// measured, in order.
    pub growth: Vec<(usize, f64)>,
    /// For each pair of the steps of `growth`, row by row: the cosine of the angle between their errors at
    /// the end of the run. Empty if it was not measured.
    pub cosines: Vec<f64>,
    /// Root mean square error of the pixels, in 0..=1, over that of the latents after the last step; 1 if not
    /// measured.
    pub pixels: f64,
    /// Time of a skipped step relative to a computed one, including the overhead of the cache in computed
    /// steps.
    pub cost: f64,
    /// The windows of blocks that were tried besides skipping all blocks.
    pub windows: Vec<PartialStep>,
}

/// Where a step lies among the measured ones: the places of those around it, and the part of the way from the
/// one to the other.
#[derive(Clone, Copy, PartialEq)]
struct Between {
    before: usize,
    after: usize,
    part: f64,
}

impl Default for ReuseErrors {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            growth: Vec::new(),
            cosines: Vec::new(),
            pixels: 1.0,
            cost: 0.0,
            windows: Vec::new(),
        }
    }
}

impl ReuseErrors {
    /// The factor by which an error after `step` grows until the end of the run: exponential in the step
    /// between measured steps, constant outside them, 1 if none was measured.
    pub fn growth_at(&self, step: usize) -> f64 {
        let log = |place: usize| self.growth.get(place).map(|(_, growth)| growth.ln());
        let between =
            |Between { before, after, part }| Some(log(before)? * (1.0 - part) + log(after)? * part);
        self.between(step).and_then(between).map_or(1.0, f64::exp)
    }

    /// The cosine of the angle between the errors of two steps at the end of the run: 1 for the same step,
    /// and where nothing was measured, so that errors add up at worst. Between measured steps it falls
    /// linearly with the distance.
    pub fn cosine(&self, a: usize, b: usize) -> f64 {
        let of = |a: usize, b: usize| self.cosines.get(a * self.growth.len() + b).copied().unwrap_or(1.0);
        let (Some(x), Some(y)) = (self.between(a), self.between(b)) else { return 1.0 };
        if (x.before, x.after) == (y.before, y.after) {
            return 1.0 - (1.0 - of(x.before, x.after)) * (x.part - y.part).abs();
        }
        let row = |a: usize| of(a, y.before) * (1.0 - y.part) + of(a, y.after) * y.part;
        row(x.before) * (1.0 - x.part) + row(x.after) * x.part
    }

    fn between(&self, step: usize) -> Option<Between> {
        let last = self.growth.len().checked_sub(1)?;
        // The next measured step after it, so that a measured step always begins its stretch.
        let after = self.growth.partition_point(|(at, _)| *at <= step).min(last);
        let before = after.saturating_sub(1);
        let (low, high) = (self.growth.get(before)?.0, self.growth.get(after)?.0);
        let part = if high > low { (step as f64 - low as f64) / (high - low) as f64 } else { 0.0 };
        Some(Between { before, after, part: part.clamp(0.0, 1.0) })
    }
}
