//! Euler's method on the flow-matching ODE, `x' = velocity` over sigma.
//!
//! Lipman et al., *Flow Matching for Generative Modeling* (2023), and Esser et al., *Scaling Rectified Flow
//! Transformers* (2024) for the shifts. Equals `FlowMatchEulerDiscreteScheduler` of diffusers 0.42.1, without
//! stochastic sampling, per-token timesteps, inverted sigmas, a terminal shift and the Karras, exponential
//! and beta spacings, which are refused.

use candle_core::Tensor;

use super::{History, Schedule, SchedulerConfig};

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
