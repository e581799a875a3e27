//! Euler's method on the flow-matching ODE, `x' = velocity` over sigma.
//!
//! Lipman et al., *Flow Matching for Generative Modeling* (2023), and Esser et al., *Scaling Rectified Flow
//! Transformers* (2024) for the shifts. Equals `FlowMatchEulerDiscreteScheduler` of diffusers 0.42.1, without
//! stochastic sampling, per-token timesteps, inverted sigmas, a terminal shift and the Karras, exponential
//! and beta spacings, which are refused.
//!
//! The reference applies a static shift twice when it chooses the sigmas itself: once to the training sigmas,
//! which fixes the two ends, and once more to the line between those ends. Sigmas that a pipeline passes in
//! (FLUX) are rounded to f32 first and shifted once, in f32.

use candle_core::Tensor;

use super::{
    History, Request, Result, SamplerError, SchedulerConfig, Shift,
    schedule::{Schedule, linspace},
};

/// The sigmas without the final zero, and the timesteps.
pub(super) fn schedule(config: &SchedulerConfig, request: &Request) -> Result<(Vec<f32>, Vec<f64>)> {
    let train = config.num_train_timesteps as f64;
    let sigmas: Vec<f32> = if let Some(sigmas) = &request.sigmas {
        let shift = ShiftBy::new(config, request)?;
        sigmas.iter().map(|&sigma| shift.f32(sigma as f32)).collect()
    } else {
        let (max, min) = ends(config);
        let line = linspace(max * train, min * train, request.steps);
        let shift = ShiftBy::new(config, request)?;
        line.map(|t| shift.f64(t / train) as f32).collect()
    };
    let timesteps = sigmas.iter().map(|&sigma| f64::from(sigma * train as f32)).collect();
    Ok((sigmas, timesteps))
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

/// One step: `x + (sigma_next - sigma) * velocity`.
pub(super) fn step(
    _: &SchedulerConfig,
    schedule: &Schedule,
    i: usize,
    output: &Tensor,
    sample: &Tensor,
    _: &mut History,
) -> candle_core::Result<Tensor> {
    let dt = schedule.sigma(i + 1)? - schedule.sigma(i)?;
    sample + (output * f64::from(dt))?
}
