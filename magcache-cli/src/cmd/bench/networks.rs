//! The networks that run once per generation: the text encoder and the autoencoder.

use anyhow::Result;
use candle_core::Device;
use magcache_models::{
    autoencoder::{VideoVae, VideoVaeConfig},
    checkpoint::{Folder, WeightDtype, Weights},
    text::{T5Config, T5Encoder},
};

use super::{answer, gaussian, measure};
use crate::console::Console;

/// Times decoding latents to frames.
pub(super) fn decode(
    folder: &Folder,
    [frames, height, width]: [usize; 3],
    repeat: usize,
    out: &Console,
) -> Result<()> {
    let config = VideoVaeConfig::read(folder)?;
    let vae = VideoVae::load(&Weights::open(folder, &Device::Cpu, WeightDtype::Auto)?, &config)?;
    let latents = gaussian(&[1, config.z_dim, frames, height, width])?;
    let times = measure(repeat, || {
        vae.decode(&latents, None)?;
        Ok(())
    })?;
    answer(times, &format!("latents of {frames}x{height}x{width}"), repeat, &[], out);
    Ok(())
}

/// Times encoding tokens to hidden states.
pub(super) fn encode(folder: &Folder, tokens: usize, repeat: usize, out: &Console) -> Result<()> {
    let config = T5Config::read(folder)?;
    let encoder = T5Encoder::load(&Weights::open(folder, &Device::Cpu, WeightDtype::Auto)?, &config)?;
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 7 % config.vocab_size) as u32).collect();
    let times = measure(repeat, || {
        encoder.forward(&[&ids], None)?;
        Ok(())
    })?;
    answer(times, &format!("{tokens} tokens"), repeat, &[], out);
    Ok(())
}
