//! `run`: one generation.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use magcache_core::{Built, OnDrift, count};
use magcache_models::pipeline::{Denoiser, Generation, Offload, PassTime, PipelineError, Stage, TextUses};
use serde_json::json;

use crate::{
    args::{self, Run},
    calibration::{Judged, judge},
    decisions::decisions,
    failure::bad_input_with,
    interrupt::Interrupt,
    media::{self, Clip, Format, Frames, Output as Media, ValueRange},
    output::Output,
    plan::{Config, Plan},
    resume::{Checkpoint, Stored, identity},
    summary::{self, Summary, strip, trace},
    target::Chosen,
    writes::{Writes, config_of, unused, utf8},
};

/// Up to so many steps, the schedule is told before the run.
const FEW_STEPS: usize = 8;

pub(crate) fn run(args: &Run, out: &Output) -> Result<()> {
    let started = Instant::now();
    let plan = plan(args)?;
    idle_flags(args, &plan)?;
    let built = plan.build()?;
    for warning in &built.warnings {
        out.warn(&warning.to_string(), warning.hint.as_deref());
    }
    if let Some(chosen) = &plan.chosen {
        out.note(&chosen.text());
        if let Some(short) = &chosen.short {
            out.warn(short, None);
        }
    }
    let judged = judge::of_plan(&plan, &plan.cache, &args.sampling, Some(args.placement.dtype))?;
    judge::announce(&judged, args.sampling.force, out)?;
    if let Some(note) = few_steps(&plan, &built)? {
        out.note(&note);
    }
    if args.dry_run {
        let document = json!({
            "config": serde_json::to_value(&plan.config)?,
            "profile_verdict": judge::json(&judged),
        });
        out.answer(&plan.to_toml()?, &document);
        return Ok(());
    }
    let (mut checkpoint, stored) = match &args.checkpoint {
        None => (None, None),
        Some(folder) => {
            let every = usize::try_from(args.checkpoint_every).unwrap_or(usize::MAX);
            let (checkpoint, stored) = Checkpoint::open(folder, every, identity(&plan, args)?)?;
            (Some(checkpoint), stored)
        }
    };
    let resumed_at = stored.as_ref().map(Stored::step).transpose()?;
    // A run that was killed behind its last step may have been writing.
    let done = resumed_at.is_some_and(|step| step >= plan.trajectory.len());
    let begun = stored.as_ref().filter(|_| done).map_or(&[][..], |stored| &stored.outputs);
    let path = result_path(args, &plan, stored.as_ref());
    let config = plan.to_toml_beside(&path)?;
    let writes = writes(args, &plan, &path, &config, begun);
    writes.check()?;
    if let Some(checkpoint) = &mut checkpoint {
        checkpoint.will_write(&path, writes.places());
    }
    // Of a run that was killed behind its outputs, a folder of frames is there already, whole.
    let written = done && stored.as_ref().is_some_and(|stored| stored.output == path);
    let (target, written) = Media::prepare_again(&path, clip(&plan), written)?;
    let trace_file = args.trace.as_deref().map(trace::TraceFile::prepare).transpose()?;
    let interrupt = Interrupt::listen()?;

    let mut generation = begin(&plan, &built, stored, out)?;
    let ran = denoise(&mut generation, checkpoint.as_mut(), &interrupt, out).and_then(|()| {
        // The network makes room for the autoencoder.
        generation.release();
        if written { Ok(()) } else { decode(&plan, generation.latents(), &target, &interrupt, out) }
    });
    if let (Err(_), Some(step)) = (&ran, checkpoint.as_ref().and_then(Checkpoint::stored)) {
        out.note(&format!("the same command continues at step {step} of {}", plan.trajectory.len()));
    }
    ran?;

    let written = target.path().to_owned();
    let config_path = config_of(&written);
    if !says(&config_path, &config) {
        media::write_file(&config_path, config.as_bytes())?;
    }
    let mut outputs = vec![written, config_path];
    if let Some(file) = trace_file {
        let run = &plan.trajectory;
        let hooks = trace::hooks(&built.registry, &plan.cache.cache, &run.step(run.first));
        outputs.push(file.write(&plan.request, &hooks, &generation)?);
    }
    if let Some(checkpoint) = checkpoint {
        outputs.iter().try_for_each(|output| media::sweep(output))?;
        checkpoint.finish()?;
    }
    report(&plan, &generation, &judged, &outputs, (started, resumed_at), out)
}

/// Where the result goes: as it was said, where the stored run was going, or a free name.
fn result_path(args: &Run, plan: &Plan, stored: Option<&Stored>) -> PathBuf {
    let default = if plan.request.frames == 1 { "magcache.png" } else { "magcache.mp4" };
    let named = plan.config.output.path.clone().or(stored.map(|stored| stored.output.clone()));
    named.unwrap_or_else(|| unused(default, args.writing, &|path| vec![config_of(path)]))
}

/// Everything that is written for a result; `config` is what will be stored beside it.
fn writes(args: &Run, plan: &Plan, path: &Path, config: &str, begun: &[PathBuf]) -> Writes {
    let writes = Writes::beside_reads(args.writing, &args.sampling, &plan.config).begun(begun);
    let writes = match Format::of(path) {
        Ok(Format::Folder) => writes.checked_folder("--out", Some(path)),
        _ => writes.file("--out", Some(path)),
    };
    let beside = config_of(path);
    // A stored configuration that is run again says the same: it stays.
    let writes = if says(&beside, config) {
        writes.reads("the configuration", Some(&beside))
    } else {
        writes.file("the configuration", Some(&beside))
    };
    let state = args.checkpoint.as_deref().map(Checkpoint::files).unwrap_or_default();
    let writes = state.iter().fold(writes, |writes, file| writes.checked_file("--checkpoint", Some(file)));
    writes.file("--trace", args.trace.as_deref())
}

/// True if a file is there and says just this.
fn says(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|there| there == text.as_bytes())
}

/// A run at its start, or where its state was stored.
fn begin(plan: &Plan, built: &Built, stored: Option<Stored>, out: &Output) -> Result<Generation> {
    let (sampler, noise) = (plan.pipeline.sampler(&plan.request)?, plan.pipeline.noise(&plan.request)?);
    let (run, steps) = (plan.trajectory.clone(), plan.trajectory.len());
    let Some(stored) = stored else {
        return Ok(Generation::new(load(plan, out)?, run, sampler, &noise, &built.registry)?);
    };
    let step = stored.step()?;
    let denoiser = if step >= steps {
        out.note("every step is done, continues with decoding");
        None
    } else {
        out.note(&format!("continues at step {step} of {steps}"));
        Some(load(plan, out)?)
    };
    let from = stored.snapshot.reader(noise.device());
    Generation::resume(denoiser, run, sampler, &built.registry, &from)
        .context("cannot go on from the stored state")
}

/// The network with the prompts of a request.
fn load(plan: &Plan, out: &Output) -> Result<Arc<dyn Denoiser>> {
    let mut notes = Vec::new();
    let spinner = out.spinner("loading");
    let denoiser = plan.pipeline.denoiser(&plan.request, &|s| spinner.set_message(stage(s)), &mut notes)?;
    spinner.finish_and_clear();
    notes.iter().for_each(|note| out.note(note));
    Ok(denoiser)
}

/// Runs what is left, and stores the state where it is due.
fn denoise(
    generation: &mut Generation,
    mut checkpoint: Option<&mut Checkpoint>,
    interrupt: &Interrupt,
    out: &Output,
) -> Result<()> {
    let run = generation.trajectory();
    let bar = out.bar(run.steps().count(), "denoising");
    bar.inc(generation.next().saturating_sub(run.first) as u64);
    if let Some(checkpoint) = checkpoint.as_deref_mut().filter(|checkpoint| checkpoint.is_news()) {
        // A folder that cannot be written to is found now, and not behind an hour of work.
        checkpoint.save(generation)?;
    }
    while !generation.is_done() {
        generation.step(&|| interrupt.is_set())?;
        bar.inc(1);
        if let Some(checkpoint) = checkpoint.as_deref_mut().filter(|c| c.is_due(generation))
            && let Err(error) = checkpoint.save(generation)
        {
            out.warn(&format!("the state is not stored, the run goes on: {error:#}"), None);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// What the caches will do to a run of so few steps that every skip is felt, said before it starts.
fn few_steps(plan: &Plan, built: &Built) -> Result<Option<String>> {
    let run = &plan.trajectory;
    let steps = run.steps().count();
    if steps > FEW_STEPS || built.registry.is_empty() {
        return Ok(None);
    }
    if !built.registry.is_static() {
        return Ok(Some(format!("{}: what is skipped depends on what the cache sees", count(steps, "step"))));
    }
    let meta = plan.pipeline.meta();
    let sizes = plan.pipeline.sizes(&plan.request)?;
    let log = decisions(&built.registry, meta, run, Some(&sizes))?;
    let summary = Summary::of(&log, &built.registry, meta, run);
    let strips: Vec<String> =
        strip::lines(&log, run).into_iter().map(|(branch, strip)| format!("{branch} {strip}")).collect();
    Ok(Some(format!(
        "{}: {} of {} will be skipped, {}",
        count(steps, "step"),
        summary.skipped(),
        count(summary.passes, "pass"),
        strips.join(", ")
    )))
}

fn plan(args: &Run) -> Result<Plan> {
    let mut config = Config::of(&args.sampling)?;
    let sampling = &mut config.sampling;
    sampling.prompt = args::prompt(args.prompt.as_deref())?.or(sampling.prompt.take());
    sampling.negative_prompt = args.negative_prompt.clone().or(sampling.negative_prompt.take());
    sampling.seed = args.seed.or(sampling.seed);
    args.out.as_deref().map_or(Ok(()), |path| utf8("--out", path))?;
    config.output.path = args.out.clone().or(config.output.path.take());
    config.output.fps = args.fps.or(config.output.fps);
    let audit = &mut config.audit;
    audit.fraction = args.audit.unwrap_or(audit.fraction);
    audit.drift_budget = args.drift_budget.or(audit.drift_budget);
    audit.on_drift = match args.on_drift {
        None => audit.on_drift,
        Some(args::OnDrift::Report) => OnDrift::Report,
        Some(args::OnDrift::Tighten) => OnDrift::Tighten,
        Some(args::OnDrift::Disable) => OnDrift::Disable,
    };
    let offload = match args.offload {
        args::Offload::None => Offload::None,
        args::Offload::Host => Offload::Host,
        args::Offload::Disk => Offload::Disk,
    };
    Plan::new(config, args.placement.options(offload, args.tile_vae)?)
}

/// Errors: a flag that is about a cache, and there is none.
fn idle_flags(args: &Run, plan: &Plan) -> Result<()> {
    if !plan.cache.cache.is_empty() {
        return Ok(());
    }
    let audits = args.audit.is_some() || args.drift_budget.is_some() || args.on_drift.is_some();
    let flags = [("--profile", args.sampling.profile.is_some()), ("--audit", audits)];
    match flags.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let message = format!("{flag} is given and the run has no cache: nothing would read it");
            Err(bad_input_with(message, format!("--cache magcache, or leave {flag} out")))
        }
    }
}

/// What a stage is called in progress.
pub(crate) fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::EncodingPrompt => "encoding the prompt",
        Stage::EncodingImage => "encoding the image",
        Stage::LoadingTransformer => "loading the transformer",
        Stage::LoadingVae => "loading the autoencoder",
    }
}

/// Size and speed of what a plan makes.
pub(crate) fn clip(plan: &Plan) -> Clip {
    Clip {
        width: u32::try_from(plan.request.width).unwrap_or(u32::MAX),
        height: u32::try_from(plan.request.height).unwrap_or(u32::MAX),
        frames: plan.request.frames,
        fps: plan.fps,
    }
}

fn decode(
    plan: &Plan,
    latents: &candle_core::Tensor,
    media: &Media,
    interrupt: &Interrupt,
    out: &Output,
) -> Result<()> {
    let bar = out.bar(plan.request.frames, "decoding");
    let mut writer = media.writer()?;
    let mut sink = |pixels: &candle_core::Tensor| {
        if interrupt.is_set() {
            let steps = plan.request.steps;
            return Err(PipelineError::Interrupted { step: steps, steps });
        }
        let frames = Frames::new(pixels, ValueRange::Signed).map_err(|e| PipelineError::Sink(Box::new(e)))?;
        for frame in frames.iter() {
            let frame = frame.map_err(|e| PipelineError::Sink(Box::new(e)))?;
            writer.push(&frame).map_err(|e| PipelineError::Sink(Box::new(e)))?;
            bar.inc(1);
        }
        Ok(())
    };
    plan.pipeline.decode(&plan.request, latents, &|_| {}, &mut sink)?;
    writer.finish()?;
    bar.finish_and_clear();
    Ok(())
}

fn report(
    plan: &Plan,
    generation: &Generation,
    judged: &[Judged],
    outputs: &[PathBuf],
    (started, resumed_at): (Instant, Option<usize>),
    out: &Output,
) -> Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    let transformer = generation.transformer_time().as_secs_f64();
    let experts = plan.pipeline.meta().experts.clone();
    let steps = plan.trajectory.steps().count();
    let here = match resumed_at {
        Some(step) => format!(", {} of them", plan.trajectory.len().saturating_sub(step)),
        None => String::new(),
    };
    let mut text =
        format!("{}{here} in {seconds:.2} s, transformer {transformer:.2} s\n", count(steps, "step"));
    let mut document = json!({
        "config": serde_json::to_value(&plan.config)?,
        "profile_verdict": judge::json(judged),
        "skipped": null,
        "seconds": seconds,
        "transformer_seconds": transformer,
        "failsafes": 0,
        "planned": plan.chosen.as_ref().map(Chosen::json),
        "resumed_at": resumed_at,
        "audited_passes": 0,
        "audited_seconds": 0.0,
        "text_keys_values": null,
        "outputs": outputs,
    });
    if let Some(session) = generation.session() {
        let run = &plan.trajectory;
        let summary = Summary::of(session.log(), session.registry(), plan.pipeline.meta(), run);
        for (branch, strip) in strip::lines(session.log(), run) {
            text += &format!("  {branch:>7} {strip}\n");
        }
        let names = plan.strategies();
        text += &summary.text(&experts, &names);
        text += &summary.modules_text();
        text += &format!(
            "  skipped {} of {}, {}, cache {} at the peak, {} evicted\n",
            summary.skipped(),
            count(summary.passes, "pass"),
            summary.ceiling_text(),
            summary::bytes(session.slots().peak_bytes()),
            session.slots().evicted(),
        );
        if !summary.audited.is_empty() {
            let audited = |t: &&PassTime| summary.audited.contains(&(t.step, t.branch));
            let took = generation.times().iter().filter(audited).map(|t| t.time.as_secs_f64()).sum::<f64>();
            let passes = summary.audited.len();
            text += &format!(
                "  {} audited, in {took:.2} s that are no part of the ceiling\n",
                count(passes, "pass")
            );
            document["audited_passes"] = json!(passes);
            document["audited_seconds"] = json!(took);
        }
        for (cause, n) in &summary.failsafes {
            text += &format!("  {} {cause}\n", count(*n, "time"));
        }
        document["skipped"] = summary.skipped_by_branch();
        document["parts"] = summary.json(&experts, &names);
        document["modules"] = summary.modules_json();
        document["experts"] = summary.totals_json(&experts);
        document["ceiling"] = json!(summary.ceiling());
        document["failsafes"] = json!(summary.failsafes.values().sum::<usize>());
        document["cache_bytes"] = json!(session.slots().peak_bytes());
    }
    if let Some(TextUses { computed, reused }) = generation.text_uses() {
        text += &format!("  keys and values of the text computed {computed} times, reused {reused} times\n");
        document["text_keys_values"] = json!({ "computed": computed, "reused": reused });
    }
    for output in outputs {
        text += &format!("wrote {}\n", output.display());
    }
    out.answer(&text, &document);
    Ok(())
}
