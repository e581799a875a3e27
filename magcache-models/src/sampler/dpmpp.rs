//! DPM-Solver++, multistep, midpoint.
//!
//! Lu et al., *DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models* (2022), on
//! the prediction of the clean sample `x0 = x - sigma * velocity`. Equals `DPMSolverMultistepScheduler` of
//! diffusers 0.42.1 with `algorithm_type = "dpmsolver++"`, `solver_type = "midpoint"` and `use_flow_sigmas`,
//! orders 1 to 3; the stochastic and the noise-predicting variants are refused. `wan-dpmpp` is the same
//! solver on the sigmas of the Wan repository (`wan/utils/fm_solvers.py` of Wan2.2, `get_sampling_sigmas`),
//! which start at exactly 1: there `lambda = -inf`, and the second step's correction is 0.
//!
//! The coefficients are formed in f32 from the f32 sigmas, as the reference does.

use candle_core::Tensor;

use super::{History, Schedule, SchedulerConfig, spacing::lambda};

/// The order of step `i`: it rises with the number of available predictions, and falls at the end.
fn order(config: &SchedulerConfig, steps: usize, i: usize, predictions: usize) -> usize {
    let left = steps - i;
    // The last step ends at sigma 0, where only order 1 is finite; the one before it falls back on short
    // schedules.
    let limit =
        if left == 1 || (config.lower_order_final && steps < 15) { left } else { config.solver_order };
    config.solver_order.min(predictions).min(limit)
}

/// One step.
pub(super) fn step(
    config: &SchedulerConfig,
    schedule: &Schedule,
    i: usize,
    output: &Tensor,
    sample: &Tensor,
    history: &mut History,
) -> candle_core::Result<Tensor> {
    let (sigma_s, sigma_t) = (schedule.sigma(i)?, schedule.sigma(i + 1)?);
    history.push((sample - (output * f64::from(sigma_s))?)?, config.solver_order);
    let m0 = history.back(0)?;

    let h = lambda(sigma_t) - lambda(sigma_s);
    let phi_1 = (-h).exp() - 1.0;
    let alpha_t = 1.0 - sigma_t;
    let x = ((sample * f64::from(sigma_t / sigma_s))? - (m0 * f64::from(alpha_t * phi_1))?)?;

    let order = order(config, schedule.steps(), i, history.predictions.len());
    if order == 1 {
        return Ok(x);
    }
    let m1 = history.back(1)?;
    let h_0 = lambda(sigma_s) - lambda(schedule.sigma(i - 1)?);
    let r0 = h_0 / h;
    let d1_0 = ((m0 - m1)? * f64::from(1.0 / r0))?;
    if order == 2 {
        return x - (d1_0 * f64::from(0.5 * (alpha_t * phi_1)))?;
    }
    let m2 = history.back(2)?;
    let h_1 = lambda(schedule.sigma(i - 1)?) - lambda(schedule.sigma(i - 2)?);
    let r1 = h_1 / h;
    let d1_1 = ((m1 - m2)? * f64::from(1.0 / r1))?;
    let difference = (&d1_0 - d1_1)?;
    let d1 = (d1_0 + (&difference * f64::from(r0 / (r0 + r1)))?)?;
    let d2 = (difference * f64::from(1.0 / (r0 + r1)))?;
    let x = (x + (d1 * f64::from(alpha_t * (phi_1 / h + 1.0)))?)?;
    x - (d2 * f64::from(alpha_t * ((phi_1 + h) / (h * h) - 0.5)))?
}
