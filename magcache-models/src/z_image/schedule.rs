//! Noise levels of the pipelines.

use crate::sampler::{Request, SchedulerConfig};

/// Evenly spaced sigmas from 1 to `1 / steps`, for an image of so many tokens.
///
/// The line is that of `torch.linspace` in f32, bit for bit, which the pipelines of diffusers (0.42.1) hand
/// to the scheduler. Published schedules have a static shift, which does not depend on the tokens.
pub fn schedule(config: &SchedulerConfig, steps: usize, tokens: usize) -> Request {
    let request = Request::linear(config, steps, config.mu(tokens));
    let sigmas = request.sigmas.map(|sigmas| line(sigmas.len()));
    Request { sigmas, ..request }
}

/// Both halves are counted from their end, with one rounding for each value.
fn line(steps: usize) -> Vec<f64> {
    let end = (1.0 / steps as f64) as f32;
    let step = f64::from((end - 1.0) / steps.saturating_sub(1).max(1) as f32);
    let from_start = |i: usize| 1.0 + step * i as f64;
    let from_end = |i: usize| f64::from(end) - step * (steps - 1 - i) as f64;
    let at = |i: usize| if i < steps / 2 || steps == 1 { from_start(i) } else { from_end(i) };
    (0..steps).map(|i| f64::from(at(i) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `torch.linspace(1, 1 / n, n)` of torch 2.11.
    #[test]
    fn the_line_is_torchs_in_f32() {
        assert_eq!(line(1), [1.0]);
        assert_eq!(line(2), [1.0, 0.5]);
        let bits = |steps: usize, i: usize| (line(steps)[i] as f32).to_bits();
        for (steps, i, want) in BITS {
            assert_eq!(bits(steps, i), want, "{i} of {steps}");
        }
    }

    const BITS: [(usize, usize, u32); 6] = [
        (13, 5, 0x3f1d89d8),
        (13, 7, 0x3eec4ec6),
        (20, 11, 0x3ee66667),
        (28, 5, 0x3f524924),
        (28, 12, 0x3f124924),
        (50, 8, 0x3f570a3e),
    ];
}
