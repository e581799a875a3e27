//! Euler steps along noise levels from 1 to 0.

use candle_core::{Result, Tensor};

use super::{flux::Flux, wan::Wan};

/// Noise levels of so many steps.
pub fn sigmas(steps: usize) -> Vec<f64> {
    let shifted = |u: f64| 3.0 * u / (1.0 + 2.0 * u);
    (0..=steps).map(|i| shifted(1.0 - i as f64 / steps as f64)).collect()
}

/// A video, with guidance: one network while the noise level is at least 0.875, the other below.
pub fn video(
    pair: &[Wan; 2],
    noise: &Tensor,
    [cond, uncond]: [&Tensor; 2],
    sigmas: &[f64],
) -> Result<Tensor> {
    let mut x = noise.clone();
    for i in 0..sigmas.len() - 1 {
        let network = &pair[usize::from(sigmas[i] < 0.875)];
        let cond = network.forward(&x, sigmas[i], cond)?;
        let uncond = network.forward(&x, sigmas[i], uncond)?;
        let velocity = (&uncond + ((cond - &uncond)? * 4.0)?)?;
        x = (x + (velocity * (sigmas[i + 1] - sigmas[i]))?)?;
    }
    Ok(x)
}

/// An image, without guidance.
pub fn image(
    flux: &Flux,
    // `[1, tokens, 16]`, like the text.
    noise: &Tensor,
    text: &Tensor,
    sigmas: &[f64],
) -> Result<Tensor> {
    let mut x = noise.clone();
    for i in 0..sigmas.len() - 1 {
        let velocity = flux.forward(&x, text, sigmas[i])?;
        x = (x + (velocity * (sigmas[i + 1] - sigmas[i]))?)?;
    }
    Ok(x)
}
