//! Wan.

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_core::{Pass, inventory};
use magcache_models::wan::{WanConfig, WanTransformer};

use super::{Forward, Network, Stored, gaussian};
use crate::{args::BenchForward, timing::wan_gflop};

inventory::submit! { Network { class: "WanTransformer3DModel", open } }

/// Keys and values of the text are computed once per generation, so they are not timed.
fn open(stored: &Stored, args: &BenchForward) -> Result<Forward> {
    let config = stored.config(WanConfig::from_json)?;
    let model = WanTransformer::load(&stored.weights, config.clone())?;
    let [frames, height, width] = args.latent;
    let latents = gaussian(&[1, config.in_channels, frames, height, width])?;
    let text = model.text_context(&gaussian(&[1, args.text, config.text_dim])?)?;
    let timestep = Tensor::full(500f32, 1, &Device::Cpu)?;
    let [pt, ph, pw] = config.patch_size;
    let tokens = (frames / pt) * (height / ph) * (width / pw);
    let gflop = wan_gflop(&config, tokens, args.text);
    let run = move || model.forward(&latents, &timestep, &text, &mut Pass::off()).map(|_| ());
    Ok(Forward { tokens, gflop, run: Box::new(run) })
}
