//! `demo`: a dense run and one per strategy, in turns step by step, so that a noisy machine treats them alike.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use candle_core::Tensor;
use magcache_core::{CachePlan, HookRegistry, Residuals};
use magcache_models::{
    pipeline::{Denoiser, Generation, LoadOptions},
    quality,
};
use serde_json::{Value, json};

use crate::{
    args::{Demo, Sampling},
    interrupt::Interrupt,
    media::{Frames, Output as Media, ValueRange},
    output::Output,
    plan::{Config, Plan},
    report,
    summary::{self, Summary, strip},
};

use super::run::{clip, stage};

/// What is shown beside the dense run; each with the defaults of the model's profile.
const STRATEGIES: [&str; 3] = ["magcache", "teacache", "fbcache"];

/// One of the runs.
struct Lane {
    name: String,
    generation: Generation,
    decode: Duration,
    frames: Option<Tensor>,
}

/// A line of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) computed: usize,
    pub(crate) skipped: usize,
    pub(crate) ceiling: Option<f64>,
    pub(crate) speedup: f64,
    pub(crate) transformer_speedup: f64,
    pub(crate) psnr: Option<f64>,
    pub(crate) ssim: Option<f64>,
    pub(crate) cache_bytes: usize,
    pub(crate) seconds: f64,
    pub(crate) strips: Vec<(String, String)>,
    pub(crate) output: PathBuf,
}

pub(crate) fn run(args: &Demo, out: &Output) -> Result<()> {
    let plan = plan(args)?;
    let ending = if plan.request.frames == 1 { "png" } else { "mp4" };
    let media = |name: &str| Media::prepare(args.out.join(format!("{name}.{ending}")), clip(&plan));
    let outputs: Vec<Media> =
        std::iter::once("dense").chain(STRATEGIES).map(media).collect::<Result<_, _>>()?;
    let interrupt = Interrupt::listen()?;

    let spinner = out.spinner("loading");
    let mut notes = Vec::new();
    let denoiser = plan.pipeline.denoiser(&plan.request, &|s| spinner.set_message(stage(s)), &mut notes)?;
    spinner.finish_and_clear();
    for note in &notes {
        out.note(note);
    }
    let mut lanes = vec![lane(&plan, "dense", &denoiser, &Arc::default())?];
    for name in STRATEGIES {
        let table = toml::Table::from_iter([("strategy".to_owned(), toml::Value::String(name.to_owned()))]);
        let built = CachePlan::from_tables(vec![table], Residuals::default())?
            .build(plan.pipeline.meta(), Some(&plan.trajectory))?;
        for warning in &built.warnings {
            out.warn(&warning.to_string(), warning.hint.as_deref());
        }
        lanes.push(lane(&plan, name, &denoiser, &built.registry)?);
    }
    // One step of a run that is thrown away: first use of memory and threads is nobody's cost.
    lane(&plan, "warm-up", &denoiser, &Arc::default())?.generation.step(&|| interrupt.is_set())?;

    let bar = out.bar(plan.request.steps, "denoising, in turns");
    for step in plan.trajectory.first..plan.trajectory.len() {
        // Who goes first changes with every step.
        for i in 0..lanes.len() {
            let at = (i + step) % lanes.len();
            lanes[at].generation.step(&|| interrupt.is_set())?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();

    let bar = out.bar(lanes.len(), "decoding");
    for (lane, media) in lanes.iter_mut().zip(&outputs) {
        lane.decode(&plan, media)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let rows = rows(&plan, &lanes, &outputs)?;
    let page = report::write(&args.out, &plan, &rows).context("cannot write report.html")?;
    answer(&rows, &page, out);
    Ok(())
}

fn plan(args: &Demo) -> Result<Plan> {
    let flags = Sampling { model: args.model.clone(), steps: args.steps, ..Sampling::default() };
    let mut config = Config::of(&flags)?;
    config.sampling.prompt.clone_from(&args.prompt);
    config.sampling.seed = args.seed;
    Plan::new(config, LoadOptions::default())
}

fn lane(plan: &Plan, name: &str, denoiser: &Arc<dyn Denoiser>, registry: &Arc<HookRegistry>) -> Result<Lane> {
    let (sampler, noise) = (plan.pipeline.sampler(&plan.request)?, plan.pipeline.noise(&plan.request)?);
    let generation =
        Generation::new(Arc::clone(denoiser), plan.trajectory.clone(), sampler, &noise, registry)?;
    Ok(Lane { name: name.to_owned(), generation, decode: Duration::ZERO, frames: None })
}

impl Lane {
    fn decode(&mut self, plan: &Plan, media: &Media) -> Result<()> {
        let start = std::time::Instant::now();
        let mut parts = Vec::new();
        plan.pipeline.decode(&plan.request, self.generation.latents(), &|_| {}, &mut |frames| {
            parts.push(frames.clone());
            Ok(())
        })?;
        let video = Tensor::cat(&parts, 1)?;
        self.decode = start.elapsed();
        media.write(&Frames::new(&video, ValueRange::Signed)?)?;
        self.frames = Some(video);
        Ok(())
    }
}

fn rows(plan: &Plan, lanes: &[Lane], outputs: &[Media]) -> Result<Vec<Row>> {
    let Some(dense) = lanes.first() else { return Ok(Vec::new()) };
    let dense_seconds = (dense.generation.transformer_time() + dense.decode).as_secs_f64();
    let dense_transformer = dense.generation.transformer_time().as_secs_f64();
    let mut rows = Vec::new();
    for (lane, media) in lanes.iter().zip(outputs) {
        let generation = &lane.generation;
        let transformer = generation.transformer_time().as_secs_f64();
        let seconds = transformer + lane.decode.as_secs_f64();
        let passes = generation.times().len();
        let summary = generation
            .session()
            .map(|s| Summary::of(s.log(), s.registry(), plan.pipeline.meta(), generation.trajectory()));
        let quality = match (&lane.frames, &dense.frames) {
            (Some(video), Some(reference)) if !std::ptr::eq(lane, dense) => Some(compare(video, reference)?),
            _ => None,
        };
        rows.push(Row {
            name: lane.name.clone(),
            computed: summary.as_ref().map_or(passes, Summary::computed),
            skipped: summary.as_ref().map_or(0, Summary::skipped),
            ceiling: summary.as_ref().map_or(Some(1.0), Summary::ceiling),
            speedup: dense_seconds / seconds,
            transformer_speedup: dense_transformer / transformer,
            psnr: quality.map(|(psnr, _)| psnr),
            ssim: quality.map(|(_, ssim)| ssim),
            cache_bytes: generation.session().map_or(0, |s| s.slots().peak_bytes()),
            seconds,
            strips: generation.session().map_or_else(Vec::new, |s| {
                let strips = strip::strips(s.log(), generation.trajectory());
                strips.into_iter().map(|(b, s)| (b.to_string(), s)).collect()
            }),
            output: media.path().to_owned(),
        });
    }
    Ok(rows)
}

/// PSNR and SSIM of two videos `[channels, frames, height, width]` in −1..=1, as they are written: in 0..=1.
fn compare(video: &Tensor, reference: &Tensor) -> Result<(f64, f64)> {
    let shown = |t: &Tensor| -> Result<Tensor> {
        Ok(t.affine(0.5, 0.5)?.clamp(0f32, 1f32)?.permute((1, 2, 3, 0))?.contiguous()?)
    };
    let quality = quality::compare_tensors(&shown(video)?, &shown(reference)?, 1.0)?;
    Ok((quality.psnr(), quality.ssim()))
}

fn answer(rows: &[Row], page: &std::path::Path, out: &Output) {
    let mut text = format!(
        "{:<10} {:>8} {:>8} {:>8} {:>12} {:>9} {:>8} {:>7} {:>10} {:>8}\n",
        "strategy",
        "computed",
        "skipped",
        "ceiling",
        "transformer",
        "speed-up",
        "PSNR",
        "SSIM",
        "cache",
        "seconds"
    );
    for r in rows {
        let psnr = r
            .psnr
            .map_or("-".to_owned(), |p| if p.is_finite() { format!("{p:.2}") } else { "same".to_owned() });
        text += &format!(
            "{:<10} {:>8} {:>8} {:>8} {:>11.3}x {:>8.3}x {psnr:>8} {:>7} {:>10} {:>8.2}\n",
            r.name,
            r.computed,
            r.skipped,
            r.ceiling.map_or("-".to_owned(), |c| format!("{c:.3}x")),
            r.transformer_speedup,
            r.speedup,
            r.ssim.map_or("-".to_owned(), |s| format!("{s:.4}")),
            if r.cache_bytes == 0 { "-".to_owned() } else { summary::bytes(r.cache_bytes) },
            r.seconds,
        );
    }
    text += "passes of the network; speed-up of the transformer and of the run (without loading), in turns with dense\n\n";
    for r in rows {
        for (branch, strip) in &r.strips {
            text += &format!("{:<10} {branch:>7} {strip}\n", r.name);
        }
    }
    let written = rows.iter().map(|r| r.output.as_path());
    let outputs: Vec<&std::path::Path> = written.chain([page]).collect();
    for path in &outputs {
        text += &format!("wrote {}\n", path.display());
    }
    let rows: Vec<Value> = rows
        .iter()
        .map(|r| {
            json!({
                "name": r.name,
                "computed": r.computed,
                "skipped": r.skipped,
                "ceiling": r.ceiling,
                "speedup": r.speedup,
                "transformer_speedup": r.transformer_speedup,
                "psnr": r.psnr.filter(|p| p.is_finite()),
                "ssim": r.ssim,
                "cache_bytes": r.cache_bytes,
                "seconds": r.seconds,
            })
        })
        .collect();
    out.answer(&text, &json!({ "rows": rows, "outputs": outputs }));
}
