//! FLUX.1.

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_core::{Pass, inventory};
use magcache_models::flux::{FluxConfig, FluxTransformer};

use super::{Forward, Network, Stored, gaussian};
use crate::args::BenchForward;

inventory::submit! { Network { class: "FluxTransformer2DModel", open } }

fn open(stored: &Stored, args: &BenchForward) -> Result<Forward> {
    let config = stored.config(FluxConfig::from_json)?;
    let model = FluxTransformer::load(&stored.weights, config.clone())?;
    let [frames, height, width] = args.latent;
    let tokens = frames * height * width;
    let latents = gaussian(&[1, tokens, config.in_channels])?;
    let text = gaussian(&[1, args.text, config.joint_attention_dim])?;
    let text = model.text_context(&text, &gaussian(&[1, config.pooled_projection_dim])?)?;
    let place = |i: usize| [0.0, (i / width) as f32, (i % width) as f32];
    let places: Vec<[f32; 3]> = (0..tokens).map(place).collect();
    let positions = model.positions(&vec![[0.0; 3]; args.text], &places)?;
    let timestep = Tensor::full(0.5f32, 1, &Device::Cpu)?;
    let guidance = Tensor::full(3.5f32, 1, &Device::Cpu)?;
    let guidance = config.guidance_embeds.then_some(guidance);
    let (n, t, d) = (tokens as f64, args.text as f64, config.inner_dim() as f64);
    let blocks = (config.num_layers + config.num_single_layers) as f64;
    // Either kind of block costs twelve times the width squared per token, plus attention over all tokens.
    let gflop = blocks * (2.0 * (n + t) * 12.0 * d * d + 4.0 * (n + t) * (n + t) * d) / 1e9;
    let run = move || {
        let guidance = guidance.as_ref();
        model.forward(&latents, &timestep, guidance, &text, &positions, &mut Pass::off()).map(|_| ())
    };
    Ok(Forward { tokens, gflop, run: Box::new(run) })
}
