//! `calibrate`: dense runs over prompts and seeds to a profile.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use magcache_core::calibrate::Recorder;
use magcache_models::pipeline::{Generation, LoadOptions, Offload, Request};
use serde_json::json;

use crate::{
    args::Calibrate,
    calibration::{Conditions, Measured, rows_beside},
    cmd::run::{device, stage, weights},
    failure::bad_input_with,
    interrupt::Interrupt,
    media,
    output::Output,
    plan::{Config, Plan},
    plot::{Chart, Target},
};

pub(crate) fn run(args: &Calibrate, out: &Output) -> Result<()> {
    let device = device(&args.device)?;
    let options = LoadOptions {
        device: device.clone(),
        dtype: weights(args.dtype),
        offload: Offload::None,
        tile_vae: false,
    };
    let plan = plan(args, options)?;
    let prompts = prompts(args, &plan.request.prompt)?;
    let plot = args.plot.as_deref().map(Target::prepare).transpose()?;
    for path in [&args.out, &rows_beside(&args.out)] {
        media::probe(path)?;
    }
    // What is to be merged is read before anything is measured.
    let earlier: Vec<(String, Measured)> = args
        .merge
        .iter()
        .map(|path| Ok((path.display().to_string(), Measured::read(path)?)))
        .collect::<Result<_>>()?;
    let dtype = format!("{:?}", args.dtype).to_ascii_lowercase();
    let conditions = Conditions::of(&plan, &dtype, &device, &prompts, &args.seeds)?;
    for (place, other) in &earlier {
        conditions.clone().join(other.conditions.clone(), place)?;
    }

    let recording = record(&plan, &prompts, &args.seeds, out)?;
    let mut measured = Measured { conditions, recording };
    for (place, other) in earlier {
        measured.join(other, &place)?;
    }
    let model = plan.pipeline.meta().name.to_string();
    let mut outputs = measured.write(&args.out, &model)?;
    if let Some(target) = plot {
        let starts: Vec<usize> = plan.trajectory.phases.iter().map(|phase| phase.steps.start).collect();
        let title =
            format!("{model}: {} runs of {} steps", measured.conditions.runs, measured.conditions.steps);
        outputs.push(target.write(&Chart::curve(title, &measured.recording.curve(), &starts))?);
    }
    answer(&measured, &args.out, &outputs, out)
}

fn plan(args: &Calibrate, options: LoadOptions) -> Result<Plan> {
    let mut config = Config::of(&args.sampling)?;
    if !config.cache.is_empty() || args.sampling.profile.is_some() {
        let message = "a cache or a profile is given, but calibration measures runs without";
        return Err(bad_input_with(message, "remove --cache, --profile and the [[cache]] tables"));
    }
    config.sampling.negative_prompt = args.negative_prompt.clone().or(config.sampling.negative_prompt.take());
    if args.seeds.is_empty() {
        return Err(bad_input_with("no seeds", "--seeds 0,1"));
    }
    Plan::new(config, options)
}

/// The prompts of the flags and of the file, or the model's own.
fn prompts(args: &Calibrate, own: &str) -> Result<Vec<String>> {
    let mut prompts = args.prompt.clone();
    if let Some(path) = &args.prompts {
        let text = std::fs::read_to_string(path).map_err(|error| {
            bad_input_with(
                format!("cannot read {}: {error}", path.display()),
                "a file with a prompt on each line",
            )
        })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        prompts.extend(lines.map(str::to_owned));
        if prompts.is_empty() {
            return Err(bad_input_with(format!("{} has no prompts", path.display()), "one on each line"));
        }
    }
    if prompts.is_empty() {
        prompts.push(own.to_owned());
    }
    Ok(prompts)
}

fn record(
    plan: &Plan,
    prompts: &[String],
    seeds: &[u64],
    out: &Output,
) -> Result<magcache_core::calibrate::Recording> {
    let interrupt = Interrupt::listen()?;
    let recorder = Recorder::new(plan.pipeline.meta());
    let hooks = recorder.registry();
    let steps = plan.trajectory.steps().count();
    let bar = out.bar(prompts.len() * seeds.len() * steps, "dense runs");
    for prompt in prompts {
        let request = Request { prompt: prompt.clone(), ..plan.request.clone() };
        plan.pipeline.check(&request)?;
        let mut notes = Vec::new();
        let denoiser = plan.pipeline.denoiser(&request, &|s| bar.set_message(stage(s)), &mut notes)?;
        bar.set_message("dense runs");
        notes.iter().for_each(|note| out.note(note));
        for seed in seeds {
            let request = Request { seed: *seed, ..request.clone() };
            let (sampler, noise) = (plan.pipeline.sampler(&request)?, plan.pipeline.noise(&request)?);
            let run = plan.trajectory.clone();
            let mut generation = Generation::new(Arc::clone(&denoiser), run, sampler, &noise, &hooks)?;
            generation.run(&|| interrupt.is_set(), &mut |_| bar.inc(1))?;
        }
    }
    bar.finish_and_clear();
    Ok(recorder.recording())
}

fn answer(measured: &Measured, path: &Path, outputs: &[std::path::PathBuf], out: &Output) -> Result<()> {
    let Measured { conditions, recording } = measured;
    let curve = recording.curve();
    let mut text = format!("{} runs of {} steps\n", conditions.runs, conditions.steps);
    for (branch, ratios) in &curve.ratios {
        let (low, high) =
            ratios.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), r| (l.min(*r), h.max(*r)));
        text += &format!("  {branch:>7} ratios {low:.4} to {high:.4}\n");
    }
    let profile = measured.profile("", "")?;
    for fit in &profile.fits {
        let [low, high] = fit.fitted_range.unwrap_or_default();
        text += &format!(
            "  fit of {:?} on distances {low:.4} to {high:.4}, off by {:.4} (root mean square of {} rows)\n",
            fit.signal,
            fit.residual.unwrap_or_default(),
            recording.distances.len()
        );
    }
    for output in outputs {
        text += &format!("wrote {}\n", output.display());
    }
    text += &format!("use it with --profile {}\n", path.display());
    let document = json!({ "profile": serde_json::to_value(&profile)?, "outputs": outputs });
    out.answer(&text, &document);
    Ok(())
}
