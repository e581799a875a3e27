//! `bench`: one forward, or what the cache itself costs.

use std::{sync::Arc, time::Instant};

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_core::{Branch, CachePlan, HookRegistry, ModelMeta, Pass, Step, Streams, metrics, no_signals};
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    pipeline,
    wan::{WanConfig, WanTransformer},
};
use serde_json::json;

use crate::{
    args::{Bench, BenchForward, BenchKind},
    failure::{bad_input, bad_input_with},
    output::Output,
};

pub(crate) fn run(args: &Bench, out: &Output) -> Result<()> {
    match &args.what {
        BenchKind::Forward(args) => forward(args, out),
        BenchKind::Overhead { repeat } => overhead(*repeat, out),
    }
}

fn forward(args: &BenchForward, out: &Output) -> Result<()> {
    let folder = match &args.model {
        Some(path) => Folder::open(path)?,
        None => match pipeline::embedded().first() {
            Some(first) => (first.folder)(),
            None => return Err(bad_input_with("this build has no embedded model", "give --model DIR")),
        },
    };
    let folder = if folder.exists("transformer/config.json") { folder.sub("transformer") } else { folder };
    let config = WanConfig::from_json(&folder.read_to_string("config.json")?)
        .map_err(|e| bad_input(format!("{}: {e}", folder.describe_file("config.json"))))?;
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep)?;
    let model = WanTransformer::load(&weights, config)?;
    let [frames, height, width] = args.latent;
    let config = model.config();
    let gaussian = |shape: &[usize]| Tensor::randn(0f32, 1f32, shape, &Device::Cpu);
    let latents = gaussian(&[1, config.in_channels, frames, height, width])?;
    let text = model.text_context(&gaussian(&[1, args.text, config.text_dim])?)?;
    let timestep = Tensor::full(500f32, 1, &Device::Cpu)?;
    let [pt, ph, pw] = config.patch_size;
    let tokens = (frames / pt) * (height / ph) * (width / pw);
    let gflop = gflop(config, tokens, args.text);
    let times = time(args.repeat, || {
        model.forward(&latents, &timestep, &text, &mut Pass::off())?;
        Ok(())
    })?;
    let [min, median, max] = spread(times);
    let text = format!(
        "{tokens} tokens, {} text tokens, {gflop:.2} GFLOP: median {median:.2} ms, min {min:.2}, max {max:.2} of {} ({:.0} GFLOP/s)",
        args.text,
        args.repeat.max(1),
        gflop / median * 1e3,
    );
    out.answer(
        &text,
        &json!({
            "median_ms": median, "min_ms": min, "max_ms": max, "repeat": args.repeat.max(1), "tokens": tokens, "gflop": gflop,
        }),
    );
    Ok(())
}

/// Multiplications and additions of the blocks' matrix products, keys and values of the text left out: they are computed
/// once in a generation.
fn gflop(config: &WanConfig, tokens: usize, text: usize) -> f64 {
    let (n, t) = (tokens as f64, text as f64);
    let (d, ffn) = (config.inner_dim() as f64, config.ffn_dim as f64);
    let linear = 2.0 * n * d * (6.0 * d + 2.0 * ffn);
    let attention = 4.0 * n * (n + t) * d;
    config.num_layers as f64 * (linear + attention) / 1e9
}

fn overhead(repeat: usize, out: &Output) -> Result<()> {
    const BLOCKS: usize = 30;
    let device = &Device::Cpu;
    let x = Tensor::randn(0f32, 1f32, (1, 1024, 1536), device)?;
    let (a, b) = (x.clone(), Tensor::randn(0f32, 1f32, (1, 1024, 1536), device)?);
    let block = |_: usize, s: Streams| s.map_image(|x| x + &b);
    let model = ModelMeta::simple("bench", BLOCKS);
    let table = "[[cache]]\nstrategy = \"schedule\"\nskip = [1]\n";
    let hooks = CachePlan::parse(table)?.build(&model, None)?.registry;
    let none: Arc<HookRegistry> = Arc::default();

    let loop_ms = time(repeat, || {
        (0..BLOCKS).try_fold(Streams::Image(x.clone()), |x, i| block(i, x))?;
        Ok(())
    })?;
    let off_ms = time(repeat, || {
        Pass::off().run(BLOCKS, &no_signals, Streams::Image(x.clone()), block)?;
        Ok(())
    })?;
    let empty_ms = time(repeat, || {
        none.session().pass(Step::plain(0, 2), Branch::Cond).run(
            BLOCKS,
            &no_signals,
            Streams::Image(x.clone()),
            block,
        )?;
        Ok(())
    })?;
    let (mut computed_ms, mut skipped_ms) = (Vec::new(), Vec::new());
    for _ in 0..=repeat.max(1) {
        let mut session = hooks.session();
        for (step, times) in [(0, &mut computed_ms), (1, &mut skipped_ms)] {
            let start = Instant::now();
            let mut pass = session.pass(Step::plain(step, 2), Branch::Cond);
            pass.run(BLOCKS, &no_signals, Streams::Image(x.clone()), block)?;
            drop(pass);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let add_ms = time(repeat, || {
        (&a + &b)?;
        Ok(())
    })?;
    let l1_ms = time(repeat, || {
        metrics::relative_l1(&a, &b)?;
        Ok(())
    })?;
    let ratio_ms = time(repeat, || {
        metrics::magnitude_ratio(&a, &b)?;
        Ok(())
    })?;
    let median = |times: Vec<f64>| spread(times)[1];
    let (computed, skipped) = (median(computed_ms.split_off(1)), median(skipped_ms.split_off(1)));
    let rows = [
        ("loop_ms", "the plain loop over 30 blocks", median(loop_ms)),
        ("pass_off_ms", "the same through a pass that is off", median(off_ms)),
        ("pass_empty_ms", "through a session without hooks", median(empty_ms)),
        ("computed_ms", "through a cache, computed and stored", computed),
        ("skipped_ms", "through a cache, skipped", skipped),
        ("add_ms", "one addition of two such tensors", median(add_ms)),
    ];
    let mut text = "one stream [1, 1024, 1536] f32, 30 blocks that add a tensor; medians\n".to_owned();
    let mut document = json!({});
    for (key, what, ms) in rows {
        text += &format!("  {what:<40} {ms:>9.3} ms\n");
        document[key] = json!(ms);
    }
    let (l1, ratio) = (median(l1_ms), median(ratio_ms));
    text += &format!("  {:<40} {l1:>9.3} ms\n  {:<40} {ratio:>9.3} ms\n", "relative L1", "magnitude ratio");
    document["metrics"] = json!({ "relative_l1_ms": l1, "magnitude_ratio_ms": ratio });
    out.answer(&text, &document);
    Ok(())
}

/// Wall times of `repeat` runs in milliseconds, after one that is not counted.
fn time(repeat: usize, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    run()?;
    (0..repeat.max(1))
        .map(|_| {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

/// Smallest, median and largest.
fn spread(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    let at = |i: usize| times.get(i).copied().unwrap_or(f64::NAN);
    [at(0), at(times.len() / 2), at(times.len().saturating_sub(1))]
}
