//! How two profiles differ: values, conditions, and the decisions that follow from them.

mod decisions;
mod render;

use std::collections::BTreeSet;

use magcache_core::{
    error::count,
    profile::{Curve, Fit, OwnPart, PlannedSchedule, Profile, ScheduleSet, Sensitivity, resample},
};
use serde::Serialize;

use self::decisions::Decisions;
pub(crate) use self::render::chart;
use super::Facts;

/// Number of distances in the common range of two fits at which they are compared.
const SAMPLES: usize = 257;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Diff {
    /// Conditions of the measurements; they affect no decision.
    pub(crate) conditions: Vec<Condition>,
    /// Parts that only one of them has.
    pub(crate) missing: Vec<Missing>,
    pub(crate) values: Vec<Values>,
    pub(crate) decisions: Vec<Decisions>,
}

/// A recorded fact about a measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Condition {
    /// The part of the profile that it belongs to.
    pub(crate) of: String,
    pub(crate) key: String,
    pub(crate) a: Option<String>,
    pub(crate) b: Option<String>,
    /// Whether a cache reads it: a curve's steps, schedule and dialect, a fit's signal and edge steps.
    pub(crate) is_read: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Missing {
    pub(crate) what: String,
    pub(crate) only_in: char,
}

/// How far apart the values of a part are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Values {
    /// `curve cond of expert 1`.
    pub(crate) what: String,
    pub(crate) quantity: &'static str,
    pub(crate) largest: f64,
    pub(crate) mean: f64,
    /// Where the difference is largest: a step, a distance or a timestep.
    pub(crate) at: f64,
    pub(crate) place: &'static str,
    /// The range that was compared.
    pub(crate) range: [f64; 2],
    /// Whether the values affect decisions; deviations and cosine distances are informative only.
    pub(crate) decides: bool,
}

impl Diff {
    pub(crate) fn of(a: &Profile, b: &Profile) -> Self {
        let mut out = Self::default();
        out.model(a, b);
        let key = |c: &Curve| (c.variant.clone(), c.expert);
        let name = |c: &Curve| named("curve", c.variant.as_ref(), c.expert);
        out.pairs(&a.curves, &b.curves, key, name, Self::curve);
        let key = |f: &Fit| (f.variant.clone(), f.expert);
        let name = |f: &Fit| named("fit", f.variant.as_ref(), f.expert);
        out.pairs(&a.fits, &b.fits, key, name, Self::fit);
        let key = |s: &Sensitivity| (s.variant.clone(), s.expert);
        let name = |s: &Sensitivity| named("sensitivity", s.variant.as_ref(), s.expert);
        out.pairs(&a.sensitivities, &b.sensitivities, key, name, Self::sensitivity);
        // A planned schedule is only valid for the sampler's schedule that it was made for.
        let key =
            |p: &ScheduleSet| (p.steps, p.flow_shift.map(f64::to_bits), p.boundary_ratio.map(f64::to_bits));
        let name = |p: &ScheduleSet| format!("plans of {}", count(p.steps, "step"));
        out.pairs(&a.plans, &b.plans, key, name, Self::plans);
        let kinds: BTreeSet<&String> = a.parts.keys().chain(b.parts.keys()).collect();
        for kind in kinds {
            let of = |profile: &Profile| profile.parts.get(kind).cloned().unwrap_or_default();
            let name = |part: &OwnPart| named(kind, part.variant.as_ref(), None);
            out.pairs(&of(a), &of(b), |part| part.variant.clone(), name, Self::own);
        }
        out.decisions = Decisions::of(a, b);
        out
    }

    /// True if caches read the same values from both, within `tolerance`.
    pub(crate) fn equal(&self, tolerance: f64) -> bool {
        let within = |v: &Values| !v.decides || v.largest <= tolerance;
        self.missing.is_empty()
            && self.values.iter().all(within)
            && !self.conditions.iter().any(|c| c.is_read)
    }

    fn model(&mut self, a: &Profile, b: &Profile) {
        self.condition("profile", "model", a.model.clone(), b.model.clone(), false);
    }

    /// Compares the parts of one kind that both profiles have, in the order of the first profile.
    fn pairs<T, K: PartialEq>(
        &mut self,
        a: &[T],
        b: &[T],
        key: impl Fn(&T) -> K,
        name: impl Fn(&T) -> String,
        compare: fn(&mut Self, &str, &T, &T),
    ) {
        let only = |these: &[T], those: &[T], only_in| -> Vec<Missing> {
            let alone = these.iter().filter(|one| !those.iter().any(|other| key(other) == key(one)));
            alone.map(|one| Missing { what: name(one), only_in }).collect()
        };
        self.missing.extend(only(a, b, 'a'));
        self.missing.extend(only(b, a, 'b'));
        for one in a {
            if let Some(other) = b.iter().find(|other| key(other) == key(one)) {
                compare(self, &name(one), one, other);
            }
        }
    }

    fn condition<T: ToString>(&mut self, of: &str, key: &str, a: Option<T>, b: Option<T>, is_read: bool) {
        let [a, b] = [a, b].map(|value| value.map(|value| value.to_string()));
        if a != b {
            self.conditions.push(Condition { of: of.to_owned(), key: key.to_owned(), a, b, is_read });
        }
    }

    fn facts(&mut self, of: &str, a: &Facts, b: &Facts) {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            self.condition(of, key, a.get(key), b.get(key), false);
        }
    }

    fn curve(&mut self, what: &str, a: &Curve, b: &Curve) {
        self.condition(what, "steps", Some(a.steps), Some(b.steps), true);
        self.condition(what, "flow_shift", a.flow_shift, b.flow_shift, true);
        self.condition(what, "boundary_ratio", a.boundary_ratio, b.boundary_ratio, true);
        self.condition(what, "dialect", a.dialect.as_ref(), b.dialect.as_ref(), true);
        self.condition(what, "recommended", recommended(a), recommended(b), true);
        self.facts(what, &a.source.measured, &b.source.measured);
        let quantities = [
            ("ratio", &a.ratios, &b.ratios, true),
            ("deviation", &a.std, &b.std, false),
            ("cosine distance", &a.cosine_distance, &b.cosine_distance, false),
        ];
        let phases = decisions::phases(std::slice::from_ref(a));
        for (quantity, ours, theirs, decides) in quantities {
            for (branch, ours) in ours {
                let Some(theirs) = theirs.get(branch) else { continue };
                for phase in &phases {
                    let of =
                        if phases.len() > 1 { format!(", expert {}", phase.expert.0) } else { String::new() };
                    let steps = phase.steps.clone();
                    // Resamples the other curve to the number of steps of this one.
                    let value = |i| theirs.get(resample::index(theirs.len(), ours.len(), i));
                    let apart = |i: usize| Some((i as f64, (ours.get(i)? - value(i)?).abs()));
                    let what = format!("{what}, {branch}{of}");
                    self.values(what, quantity, "step", decides, steps.filter_map(apart));
                }
            }
        }
        let branches = |c: &Curve| c.ratios.keys().cloned().collect::<Vec<_>>().join(" and ");
        self.condition(what, "branches", Some(branches(a)), Some(branches(b)), true);
    }

    fn fit(&mut self, what: &str, a: &Fit, b: &Fit) {
        let signal = |f: &Fit| Some(format!("{:?}", f.signal));
        let edges = |f: &Fit| Some(format!("{:?} first, {} last", f.warmup, f.last_steps));
        self.condition(what, "signal", signal(a), signal(b), true);
        self.condition(what, "always computed", edges(a), edges(b), true);
        self.condition(what, "threshold", a.thresholds.first(), b.thresholds.first(), true);
        let range = |f: &Fit| f.fitted_range.map(|[low, high]| format!("{low} to {high}"));
        self.condition(what, "fitted_range", range(a), range(b), false);
        self.condition(what, "residual", a.residual, b.residual, false);
        self.facts(what, &a.source.measured, &b.source.measured);
        let [low, high] = common(a.fitted_range, b.fitted_range);
        if low > high {
            self.missing
                .push(Missing { what: format!("{what}: a distance that both were fitted on"), only_in: '-' });
            return;
        }
        let at = |f: &Fit, x: f64| f.coefficients.iter().fold(0.0, |y, c| y * x + c);
        let apart = |i: usize| {
            let x = low + (high - low) * i as f64 / (SAMPLES - 1) as f64;
            (x, (at(a, x) - at(b, x)).abs())
        };
        self.values(what.to_owned(), "predicted change", "distance", true, (0..SAMPLES).map(apart));
    }

    fn sensitivity(&mut self, what: &str, a: &Sensitivity, b: &Sensitivity) {
        self.condition(what, "timesteps", Some(a.timesteps.len()), Some(b.timesteps.len()), false);
        let thresholds = |s: &Sensitivity| s.thresholds.map(|[early, late]| format!("{early} and {late}"));
        self.condition(what, "thresholds", thresholds(a), thresholds(b), true);
        self.facts(what, &a.source.measured, &b.source.measured);
        // The timestep sensitivity is per training step, about a thousandth: both are compared relatively.
        let relative = |of: fn((f64, f64)) -> f64| {
            let at = |t: &f64| {
                let (ours, theirs) = (of(a.at(*t)?), of(b.at(*t)?));
                Some((*t, if ours == theirs { 0.0 } else { ((ours - theirs) / ours.max(theirs)).abs() }))
            };
            a.timesteps.iter().filter_map(at).collect::<Vec<_>>()
        };
        let [latent, timestep] = [relative(|of| of.0), relative(|of| of.1)];
        self.values(what.to_owned(), "relative latent sensitivity", "timestep", true, latent.into_iter());
        self.values(what.to_owned(), "relative timestep sensitivity", "timestep", true, timestep.into_iter());
    }

    /// A part defined by a strategy, whose keys are not known here.
    fn own(&mut self, what: &str, a: &OwnPart, b: &OwnPart) {
        let keys: BTreeSet<&String> = a.keys.keys().chain(b.keys.keys()).collect();
        for key in keys {
            self.condition(what, key, a.keys.get(key), b.keys.get(key), true);
        }
        self.facts(what, &a.source.measured, &b.source.measured);
    }

    fn plans(&mut self, what: &str, a: &ScheduleSet, b: &ScheduleSet) {
        let computed: BTreeSet<usize> = a.schedules.iter().chain(&b.schedules).map(|s| s.computed).collect();
        for computed in computed {
            let skip = |plans: &ScheduleSet| {
                let own: Option<&PlannedSchedule> = plans.schedules.iter().find(|s| s.computed == computed);
                own.map(|schedule| format!("{:?} by {:?}", schedule.skip, schedule.continuation))
            };
            self.condition(what, &format!("skipped of {computed} computed"), skip(a), skip(b), true);
        }
        // A time, which differs between machines.
        self.condition(what, "skipped_cost", Some(a.skipped_cost), Some(b.skipped_cost), false);
        self.facts(what, &a.source.measured, &b.source.measured);
    }

    fn values(
        &mut self,
        what: String,
        quantity: &'static str,
        place: &'static str,
        decides: bool,
        apart: impl Iterator<Item = (f64, f64)>,
    ) {
        let apart: Vec<(f64, f64)> = apart.collect();
        let Some(first) = apart.first().copied() else { return };
        let (at, largest) = apart.iter().fold(first, |most, one| if one.1 > most.1 { *one } else { most });
        let mean = apart.iter().map(|(_, by)| by).sum::<f64>() / apart.len() as f64;
        let range = apart.iter().fold([first.0; 2], |[low, high], (x, _)| [low.min(*x), high.max(*x)]);
        self.values.push(Values { what, quantity, largest, mean, at, place, range, decides });
    }
}

/// The range of distances that both fits cover. Published fits have none: the other's is used, or 0 to 1.
fn common(a: Option<[f64; 2]>, b: Option<[f64; 2]>) -> [f64; 2] {
    match (a, b) {
        (Some([a, b]), Some([c, d])) => [a.max(c), b.min(d)],
        (one, other) => one.or(other).unwrap_or([0.0, 1.0]),
    }
}

fn named(kind: &str, variant: Option<&String>, expert: Option<u8>) -> String {
    let variant = variant.map(|v| format!(" {v}")).unwrap_or_default();
    let expert = expert.map(|e| format!(" of expert {e}")).unwrap_or_default();
    format!("{kind}{variant}{expert}")
}

fn recommended(curve: &Curve) -> Option<String> {
    let first = curve.recommended.first()?;
    Some(format!(
        "threshold {}, {}, warm-up {}",
        first.threshold,
        count(first.max_skips, "skip"),
        first.warmup
    ))
}

#[cfg(test)]
mod tests;
