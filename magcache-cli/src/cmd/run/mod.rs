//! `run`: one generation, or one for each of several prompts and seeds.

mod generate;
mod scenes;
mod told;

use std::path::{Path, PathBuf};

use anyhow::Result;
use magcache_core::{config::Built, error::count, log::OnDrift};
use magcache_models::pipeline::Offload;
use serde_json::json;

use self::{
    generate::Job,
    scenes::{Answers, Scene, numbered},
    told::told,
};
use crate::{
    args::{self, Run},
    calibration::{Judged, judge},
    console::{Interrupt, Output, bad_input_with},
    files::{Writes, config_of, says, unused, utf8},
    media::Format,
    plan::{Config, Plan, decisions, prompt},
    resume::{Checkpoint, Stored, identity},
    summary::{Summary, strip},
};

/// Up to so many steps, the schedule is told before the run.
const FEW_STEPS: usize = 8;

pub(crate) fn run(args: &Run, out: &Output) -> Result<()> {
    let mut plan = plan(args)?;
    let scenes = Scene::all(args, &plan)?;
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
        let mut answers = Answers::default();
        for scene in &scenes {
            scene.set(&mut plan)?;
            let document = json!({
                "config": serde_json::to_value(&plan.config)?,
                "profile_verdict": judge::json(&judged),
            });
            answers.add(plan.to_toml()?, document);
        }
        answers.give(out);
        return Ok(());
    }
    match scenes.as_slice() {
        [scene] => {
            scene.set(&mut plan)?;
            single(args, &plan, &built, &judged, out)
        }
        scenes => several(args, &mut plan, scenes, &built, &judged, out),
    }
}

/// One run, which may go on where its state was stored.
fn single(args: &Run, plan: &Plan, built: &Built, judged: &[Judged], out: &Output) -> Result<()> {
    let (mut checkpoint, stored) = match &args.checkpoint {
        None => (None, None),
        Some(folder) => {
            let every = usize::try_from(args.checkpoint_every).unwrap_or(usize::MAX);
            let (checkpoint, stored) = Checkpoint::open(folder, every, identity(plan, args)?)?;
            (Some(checkpoint), stored)
        }
    };
    let resumed_at = stored.as_ref().map(Stored::step).transpose()?;
    // A run that was killed behind its last step may have been writing.
    let done = resumed_at.is_some_and(|step| step >= plan.trajectory.len());
    let begun = stored.as_ref().filter(|_| done).map_or(&[][..], |stored| &stored.outputs);
    let path = result_path(args, plan, stored.as_ref());
    let config = plan.to_toml_beside(&path)?;
    let writes = Writes::beside_reads(args.writing, &args.sampling, &plan.config).begun(begun);
    let writes = writes_of(writes, &path, &config, args.trace.as_deref());
    let state = args.checkpoint.as_deref().map(Checkpoint::files).unwrap_or_default();
    let writes = state.iter().fold(writes, |writes, file| writes.checked_file("--checkpoint", Some(file)));
    writes.check()?;
    if let Some(checkpoint) = &mut checkpoint {
        checkpoint.will_write(&path, writes.places());
    }
    let (interrupt, trace) = (Interrupt::listen()?, args.trace.as_deref());
    let job = Job { plan, built, path: &path, config: &config, trace, interrupt: &interrupt, out };
    let (text, document) = told(plan, judged, &job.run(checkpoint, stored)?)?;
    out.answer(&text, &document);
    Ok(())
}

/// A run for each scene, one after the other, with numbered names.
fn several(
    args: &Run,
    plan: &mut Plan,
    scenes: &[Scene],
    built: &Built,
    judged: &[Judged],
    out: &Output,
) -> Result<()> {
    if args.checkpoint.is_some() {
        let message = format!("--checkpoint keeps the state of one run, and {} are asked for", scenes.len());
        return Err(bad_input_with(message, "one prompt and one seed"));
    }
    let name = |base: &Path, i: usize| numbered(base, i, scenes.len());
    let base = match &plan.config.output.path {
        Some(named) => named.clone(),
        None => unused(default_name(plan), args.writing, &|base| {
            let all = (0..scenes.len()).map(|i| name(base, i));
            all.flat_map(|path| [config_of(&path), path]).collect()
        }),
    };
    let mut writes = Writes::beside_reads(args.writing, &args.sampling, &plan.config);
    let mut jobs = Vec::new();
    for (i, scene) in scenes.iter().enumerate() {
        scene.set(plan)?;
        let (path, trace) = (name(&base, i), args.trace.as_deref().map(|base| name(base, i)));
        plan.config.output.path = Some(path.clone());
        let config = plan.to_toml_beside(&path)?;
        writes = writes_of(writes, &path, &config, trace.as_deref());
        jobs.push((scene, path, config, trace));
    }
    writes.check()?;
    let interrupt = Interrupt::listen()?;
    let mut answers = Answers::default();
    for (i, (scene, path, config, trace)) in jobs.iter().enumerate() {
        scene.set(plan)?;
        plan.config.output.path = Some(path.clone());
        out.note(&format!("run {} of {}: {scene}", i + 1, jobs.len()));
        let trace = trace.as_deref();
        let job = Job { plan, built, path, config, trace, interrupt: &interrupt, out };
        let (text, document) = told(plan, judged, &job.run(None, None)?)?;
        answers.add(text, document);
    }
    answers.give(out);
    Ok(())
}

/// Where the result goes: as it was said, where the stored run was going, or a free name.
fn result_path(args: &Run, plan: &Plan, stored: Option<&Stored>) -> PathBuf {
    let named = plan.config.output.path.clone().or(stored.map(|stored| stored.output.clone()));
    named.unwrap_or_else(|| unused(default_name(plan), args.writing, &|path| vec![config_of(path)]))
}

fn default_name(plan: &Plan) -> &'static str {
    if plan.request.frames == 1 { "magcache.png" } else { "magcache.mp4" }
}

/// Everything that is written for a result; `config` is what will be stored beside it.
fn writes_of(writes: Writes, path: &Path, config: &str, trace: Option<&Path>) -> Writes {
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
    writes.file("--trace", trace)
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
    sampling.prompt = prompt(args.prompt.as_deref())?.or(sampling.prompt.take());
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
