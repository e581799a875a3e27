//! Noise levels of the FLUX.2 pipelines.

use crate::sampler::{Request, SchedulerConfig};

/// Evenly spaced sigmas, and [`mu`] for the image's token count and the steps.
pub fn schedule(config: &SchedulerConfig, steps: usize, image_seq_len: usize) -> Request {
    Request::linear(config, steps, mu(image_seq_len, steps))
}

/// The `mu` of FLUX.2: fitted lines in the token count for 10 and for 200 steps, interpolated in the number
/// of steps; above 4300 tokens the line for 200 steps alone (`compute_empirical_mu` of diffusers and of
/// black-forest-labs/flux2).
pub fn mu(image_seq_len: usize, steps: usize) -> f64 {
    let tokens = image_seq_len as f64;
    let at_200 = 0.000_169_27 * tokens + 0.456_666_66;
    if image_seq_len > 4300 {
        return at_200;
    }
    let at_10 = 8.738_095_24e-5 * tokens + 1.898_333_33;
    let slope = (at_200 - at_10) / 190.0;
    slope * steps as f64 + (at_200 - 200.0 * slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `compute_empirical_mu` of diffusers 0.42.1.
    #[test]
    fn mu_is_that_of_the_pipelines() {
        for (tokens, steps, want) in [
            (256, 4, 1.965_567_161_408_539),
            (256, 28, 1.786_109_931_031_983_2),
            (256, 50, 1.621_607_469_853_473_7),
            (1024, 4, 2.030_689_707_949_945_5),
            (1024, 28, 1.859_176_577_180_564_4),
            (1024, 50, 1.701_956_207_308_631_6),
            (4096, 4, 2.291_179_894_115_571),
            (4096, 28, 2.151_443_161_774_889),
            (4096, 50, 2.023_351_157_129_263_7),
            (4300, 4, 2.308_478_070_540_631_6),
            (4300, 28, 2.170_851_489_658_105),
            (4300, 50, 2.044_693_790_515_789_4),
            (4301, 4, 1.184_696_93),
            (4301, 28, 1.184_696_93),
            (4301, 50, 1.184_696_93),
            (8192, 4, 1.843_326_5),
            (8192, 28, 1.843_326_5),
            (8192, 50, 1.843_326_5),
        ] {
            let got = mu(tokens, steps);
            assert!((got - want).abs() < 1e-15, "{tokens} tokens, {steps} steps: {got} instead of {want}");
        }
    }
}
