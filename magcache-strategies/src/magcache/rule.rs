//! The decision itself: a pure function of the curve, the last computed step and this step.

use magcache_core::{
    Branch, Phase, Step, Verdict, Warmup, Why,
    profile::{Curve, resample},
};

use super::dialect::{Dialect, Reading};

/// Everything a decision depends on.
#[derive(Clone, Debug)]
pub struct MagCache {
    /// The dialect.
    pub dialect: Dialect,
    /// Bound of the accumulated error (E).
    pub threshold: f64,
    /// Most consecutive skips (K).
    pub max_skips: usize,
    /// Steps that are always computed (R, a fraction whose rounding is the dialect's, or a number of steps).
    pub retention: Warmup,
    /// The curves: one over the whole run, or one per expert's phase.
    pub curves: Vec<Curve>,
    /// The number of steps assumed by the diffusers dialect, if it differs from the run's.
    pub assume_steps: Option<usize>,
}

/// The running product, the summed error and the skips since the last computed step.
#[derive(Clone, Copy)]
struct Accumulated {
    ratio: f64,
    error: f64,
    skips: usize,
}

impl Accumulated {
    fn add(self, ratio: f64, single: bool) -> Self {
        // Rounding the f64 result once gives the result of the f32 operation.
        let round = |x: f64| if single { f64::from(x as f32) } else { x };
        let ratio = round(self.ratio * ratio);
        let error = round(self.error + round((1.0 - ratio).abs()));
        Self { ratio, error, skips: self.skips + 1 }
    }
}

impl MagCache {
    /// Decides between compute and reuse, given the last computed step of this phase.
    pub fn decide_after(&self, step: &Step, branch: Branch, last_computed: Option<usize>) -> Verdict {
        let reading = self.dialect.reading();
        let step = &self.window(step);
        let (last, first) = (last_computed.filter(|l| step.phase.contains(l)), step.phase.start);
        // Steps of the retention zone do not touch the accumulators, so counting cannot start from them.
        let since = last.filter(|l| !self.retained(&reading, &Step { index: *l, ..step.clone() }, branch));
        if self.retained(&reading, step, branch) {
            return Verdict::compute(Why::Warmup);
        }
        let branches =
            if reading.joint || branch == Branch::Batched { self.branches() } else { vec![branch] };
        let mut worst: Option<Verdict> = None;
        for branch in branches {
            let start = match since {
                Some(_) => Accumulated { ratio: 1.0, error: 0.0, skips: 0 },
                None => self.start(&reading, step, branch),
            };
            let sum = (since.map_or(first, |l| l + 1)..=step.index)
                .map(|index| Step { index, ..step.clone() })
                .filter(|s| !self.retained(&reading, s, branch))
                .fold(start, |sum, s| sum.add(self.ratio(&s, branch), reading.single));
            let verdict = self.judge(&reading, step, branch, sum);
            if worst.is_none_or(|w| w.reuse && (!verdict.reuse || verdict.accumulated > w.accumulated)) {
                worst = Some(verdict);
            }
        }
        worst.unwrap_or_else(|| Verdict::compute(Why::NoHistory))
    }

    /// The decisions of a whole run from this rule alone, as in the published scripts: true if the step is
    /// skipped. The adapter is stricter: it never skips without a residual.
    pub fn schedule(&self, phases: &[Phase], branch: Branch) -> Vec<bool> {
        let total = phases.last().map_or(0, |p| p.steps.end);
        let reading = self.dialect.reading();
        let mut computed = None;
        let mut out = Vec::with_capacity(total);
        for index in 0..total {
            let step = Step::in_phases(index, total, phases);
            let phase = self.window(&step).phase;
            let seen = computed.filter(|c| phase.contains(c));
            let skip = if reading.needs_residual && seen.is_none() {
                false
            } else {
                self.decide_after(&step, branch, seen).reuse
            };
            if !skip {
                computed = Some(index);
            }
            out.push(skip);
        }
        out
    }

    fn judge(&self, reading: &Reading, step: &Step, branch: Branch, sum: Accumulated) -> Verdict {
        let ratio = self.ratio(step, branch);
        let threshold = if reading.single { f64::from(self.threshold as f32) } else { self.threshold };
        let within = if reading.strict { sum.error < threshold } else { sum.error <= threshold };
        let verdict = if !within {
            Verdict::compute(Why::Over)
        } else if sum.skips > self.max_skips {
            Verdict::compute(Why::SkipCap)
        } else if (reading.gate)(step.index, step.total, ratio) {
            Verdict::compute(Why::Gate)
        } else {
            Verdict::reuse(Why::Under)
        };
        verdict.metric(ratio).accumulated(sum.error)
    }

    /// The accumulators at the start of a phase: empty, or as an earlier phase left them.
    fn start(&self, reading: &Reading, step: &Step, branch: Branch) -> Accumulated {
        let mut sum = Accumulated { ratio: 1.0, error: 0.0, skips: reading.first_skips };
        if !reading.carry || step.phase.start == 0 {
            return sum;
        }
        let earlier = Step { phase: 0..step.phase.start, ..step.clone() };
        for index in 0..step.phase.start {
            let step = Step { index, ..earlier.clone() };
            if self.retained(reading, &step, branch) {
                continue;
            }
            let next = sum.add(self.ratio(&step, branch), reading.single);
            let reused = self.judge(reading, &step, branch, next).reuse;
            sum = if reused { next } else { Accumulated { ratio: 1.0, error: 0.0, skips: 0 } };
        }
        sum
    }

    fn retained(&self, reading: &Reading, step: &Step, branch: Branch) -> bool {
        reading.retains(step, branch == Branch::Uncond, self.retention)
    }

    /// The step as the dialect counts it: diffusers restarts after its configured number of steps.
    fn window(&self, step: &Step) -> Step {
        match self.assume_steps {
            Some(n) if n > 0 => {
                let start = step.phase.start + (step.index - step.phase.start) / n * n;
                Step { phase: start..start + n, ..step.clone() }
            }
            _ => step.clone(),
        }
    }

    /// Every branch that a curve names.
    fn branches(&self) -> Vec<Branch> {
        let named = |name: &str| self.curves.iter().any(|c| c.ratios.contains_key(name));
        if named("uncond") { vec![Branch::Cond, Branch::Uncond] } else { vec![Branch::Cond] }
    }

    /// The value at a step of the curve, resampled to the steps that it covers.
    fn ratio(&self, step: &Step, branch: Branch) -> f64 {
        let own = self.curves.iter().find(|c| c.is_of(step.expert));
        let Some(curve) = own.or_else(|| self.curves.iter().find(|c| c.expert.is_none())) else { return 1.0 };
        let reading = self.dialect.reading();
        let by_phase = own.is_some() || reading.single;
        let (i, n) = if by_phase {
            (step.index - step.phase.start, step.phase.len())
        } else {
            (step.index, step.total)
        };
        let values = curve.of(branch);
        let index = if reading.single { resample::index_f32 } else { resample::index };
        let ratio = values.get(index(values.len(), n, i)).copied().unwrap_or(1.0);
        if reading.single { f64::from(ratio as f32) } else { ratio }
    }
}
