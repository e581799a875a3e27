//! `demo`: a dense run and one per strategy, in turns step by step, so that a noisy machine treats them alike.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use magcache_core::{CachePlan, Residuals};
use magcache_models::pipeline::LoadOptions;
use serde_json::{Value, json};

use crate::{
    args::{Demo, Sampling},
    interrupt::Interrupt,
    lanes::{self, Entry, Finished, Scene, Shown},
    media::Output as Media,
    output::Output,
    plan::{Config, Plan},
    report, summary,
};

use super::run::{clip, stage};

/// What is shown beside the dense run; each with the defaults of the model's profile.
const STRATEGIES: [&str; 3] = ["magcache", "teacache", "fbcache"];

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
    let scene = Scene { pipeline: plan.pipeline.as_ref(), request: plan.request.clone(), denoiser };
    let steps = plan.request.steps;
    let mut entries = vec![Entry { name: "dense".to_owned(), registry: Arc::default(), steps }];
    for name in STRATEGIES {
        let table = toml::Table::from_iter([("strategy".to_owned(), toml::Value::String(name.to_owned()))]);
        let built = CachePlan::from_tables(vec![table], Residuals::default())?
            .build(plan.pipeline.meta(), Some(&plan.trajectory))?;
        for warning in &built.warnings {
            out.warn(&warning.to_string(), warning.hint.as_deref());
        }
        entries.push(Entry { name: name.to_owned(), registry: built.registry, steps });
    }
    let stop = || interrupt.is_set();
    lanes::warm_up(&scene, &stop)?;
    let bar = out.bar(entries.len() * plan.trajectory.steps().count(), "denoising, in turns");
    let finished = lanes::round(&scene, &entries, Shown::Written(&outputs), &stop, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    let rows: Vec<Row> =
        entries.iter().zip(&finished).zip(&outputs).map(|((e, f), media)| Row::of(e, f, media)).collect();
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

impl Row {
    fn of(entry: &Entry, lane: &Finished, media: &Media) -> Self {
        Self {
            name: entry.name.clone(),
            computed: lane.summary.computed(),
            skipped: lane.summary.skipped(),
            ceiling: lane.summary.ceiling(),
            speedup: lane.speedup,
            transformer_speedup: lane.transformer_speedup,
            psnr: lane.quality.map(|(psnr, _)| psnr),
            ssim: lane.quality.map(|(_, ssim)| ssim),
            cache_bytes: lane.cache_bytes,
            seconds: lane.seconds,
            strips: lane.strips.iter().map(|(branch, strip)| (branch.to_string(), strip.clone())).collect(),
            output: media.path().to_owned(),
        }
    }
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
