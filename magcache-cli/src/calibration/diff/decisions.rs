//! The steps that a strategy skips under one profile but not under the other.

use magcache_core::{
    Branch, CachePlan, Expert, ModelMeta, Phase, Signal, Trajectory,
    config::Residuals,
    meta,
    profile::{Curve, Part, Profile, Recommended},
    run::steps_above,
    schedule::simulate,
    state::HookId,
};

use crate::job::cache_table;

/// One branch of one variant under one strategy, with the settings, steps and schedule of the first profile.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decisions {
    pub(crate) strategy: &'static str,
    pub(crate) variant: Option<String>,
    pub(crate) branch: String,
    pub(crate) steps: usize,
    pub(crate) settings: Recommended,
    /// Steps skipped under each profile.
    pub(crate) skipped: [Vec<usize>; 2],
}

impl Decisions {
    /// Decisions for every variant that both profiles have, of every strategy that reads curves and decides
    /// from the step alone.
    pub(super) fn of(a: &Profile, b: &Profile) -> Vec<Self> {
        let mut variants: Vec<Option<&str>> = a.curves.iter().map(|curve| curve.variant.as_deref()).collect();
        variants.dedup();
        let of = |profile: &Profile, variant: Option<&str>| -> Vec<Curve> {
            let own = profile.curves.iter().filter(|curve| curve.variant.as_deref() == variant);
            own.cloned().collect()
        };
        let both = variants.into_iter().map(|variant| (of(a, variant), of(b, variant)));
        both.filter(|(_, theirs)| !theirs.is_empty())
            .flat_map(|(ours, theirs)| between(ours, theirs))
            .collect()
    }

    /// Steps that only the first or only the second profile skips.
    pub(crate) fn only(&self, which: usize) -> Vec<usize> {
        let [one, other] = if which == 0 { [0, 1] } else { [1, 0] };
        self.skipped[one].iter().filter(|step| !self.skipped[other].contains(step)).copied().collect()
    }
}

fn between(mut ours: Vec<Curve>, mut theirs: Vec<Curve>) -> Vec<Decisions> {
    let default = Recommended { label: "default".to_owned(), threshold: 0.12, max_skips: 2, warmup: 0.2 };
    let settings = ours.iter().find_map(|curve| curve.recommended.first()).cloned().unwrap_or(default);
    let dialect = ours.iter().find_map(|curve| curve.dialect.clone());
    // Both are read with the settings of the first.
    for curve in ours.iter_mut().chain(&mut theirs) {
        curve.recommended = vec![settings.clone()];
        curve.dialect.clone_from(&dialect);
    }
    let named = |branch: &Branch| ours.iter().any(|curve| curve.ratios.contains_key(&branch.to_string()));
    let branches: Vec<Branch> = [Branch::Cond, Branch::Uncond].into_iter().filter(named).collect();
    let phases = phases(&ours);
    let steps = phases.last().map_or(0, |phase| phase.steps.end);
    let run = Trajectory::plain(steps, &branches).with_phases(phases);
    let variant = ours.first().and_then(|curve| curve.variant.clone());
    let mut out = Vec::new();
    for strategy in meta::strategies().iter().map(|info| info.name) {
        let (Some(a), Some(b)) = (skipped(strategy, &ours, &run), skipped(strategy, &theirs, &run)) else {
            continue;
        };
        out.extend(branches.iter().zip(a.into_iter().zip(b)).map(|(branch, (a, b))| Decisions {
            strategy,
            variant: variant.clone(),
            branch: branch.to_string(),
            steps,
            settings: settings.clone(),
            skipped: [a, b],
        }));
    }
    out
}

/// The steps that a strategy skips on each branch of a run, if it reads curves and decides from the step
/// alone.
fn skipped(strategy: &str, curves: &[Curve], run: &Trajectory) -> Option<Vec<Vec<usize>>> {
    let plan = CachePlan::from_tables(vec![cache_table(strategy, &[]).ok()?], Residuals::default()).ok()?;
    if !plan.cache.iter().any(|entry| entry.config.reads().contains(&Part::Curves)) {
        return None;
    }
    let profile = Profile { curves: curves.to_vec(), ..Profile::default() };
    let model = ModelMeta::of("profile", env!("CARGO_PKG_NAME")).signals(&Signal::ALL).meta();
    let model = model.with_blocks(&[1]);
    let registry = plan.build_with(&model, Some(run), &[profile]).ok()?.registry;
    let log = registry.is_static().then(|| simulate(&registry, &model, run).ok())??;
    Some(run.branches.iter().map(|branch| log.reused(HookId(0), *branch).collect()).collect())
}

/// The phases of the run that the curves were measured on: a curve of one expert is as long as its phase.
pub(super) fn phases(curves: &[Curve]) -> Vec<Phase> {
    let mut own: Vec<&Curve> = curves.iter().filter(|curve| curve.expert.is_some()).collect();
    own.sort_by_key(|curve| curve.expert);
    let mut first = 0;
    let mut next = |curve: &&Curve| {
        let steps = first..first + curve.steps;
        first = steps.end;
        Phase { expert: Expert(curve.expert.unwrap_or_default()), steps }
    };
    if !own.is_empty() {
        return own.iter().map(&mut next).collect();
    }
    let Some(curve) = curves.first() else { return Vec::new() };
    let boundary = curve.flow_shift.zip(curve.boundary_ratio);
    match boundary.map(|(shift, ratio)| steps_above(ratio, shift, curve.steps)) {
        Some(high) if high > 0 && high < curve.steps => vec![
            Phase { expert: Expert(0), steps: 0..high },
            Phase { expert: Expert(1), steps: high..curve.steps },
        ],
        _ => vec![Phase::whole(curve.steps)],
    }
}
