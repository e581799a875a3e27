//! UniPC: a predictor and a corrector of the same order, without a further evaluation of the model.
//!
//! Zhao et al., *UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models*
//! (2023), with `B(h) = exp(-h) - 1` (bh2), on the prediction of the clean sample
//! `x0 = x - sigma * velocity`. Equals `UniPCMultistepScheduler` of diffusers 0.42.1 with flow prediction and
//! flow sigmas, orders 1 to 3. `wan-unipc` is the same solver on the sigmas of the Wan repository
//! (`wan/utils/fm_solvers_unipc.py` of Wan2.2).
//!
//! Refused, because the reference itself is not finite there: `bh1` (its last step multiplies infinity by 0)
//! and `lower_order_final = false`. The coefficients are formed in f32 from the f32 sigmas, as the reference
//! does.

use candle_core::{Result, Tensor};

use super::{History, Schedule, SchedulerConfig, spacing::lambda};

/// One step: predict `x0`, correct the sample that the model was given, predict the next.
pub(super) fn step(
    config: &SchedulerConfig,
    schedule: &Schedule,
    i: usize,
    output: &Tensor,
    sample: &Tensor,
    history: &mut History,
) -> Result<Tensor> {
    let x0 = (sample - (output * f64::from(schedule.sigma(i)?))?)?;
    let corrected = match &history.last_sample {
        Some(last) if !config.disable_corrector.contains(&(i - 1)) => {
            correct(schedule, i, &x0, last, history)?
        }
        _ => sample.clone(),
    };
    history.push(x0, config.solver_order);
    let left = schedule.steps() - i;
    let order = config.solver_order.min(left).min(history.predictions.len());
    let next = predict(schedule, i, order, &corrected, history)?;
    history.last_order = order;
    history.last_sample = Some(corrected);
    Ok(next)
}

/// The predictor: from step `i` to the next.
fn predict(
    schedule: &Schedule,
    i: usize,
    order: usize,
    sample: &Tensor,
    history: &History,
) -> Result<Tensor> {
    let b = Bh::new(schedule, i, order)?;
    let m0 = history.back(0)?;
    let x = b.first_order(sample, m0)?;
    if order == 1 {
        return Ok(x);
    }
    // With one earlier point the reference fixes rho at one half instead of solving for it.
    let rhos = if order == 2 { vec![0.5] } else { b.solve(order - 1) };
    x - (b.differences(&rhos, m0, history)? * f64::from(b.scale()))?
}

/// The corrector: recomputes the sample before step `i`, now that the model has been evaluated there.
fn correct(schedule: &Schedule, i: usize, x0: &Tensor, last: &Tensor, history: &History) -> Result<Tensor> {
    let order = history.last_order;
    let b = Bh::new(schedule, i - 1, order)?;
    let m0 = history.back(0)?;
    let x = b.first_order(last, m0)?;
    let mut rhos = if order == 1 { vec![0.5] } else { b.solve(order) };
    let rho = rhos.pop().unwrap_or(0.5);
    let mut residual = ((x0 - m0)? * f64::from(rho))?;
    if !rhos.is_empty() {
        residual = (b.differences(&rhos, m0, history)? + residual)?;
    }
    x - (residual * f64::from(b.scale()))?
}

/// The coefficients of one interval, from `sigma_s` to `sigma_t`, with `h` its length in lambda.
struct Bh {
    h: f32,
    sigma_s: f32,
    sigma_t: f32,
    /// Earlier points, relative to the start and in units of `h`, followed by 1 for the end.
    rks: Vec<f32>,
}

impl Bh {
    /// The interval after step `i`, with the `order - 1` steps before it.
    fn new(schedule: &Schedule, i: usize, order: usize) -> Result<Self> {
        let (sigma_s, sigma_t) = (schedule.sigma(i)?, schedule.sigma(i + 1)?);
        let start = lambda(sigma_s);
        let h = lambda(sigma_t) - start;
        let earlier = (1..order).map(|back| Ok((lambda(schedule.sigma(i - back)?) - start) / h));
        let rks = earlier.chain([Ok(1.0)]).collect::<Result<_>>()?;
        Ok(Self { h, sigma_s, sigma_t, rks })
    }

    /// `B(h)`, which bh2 makes equal to the first phi function times `h`.
    fn b(&self) -> f32 {
        (-self.h).exp_m1()
    }

    fn scale(&self) -> f32 {
        (1.0 - self.sigma_t) * self.b()
    }

    fn first_order(&self, sample: &Tensor, m0: &Tensor) -> Result<Tensor> {
        (sample * f64::from(self.sigma_t / self.sigma_s))? - (m0 * f64::from(self.scale()))?
    }

    /// The weights that make the update exact for polynomials: row `k` requires `sum(rho * rk^k) = b_k`.
    fn solve(&self, order: usize) -> Vec<f32> {
        let hh = -self.h;
        let mut phi = hh.exp_m1() / hh - 1.0;
        let mut factorial = 1.0_f32;
        let mut rows = Vec::with_capacity(order);
        let mut powers = vec![1.0_f32; order];
        for k in 0..order {
            rows.push(powers.iter().copied().chain([phi * factorial / self.b()]).collect());
            powers.iter_mut().zip(&self.rks).for_each(|(power, rk)| *power *= rk);
            factorial *= (k + 2) as f32;
            phi = phi / hh - 1.0 / factorial;
        }
        eliminate(rows)
    }

    /// Sum of the differences of earlier predictions from the newest, each divided by its `rk`.
    fn differences(&self, rhos: &[f32], m0: &Tensor, history: &History) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for (k, (rho, rk)) in rhos.iter().zip(&self.rks).enumerate() {
            let difference = ((((history.back(k + 1)? - m0)? / f64::from(*rk))?) * f64::from(*rho))?;
            sum = Some(match sum {
                Some(sum) => (sum + difference)?,
                None => difference,
            });
        }
        sum.map_or_else(|| m0.zeros_like(), Ok)
    }
}

/// Gaussian elimination with partial pivoting; each row is followed by its right-hand side.
fn eliminate(mut rows: Vec<Vec<f32>>) -> Vec<f32> {
    let n = rows.len();
    for col in 0..n {
        let pivot =
            (col..n).max_by(|&a, &b| rows[a][col].abs().total_cmp(&rows[b][col].abs())).unwrap_or(col);
        rows.swap(col, pivot);
        let above = rows[col].clone();
        for row in &mut rows[col + 1..] {
            let factor = row[col] / above[col];
            row.iter_mut().zip(&above).for_each(|(entry, above)| *entry -= factor * above);
        }
    }
    let mut solution = vec![0.0; n];
    for row in (0..n).rev() {
        let known: f32 = (row + 1..n).map(|k| rows[row][k] * solution[k]).sum();
        solution[row] = (rows[row][n] - known) / rows[row][row];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::eliminate;

    #[test]
    fn a_system_that_needs_pivoting_is_solved() {
        let rows = vec![vec![0.0, 2.0, 1.0, 7.0], vec![1.0, 1.0, 1.0, 6.0], vec![4.0, -1.0, 2.0, 8.0]];
        let solution = eliminate(rows);
        for (got, want) in solution.iter().zip([1.0, 2.0, 3.0]) {
            assert!((got - want).abs() < 1e-5, "{solution:?}");
        }
    }
}
