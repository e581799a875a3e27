//! `run`: one generation, or one for each of several prompts and seeds.

mod generate;
mod keeper;
mod meter;
mod report;
mod scenes;

use std::path::{Path, PathBuf};

use anyhow::Result;
use magcache_core::{config::Built, error::count, log::OnDrift};
use magcache_models::{checkpoint::Ops, pipeline::LoadOptions, ranks::Ranks};
use serde_json::{Value, json};

use self::{
    generate::Attempt,
    keeper::Keeper,
    report::report,
    scenes::{Scene, answer, numbered},
};
use crate::{
    args::{self, Run},
    calibration::{Judged, judge},
    console::{Console, Interrupt, bad_input_with},
    files::{Writes, config_of, has_content, unused, utf8},
    job::{Config, Job, decisions},
    media::Format,
    ranks::{announce, check_same, is_first},
    resume::{StateFolder, Stored, identity},
    summary::{Summary, strip},
};

/// For at most this many steps, the schedule is announced before the run.
const FEW_STEPS: usize = 8;

pub(crate) fn run(args: &Run, ops: Ops, ranks: Option<&Ranks>, out: &Console) -> Result<()> {
    let mut job = job(args, ops, ranks, out)?;
    let scenes = Scene::all(args, &job)?;
    idle_flags(args, &job)?;
    let built = job.build()?;
    if let Some(ranks) = ranks {
        check_ranks(ranks, args, &job, &built, out)?;
    }
    for warning in &built.warnings {
        out.warn(&warning.to_string(), warning.hint.as_deref());
    }
    if let Some(chosen) = &job.chosen {
        out.note(&chosen.text());
        if let Some(short) = &chosen.short {
            out.warn(short, None);
        }
    }
    let judged = judge::of_plan(&job, &job.cache, &args.sampling, Some(args.placement.dtype))?;
    judge::announce(&judged, args.sampling.force, out)?;
    if let Some(note) = few_steps(&job, &built)? {
        out.note(&note);
    }
    if args.dry_run {
        let memory = job.memory(&[(&job.cache, &built.registry)], args.placement.memory)?;
        memory.text().iter().for_each(|text| out.note(text));
        let mut configurations = Vec::new();
        for scene in &scenes {
            scene.set(&mut job)?;
            let document = json!({
                "config": serde_json::to_value(&job.config)?,
                "profile_verdict": judge::json(&judged),
                "memory": memory.json(),
            });
            configurations.push((job.config.to_toml()?, document));
        }
        answer(configurations, out);
        return Ok(());
    }
    job.admit(&[(&job.cache, &built.registry)], args.placement.memory)?;
    let reports = match scenes.as_slice() {
        [scene] => {
            scene.set(&mut job)?;
            vec![single(args, &job, &built, &judged, ranks, out)?]
        }
        scenes => several(args, &mut job, scenes, &built, &judged, ranks, out)?,
    };
    answer(reports, out);
    Ok(())
}

/// One run, which may resume from its stored state.
fn single(
    args: &Run,
    job: &Job,
    built: &Built,
    judged: &[Judged],
    ranks: Option<&Ranks>,
    out: &Console,
) -> Result<(String, Value)> {
    let first = is_first(ranks);
    let (mut checkpoint, stored) = match &args.checkpoint {
        Some(folder) if first => {
            let (checkpoint, stored) =
                StateFolder::open(folder, identity(job, &args.placement, args.tile_vae)?)?;
            (Some(checkpoint), stored)
        }
        _ => (None, None),
    };
    let resumed_at = stored.as_ref().map(Stored::step).transpose()?;
    // A run that was killed after its last step may already have been writing.
    let done = resumed_at.is_some_and(|step| step >= job.trajectory.end());
    let begun = stored.as_ref().filter(|_| done).map_or(&[][..], |stored| &stored.outputs);
    let path = result_path(args, job, stored.as_ref());
    let config = job.to_toml_next_to(&path)?;
    let writes = Writes::of_run(args.writing, &args.sampling, &job.config).begun(begun);
    let writes = writes_of(job, writes, &path, &config, args.trace.as_deref());
    let state = args.checkpoint.as_deref().map(StateFolder::files).unwrap_or_default();
    let writes = state.iter().fold(writes, |writes, file| writes.checked_file("--checkpoint", Some(file)));
    if first {
        writes.check()?;
    }
    if let Some(checkpoint) = &mut checkpoint {
        checkpoint.will_write(&path, writes.places());
    }
    let (interrupt, trace) = (Interrupt::listen()?, args.trace.as_deref());
    let attempt =
        Attempt { job, built, path: &path, config: &config, trace, interrupt: &interrupt, ranks, out };
    let every = usize::try_from(args.checkpoint_every).unwrap_or(usize::MAX);
    let keeper = args.checkpoint.is_some().then_some(Keeper { folder: checkpoint, every, ranks });
    report(job, judged, &attempt.run(keeper, stored)?)
}

/// One run per scene, one after the other, with numbered names.
fn several(
    args: &Run,
    job: &mut Job,
    scenes: &[Scene],
    built: &Built,
    judged: &[Judged],
    ranks: Option<&Ranks>,
    out: &Console,
) -> Result<Vec<(String, Value)>> {
    if args.checkpoint.is_some() {
        let message = format!("--checkpoint keeps the state of one run, and {} are asked for", scenes.len());
        return Err(bad_input_with(message, "one prompt and one seed"));
    }
    let name = |base: &Path, i: usize| numbered(base, i, scenes.len());
    let base = match &job.config.output.path {
        Some(named) => named.clone(),
        None => unused(default_name(job), args.writing, &|base| {
            let all = (0..scenes.len()).map(|i| name(base, i));
            all.flat_map(|path| [config_of(&path), path]).collect()
        }),
    };
    let mut writes = Writes::of_run(args.writing, &args.sampling, &job.config);
    let mut attempts = Vec::new();
    for (i, scene) in scenes.iter().enumerate() {
        scene.set(job)?;
        let (path, trace) = (name(&base, i), args.trace.as_deref().map(|base| name(base, i)));
        job.config.output.path = Some(path.clone());
        let config = job.to_toml_next_to(&path)?;
        writes = writes_of(job, writes, &path, &config, trace.as_deref());
        attempts.push((scene, path, config, trace));
    }
    if is_first(ranks) {
        writes.check()?;
    }
    let interrupt = Interrupt::listen()?;
    let mut reports = Vec::new();
    for (i, (scene, path, config, trace)) in attempts.iter().enumerate() {
        scene.set(job)?;
        job.config.output.path = Some(path.clone());
        out.note(&format!("run {} of {}: {scene}", i + 1, attempts.len()));
        let trace = trace.as_deref();
        let attempt = Attempt { job, built, path, config, trace, interrupt: &interrupt, ranks, out };
        reports.push(report(job, judged, &attempt.run(None, None)?)?);
    }
    Ok(reports)
}

/// The path of the result: the given one, that of the stored run, or an unused name.
fn result_path(args: &Run, job: &Job, stored: Option<&Stored>) -> PathBuf {
    let named = job.config.output.path.clone().or(stored.map(|stored| stored.output.clone()));
    named.unwrap_or_else(|| unused(default_name(job), args.writing, &|path| vec![config_of(path)]))
}

fn default_name(job: &Job) -> &'static str {
    if job.frames == 1 { "magcache.png" } else { "magcache.mp4" }
}

/// All files written for a result; `config` is the configuration to be stored next to it.
fn writes_of(job: &Job, writes: Writes, path: &Path, config: &str, trace: Option<&Path>) -> Writes {
    let sound = job.sound_beside(path);
    let writes = match Format::of(path) {
        Ok(Format::Folder) => writes.checked_folder("--out", Some(path)),
        _ => writes.file("--out", Some(path)),
    };
    let beside = config_of(path);
    // If the stored configuration already has the same content, it is kept.
    let writes = if has_content(&beside, config) {
        writes.reads("the configuration", Some(&beside))
    } else {
        writes.file("the configuration", Some(&beside))
    };
    writes.file("the sound", sound.as_deref()).file("--trace", trace)
}

/// What the caches will do, announced for a run so short that every skip shows.
fn few_steps(job: &Job, built: &Built) -> Result<Option<String>> {
    let run = &job.trajectory;
    let steps = run.steps_of_clip();
    if steps > FEW_STEPS || built.registry.is_empty() {
        return Ok(None);
    }
    if !built.registry.is_static() {
        return Ok(Some(format!("{}: what is skipped depends on what the cache sees", count(steps, "step"))));
    }
    let meta = job.pipeline.meta();
    let sizes = job.pipeline.sizes(&job.request)?;
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

/// Checks that the ranks can do this run, and are about to do the same.
fn check_ranks(ranks: &Ranks, args: &Run, job: &Job, built: &Built, out: &Console) -> Result<()> {
    let layout = ranks.layout();
    if let (2.., Some(hook)) = (layout.cfg, built.registry.rebuilds_branches()) {
        let name = job.cache.cache.get(usize::from(hook.0)).map_or("a cache", |entry| entry.name.as_str());
        let message =
            format!("{name} rebuilds one branch of guidance from the other, {layout} runs them apart");
        return Err(bad_input_with(
            message,
            format!("--parallel ulysses={}, or another cache", layout.ranks()),
        ));
    }
    check_same(ranks, job, identity(job, &args.placement, args.tile_vae)?, &[&built.registry])?;
    announce(ranks, job, out)
}

fn job(args: &Run, ops: Ops, ranks: Option<&Ranks>, out: &Console) -> Result<Job> {
    let mut config = Config::of(&args.sampling, out)?;
    args.prompt.set(&mut config.sampling)?;
    config.sampling.seed = args.seed.or(config.sampling.seed);
    args.out.as_deref().map_or(Ok(()), |path| utf8("--out", path))?;
    config.output.path = args.out.clone().or(config.output.path.take());
    config.output.fps = args.fps.or(config.output.fps);
    config.output.sound = args.sound.or(config.output.sound);
    let audit = &mut config.audit;
    audit.fraction = args.audit.unwrap_or(audit.fraction);
    audit.drift_budget = args.drift_budget.or(audit.drift_budget);
    audit.on_drift = match args.on_drift {
        None => audit.on_drift,
        Some(args::OnDrift::Report) => OnDrift::Report,
        Some(args::OnDrift::Tighten) => OnDrift::Tighten,
        Some(args::OnDrift::Disable) => OnDrift::Disable,
    };
    Job::new(
        config,
        LoadOptions { tile_vae: args.tile_vae, ..args.ranks.options(&args.placement, ranks, ops)? },
    )
}

/// Errors: a flag that configures a cache, but the run has none.
fn idle_flags(args: &Run, job: &Job) -> Result<()> {
    if !job.cache.cache.is_empty() {
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
