//! `bench`: one forward, or what the cache itself costs.

use std::{cell::RefCell, sync::Arc, time::Instant};

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
        None => match pipeline::default_model() {
            Some(first) => (first.folder)(),
            None => return Err(bad_input_with("this build has no embedded model", "give --model DIR")),
        },
    };
    let folder = if folder.exists("transformer/config.json") { folder.sub("transformer") } else { folder };
    let config = WanConfig::from_json(&folder.read_to_string("config.json")?)
        .map_err(|e| bad_input(format!("{}: {e}", folder.describe_file("config.json"))))?;
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Auto)?;
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
    let b = Tensor::randn(0f32, 1f32, (1, 1024, 1536), device)?;
    let block = |_: usize, s: Streams| s.map_image(|x| x + &b);
    let model = ModelMeta::simple("bench", BLOCKS);
    let table = "[[cache]]\nstrategy = \"schedule\"\nskip = [1]\n";
    let hooks = CachePlan::parse(table)?.build(&model, None)?.registry;
    let none: Arc<HookRegistry> = Arc::default();

    let plain = || Streams::Image(x.clone());
    let run = |mut pass: Pass<'_>| pass.run(BLOCKS, &no_signals, plain(), block).map(drop);
    // Step 1 reuses what step 0 stored, in this order in every round.
    let session = RefCell::new(hooks.session());
    let cached = |step| run(session.borrow_mut().pass(Step::plain(step, 2), Branch::Cond));
    let lanes: [(&str, &str, Lane<'_>); 8] = [
        ("loop_ms", "the plain loop over 30 blocks", &|| {
            (0..BLOCKS).try_fold(plain(), |x, i| block(i, x)).map(drop)
        }),
        ("pass_off_ms", "the same through a pass that is off", &|| run(Pass::off())),
        ("pass_empty_ms", "through a session without hooks", &|| {
            run(none.session().pass(Step::plain(0, 2), Branch::Cond))
        }),
        ("computed_ms", "through a cache, computed and stored", &|| cached(0)),
        ("skipped_ms", "through a cache, skipped", &|| cached(1)),
        ("add_ms", "one addition of two such tensors", &|| (&x + &b).map(drop)),
        ("relative_l1_ms", "relative L1", &|| metrics::relative_l1(&x, &b).map(drop)),
        ("magnitude_ratio_ms", "magnitude ratio", &|| metrics::magnitude_ratio(&x, &b).map(drop)),
    ];
    let mut times = vec![Vec::new(); lanes.len()];
    for round in 0..=repeat.max(1) {
        for ((_, _, lane), times) in lanes.iter().zip(&mut times) {
            let start = Instant::now();
            lane()?;
            // The first round warms up.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let mut text =
        "one stream [1, 1024, 1536] f32, 30 blocks that add a tensor; medians of rounds\n".to_owned();
    let mut document = json!({ "metrics": {} });
    for ((key, what, _), times) in lanes.iter().zip(times) {
        let [_, median, _] = spread(times);
        text += &format!("  {what:<40} {median:>9.3} ms\n");
        if key.starts_with("relative") || key.starts_with("magnitude") {
            document["metrics"][key] = json!(median);
        } else {
            document[key] = json!(median);
        }
    }
    out.answer(&text, &document);
    Ok(())
}

/// One thing that is timed, in turns with the others.
type Lane<'a> = &'a dyn Fn() -> candle_core::Result<()>;

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
