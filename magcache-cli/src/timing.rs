//! Time of one piece of work, repeated.

use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use magcache_models::{
    autoencoder::{VideoVae, VideoVaeConfig},
    checkpoint::{Folder, WeightDtype, Weights},
    pipeline::noise,
    text::{T5Config, T5Encoder},
    wan::WanConfig,
};

use crate::compare::estimate::Spread;

/// The milliseconds of `repeat` runs until `device` has done them, after one to warm up.
pub(crate) fn measure(device: &Device, repeat: usize, mut run: impl FnMut() -> Result<()>) -> Result<Spread> {
    let mut once = || -> Result<f64> {
        device.synchronize()?;
        let start = Instant::now();
        run()?;
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    once()?;
    Ok(Spread::of((0..repeat.max(1)).map(|_| once()).collect::<Result<Vec<_>>>()?))
}

/// Decodes random latents of so many frames, rows and columns.
pub(crate) fn decode(
    folder: &Folder,
    device: &Device,
    [frames, height, width]: [usize; 3],
    repeat: usize,
) -> Result<Spread> {
    let config = VideoVaeConfig::read(folder)?;
    let vae = VideoVae::load(&Weights::open(folder, device, WeightDtype::Auto)?, &config)?;
    let latents = noise(0, (1, config.z_dim, frames, height, width), device)?;
    measure(device, repeat, || {
        vae.decode(&latents, None)?;
        Ok(())
    })
}

/// Encodes so many tokens to hidden states.
pub(crate) fn encode(folder: &Folder, device: &Device, tokens: usize, repeat: usize) -> Result<Spread> {
    let config = T5Config::read(folder)?;
    let encoder = T5Encoder::load(&Weights::open(folder, device, WeightDtype::Auto)?, &config)?;
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 7 % config.vocab_size) as u32).collect();
    measure(device, repeat, || {
        encoder.forward(&[&ids], None)?;
        Ok(())
    })
}

/// Multiplications and additions of the matrix products of all blocks of a Wan network, in GFLOP.
pub(crate) fn wan_gflop(config: &WanConfig, tokens: usize, text: usize) -> f64 {
    let (n, t) = (tokens as f64, text as f64);
    let (d, ffn) = (config.inner_dim() as f64, config.ffn_dim as f64);
    let linear = 2.0 * n * d * (6.0 * d + 2.0 * ffn);
    config.num_layers as f64 * (linear + 4.0 * n * (n + t) * d) / 1e9
}
