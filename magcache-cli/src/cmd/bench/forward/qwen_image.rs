//! Qwen-Image.

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_core::{Pass, inventory};
use magcache_models::qwen_image::{QwenImageConfig, QwenImagePrompt, QwenImageTransformer};

use super::{Forward, Network, Stored, gaussian};
use crate::args::BenchForward;

inventory::submit! { Network { class: "QwenImageTransformer2DModel", open } }

fn open(stored: &Stored, args: &BenchForward) -> Result<Forward> {
    let config = stored.config(QwenImageConfig::from_json)?;
    let model = QwenImageTransformer::load(&stored.weights, config.clone())?;
    let [_, height, width] = args.latent;
    let tokens = height * width;
    let latents = gaussian(&[1, tokens, config.in_channels])?;
    let text = gaussian(&[1, args.text, config.joint_attention_dim])?;
    let QwenImagePrompt { context, positions } = QwenImagePrompt::new(&model, &text, &[[height, width]])?;
    let timestep = Tensor::full(0.5f32, 1, &Device::Cpu)?;
    let (n, d) = ((tokens + args.text) as f64, config.inner_dim() as f64);
    let gflop = config.num_layers as f64 * (2.0 * n * 12.0 * d * d + 4.0 * n * n * d) / 1e9;
    let run = move || model.forward(&latents, &timestep, &context, &positions, &mut Pass::off()).map(|_| ());
    Ok(Forward { tokens, gflop, run: Box::new(run) })
}
