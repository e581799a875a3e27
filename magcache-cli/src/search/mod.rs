//! Better schedules than the planned ones, found by running them: `calibrate --search`.
//!
//! The planner's answer for a number of computed steps is where a climb begins; each schedule is scored by
//! the PSNR of its pictures against those of the dense run. Some runs are held back, and what was found is
//! taken only if it beats the plan on those.

mod ends;
mod memo;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use magcache_core::{
    config::FixedSteps,
    metrics::Pooled,
    planner::{Continuation, Ended, Scores, Search, Skipped},
    profile::{Held, PlannedSchedule, ScheduleSet, SearchedOn},
    snapshot::Snapshot,
};
use magcache_models::pipeline::Generation;

use crate::{
    args::SearchArgs,
    console::{Console, bad_input_with},
    job::Job,
    lanes::Scene,
    quality::compare_tensors,
};
pub(crate) use ends::ends;
pub(crate) use memo::Kept;
use memo::Memo;

/// Fewest runs that a search is worth anything on: on fewer, what is found is best for these alone.
const FEWEST: usize = 8;

/// Of this many runs one is held back, of any number at least two.
const HELD: usize = 4;

/// Most minutes of a search: ten years.
const MOST: f64 = 5_256_000.0;

/// PSNR of pictures that do not differ, in dB.
const IDENTICAL: f64 = 120.0;

/// Checks, before anything is measured, that a search over `prompts` and `seeds` can be made for a run of
/// `steps`, if one is asked for; `reach` is that of the rehearsal.
///
/// Errors: too few runs, nothing planned to begin from, or numbers of steps that no run computes.
pub(crate) fn check(
    args: &SearchArgs,
    steps: usize,
    reach: usize,
    [prompts, seeds]: [usize; 2],
) -> Result<()> {
    if args.search == 0 {
        return Ok(());
    }
    if reach == 0 {
        let message = "--search begins from planned schedules, and --reach 0 plans none";
        return Err(bad_input_with(message, "leave out --reach, or --search"));
    }
    if let Some(budget) = args.search_budgets.iter().find(|budget| !(1..steps).contains(*budget)) {
        let message = format!("--search-budgets names {budget} computed steps, the run has {steps}");
        return Err(bad_input_with(message, format!("1 to {}", steps.saturating_sub(1))));
    }
    if let Some(minutes) = args.search_minutes.filter(|minutes| !(0.0..=MOST).contains(minutes)) {
        let message = format!("--search-minutes is {minutes}, it must be between 0 and {MOST}");
        return Err(bad_input_with(message, "leave it out to search without a limit"));
    }
    let runs = prompts * seeds;
    if runs < FEWEST {
        let message = format!(
            "--search needs at least {FEWEST} runs, {prompts} prompts with {seeds} seeds each are {runs}: on so few, what is best for them is not for others"
        );
        return Err(bad_input_with(message, "more --prompt or --prompts, or --seeds 0,1,2,3"));
    }
    Ok(())
}

/// Searches a better schedule for the numbers of computed steps that are asked for, and puts what it finds in
/// the place of the planned ones. `memo` is where scores are kept until the search has ended. Returns
/// a line for each.
pub(crate) fn improve(
    plans: &mut ScheduleSet,
    (job, scenes): (&Job, &[Scene<'_>]),
    (args, max_gap): (&SearchArgs, Option<usize>),
    memo: Option<&Kept>,
    stop: &dyn Fn() -> bool,
    out: &Console,
) -> Result<Vec<String>> {
    let end = args.search_minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(60.0 * minutes));
    let held = (scenes.len() / HELD).max(2);
    let runs = Runs { job, scenes, end, stop, bar: out.bar(0, "scoring schedules") };
    let mut memo = memo.map_or_else(|| Ok(Memo::default()), Kept::open)?;
    if memo.len() > 0 {
        out.note(&format!("a search that was interrupted goes on: {} scores are known", memo.len()));
    }
    // Steps that no schedule skips: the first of each expert.
    let fixed: Vec<usize> = job.trajectory.phases.iter().map(|phase| phase.steps.start).collect();
    let (mut lines, mut is_late) = (Vec::new(), false);
    for budget in budgets(args, plans)? {
        let Some(own) = plans.schedules.iter_mut().find(|own| own.computed == budget) else { continue };
        let search = Search {
            steps: plans.steps,
            starts: vec![own.skip.clone(), uniform(plans.steps, budget, &fixed)],
            fixed: fixed.clone(),
            max_gap: max_gap.unwrap_or(plans.steps),
            limit: args.search,
            seed: args.search_seed,
        };
        let (line, ended) = one(own, &runs, scenes.len() - held, &search, &mut memo)?;
        lines.push(line);
        is_late |= ended == Ended::Late;
    }
    runs.bar.finish_and_clear();
    // With more time it goes on from here.
    if !is_late {
        memo.finish()?;
    }
    Ok(lines)
}

/// Searches for one number of computed steps.
fn one(
    own: &mut PlannedSchedule,
    runs: &Runs<'_>,
    searched: usize,
    search: &Search,
    memo: &mut Memo,
) -> Result<(String, Ended)> {
    let with = own.continuation;
    let found = search.run(|all: &[Skipped]| runs.score(with, all, 0..searched, runs.end, memo))?;
    let ended = match found.ended {
        Ended::Quiet => "nothing better was found any more",
        Ended::Spent => "all that --search allows",
        Ended::Late => "the time was over",
    };
    let scored = found.scores.len();
    let Some((best, scores)) = found.chosen() else {
        let text = format!("  {} computed: no schedule was scored, {ended}; the plan stays\n", own.computed);
        return Ok((text, found.ended));
    };
    let both = [own.skip.clone(), best.to_vec()];
    // Whatever time there was: without this, what was found is worth nothing.
    let all = runs.score(with, &both, 0..runs.scenes.len(), None, memo)?;
    let [Some(plan), Some(new)] = all.as_slice() else { bail!("two schedules were not scored") };
    let gain = |runs: Range<usize>| -> Pooled {
        runs.filter_map(|run| Some(new.get(run)? - plan.get(run)?)).collect()
    };
    let (here, there) = (gain(0..scores.len()), gain(searched..runs.scenes.len()));
    let is_better = there.mean > 0.0;
    let (skip, scores) = if is_better { (best.to_vec(), new) } else { (own.skip.clone(), plan) };
    let all: Pooled = scores.iter().copied().collect();
    let error = |all: &Pooled| all.std() / (all.count as f64).sqrt();
    (own.psnr, own.psnr_error, own.ssim) = (Some(all.mean), Some(error(&all)), None);
    let text = format!(
        "  {} computed: {scored} schedules scored, {ended}; {:+.2} dB over the plan on {searched} runs, {:+.2} ± {:.2} on {} held back: {}\n",
        own.computed,
        here.mean,
        there.mean,
        error(&there),
        there.count,
        if best == own.skip {
            "the plan is best"
        } else if is_better {
            "taken"
        } else {
            "the plan stays"
        },
    );
    if skip != own.skip {
        own.skip = skip;
        own.searched = Some(SearchedOn {
            scored,
            seed: search.seed,
            gain: here.mean,
            held_back: Held { runs: there.count as usize, gain: there.mean, gain_error: error(&there) },
        });
    }
    Ok((text, found.ended))
}

/// The numbers of computed steps that are searched.
///
/// Errors: one that no schedule was planned for.
fn budgets(args: &SearchArgs, plans: &ScheduleSet) -> Result<Vec<usize>> {
    let all = || plans.schedules.iter().map(|own| own.computed);
    let (Some(fewest), Some(most)) = (all().min(), all().max()) else { return Ok(Vec::new()) };
    let mut budgets = args.search_budgets.clone();
    if budgets.is_empty() {
        budgets =
            vec![plans.steps.div_ceil(3).clamp(fewest, most), plans.steps.div_ceil(2).clamp(fewest, most)];
        budgets.dedup();
    }
    match budgets.iter().find(|budget| all().all(|own| own != **budget)) {
        Some(budget) => {
            let message =
                format!("no schedule of {budget} computed steps was planned, a search begins from one");
            Err(bad_input_with(message, format!("--search-budgets with numbers from {fewest} to {most}")))
        }
        None => Ok(budgets),
    }
}

/// Evenly spaced computed steps, and those of `fixed`.
fn uniform(steps: usize, computed: usize, fixed: &[usize]) -> Skipped {
    let mut kept: Vec<usize> = (0..computed).map(|i| i * steps / computed).collect();
    // A fixed step takes the place of the nearest other one.
    for step in fixed {
        if !kept.contains(step)
            && let Some(near) =
                kept.iter_mut().filter(|k| !fixed.contains(k)).min_by_key(|k| k.abs_diff(*step))
        {
            *near = *step;
        }
    }
    (0..steps).filter(|step| !kept.contains(step)).collect()
}

/// The runs that schedules are scored by.
struct Runs<'a> {
    job: &'a Job,
    scenes: &'a [Scene<'a>],
    end: Option<Instant>,
    stop: &'a dyn Fn() -> bool,
    bar: ProgressBar,
}

impl Runs<'_> {
    /// PSNR of each schedule in each of these runs; `None` if there is no time before `end`.
    fn score(
        &self,
        with: Continuation,
        all: &[Skipped],
        runs: Range<usize>,
        end: Option<Instant>,
        memo: &mut Memo,
    ) -> Result<Vec<Option<Scores>>> {
        self.bar.inc_length((all.len() * runs.len()) as u64);
        for (place, scene) in self.scenes.iter().enumerate().take(runs.end).skip(runs.start) {
            let unknown: Vec<Skipped> =
                all.iter().filter(|skip| memo.get(with, skip, place).is_none()).cloned().collect();
            self.bar.inc((all.len() - unknown.len()) as u64);
            if unknown.is_empty() {
                continue;
            }
            let late = end.is_some_and(|end| Instant::now() > end);
            if scene.first_says("whether the search's time is over", late)? {
                return Ok(vec![None; all.len()]);
            }
            let scores = self.pictures(scene, with, &unknown)?;
            self.bar.inc(unknown.len() as u64);
            memo.add(with, place, unknown.into_iter().zip(scores))?;
        }
        let of = |skip: &Skipped| runs.clone().map(|place| memo.get(with, skip, place)).collect();
        Ok(all.iter().map(of).collect())
    }

    /// A run of one clip with a schedule, at its start or where another one was stored.
    fn begin(
        &self,
        scene: &Scene<'_>,
        with: Continuation,
        skip: &Skipped,
        from: Option<&Snapshot>,
    ) -> Result<Generation> {
        let Scene { pipeline, request, denoiser, ranks } = scene;
        let hooks = self.job.hooks_of(vec![FixedSteps::registered()?.continued(skip.clone(), with)?])?;
        let (sampler, run) = (pipeline.sampler(request)?, pipeline.trajectory(request)?.one_clip());
        let denoiser = Arc::clone(denoiser);
        let run = match from {
            None => Generation::new(denoiser, run, sampler, &pipeline.noise(request)?, &hooks)?,
            Some(from) => {
                let from = from.reader(&self.job.device);
                Generation::resume(Some(denoiser), run, sampler, &hooks, &from)?
            }
        };
        Ok(run.among(*ranks)?)
    }

    /// PSNR of each schedule in one run.
    fn pictures(&self, scene: &Scene<'_>, with: Continuation, all: &[Skipped]) -> Result<Scores> {
        // The schedule that skips nothing is the dense run.
        let every: Vec<Skipped> = std::iter::once(Vec::new()).chain(all.iter().cloned()).collect();
        let begin = |skip: &Skipped, from: Option<&Snapshot>| self.begin(scene, with, skip, from);
        let mut ends = ends(&every, &begin, self.stop)?.into_iter();
        let dense = ends.next().context("no dense run")?;
        let dense = scene.decode(&dense, self.stop)?;
        ends.map(|latents| {
            let found = compare_tensors(&scene.decode(&latents, self.stop)?, &dense, 1.0)?;
            Ok(found.psnr().min(IDENTICAL))
        })
        .collect()
    }
}
