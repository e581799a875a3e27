//! Components that run once per generation: the text encoder and the autoencoder.

use anyhow::Result;
use candle_core::Device;
use magcache_models::{
    autoencoder::{VideoVae, VideoVaeConfig},
    checkpoint::{WeightDtype, Weights},
    text::{T5Config, T5Encoder},
};

use super::{Times, component, gaussian};
use crate::{
    args::{BenchText, BenchVae},
    console::Console,
};

/// Times decoding latents to frames.
pub(super) fn decode(args: &BenchVae, out: &Console) -> Result<()> {
    let folder = component(&args.model, "vae")?;
    let config = VideoVaeConfig::read(&folder)?;
    let vae = VideoVae::load(&Weights::open(&folder, &Device::Cpu, WeightDtype::Auto)?, &config)?;
    let [frames, height, width] = args.latent;
    let latents = gaussian(&[1, config.z_dim, frames, height, width])?;
    let times = Times::measure(args.repeat, || {
        vae.decode(&latents, None)?;
        Ok(())
    })?;
    times.answer(&format!("latents of {frames}x{height}x{width}"), args.repeat, &[], out);
    Ok(())
}

/// Times encoding tokens to hidden states.
pub(super) fn encode(args: &BenchText, out: &Console) -> Result<()> {
    let folder = component(&args.model, "text_encoder")?;
    let config = T5Config::read(&folder)?;
    let encoder = T5Encoder::load(&Weights::open(&folder, &Device::Cpu, WeightDtype::Auto)?, &config)?;
    let ids: Vec<u32> = (0..args.tokens).map(|i| (i * 7 % config.vocab_size) as u32).collect();
    let times = Times::measure(args.repeat, || {
        encoder.forward(&[&ids], None)?;
        Ok(())
    })?;
    times.answer(&format!("{} tokens", args.tokens), args.repeat, &[], out);
    Ok(())
}
