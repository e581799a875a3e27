//! FBCache with three forecasts at equal numbers of skipped passes: what stands in for the skipped blocks is the only
//! difference. Prints a Markdown table of PSNR against dense runs.
//!
//! `cargo run --release --example forecasts -- [MODEL] [SEEDS]`

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Tensor;
use magcache_core::{CachePlan, HookRegistry};
use magcache_models::{
    pipeline::{self, Denoiser, Generation, LoadOptions, Pipeline, Request},
    quality,
};

/// Forecasts by the name that the table gives them.
const FORECASTS: [(&str, &str); 3] = [
    ("reuse", r#"{ type = "residual" }"#),
    ("Taylor 1", r#"{ type = "taylor", order = 1 }"#),
    ("Taylor 2", r#"{ type = "taylor", order = 2 }"#),
];

/// Parts of the passes that are to be skipped.
const SKIPPED: [f64; 4] = [0.25, 0.4, 0.5, 0.6];

/// Halvings of the threshold's range: enough to tell one skip from the next.
const HALVINGS: usize = 10;

const PROMPTS: [&str; 4] = [
    "a red circle moving right",
    "a blue square moving down",
    "a white square moving up",
    "a yellow triangle moving left",
];

/// One generation to repeat.
struct Scene {
    request: Request,
    denoiser: Arc<dyn Denoiser>,
    dense: Tensor,
}

/// Over all scenes.
#[derive(Clone, Copy)]
struct Outcome {
    skipped: usize,
    passes: usize,
    psnr: f64,
}

fn main() -> Result<()> {
    magcache_strategies::link();
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "wan2.1-t2v-tiny".to_owned());
    let seeds: u64 = args.next().map_or(Ok(4), |n| n.parse()).context("SEEDS is a number")?;
    let embedded = pipeline::embedded().into_iter().find(|e| e.name == name);
    let pipeline =
        pipeline::open((embedded.context("no such embedded model")?.folder)(), LoadOptions::default())?;
    let scenes = scenes(pipeline.as_ref(), seeds)?;

    println!("{name}, {} prompts x {seeds} seeds\n", PROMPTS.len());
    println!("| skipped | {} |", FORECASTS.map(|(name, _)| name).join(" | "));
    println!("|---{}|", "|---".repeat(FORECASTS.len()));
    for part in SKIPPED {
        let found: Vec<Outcome> = FORECASTS
            .iter()
            .map(|(_, forecast)| at(pipeline.as_ref(), &scenes, forecast, part))
            .collect::<Result<_>>()?;
        let cells = found.iter().map(|o| format!("{:.2} dB ({} of {})", o.psnr, o.skipped, o.passes));
        println!("| {:.0} % | {} |", 100.0 * part, cells.collect::<Vec<_>>().join(" | "));
    }
    Ok(())
}

fn scenes(pipeline: &dyn Pipeline, seeds: u64) -> Result<Vec<Scene>> {
    let mut scenes = Vec::new();
    for prompt in PROMPTS {
        // Pictures have no motion.
        let words: Vec<&str> = prompt.split(' ').collect();
        let still = pipeline.defaults().frames == 1;
        let prompt = if still { words[..3].join(" ") } else { prompt.to_owned() };
        let request = Request { prompt, ..pipeline.defaults().request() };
        let denoiser = pipeline.denoiser(&request, &|_| {}, &mut Vec::new())?;
        for seed in 0..seeds {
            let request = Request { seed, ..request.clone() };
            let (dense, ..) = run(pipeline, &request, &denoiser, &Arc::default())?;
            scenes.push(Scene { request, denoiser: Arc::clone(&denoiser), dense });
        }
    }
    Ok(scenes)
}

/// Frames in 0..=1, `[frames, height, width, channels]`, and the passes that ran and were skipped.
fn run(
    pipeline: &dyn Pipeline,
    request: &Request,
    denoiser: &Arc<dyn Denoiser>,
    hooks: &Arc<HookRegistry>,
) -> Result<(Tensor, usize, usize)> {
    let (sampler, noise) = (pipeline.sampler(request)?, pipeline.noise(request)?);
    let trajectory = pipeline.trajectory(request)?;
    let mut generation = Generation::new(Arc::clone(denoiser), trajectory, sampler, &noise, hooks)?;
    generation.run(&|| false, &mut |_| {})?;
    let mut frames = Vec::new();
    pipeline.decode(request, generation.latents(), &|_| {}, &mut |part| {
        frames.push(part.clone());
        Ok(())
    })?;
    let frames =
        Tensor::cat(&frames, 1)?.affine(0.5, 0.5)?.clamp(0f32, 1f32)?.permute((1, 2, 3, 0))?.contiguous()?;
    let log = generation.session().map_or(0, |s| s.log().records().iter().filter(|r| r.reused).count());
    Ok((frames, generation.times().len(), log))
}

/// The run whose threshold skips nearest to `part` of the passes.
fn at(pipeline: &dyn Pipeline, scenes: &[Scene], forecast: &str, part: f64) -> Result<Outcome> {
    let (mut low, mut high) = (0.0, 1.0);
    let mut best: Option<Outcome> = None;
    for _ in 0..HALVINGS {
        let threshold = f64::midpoint(low, high);
        let outcome = with(pipeline, scenes, forecast, threshold)?;
        let distance = |o: &Outcome| (o.skipped as f64 - part * o.passes as f64).abs();
        if best.as_ref().is_none_or(|best| distance(&outcome) < distance(best)) {
            best = Some(outcome);
        }
        if (outcome.skipped as f64) < part * outcome.passes as f64 {
            low = threshold;
        } else {
            high = threshold;
        }
    }
    best.context("no run")
}

fn with(pipeline: &dyn Pipeline, scenes: &[Scene], forecast: &str, threshold: f64) -> Result<Outcome> {
    let text = format!("[[cache]]\nstrategy = \"fbcache\"\nthreshold = {threshold}\nforecast = {forecast}\n");
    let plan = CachePlan::parse(&text)?;
    let mut sum = Outcome { skipped: 0, passes: 0, psnr: 0.0 };
    for scene in scenes {
        let trajectory = pipeline.trajectory(&scene.request)?;
        let hooks = plan.build(pipeline.meta(), Some(&trajectory))?.registry;
        let (frames, passes, skipped) = run(pipeline, &scene.request, &scene.denoiser, &hooks)?;
        let psnr = quality::compare_tensors(&frames, &scene.dense, 1.0)?.psnr();
        sum.skipped += skipped;
        sum.passes += passes;
        sum.psnr += psnr / scenes.len() as f64;
    }
    Ok(sum)
}
