//! The schedules of a profile, from what was rehearsed.

use anyhow::Result;
use magcache_core::{
    calibrate::Recording,
    planner::{Continuation, Objective, Planned, PlannedWindows, Planner},
    profile::{PlannedSchedule, Provenance, ScheduleSet, WindowedSchedule},
};

use super::Conditions;

/// How schedules are planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planning {
    pub(crate) objective: Objective,
    /// Most steps skipped in a row.
    pub(crate) max_gap: Option<usize>,
    /// Blocks of the model.
    pub(crate) blocks: usize,
}

/// The best schedule for each number of computed steps below the total, and those with windows that are
/// better; empty if no run was rehearsed.
pub(super) fn plans(
    recording: &Recording,
    conditions: &Conditions,
    planning: Planning,
    source: Provenance,
) -> Result<Option<ScheduleSet>> {
    if recording.reuse.is_empty() {
        return Ok(None);
    }
    let planner = Planner::new(&recording.reuse)?.with_max_gap(planning.max_gap.unwrap_or(usize::MAX));
    let costs = recording.reuse.iter().map(|run| run.cost);
    let mut set = ScheduleSet {
        steps: recording.steps,
        flow_shift: conditions.number("flow_shift"),
        boundary_ratio: conditions.number("boundary_ratio"),
        skipped_cost: costs.sum::<f64>() / recording.reuse.len() as f64,
        schedules: Vec::new(),
        windowed: Vec::new(),
        source,
    };
    let whole = whole(&planner, planning);
    set.windowed = windowed(&planner, planning, &whole, &set);
    set.schedules = whole.into_iter().map(|(with, own)| PlannedSchedule::new(own, with)).collect();
    Ok(Some(set))
}

type Whole = (Continuation, Planned);

/// The schedules of whole steps, those that compute the fewest first.
fn whole(planner: &Planner, planning: Planning) -> Vec<Whole> {
    let of = |with| planner.schedules(with, planning.objective).into_iter().map(move |own| (with, own));
    let mut found: Vec<Whole> = Vec::new();
    for (with, own) in of(Continuation::Residual).chain(of(Continuation::Line)) {
        if own.skip.is_empty() {
            continue;
        }
        // The sums say rightly which is better; what is predicted of a line is less sure.
        match found.iter_mut().find(|(_, other)| other.computed == own.computed) {
            Some(other) if own.sum < other.1.sum => *other = (with, own),
            Some(_) => {}
            None => found.push((with, own)),
        }
    }
    found.sort_by_key(|(_, own)| own.computed);
    found
}

/// The schedules with windows, the fastest first, each with a smaller sum than the ones before it and than
/// those of whole steps with the other continuation which take no longer.
fn windowed(
    planner: &Planner,
    planning: Planning,
    whole: &[Whole],
    set: &ScheduleSet,
) -> Vec<WindowedSchedule> {
    let of = |with| {
        let found = planner.windows(planning.blocks, with, planning.objective);
        found.into_iter().map(move |own| (with, own))
    };
    let mut found: Vec<(Continuation, PlannedWindows)> =
        of(Continuation::Residual).chain(of(Continuation::Line)).collect();
    found.sort_by(|(_, a), (_, b)| a.time.total_cmp(&b.time).then(a.sum.total_cmp(&b.sum)));
    let mut least = f64::INFINITY;
    found.retain(|(with, own)| {
        let no_slower = |other: &&Whole| set.speedup(other.1.computed) * own.time >= 1.0 - 1e-9;
        let rival = whole.iter().rev().find(no_slower).filter(|(other, _)| other != with);
        let is_better = own.sum < least && rival.is_none_or(|(_, rival)| own.sum < rival.sum);
        if is_better {
            least = own.sum;
        }
        is_better
    });
    found.iter().map(|(with, own)| WindowedSchedule::new(own, planning.blocks, *with)).collect()
}
