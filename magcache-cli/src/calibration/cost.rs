//! The cost of steps that do not compute everything, measured on cached and dense runs in turns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use magcache_core::{
    HookRegistry, Window,
    config::FixedSteps,
    planner::{Continuation, Objective, Planner, ReuseErrors},
    profile::PlannedSchedule,
};

use crate::{
    job::Job,
    lanes::{Lane, Scene, take_turns, warm_up},
};

/// Minimum and maximum number of rounds for the median: one pass of a small network is shorter than typical
/// disturbances.
const ROUNDS: std::ops::Range<usize> = 3..31;

/// Between those limits, rounds are added until this much time has passed.
const ENOUGH: Duration = Duration::from_secs(30);

/// Runs longer than this are timed once: they outlast typical disturbances.
const LONG: Duration = Duration::from_mins(1);

/// Costs relative to a computed step, including what computed steps pay for the cache.
#[derive(Clone, Debug)]
pub(crate) struct Costs {
    /// Of a skipped step.
    pub(crate) skipped: f64,
    /// Of a step of each of the windows of the rehearsed runs.
    pub(crate) windows: Vec<f64>,
}

/// One way of running about half of the steps.
struct Timed {
    hooks: Arc<HookRegistry>,
    /// Number of steps that do not compute everything.
    cheap: usize,
    costs: Vec<f64>,
}

/// Measures with runs that skip about half of their steps, or replace what is between a window, in turns with
/// a dense one. `stop` is checked before each pass.
pub(crate) fn costs(
    job: &Job,
    scene: &Scene<'_>,
    runs: &[ReuseErrors],
    stop: &dyn Fn() -> bool,
) -> Result<Costs> {
    let steps = job.trajectory.steps_of_clip();
    let mut timed = vec![skipping(job, runs)?];
    let first = runs.first().context("no run was rehearsed")?;
    for own in &first.windows {
        timed.push(windowed(job, first, own.window)?);
    }
    warm_up(scene, stop)?;
    let mut long = false;
    let started = Instant::now();
    // Times differ between ranks, which all run the same rounds: the first one counts.
    let another = |rounds: usize, long: bool| match rounds {
        _ if long => false,
        rounds if rounds < ROUNDS.start => true,
        rounds => rounds < ROUNDS.end && started.elapsed() < ENOUGH,
    };
    let mut rounds = 0;
    while scene.first_says("whether another round is timed", another(rounds, long))? {
        let hooks = timed.iter().map(|own| Arc::clone(&own.hooks));
        let lanes = std::iter::once(Arc::default()).chain(hooks).map(|hooks| Lane::new(scene, &hooks));
        let mut lanes = lanes.collect::<Result<Vec<_>>>()?;
        take_turns(&mut lanes, stop, &mut || {})?;
        let mut seconds = lanes.iter().map(Lane::transformer_seconds);
        let dense = seconds.next().unwrap_or_default();
        for (own, seconds) in timed.iter_mut().zip(seconds) {
            let computed = steps.saturating_sub(own.cheap) as f64;
            own.costs.push((seconds / dense * steps as f64 - computed) / own.cheap as f64);
        }
        long = dense > LONG.as_secs_f64();
        rounds += 1;
    }
    let mut found = timed.into_iter().map(|own| median(own.costs));
    Ok(Costs { skipped: found.next().unwrap_or_default(), windows: found.collect() })
}

fn skipping(job: &Job, runs: &[ReuseErrors]) -> Result<Timed> {
    let steps = job.trajectory.steps_of_clip();
    let all = Planner::new(runs)?.schedules(Continuation::Line, Objective::Sum);
    let half = all.into_iter().filter(|found| !found.skip.is_empty());
    let half = half.min_by_key(|found| found.computed.abs_diff(steps / 2));
    let half = half.context("a run of a single step has nothing to skip")?;
    let cheap = half.skip.len();
    let table = FixedSteps::registered()?.planned(&PlannedSchedule::new(half, Continuation::Line))?;
    Ok(Timed { hooks: job.hooks_of(vec![table])?, cheap, costs: Vec::new() })
}

/// Every second of the steps that something can stand in at runs the window.
fn windowed(job: &Job, run: &ReuseErrors, window: Window) -> Result<Timed> {
    let can = |step: &usize| run.steps.get(*step).is_some_and(|own| !own.sources.is_empty());
    let skip: Vec<usize> = (0..run.steps.len()).filter(can).step_by(2).collect();
    let between = window.front..job.pipeline.meta().blocks().saturating_sub(window.back);
    let cheap = skip.len();
    let mut table = FixedSteps::registered()?.continued(skip, Continuation::Line)?;
    table.insert("at".to_owned(), format!("{}..{}", between.start, between.end).into());
    Ok(Timed { hooks: job.hooks_of(vec![table])?, cheap, costs: Vec::new() })
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    // Noise can make it negative.
    costs.get(costs.len() / 2).copied().unwrap_or_default().clamp(0.0, 1.0)
}
