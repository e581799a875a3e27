//! The calibrated curve that a run's caches read.

use magcache_core::{
    Branch, Step,
    profile::{Curve, Profile, resample},
};

use super::contender::Contender;
use crate::job::Job;

/// Magnitude ratios of a profile at the steps of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ratios {
    pub(crate) profile: String,
    /// By branch; the first step of an expert has no predecessor and is left out.
    pub(crate) branches: Vec<(Branch, Vec<(usize, f64)>)>,
}

/// The ratios of the first profile with a curve that a contender names, or else of the model's own.
pub(crate) fn ratios(job: &Job, contenders: &[Contender]) -> Option<Ratios> {
    let words = contenders.iter().flat_map(|contender| &contender.cache.cache).map(|entry| &entry.words);
    let named = words.filter_map(|words| Some((words.profile.as_deref()?, words.variant.as_deref())));
    let own = job.pipeline.meta().profiles.first().map(|name| (*name, None));
    named.chain(own).find_map(|(name, variant)| {
        let profile = Profile::find(name).ok()?;
        let curves = profile.curves_of(variant).ok()?;
        let branches: Vec<_> =
            job.trajectory.branches.iter().map(|branch| (*branch, of(job, &curves, *branch))).collect();
        let shown = branches.iter().any(|(_, points)| !points.is_empty());
        shown.then(|| Ratios { profile: profile.name.clone(), branches })
    })
}

fn of(job: &Job, curves: &[&Curve], branch: Branch) -> Vec<(usize, f64)> {
    let run = &job.trajectory;
    let steps = run.steps().filter(|step| step.index != step.phase.start);
    steps
        .filter(|step| run.branches_at(step).contains(&branch))
        .filter_map(|step| Some((step.index, at(curves, branch, &step)?)))
        .collect()
}

/// The curve's value for a step: resampled to the expert's phase if it is that expert's curve, else to the
/// whole run.
fn at(curves: &[&Curve], branch: Branch, step: &Step) -> Option<f64> {
    let of_expert = curves.iter().find(|curve| curve.is_of(step.expert));
    let values = of_expert.or(curves.iter().find(|curve| curve.expert.is_none()))?.of(branch);
    let (n, i) = match of_expert {
        Some(_) => (step.phase.len(), step.index - step.phase.start),
        None => (step.total, step.index),
    };
    values.get(resample::index(values.len(), n, i)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(expert: Option<u8>, values: &[f64]) -> Curve {
        let text = format!("steps = {}\nratios = {{ cond = {values:?} }}", values.len());
        Curve { expert, ..toml::from_str(&text).unwrap() }
    }

    #[test]
    fn a_curve_runs_over_its_phase_or_over_the_run() {
        let (whole, second) = (curve(None, &[1.0, 0.9, 0.8]), curve(Some(1), &[1.0, 0.5]));
        let curves = [&whole, &second];
        let phases = [
            magcache_core::Phase { expert: magcache_core::Expert(0), steps: 0..4 },
            magcache_core::Phase { expert: magcache_core::Expert(1), steps: 4..6 },
        ];
        let value = |index| at(&curves, Branch::Cond, &Step::in_phases(index, 6, &phases)).unwrap();
        // Six steps from three values: indices 0, 0.4, 0.8, 1.2, rounded.
        assert_eq!([0, 1, 2, 3].map(value), [1.0, 1.0, 0.9, 0.9]);
        assert_eq!([4, 5].map(value), [1.0, 0.5]);
        assert_eq!(at(&[&second], Branch::Cond, &Step::in_phases(0, 6, &phases)), None);
    }
}
