//! What a skipped step costs, from a cached run beside a dense one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use magcache_core::{
    CachePlan,
    config::{FixedSteps, Residuals},
    planner::{Continuation, Objective, Planner, ReuseErrors},
    profile::PlannedSchedule,
};

use crate::{
    job::Job,
    lanes::{Lane, Scene, take_turns, warm_up},
};

/// Rounds of which the median counts, at least and at most: a single pass of a small network is shorter than what disturbs a machine.
const ROUNDS: std::ops::Range<usize> = 3..31;

/// Between them, rounds go on until they took this long.
const ENOUGH: Duration = Duration::from_secs(30);

/// Runs longer than this are timed once: they are longer than what disturbs a machine.
const LONG: Duration = Duration::from_mins(1);

/// Time of a skipped step in times of a computed one, with what computed steps pay for the cache: a run that skips about half of
/// its steps takes turns with a dense one. `stop` is asked before each pass of the network.
pub(crate) fn skipped_cost(
    job: &Job,
    scene: &Scene<'_>,
    runs: &[ReuseErrors],
    stop: &dyn Fn() -> bool,
) -> Result<f64> {
    let steps = job.trajectory.steps().count();
    let all = Planner::new(runs)?.schedules(Continuation::Line, Objective::Sum);
    let half = all.into_iter().filter(|found| !found.skip.is_empty());
    let half = half.min_by_key(|found| found.computed.abs_diff(steps / 2));
    let half = half.context("a run of a single step has nothing to skip")?;
    let half = PlannedSchedule::new(half, Continuation::Line);
    let computed = half.computed;
    let caches =
        CachePlan::from_tables(vec![FixedSteps::registered()?.planned(&half)?], Residuals::default())?;
    let hooks = caches.build(job.pipeline.meta(), Some(&job.trajectory))?.registry;
    warm_up(scene, stop)?;
    let mut costs = Vec::new();
    let started = Instant::now();
    while costs.len() < ROUNDS.start || (costs.len() < ROUNDS.end && started.elapsed() < ENOUGH) {
        let mut lanes = [Lane::new(scene, &Arc::default())?, Lane::new(scene, &hooks)?];
        take_turns(&mut lanes, stop, &mut || {})?;
        let [dense, cached] = lanes.map(|lane| lane.transformer_seconds());
        let skipped = steps.saturating_sub(computed) as f64;
        costs.push((cached / dense * steps as f64 - computed as f64) / skipped);
        if dense > LONG.as_secs_f64() {
            break;
        }
    }
    costs.sort_by(f64::total_cmp);
    // Noise may put it below nothing.
    Ok(costs.get(costs.len() / 2).copied().unwrap_or_default().clamp(0.0, 1.0))
}
