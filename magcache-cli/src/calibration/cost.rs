//! The cost of a skipped step, measured on a cached and a dense run in turns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use magcache_core::{
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

/// Cost of a skipped step relative to a computed one, including what computed steps pay for the cache.
/// Measured with a run that skips about half of its steps, in turns with a dense one. `stop` is checked
/// before each pass.
pub(crate) fn skipped_cost(
    job: &Job,
    scene: &Scene<'_>,
    runs: &[ReuseErrors],
    stop: &dyn Fn() -> bool,
) -> Result<f64> {
    let steps = job.trajectory.steps_of_clip();
    let all = Planner::new(runs)?.schedules(Continuation::Line, Objective::Sum);
    let half = all.into_iter().filter(|found| !found.skip.is_empty());
    let half = half.min_by_key(|found| found.computed.abs_diff(steps / 2));
    let half = half.context("a run of a single step has nothing to skip")?;
    let half = PlannedSchedule::new(half, Continuation::Line);
    let computed = half.computed;
    let hooks = job.hooks_of(vec![FixedSteps::registered()?.planned(&half)?])?;
    warm_up(scene, stop)?;
    let (mut costs, mut long) = (Vec::new(), false);
    let started = Instant::now();
    // Times differ between ranks, which all run the same rounds: the first one counts.
    let another = |rounds: usize, long: bool| match rounds {
        _ if long => false,
        rounds if rounds < ROUNDS.start => true,
        rounds => rounds < ROUNDS.end && started.elapsed() < ENOUGH,
    };
    while scene.first_says("whether another round is timed", another(costs.len(), long))? {
        let mut lanes = [Lane::new(scene, &Arc::default())?, Lane::new(scene, &hooks)?];
        take_turns(&mut lanes, stop, &mut || {})?;
        let [dense, cached] = lanes.map(|lane| lane.transformer_seconds());
        let skipped = steps.saturating_sub(computed) as f64;
        costs.push((cached / dense * steps as f64 - computed as f64) / skipped);
        long = dense > LONG.as_secs_f64();
    }
    costs.sort_by(f64::total_cmp);
    // Noise can make it negative.
    Ok(costs.get(costs.len() / 2).copied().unwrap_or_default().clamp(0.0, 1.0))
}
