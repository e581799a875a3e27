//! Builds the schedules of a profile from rehearsed runs.

use anyhow::Result;
use magcache_core::{
    calibrate::Recording,
    planner::{Continuation, Objective, Planner},
    profile::{PlannedSchedule, Plans, Provenance},
};

use super::Conditions;

/// The best schedule for each number of computed steps below the total; empty if no run was rehearsed.
pub(crate) fn plans(
    recording: &Recording,
    conditions: &Conditions,
    objective: Objective,
    source: Provenance,
) -> Result<Option<Plans>> {
    if recording.reuse.is_empty() {
        return Ok(None);
    }
    let planner = Planner::new(&recording.reuse)?;
    let of = |with| planner.schedules(with, objective).into_iter().map(move |job| (with, job));
    let mut schedules: Vec<PlannedSchedule> = Vec::new();
    for (with, job) in of(Continuation::Residual).chain(of(Continuation::Line)) {
        if job.skip.is_empty() {
            continue;
        }
        let new = PlannedSchedule::new(job, with);
        match schedules.iter_mut().find(|own| own.computed == new.computed) {
            Some(own) if new.error < own.error => *own = new,
            Some(_) => {}
            None => schedules.push(new),
        }
    }
    schedules.sort_by_key(|schedule| schedule.computed);
    let costs = recording.reuse.iter().map(|run| run.cost);
    Ok(Some(Plans {
        steps: recording.steps,
        flow_shift: conditions.number("flow_shift"),
        boundary_ratio: conditions.number("boundary_ratio"),
        skipped_cost: costs.sum::<f64>() / recording.reuse.len() as f64,
        schedules,
        source,
    }))
}
