//! Blocks of the published sizes of Wan, their attention alone, and a pass that skips them.

use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::{
    Branch, CachePlan, HookRegistry, Pass, Step,
    config::{FixedSteps, Residuals, Skips},
    meta,
};
use magcache_models::{
    nn,
    pipeline::noise,
    wan::{WanConfig, WanTransformer},
};

use super::{limits::Limits, network};
use crate::{
    args::Group,
    machine,
    selftest::{Findings, Setup, Verdict, findings::Timed},
    timing::{measure, wan_gflop},
};

/// Tokens of the prompt, as published pipelines pad it.
const TEXT: usize = 512;

/// A published model and a size of its videos, as latents: frames, rows, columns.
struct Shape {
    name: &'static str,
    heads: usize,
    ffn_dim: usize,
    channels: usize,
    latent: [usize; 3],
}

/// 81 frames of 832x480 and 1280x720; of the 5B model, whose autoencoder is twice as coarse, 121 of 832x480
/// and of 1280x704.
const SHAPES: [Shape; 6] = [
    Shape { name: "1.3B at 480p", heads: 12, ffn_dim: 8960, channels: 16, latent: [21, 60, 104] },
    Shape { name: "1.3B at 720p", heads: 12, ffn_dim: 8960, channels: 16, latent: [21, 90, 160] },
    Shape { name: "5B at 480p", heads: 24, ffn_dim: 14336, channels: 48, latent: [31, 30, 52] },
    Shape { name: "5B at 720p", heads: 24, ffn_dim: 14336, channels: 48, latent: [31, 44, 80] },
    Shape { name: "14B at 480p", heads: 40, ffn_dim: 13824, channels: 16, latent: [21, 60, 104] },
    Shape { name: "14B at 720p", heads: 40, ffn_dim: 13824, channels: 16, latent: [21, 90, 160] },
];

pub(super) fn measure_all(setup: &Setup, limits: &Limits, findings: &mut Findings) -> Result<()> {
    let shapes = if setup.quick { &SHAPES[..1] } else { &SHAPES[..] };
    for shape in shapes {
        setup.go_on()?;
        let config = WanConfig {
            num_attention_heads: shape.heads,
            ffn_dim: shape.ffn_dim,
            in_channels: shape.channels,
            out_channels: shape.channels,
            num_layers: 1,
            ..WanConfig::default()
        };
        let (need, free) = (network::bytes(&config, setup.fast()), machine::free_memory(&setup.device));
        if free.is_some_and(|free| free < need) {
            let why = format!("its weights take {need} bytes, {} are free", free.unwrap_or_default());
            findings.tell(Group::Timings, format!("block of {}", shape.name), Verdict::NotRun, why);
            continue;
        }
        one(setup, limits, shape, &config, findings)?;
    }
    Ok(())
}

fn one(
    setup: &Setup,
    limits: &Limits,
    shape: &Shape,
    config: &WanConfig,
    findings: &mut Findings,
) -> Result<()> {
    let (device, dtype, limit) = (&setup.device, setup.fast(), limits.rate(setup.fast()));
    let repeat = if device.is_cpu() { 2 } else { 10 };
    let full = tokens(config, shape.latent);
    let latent =
        scaled(setup, limit, repeat, shape.latent, &|latent| wan_gflop(config, tokens(config, latent), TEXT));
    let tokens = tokens(config, latent);
    let [frames, rows, columns] = latent;
    let of_full = if tokens == full { String::new() } else { format!(" of {full}") };
    let size = format!("{tokens}{of_full} tokens, latents of {frames}x{rows}x{columns}");

    let model = network::one_block(config, dtype, device)?;
    let latents = noise(0, (1, shape.channels, frames, rows, columns), device)?;
    let text = model.text_context(&noise(1, (1, TEXT, config.text_dim), device)?)?;
    let pass = Passes { model: &model, latents, time: Tensor::full(500f32, 1, device)?, text };
    let computed = measure(device, repeat, || pass.run(&mut Pass::off()))?;
    let name = format!("block of {}", shape.name);
    let gflop = Some(wan_gflop(config, tokens, TEXT));
    let what = |name: String, gflop| Timed { name, dtype: dtype.as_str(), shape: size.clone(), gflop, limit };
    findings.time(what(name, gflop), computed, repeat);

    let mut session = skipping()?.session();
    pass.run(&mut session.pass(&Step::plain(0, 2), Branch::Cond))?;
    let skipped = measure(device, repeat, || pass.run(&mut session.pass(&Step::plain(1, 2), Branch::Cond)))?;
    findings.time(what(format!("skipped pass of {}", shape.name), None), skipped, repeat);

    let channels = config.inner_dim();
    let random = |seed| Ok::<_, anyhow::Error>(noise(seed, (1, tokens, channels), device)?.to_dtype(dtype)?);
    let [q, k, v] = [random(2)?, random(3)?, random(4)?];
    let alone = measure(device, repeat, || {
        nn::attention(setup.ops, &q, &k, &v, shape.heads)?;
        Ok(())
    })?;
    let gflop = 4.0 * (tokens as f64).powi(2) * channels as f64 / 1e9;
    findings.time(what(format!("attention of {}", shape.name), Some(gflop)), alone, repeat);
    Ok(())
}

fn tokens(config: &WanConfig, [frames, rows, columns]: [usize; 3]) -> usize {
    let [t, h, w] = config.patch_size;
    (frames / t) * (rows / h) * (columns / w)
}

/// The latents, or on a CPU as many frames and then rows of them as fit the time, by the rate of a product.
fn scaled(
    setup: &Setup,
    rate: Option<f64>,
    repeat: usize,
    full: [usize; 3],
    gflop: &dyn Fn([usize; 3]) -> f64,
) -> [usize; 3] {
    let Some(rate) = rate.filter(|_| setup.device.is_cpu()) else { return full };
    let seconds = if setup.quick { setup.seconds / 10.0 } else { setup.seconds };
    let fits = |latent| gflop(latent) / rate * (repeat + 1) as f64 <= seconds;
    let [frames, rows, columns] = full;
    let fewer_frames = (1..=frames).rev().map(|frames| [frames, rows, columns]);
    let fewer_rows = (2..rows).rev().filter(|rows| rows % 2 == 0).map(|rows| [1, rows, columns]);
    fewer_frames.chain(fewer_rows).find(|latent| fits(*latent)).unwrap_or([1, 2, columns])
}

/// A network with its inputs.
struct Passes<'m> {
    model: &'m WanTransformer,
    latents: Tensor,
    time: Tensor,
    text: magcache_models::wan::TextContext,
}

impl Passes<'_> {
    fn run(&self, pass: &mut Pass<'_>) -> Result<()> {
        self.model.forward(&self.latents, &self.time, &self.text, pass)?;
        Ok(())
    }
}

/// Hooks that skip the second step.
fn skipping() -> Result<Arc<HookRegistry>> {
    let model = meta::model("wan2.1-t2v")?.clone().with_blocks(&[1]);
    let table = FixedSteps::registered()?.table(Skips::All(vec![1]), None)?;
    Ok(CachePlan::from_tables(vec![table], Residuals::default())?.build(&model, None)?.registry)
}
