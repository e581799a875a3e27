//! The naive baseline: no cache, but only as many steps as a configuration computed.

use std::collections::BTreeSet;

use magcache_core::error::count;
use magcache_models::pipeline::Request;

use super::{
    contender::Contender,
    estimate::Estimate,
    row::{Against, Role, Row},
};
use crate::job::Job;

/// The number of steps that take about as many passes as `row` computed: its passes divided by the passes per
/// step, rounded to the nearest.
fn steps_of(row: &Row, steps: usize) -> usize {
    (row.mean_computed() * steps as f64 / row.passes().max(1) as f64).round() as usize
}

/// The baselines of these configurations, by number of steps, the shortest first. A configuration that
/// computed as much as the dense run has none: the dense run is its baseline.
pub(crate) fn contenders(job: &Job, rows: &[Row]) -> Vec<Contender> {
    let whole = job.trajectory.steps_of_clip();
    let configs = rows.iter().filter(|row| row.role == Role::Config);
    let wanted: BTreeSet<usize> =
        configs.map(|row| steps_of(row, whole)).filter(|n| (1..whole).contains(n)).collect();
    let one = |n: usize| {
        let request = |steps: usize| Request { steps, ..job.request.clone() };
        // A run that starts from an image leaves out some of its steps.
        let runs = |steps: usize| {
            let run = job.pipeline.trajectory(&request(steps));
            run.is_ok_and(|run| run.steps_of_clip() == n) && job.pipeline.check(&request(steps)).is_ok()
        };
        let steps = (n..=job.request.steps).find(|steps| runs(*steps))?;
        Some(Contender::dense(&count(n, "step"), steps))
    };
    wanted.into_iter().filter_map(one).collect()
}

/// Records for every configuration how far it is from its baseline, and for every baseline which
/// configurations it belongs to.
pub(crate) fn relate(job: &Job, rows: &mut [Row], baselines: &mut [Row]) {
    let whole = job.trajectory.steps_of_clip();
    for row in rows.iter_mut().filter(|row| row.role == Role::Config) {
        let own = count(steps_of(row, whole), "step");
        if let Some(baseline) = baselines.iter_mut().find(|baseline| baseline.name == own) {
            row.against = Some(Against { psnr_gain: gain(row, baseline), name: own });
            baseline.of.push(row.name.clone());
        }
    }
}

/// PSNR of `row` minus that of `baseline`, seed by seed. Seeds at which both equal the dense run are left
/// out.
fn gain(row: &Row, baseline: &Row) -> Option<Estimate> {
    let of = |row: &Row, seed: u64| row.by_seed.iter().find(|s| s.seed == seed).and_then(|s| s.psnr);
    let differences = row
        .by_seed
        .iter()
        .filter_map(|s| Some(s.psnr? - of(baseline, s.seed)?))
        .filter(|gain| !gain.is_nan());
    Estimate::of(differences)
}
