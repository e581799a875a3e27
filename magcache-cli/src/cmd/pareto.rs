//! `pareto`: quality against computed steps, over prompts and seeds.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use magcache_core::{
    config::FixedSteps,
    error::count,
    profile::{PlannedSchedule, Profile, WindowedSchedule},
};
use magcache_models::checkpoint::Ops;
use serde_json::{Value, json};

use crate::{
    args::Pareto,
    console::{Console, Interrupt, bad_input_with},
    files::{Writes, wrote},
    job::{Config, Job},
    lanes::{Likeness, Scene, run_once},
    media,
    pareto::{Contender, Point, Points, Setting, margin, with_error},
    plot::{self, Chart, Series, Style},
    quality::{Lpips, asked},
};

/// One curve: the setting for each budget and its results.
struct Curve {
    name: String,
    points: Vec<Option<(Setting, Points)>>,
}

pub(crate) fn run(args: &Pareto, ops: Ops, out: &Console) -> Result<()> {
    let job = job(args, ops, out)?;
    job.admit(&[], args.runs.placement.memory)?;
    let budgets = budgets(args, &job)?;
    let prompts = args.runs.prompts(&job)?;
    // The profile to save into may be the one of `--profile`: only its measured numbers change.
    Writes::of_run(args.writing, &args.sampling, &job.config)
        .reads("--prompts", args.runs.prompts.as_deref())
        .reads("--lpips-weights", args.metrics.lpips_weights.as_deref())
        .file("--plot", args.plot.as_deref())
        .file("--save", args.save.as_deref())
        .check()?;
    let lpips = asked(&args.metrics, [job.request.height(), job.request.width()])?;
    let plot = args.plot.as_deref().map(plot::Target::prepare).transpose()?;
    let saved = args.save.as_deref().map(|path| saved(path, args)).transpose()?;
    let interrupt = Interrupt::listen()?;
    let stop = || interrupt.is_set();

    let spinner = out.spinner("loading");
    let (scenes, notes) =
        Scene::load_each(&job, &prompts, &args.runs.seeds, &|stage| spinner.set_message(stage))?;
    spinner.finish_and_clear();
    notes.iter().for_each(|note| out.loaded(note));
    let mut curves = settings(args, &job, &scenes, &budgets, out, &stop)?;
    measure(&job, &scenes, &mut curves, lpips.as_ref(), out, &stop)?;

    let mut outputs = Vec::new();
    if let (Some(path), Some(profile)) = (&args.save, saved) {
        save(path, profile, &job, &curves)?;
        outputs.push(path.clone());
    }
    if let Some(target) = plot {
        outputs.push(target.write(&chart(&job, &curves, prompts.len() * args.runs.seeds.len()))?);
    }
    answer(&job, &budgets, &curves, &outputs, out);
    Ok(())
}

fn job(args: &Pareto, ops: Ops, out: &Console) -> Result<Job> {
    let mut config = Config::of(&args.sampling, out)?;
    if !config.cache.is_empty() || config.target.as_ref().is_some_and(|t| t.goal().is_ok()) {
        let message = "a cache or a target is given, but every contender has its own";
        return Err(bad_input_with(message, "--strategies magcache,fbcache and --budgets 12,16"));
    }
    config.target = None;
    args.runs.job(config, args.runs.placement.options(ops)?)
}

/// The budgets of the flags, or six from a quarter to three quarters of the steps.
fn budgets(args: &Pareto, job: &Job) -> Result<Vec<usize>> {
    let steps = job.trajectory.steps_of_clip();
    if let Some(budget) = args.budgets.iter().find(|budget| **budget == 0 || **budget >= steps) {
        let message = format!("a budget of {budget} computed steps, the run has {steps}");
        return Err(bad_input_with(message, format!("1 to {}", steps.saturating_sub(1))));
    }
    let mut budgets = args.budgets.clone();
    if budgets.is_empty() {
        budgets = (0..6).map(|i| (steps * (5 + 2 * i)).div_ceil(20).max(1)).filter(|b| *b < steps).collect();
    }
    budgets.sort_unstable();
    budgets.dedup();
    Ok(budgets)
}

/// The setting of every contender for every budget.
fn settings(
    args: &Pareto,
    job: &Job,
    scenes: &[Scene<'_>],
    budgets: &[usize],
    out: &Console,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Curve>> {
    let mut all = vec![Contender::Planner, Contender::PlannerReuse, Contender::PlannerWindows];
    for word in &args.strategies {
        all.push(Contender::strategy(word)?);
    }
    all.push(Contender::FewerSteps);
    let spinner = out.spinner("looking for thresholds");
    // The first seed of each prompt.
    let searched: Vec<Scene<'_>> =
        scenes.iter().step_by(args.runs.seeds.len().max(1)).take(args.search).cloned().collect();
    let profile = args.sampling.profile.as_deref();
    let curve = |contender: Contender| -> Result<Curve> {
        let settings = contender.settings(job, profile, budgets, &searched, stop)?;
        let points = settings.into_iter().map(|setting| Some((setting?, Points::default()))).collect();
        Ok(Curve { name: contender.name().to_owned(), points })
    };
    let mut curves: Vec<Curve> = all.into_iter().map(curve).collect::<Result<_>>()?;
    // Most profiles have no schedules with windows.
    curves
        .retain(|own| own.name != Contender::PlannerWindows.name() || own.points.iter().any(Option::is_some));
    spinner.finish_and_clear();
    Ok(curves)
}

/// Runs everything on every scene.
fn measure(
    job: &Job,
    scenes: &[Scene<'_>],
    curves: &mut [Curve],
    lpips: Option<&Lpips>,
    out: &Console,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let runs: usize = curves.iter().map(|c| c.points.iter().flatten().count()).sum();
    let bar = out.bar(scenes.len() * (runs + 1), "runs");
    for scene in scenes {
        let (dense, _) = run_once(scene, &Arc::default(), stop)?;
        bar.inc(1);
        for (setting, points) in curves.iter_mut().flat_map(|c| c.points.iter_mut().flatten()) {
            let (frames, computed) = setting.run(job, scene, stop)?;
            let Likeness { psnr, ssim, ssimulacra2, lpips } = Likeness::of(&frames, &dense, lpips)?;
            let [ssimulacra2, lpips] = [ssimulacra2, lpips].map(|scores| scores.map(|scores| scores.mean));
            points.push(Point { computed, psnr, ssim, ssimulacra2, lpips });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// The profile that the measured numbers are written into.
fn saved(path: &Path, args: &Pareto) -> Result<Profile> {
    let Some(name) = &args.sampling.profile else {
        return Err(bad_input_with(
            "--save writes a profile with measured numbers, and none is given",
            "--profile FILE.toml",
        ));
    };
    media::probe(path)?;
    Ok(Profile::find(name)?)
}

/// Writes the planner's points into the schedules they belong to.
fn save(path: &Path, mut profile: Profile, job: &Job, curves: &[Curve]) -> Result<()> {
    let fixed = FixedSteps::registered()?;
    let planner = curves.iter().filter(|curve| curve.name.starts_with(Contender::Planner.name()));
    for (setting, points) in planner.flat_map(|curve| curve.points.iter().flatten()) {
        let Setting::Tables(tables) = setting else { continue };
        let Some(plans) = profile.plans.iter_mut().find(|plans| plans.fit(&job.trajectory)) else { continue };
        let ((psnr, error), (ssim, _)) = (points.psnr(), points.ssim());
        // A single run has no standard error.
        let error = error.filter(|error| error.is_finite() && *error > 0.0);
        let is_own = |s: &&mut PlannedSchedule| fixed.planned(s).is_ok_and(|own| *tables == [own]);
        if let Some(own) = plans.schedules.iter_mut().find(is_own) {
            (own.psnr, own.psnr_error, own.ssim) = (Some(psnr), error, Some(ssim));
        }
        let is_own = |s: &&mut WindowedSchedule| fixed.windowed(s).is_ok_and(|own| *tables == own);
        if let Some(own) = plans.windowed.iter_mut().find(is_own) {
            (own.psnr, own.psnr_error, own.ssim) = (Some(psnr), error, Some(ssim));
        }
    }
    Ok(media::write_file(path, profile.to_toml()?.as_bytes())?)
}

fn chart(job: &Job, curves: &[Curve], runs: usize) -> Chart {
    let title = format!(
        "{}: {}, {}",
        job.pipeline.meta().name,
        count(job.trajectory.steps_of_clip(), "step"),
        count(runs, "run")
    );
    let mut chart = Chart::new(title, "computed steps", "PSNR against the dense run, dB");
    "± one standard error".clone_into(&mut chart.band);
    for curve in curves {
        let own = || curve.points.iter().flatten().map(|(_, points)| points);
        chart = chart.with(Series {
            name: curve.name.clone(),
            points: own().map(|p| (p.computed(), p.psnr().0)).collect(),
            spread: own().map(|p| p.psnr().1.unwrap_or_default()).collect(),
            style: Style::Marked,
            ..Series::default()
        });
    }
    chart
}

/// The points of the curve `name` at a budget.
fn at<'c>(curves: &'c [Curve], name: &str, place: usize) -> Option<&'c Points> {
    let curve = curves.iter().find(|curve| curve.name == name)?;
    curve.points.get(place)?.as_ref().map(|(_, points)| points)
}

fn answer(job: &Job, budgets: &[usize], curves: &[Curve], outputs: &[PathBuf], out: &Console) {
    let (naive, planner) = (Contender::FewerSteps, Contender::Planner);
    let all = || curves.iter().flat_map(|curve| curve.points.iter().flatten());
    let (lpips, width) = if all().any(|(_, p)| p.lpips().is_some()) { (", LPIPS", 34) } else { ("", 27) };
    let line = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>width$}")).collect();
        format!("{name:<16}{cells}\n")
    };
    let mut text = line("computed steps", budgets.iter().map(ToString::to_string).collect());
    let mut margins = String::new();
    let mut rows: Vec<Value> = Vec::new();
    for curve in curves {
        let (mut results, mut above) = (Vec::new(), Vec::new());
        for (place, (budget, point)) in budgets.iter().zip(&curve.points).enumerate() {
            let Some((setting, points)) = point else {
                results.push("-".to_owned());
                above.push("-".to_owned());
                continue;
            };
            let ((psnr, error), (ssim, _)) = (points.psnr(), points.ssim());
            let seen = points.ssimulacra2().map_or(String::new(), |(mean, _)| format!(" {mean:.1}"));
            let far = points.lpips().map_or(String::new(), |(mean, _)| format!(" {mean:.4}"));
            results.push(format!("{} {ssim:.4}{seen}{far}", with_error(format!("{psnr:.2}"), error)));
            let against = at(curves, naive.name(), place).map(|other| margin(points, other));
            above.push(
                against.map_or("-".to_owned(), |(mean, error)| with_error(format!("{mean:+.2}"), error)),
            );
            let mut row = points.json();
            row["name"] = json!(curve.name);
            row["budget"] = json!(budget);
            row["setting"] = setting.json();
            row["above_fewer_steps"] = json!(against.map(|(mean, _)| mean));
            row["above_fewer_steps_error"] = json!(against.and_then(|(_, error)| error));
            rows.push(row);
        }
        text += &line(&curve.name, results);
        if curve.name != naive.name() {
            margins += &line(&curve.name, above);
        }
    }
    text += &format!(
        "PSNR in dB, its standard error, SSIM, SSIMULACRA2{lpips}; against dense runs of the same seeds\n"
    );
    text += "\ndB above as many steps without a cache, run by run\n";
    text += &margins;
    text += "\nthe planner against the best strategy at each budget\n";
    for (place, budget) in budgets.iter().enumerate() {
        let fixed = curves.iter().filter(|c| c.name != naive.name() && !c.name.starts_with(planner.name()));
        let rivals = fixed.filter_map(|c| Some((c.name.as_str(), at(curves, &c.name, place)?)));
        let best = rivals.max_by(|(_, a), (_, b)| a.psnr().0.total_cmp(&b.psnr().0));
        if let (Some((name, best)), Some(own)) = (best, at(curves, planner.name(), place)) {
            let (mean, error) = margin(own, best);
            let by = with_error(format!("{mean:+.2}"), error);
            text += &format!("  {budget} computed: {by} dB over {name}\n");
        }
    }
    text += &wrote(outputs);
    let document = json!({
        "model": job.pipeline.meta().name,
        "steps": job.trajectory.steps_of_clip(),
        "rows": rows,
        "outputs": outputs,
    });
    out.answer(&text, &document);
}
