//! `calibrate`: builds a profile from dense runs over prompts and seeds.

use std::path::PathBuf;

use anyhow::Result;
use magcache_core::{
    Expert,
    calibrate::{Recorder, Recording},
    error::count,
    planner::ReuseErrors,
    profile::Profile,
};
use magcache_models::{checkpoint::Ops, ranks::Ranks};
use serde_json::json;

use crate::{
    args::{Calibrate, windows},
    calibration::{Conditions, Extent, Measured, Planning, Watched, costs, rows_of},
    console::{Console, Interrupt, bad_input_with},
    files::{Writes, unused, wrote},
    job::{Config, Job},
    lanes::Scene,
    media,
    plot::{Chart, Target},
    ranks::{announce, check_same, is_first},
    resume::identity,
    search,
};

pub(crate) fn run(args: &Calibrate, ops: Ops, ranks: Option<&Ranks>, out: &Console) -> Result<()> {
    let job = job(args, ops, ranks, out)?;
    job.admit(&[], args.runs.placement.memory)?;
    let prompts = args.runs.prompts(&job)?;
    let runs = [prompts.len(), args.runs.seeds.len()];
    search::check(&args.search, job.trajectory.steps_of_clip(), args.reach, runs)?;
    if let Some(ranks) = ranks {
        check_ranks(ranks, args, &job, &prompts, out)?;
    }
    let conditions = || Conditions::of(&job, args.runs.placement.dtype, &prompts, &args.runs.seeds);
    if !is_first(ranks) {
        let (recording, scenes) = record(&job, &prompts, args, out)?;
        if args.search.search > 0 {
            let measured = Measured { conditions: conditions()?, recording };
            let mut profile = measured.profile("", "", planning(args, &job))?;
            improve(&mut profile, None, (&job, &scenes), args, out)?;
        }
        return Ok(());
    }
    let default = || unused("profile.toml", args.writing, &|profile| vec![rows_of(profile)]);
    let profile = args.out.clone().unwrap_or_else(default);
    let rows = rows_of(&profile);
    // Scores in a file would have to be known to all ranks.
    let memo = (args.search.search > 0 && ranks.is_none())
        .then(|| search::Kept::new(&profile, &conditions()?))
        .transpose()?;
    // A merged profile may also be the output: the new profile contains its runs.
    let writes = Writes::of_run(args.writing, &args.sampling, &job.config)
        .reads("--prompts", args.runs.prompts.as_deref())
        .file("--out", Some(&profile))
        .file("the rows' file", Some(&rows))
        .file("--plot", args.plot.as_deref());
    // An interrupted search has written them.
    let is_begun = memo.as_ref().map_or(Ok(false), search::Kept::is_begun)?;
    let begun = if is_begun { writes.places() } else { Vec::new() };
    writes.begun(&begun).check()?;
    let plot = args.plot.as_deref().map(Target::prepare).transpose()?;
    for path in [&profile, &rows] {
        media::probe(path)?;
    }
    // Profiles to merge are read before anything is measured.
    let earlier: Vec<(String, Measured)> = args
        .merge
        .iter()
        .map(|path| Ok((path.display().to_string(), Measured::read(path)?)))
        .collect::<Result<_>>()?;
    let conditions = conditions()?;
    for (place, other) in &earlier {
        conditions.clone().join(other.conditions.clone(), place)?;
    }

    let (recording, scenes) = record(&job, &prompts, args, out)?;
    let mut measured = Measured { conditions, recording };
    for (place, other) in earlier {
        measured.join(other, &place)?;
    }
    let (model, experts) = (job.pipeline.meta().name.to_string(), &job.pipeline.meta().experts);
    for note in undetermined(&measured.recording, experts) {
        out.note(&note);
    }
    let stem = profile.file_stem().map_or_else(|| "profile".into(), |stem| stem.to_string_lossy());
    let mut content = measured.profile(&stem, &model, planning(args, &job))?;
    // A search takes long: what is measured is stored before.
    let mut outputs = measured.write(&profile, &content)?;
    let found = improve(&mut content, memo.as_ref(), (&job, &scenes), args, out)?;
    if !found.is_empty() {
        outputs = measured.write(&profile, &content)?;
    }
    if let Some(target) = plot {
        let starts: Vec<usize> = job.trajectory.phases.iter().map(|phase| phase.steps.start).collect();
        let title = format!(
            "{model}: {} of {}",
            count(measured.conditions.runs, "run"),
            count(measured.recording.steps, "step")
        );
        outputs.push(target.write(&Chart::curve(title, &measured.recording.curve(), &starts))?);
    }
    answer(&measured, &content, &found, experts, &outputs, out)
}

/// Checks that the ranks can measure, and are about to measure the same.
fn check_ranks(ranks: &Ranks, args: &Calibrate, job: &Job, prompts: &[String], out: &Console) -> Result<()> {
    let layout = ranks.layout();
    if layout.cfg > 1 {
        let message = format!("what is measured is of both branches of guidance, {layout} runs them apart");
        return Err(bad_input_with(message, format!("--parallel ulysses={}", layout.ranks())));
    }
    let mut keys = identity(job, &args.runs.placement, false)?;
    keys.insert("prompts".to_owned(), format!("{prompts:?}"));
    keys.insert("seeds".to_owned(), format!("{:?}", args.runs.seeds));
    let Calibrate { reach, growth, windows, sensitivities, .. } = args;
    keys.insert(
        "measured".to_owned(),
        format!("reach {reach}, growth {growth}, windows {windows:?}, sensitivities {sensitivities}"),
    );
    check_same(ranks, job, keys, &[])?;
    announce(ranks, job, out)
}

fn job(args: &Calibrate, ops: Ops, ranks: Option<&Ranks>, out: &Console) -> Result<Job> {
    let config = Config::of(&args.sampling, out)?;
    if !config.cache.is_empty() || config.target.is_some() || args.sampling.profile.is_some() {
        let message = "a cache, a profile or a target is given, but calibration measures runs without";
        return Err(bad_input_with(message, "remove --cache, --profile, targets and the [[cache]] tables"));
    }
    args.runs.job(config, args.ranks.options(&args.runs.placement, ranks, ops)?)
}

fn planning(args: &Calibrate, job: &Job) -> Planning {
    let blocks = job.pipeline.meta().blocks();
    Planning { objective: args.objective, max_gap: args.max_gap, blocks }
}

/// Searches better schedules than those of `content`, if it is asked for. Returns a line for each number of
/// computed steps.
fn improve(
    content: &mut Profile,
    memo: Option<&search::Kept>,
    (job, scenes): (&Job, &[Scene<'_>]),
    args: &Calibrate,
    out: &Console,
) -> Result<Vec<String>> {
    let Some(plans) = content.plans.first_mut().filter(|_| args.search.search > 0) else {
        return Ok(Vec::new());
    };
    let interrupt = Interrupt::listen()?;
    let stop = || interrupt.is_set();
    search::improve(plans, (job, scenes), (&args.search, args.max_gap), memo, &stop, out)
}

/// Measures, and returns the scenes too, with the network that they share.
fn record<'j>(
    job: &'j Job,
    prompts: &[String],
    args: &Calibrate,
    out: &Console,
) -> Result<(Recording, Vec<Scene<'j>>)> {
    let interrupt = Interrupt::listen()?;
    let recorder = Recorder::new(job.pipeline.meta());
    let steps = job.trajectory.steps_of_clip();
    let windows = windows(&args.windows, steps, job.pipeline.meta().blocks())?;
    let extent =
        Extent { reach: args.reach, growth: args.growth, windows, sensitivities: args.sensitivities };
    let bar = out.bar(prompts.len() * args.runs.seeds.len() * steps, "dense runs");
    let mut reuse: Vec<ReuseErrors> = Vec::new();
    let (scenes, notes) = Scene::load_each(job, prompts, &args.runs.seeds, &|stage| bar.set_message(stage))?;
    bar.set_message("dense runs");
    notes.iter().for_each(|note| out.loaded(note));
    for scene in &scenes {
        let watched = Watched::new(scene.pipeline.meta(), &recorder, extent.clone())?;
        reuse.extend(watched.run(scene, &|| interrupt.is_set(), &mut || bar.inc(1))?);
    }
    if let Some(scene) = scenes.last().filter(|_| !reuse.is_empty() && steps > 1) {
        bar.set_message("timing a skipped step");
        let costs = costs(job, scene, &reuse, &|| interrupt.is_set())?;
        for run in &mut reuse {
            run.cost = costs.skipped;
            run.windows.iter_mut().zip(&costs.windows).for_each(|(own, cost)| own.cost = *cost);
        }
    }
    bar.finish_and_clear();
    Ok((Recording { reuse, ..recorder.recording() }, scenes))
}

/// Experts with too few rows, or too similar ones, for a fit.
fn undetermined(recording: &Recording, experts: &[&str]) -> Vec<String> {
    let mut notes = Vec::new();
    for signal in recording.signals() {
        let fits = recording.fits(signal);
        let has = |expert: &Expert| fits.iter().any(|f| f.expert.is_none_or(|e| e == expert.0));
        for expert in recording.experts().iter().filter(|e| !has(e)) {
            let name = experts.get(usize::from(expert.0)).copied().unwrap_or("the model");
            notes
                .push(format!("{name} has too few steps for a fit of {signal:?}: TeaCache cannot run there"));
        }
    }
    notes
}

fn answer(
    measured: &Measured,
    profile: &Profile,
    found: &[String],
    experts: &[&str],
    outputs: &[PathBuf],
    out: &Console,
) -> Result<()> {
    let Measured { conditions, recording } = measured;
    let curve = recording.curve();
    let mut text = format!("{} of {}\n", count(conditions.runs, "run"), count(recording.steps, "step"));
    let range = |values: &[f64]| {
        values.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| [low.min(*v), high.max(*v)])
    };
    let of = |expert: Option<u8>| {
        let name = expert.and_then(|expert| experts.get(usize::from(expert)));
        name.map(|name| format!("{name}: ")).unwrap_or_default()
    };
    for (branch, ratios) in &curve.ratios {
        let [low, high] = range(ratios);
        text += &format!("  {branch:>7} ratios {low:.4} to {high:.4}\n");
    }
    for fit in &profile.fits {
        let [low, high] = fit.fitted_range.unwrap_or_default();
        text += &format!(
            "  {}fit of {:?} on distances {low:.4} to {high:.4}, off by {:.4} (root mean square of {} rows)\n",
            of(fit.expert),
            fit.signal,
            fit.residual.unwrap_or_default(),
            fit.source.measured.get("rows").map(ToString::to_string).unwrap_or_default(),
        );
    }
    for sensitivity in &profile.sensitivities {
        let ([low, high], [slow, fast]) = (range(&sensitivity.latent), range(&sensitivity.timestep));
        text += &format!(
            "  {}sensitivities {low:.3} to {high:.3} of the latents, {slow:.2e} to {fast:.2e} of the timestep\n",
            of(sensitivity.expert)
        );
    }
    for plans in &profile.plans {
        if let (Some(fewest), Some(most)) = (plans.schedules.first(), plans.schedules.last()) {
            text += &format!(
                "  schedules of {} to {} computed steps, {:.2}x to {:.2}x; a skipped step costs {:.3} of a computed one\n",
                fewest.computed,
                most.computed,
                plans.speedup(fewest.computed),
                plans.speedup(most.computed),
                plans.skipped_cost,
            );
        }
        if let (Some(fastest), Some(slowest)) = (plans.windowed.first(), plans.windowed.last()) {
            text += &format!(
                "  {} with windows of blocks, {:.2}x to {:.2}x\n",
                count(plans.windowed.len(), "more schedule"),
                1.0 / fastest.time,
                1.0 / slowest.time,
            );
        }
    }
    text += &found.concat();
    text += &wrote(outputs);
    if let Some(written) = outputs.first() {
        text += &format!("use it with --profile {}\n", written.display());
    }
    let document = json!({ "profile": profile.to_table()?, "outputs": outputs });
    out.answer(&text, &document);
    Ok(())
}
