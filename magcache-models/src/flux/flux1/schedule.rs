//! Noise levels of the FLUX.1 pipelines.

use crate::sampler::{Request, SchedulerConfig};

/// Evenly spaced sigmas, and [`SchedulerConfig::mu`] for the image's token count.
pub fn schedule(config: &SchedulerConfig, steps: usize, image_seq_len: usize) -> Request {
    Request::linear(config, steps, config.mu(image_seq_len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::SamplerKind;

    /// From `calculate_shift` of diffusers 0.42.1.
    #[test]
    fn mu_is_that_of_the_pipelines() {
        let config = SchedulerConfig::new(SamplerKind::Euler, 1.0);
        for (tokens, want) in [
            (64, 0.467_499_999_999_999_97),
            (256, 0.5),
            (1024, 0.63),
            (4096, 1.15),
            (8192, 1.843_333_333_333_333_3),
        ] {
            let got = config.mu(tokens);
            assert!((got - want).abs() < 1e-15, "{tokens} tokens: {got} instead of {want}");
        }
    }
}
