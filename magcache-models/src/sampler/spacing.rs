//! Where each sampler places its noise levels, and their arithmetic.

use super::{Result, SamplerError, SamplerKind, SchedulerConfig, Shift};

/// A pipeline's request for a schedule. A plain number of steps converts into one.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Sampling steps, 1 to `num_train_timesteps`.
    pub steps: usize,
    /// Sigmas to use instead of the solver's own, before the shift, one per step (euler only).
    pub sigmas: Option<Vec<f64>>,
    /// The shift by resolution, for a configuration with `use_dynamic_shifting`.
    pub mu: Option<f64>,
}

impl From<usize> for Request {
    fn from(steps: usize) -> Self {
        Self { steps, sigmas: None, mu: None }
    }
}

impl Request {
    /// Evenly spaced sigmas from 1 to `1 / steps`, and `mu` if the shift is by resolution, as used by image
    /// pipelines. Solvers with a spacing of their own keep it, as in the reference.
    pub fn linear(config: &SchedulerConfig, steps: usize, mu: f64) -> Self {
        if config.kind != SamplerKind::Euler || config.check_steps(steps).is_err() {
            return steps.into();
        }
        let sigmas = linspace(1.0, 1.0 / steps as f64, steps).collect();
        let mu = matches!(config.shift, Shift::Dynamic { .. }).then_some(mu);
        Self { steps, sigmas: Some(sigmas), mu }
    }
}

impl Request {
    /// The same with the line of `torch.linspace` in f32, bit for bit, as some pipelines of images make it.
    pub fn linear_f32(config: &SchedulerConfig, steps: usize, mu: f64) -> Self {
        let request = Self::linear(config, steps, mu);
        let sigmas = request.sigmas.map(|sigmas| torch_line(sigmas.len()));
        Self { sigmas, ..request }
    }
}

/// From 1 to `1 / steps`: both halves are counted from their end, with one rounding for each value.
fn torch_line(steps: usize) -> Vec<f64> {
    let end = (1.0 / steps as f64) as f32;
    let step = f64::from((end - 1.0) / steps.saturating_sub(1).max(1) as f32);
    let from_start = |i: usize| 1.0 + step * i as f64;
    let from_end = |i: usize| f64::from(end) - step * (steps - 1 - i) as f64;
    let at = |i: usize| if i < steps / 2 || steps == 1 { from_start(i) } else { from_end(i) };
    (0..steps).map(|i| f64::from(at(i) as f32)).collect()
}

/// Subtracted from a first sigma of 1 in UniPC, where the logarithm of the signal would be infinite.
const BELOW_ONE: f64 = 1e-6;

/// The sigmas without the final zero, and the timesteps, which multistep solvers truncate to integers before
/// the sigmas are rounded.
pub(super) fn levels(config: &SchedulerConfig, request: &Request) -> Result<(Vec<f32>, Vec<f64>)> {
    let (steps, train) = (request.steps, config.num_train_timesteps as f64);
    let shift = match (config.kind, config.shift) {
        (SamplerKind::Euler, _) => return euler(config, request),
        (_, Shift::Static(shift)) => shift,
        (kind, Shift::Dynamic { .. }) => return Err(SamplerError::DynamicShift { kind }),
    };
    let line = |start: f64, stop: f64| linspace(start, stop, steps + 1);
    let mut sigmas: Vec<f64> = match config.kind {
        // The Wan repository: from the f32 rounding of `1 - 1/T` to 0, or from 1.
        SamplerKind::WanUniPc => line(f64::from((1.0 - 1.0 / train) as f32), 0.0).take(steps).collect(),
        SamplerKind::WanDpmPp => line(1.0, 0.0).take(steps).collect(),
        // diffusers: from `1 - 1/T`, as the alphas of a line from the noisy end.
        SamplerKind::DpmPp => line(1.0, 1.0 / train).skip(1).map(|alpha| 1.0 - alpha).collect(),
        // diffusers: from 1 to `1/T`.
        SamplerKind::UniPc | SamplerKind::Euler => line(1.0, 1.0 / train).take(steps).collect(),
    };
    if config.kind == SamplerKind::DpmPp {
        sigmas.reverse();
    }
    sigmas.iter_mut().for_each(|sigma| *sigma = ShiftBy::Static(shift).f64(*sigma));
    if let (SamplerKind::UniPc, Some(first)) = (config.kind, sigmas.first_mut())
        && (*first - 1.0).abs() < BELOW_ONE
    {
        *first -= BELOW_ONE;
    }
    Ok(sigmas.into_iter().map(|sigma| (sigma as f32, (sigma * train).trunc())).unzip())
}

/// The reference applies a static shift twice when it chooses the sigmas itself: once to the training sigmas,
/// which fixes the two ends, and once more to the line between those ends. Sigmas that a pipeline passes in
/// (FLUX) are rounded to f32 first and shifted once, in f32.
fn euler(config: &SchedulerConfig, request: &Request) -> Result<(Vec<f32>, Vec<f64>)> {
    let train = config.num_train_timesteps as f64;
    let mut sigmas: Vec<f32> = if let Some(sigmas) = &request.sigmas {
        let shift = ShiftBy::new(config, request)?;
        sigmas.iter().map(|&sigma| shift.f32(sigma as f32)).collect()
    } else {
        let (max, min) = ends(config);
        let line = linspace(max * train, min * train, request.steps);
        let shift = ShiftBy::new(config, request)?;
        line.map(|t| shift.f64(t / train) as f32).collect()
    };
    if let Some(terminal) = config.shift_terminal {
        stretch(&mut sigmas, terminal as f32);
    }
    let timesteps = sigmas.iter().map(|&sigma| f64::from(sigma * train as f32)).collect();
    Ok((sigmas, timesteps))
}

/// Stretches the way from 1 so that the last level is `terminal`. A single level of 1 stays: it has no way.
fn stretch(sigmas: &mut [f32], terminal: f32) {
    let factor = sigmas.last().map_or(0.0, |last| (1.0 - last) / (1.0 - terminal));
    if factor > 0.0 {
        sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / factor);
    }
}

/// The largest and the smallest training sigma, after a static shift in f32.
fn ends(config: &SchedulerConfig) -> (f64, f64) {
    let min = 1.0 / config.num_train_timesteps as f32;
    match config.shift {
        Shift::Static(shift) => {
            let by = ShiftBy::Static(shift);
            (f64::from(by.f32(1.0)), f64::from(by.f32(min)))
        }
        Shift::Dynamic { .. } => (1.0, f64::from(min)),
    }
}

/// `a * sigma / (1 + (a - 1) * sigma)`, or `m / (m + 1/sigma - 1)`, which is the same curve for `m = a`.
enum ShiftBy {
    Static(f64),
    Dynamic(f64),
}

impl ShiftBy {
    fn new(config: &SchedulerConfig, request: &Request) -> Result<Self> {
        match config.shift {
            Shift::Static(shift) => Ok(Self::Static(shift)),
            Shift::Dynamic { exponential } => {
                let mu = request.mu.ok_or(SamplerError::MissingMu)?;
                Ok(Self::Dynamic(if exponential { mu.exp() } else { mu }))
            }
        }
    }

    fn f64(&self, sigma: f64) -> f64 {
        match *self {
            Self::Static(a) => a * sigma / (1.0 + (a - 1.0) * sigma),
            Self::Dynamic(m) => m / (m + (1.0 / sigma - 1.0)),
        }
    }

    fn f32(&self, sigma: f32) -> f32 {
        match *self {
            Self::Static(a) => a as f32 * sigma / (1.0 + (a - 1.0) as f32 * sigma),
            Self::Dynamic(m) => m as f32 / (m as f32 + (1.0 / sigma - 1.0)),
        }
    }
}

/// `num` numbers from `start` to `stop`, both included, in f64 as numpy's `linspace` rounds them.
pub(super) fn linspace(start: f64, stop: f64, num: usize) -> impl Iterator<Item = f64> {
    let step = (stop - start) / num.saturating_sub(1).max(1) as f64;
    (0..num).map(move |i| if i > 0 && i + 1 == num { stop } else { i as f64 * step + start })
}

/// Half the log signal-to-noise ratio of a flow-matching level, `ln(1 - sigma) - ln(sigma)`; `+inf` at 0,
/// `-inf` at 1.
pub(super) fn lambda(sigma: f32) -> f32 {
    (1.0 - sigma).ln() - sigma.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `torch.linspace(1, 1 / n, n)` of torch 2.11.
    #[test]
    fn the_line_in_f32_is_torchs() {
        assert_eq!(torch_line(1), [1.0]);
        assert_eq!(torch_line(2), [1.0, 0.5]);
        for (steps, i, want) in BITS {
            assert_eq!((torch_line(steps)[i] as f32).to_bits(), want, "{i} of {steps}");
        }
    }

    /// Where it is not the nearest to the line in f64.
    const BITS: [(usize, usize, u32); 6] = [
        (13, 5, 0x3f1d_89d8),
        (13, 7, 0x3eec_4ec6),
        (20, 11, 0x3ee6_6667),
        (28, 5, 0x3f52_4924),
        (28, 12, 0x3f12_4924),
        (50, 8, 0x3f57_0a3e),
    ];
}
