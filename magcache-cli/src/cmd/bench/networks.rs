//! One forward of a transformer on random latents.

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_core::Pass;
use magcache_models::{
    checkpoint::{Folder, Ops, WeightDtype, Weights},
    flux::{FluxConfig, FluxTransformer},
    qwen_image::{QwenImageConfig, QwenImagePrompt, QwenImageTransformer},
    wan::{WanConfig, WanTransformer},
    z_image::{MULTIPLE, ZImageConfig, ZImageTransformer},
};
use serde_json::json;

use super::{answer, component, gaussian};
use crate::{
    args::BenchForward,
    compare::estimate::Spread,
    console::{Console, bad_input_at},
    timing::{measure, wan_gflop},
};

pub(super) fn run(args: &BenchForward, ops: Ops, out: &Console) -> Result<()> {
    let folder = component(&args.model, ops, "transformer")?;
    let text = folder.read_to_string("config.json")?;
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Auto)?;
    if text.contains("\"FluxTransformer2DModel\"") {
        flux(args, &FluxConfig::from_json(&text).map_err(|e| in_file(&folder, &e))?, &weights, out)
    } else if text.contains("\"ZImageTransformer2DModel\"") {
        z_image(args, &ZImageConfig::from_json(&text).map_err(|e| in_file(&folder, &e))?, &weights, out)
    } else if text.contains("\"QwenImageTransformer2DModel\"") {
        qwen_image(args, &QwenImageConfig::from_json(&text).map_err(|e| in_file(&folder, &e))?, &weights, out)
    } else {
        wan(args, &WanConfig::from_json(&text).map_err(|e| in_file(&folder, &e))?, &weights, out)
    }
}

fn in_file(folder: &Folder, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    bad_input_at(&folder.describe_file("config.json"), error)
}

/// Keys and values of the text are computed once per generation, so they are not timed.
fn wan(args: &BenchForward, config: &WanConfig, weights: &Weights, out: &Console) -> Result<()> {
    let model = WanTransformer::load(weights, config.clone())?;
    let [frames, height, width] = args.latent;
    let latents = gaussian(&[1, config.in_channels, frames, height, width])?;
    let text = model.text_context(&gaussian(&[1, args.text, config.text_dim])?)?;
    let timestep = Tensor::full(500f32, 1, &Device::Cpu)?;
    let [pt, ph, pw] = config.patch_size;
    let tokens = (frames / pt) * (height / ph) * (width / pw);
    let gflop = wan_gflop(config, tokens, args.text);
    let times = measure(&Device::Cpu, args.repeat, || {
        model.forward(&latents, &timestep, &text, &mut Pass::off())?;
        Ok(())
    })?;
    forward(times, tokens, args, gflop, out);
    Ok(())
}

fn flux(args: &BenchForward, config: &FluxConfig, weights: &Weights, out: &Console) -> Result<()> {
    let model = FluxTransformer::load(weights, config.clone())?;
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
    let guidance = config.guidance_embeds.then_some(&guidance);
    let (n, t, d) = (tokens as f64, args.text as f64, config.inner_dim() as f64);
    let blocks = (config.num_layers + config.num_single_layers) as f64;
    // Either kind of block costs twelve times the width squared per token, plus attention over all tokens.
    let gflop = blocks * (2.0 * (n + t) * 12.0 * d * d + 4.0 * (n + t) * (n + t) * d) / 1e9;
    let times = measure(&Device::Cpu, args.repeat, || {
        model.forward(&latents, &timestep, guidance, &text, &positions, &mut Pass::off())?;
        Ok(())
    })?;
    forward(times, tokens, args, gflop, out);
    Ok(())
}

/// The caption is refined once per generation, so that is not timed.
fn z_image(args: &BenchForward, config: &ZImageConfig, weights: &Weights, out: &Console) -> Result<()> {
    let model = ZImageTransformer::load(weights, config.clone())?;
    let [frames, height, width] = args.latent;
    let (rows, columns) = (frames * height / 2, width / 2);
    let latents = gaussian(&[1, config.in_channels, 2 * rows, 2 * columns])?;
    let prompt = model.prompt(&gaussian(&[1, args.text, config.cap_feat_dim])?, [rows, columns])?;
    let tokens = rows * columns;
    let (image, text) =
        (tokens.next_multiple_of(MULTIPLE) as f64, args.text.next_multiple_of(MULTIPLE) as f64);
    let (d, hidden) = (config.dim as f64, config.hidden() as f64);
    let block = |n: f64| 2.0 * n * d * (4.0 * d + 3.0 * hidden) + 4.0 * n * n * d;
    let blocks = [config.n_layers, config.n_refiner_layers].map(|blocks| blocks as f64);
    let gflop = (blocks[0] * block(image + text) + blocks[1] * block(image)) / 1e9;
    let times = measure(&Device::Cpu, args.repeat, || {
        model.forward(&latents, &model.time(0.5)?, &prompt, &mut Pass::off())?;
        Ok(())
    })?;
    forward(times, tokens, args, gflop, out);
    Ok(())
}

fn qwen_image(args: &BenchForward, config: &QwenImageConfig, weights: &Weights, out: &Console) -> Result<()> {
    let model = QwenImageTransformer::load(weights, config.clone())?;
    let [_, height, width] = args.latent;
    let tokens = height * width;
    let latents = gaussian(&[1, tokens, config.in_channels])?;
    let text = gaussian(&[1, args.text, config.joint_attention_dim])?;
    let QwenImagePrompt { context, positions } = QwenImagePrompt::new(&model, &text, &[[height, width]])?;
    let timestep = Tensor::full(0.5f32, 1, &Device::Cpu)?;
    let (n, d) = ((tokens + args.text) as f64, config.inner_dim() as f64);
    let gflop = config.num_layers as f64 * (2.0 * n * 12.0 * d * d + 4.0 * n * n * d) / 1e9;
    let times = measure(&Device::Cpu, args.repeat, || {
        model.forward(&latents, &timestep, &context, &positions, &mut Pass::off())?;
        Ok(())
    })?;
    forward(times, tokens, args, gflop, out);
    Ok(())
}

/// `gflop` counts multiplications and additions of the blocks' matrix products.
fn forward(times: Spread, tokens: usize, args: &BenchForward, gflop: f64, out: &Console) {
    let what = format!("{tokens} tokens, {} text tokens, {gflop:.2} GFLOP", args.text);
    answer(times, &what, args.repeat, &[("tokens", json!(tokens)), ("gflop", json!(gflop))], out);
}
