//! The steps that MagCache skips under one profile but not under the other.

use magcache_core::{
    Branch, Expert, Phase, Warmup,
    profile::{Curve, Profile, Recommended},
    run::steps_above,
};
use magcache_strategies::magcache::{Dialect, Rule};

/// One branch of one variant, with the settings, steps and schedule of the first profile.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decisions {
    pub(crate) variant: Option<String>,
    pub(crate) branch: String,
    pub(crate) steps: usize,
    pub(crate) settings: Recommended,
    /// Steps skipped under each profile.
    pub(crate) skipped: [Vec<usize>; 2],
}

impl Decisions {
    /// Decisions for every variant that both profiles have.
    pub(super) fn of(a: &Profile, b: &Profile) -> Vec<Self> {
        let mut variants: Vec<Option<&str>> = a.curves.iter().map(|curve| curve.variant.as_deref()).collect();
        variants.dedup();
        let mut out = Vec::new();
        for variant in variants {
            let of = |p: &Profile| -> Vec<Curve> {
                p.curves.iter().filter(|c| c.variant.as_deref() == variant).cloned().collect()
            };
            let (ours, theirs) = (of(a), of(b));
            if !theirs.is_empty() {
                out.extend(between(variant, &ours, theirs));
            }
        }
        out
    }

    /// Steps that only the first or only the second profile skips.
    pub(crate) fn only(&self, which: usize) -> Vec<usize> {
        let [one, other] = if which == 0 { [0, 1] } else { [1, 0] };
        self.skipped[one].iter().filter(|step| !self.skipped[other].contains(step)).copied().collect()
    }
}

fn between(variant: Option<&str>, ours: &[Curve], theirs: Vec<Curve>) -> Vec<Decisions> {
    let default = Recommended { label: "default".to_owned(), threshold: 0.12, max_skips: 2, warmup: 0.2 };
    let settings = ours.iter().find_map(|curve| curve.recommended.first()).cloned().unwrap_or(default);
    let phases = phases(ours);
    let dialect = |curves: &[Curve]| {
        let named = curves.iter().find_map(|curve| curve.dialect.as_deref());
        named.and_then(|name| Dialect::parse(name).ok()).unwrap_or_default()
    };
    let rule = |curves: Vec<Curve>| Rule {
        dialect: dialect(ours),
        threshold: settings.threshold,
        max_skips: settings.max_skips,
        retention: Warmup::Fraction(settings.warmup),
        curves,
        assume_steps: None,
    };
    let rules = [rule(ours.to_vec()), rule(theirs)];
    let known = [Branch::Cond, Branch::Uncond];
    let named = |branch: &Branch| ours.iter().any(|curve| curve.ratios.contains_key(&branch.to_string()));
    let one = |branch: Branch| {
        let skipped = rules.each_ref().map(|rule| {
            let all = rule.schedule(&phases, branch);
            all.iter().enumerate().filter(|(_, skip)| **skip).map(|(step, _)| step).collect()
        });
        Decisions {
            variant: variant.map(str::to_owned),
            branch: branch.to_string(),
            steps: phases.last().map_or(0, |phase| phase.steps.end),
            settings: settings.clone(),
            skipped,
        }
    };
    known.into_iter().filter(named).map(one).collect()
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
