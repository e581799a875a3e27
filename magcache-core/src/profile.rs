//! Calibration data with provenance: MagCache curves, TeaCache fits, SenCache sensitivities and planned schedules of a
//! model.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    Branch, ConfigError, Expert, Plans, Problem, Signal, Trajectory, Warmup, count, error::nearest, meta,
    steps_above,
};

/// Everything measured or published about one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name in a configuration.
    pub name: String,
    /// The registered model that it was made for, if this project has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// One line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// MagCache curves, the default variant first.
    #[serde(default, rename = "curve", skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
    /// TeaCache fits, the default variant first.
    #[serde(default, rename = "fit", skip_serializing_if = "Vec::is_empty")]
    pub fits: Vec<Fit>,
    /// SenCache sensitivities, the default variant first.
    #[serde(default, rename = "sensitivity", skip_serializing_if = "Vec::is_empty")]
    pub sensitivities: Vec<Sensitivity>,
    /// Planned schedules, for each kind of run that was planned for.
    #[serde(default, rename = "plan", skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<Plans>,
}

/// Where numbers come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in the collected published constants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// File, with the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// How it was measured: command, model hash, prompts, device, date.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, toml::Value>,
    /// What a user should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Magnitude ratios of residuals over the steps of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// Which of several (`t2v`, `i2v`); the first of a profile is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// For a curve of one expert only: its values run over that expert's phase, not over the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u8>,
    /// Steps that it was measured at.
    pub steps: usize,
    /// The rule that its publisher applies to it, if not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// The schedule's shift that it was measured at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_shift: Option<f64>,
    /// The boundary between experts that it was measured at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary_ratio: Option<f64>,
    /// `mean(|residual_t| / |residual_{t−1}|)` by branch, `steps` values each, the first 1.
    pub ratios: BTreeMap<String, Vec<f64>>,
    /// Standard deviation over tokens of the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub std: BTreeMap<String, Vec<f64>>,
    /// `mean(1 − cos(residual_t, residual_{t−1}))`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cosine_distance: BTreeMap<String, Vec<f64>>,
    /// Settings that its publisher recommends, the default first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recommended: Vec<Recommended>,
    /// Where it comes from.
    #[serde(default)]
    pub source: Source,
}

/// A published setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recommended {
    /// What its publisher calls it.
    pub label: String,
    /// Threshold of the accumulated error.
    pub threshold: f64,
    /// Most consecutive skips.
    pub max_skips: usize,
    /// Fraction of the steps that is always computed first.
    pub warmup: f64,
}

/// A polynomial from the distance of a signal to the distance of the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// Which of several; the first of a profile is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// For the steps of one expert only, with its number; a fit without one serves those that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u8>,
    /// What is compared between steps: the same in all fits of a variant.
    pub signal: Signal,
    /// Five coefficients, highest power first.
    pub coefficients: Vec<f64>,
    /// Steps always computed first.
    pub warmup: Warmup,
    /// Steps always computed last.
    pub last_steps: usize,
    /// Published thresholds, the default first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<f64>,
    /// Distances that it was fitted on; outside them they are clamped. A published fit without one is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted_range: Option<[f64; 2]>,
    /// Root mean square residual of the fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<f64>,
    /// Where it comes from.
    #[serde(default)]
    pub source: Source,
}

/// How much the prediction changes with the latents and with the timestep, at the timesteps of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivity {
    /// Which of several; the first of a profile is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The expert that it was measured on, for a model with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u8>,
    /// Where it was measured: what the model is told, 0 to 1000, in the order of a run.
    pub timesteps: Vec<f64>,
    /// `‖Δprediction‖ / ‖Δlatents‖` at a fixed timestep: no unit.
    pub latent: Vec<f64>,
    /// `rms(Δprediction) / |Δtimestep|` at fixed latents: per training step, the same for every size of latents.
    pub timestep: Vec<f64>,
    /// Tolerances that suit it, of the first part of a run and of the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<[f64; 2]>,
    /// Where it comes from.
    #[serde(default)]
    pub source: Source,
}

impl Profile {
    /// Parses and checks a profile; `place` names it in errors.
    pub fn parse(text: &str, place: &str) -> Result<Self, ConfigError> {
        let profile: Self = toml::from_str(text).map_err(|e| crate::syntax::syntax(place, &e))?;
        let problems = profile.problems();
        if problems.is_empty() { Ok(profile) } else { Err(ConfigError::Problems(problems)) }
    }

    /// The built-in profile of this name, or the profile in the file of this path.
    pub fn find(name: &str) -> Result<Self, ConfigError> {
        if let Some(info) = meta::profiles().iter().find(|p| p.name == name) {
            return Self::parse(info.toml, name);
        }
        let path = Path::new(name);
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) || path.is_file() {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            return Self::parse(&text, name);
        }
        Err(ConfigError::UnknownName {
            place: "profile".to_owned(),
            kind: "profile",
            name: name.to_owned(),
            nearest: nearest(name, meta::profiles().iter().map(|p| p.name)),
        })
    }

    /// Every value that cannot be right.
    pub fn problems(&self) -> Vec<Problem> {
        let mut out = Vec::new();
        for (i, curve) in self.curves.iter().enumerate() {
            curve.problems(&format!("profile {:?}, curve[{i}]", self.name), &mut out);
        }
        for (i, fit) in self.fits.iter().enumerate() {
            let place = format!("profile {:?}, fit[{i}]", self.name);
            fit.problems(&place, &mut out);
            let earlier = || self.fits[..i].iter().filter(|other| other.variant == fit.variant);
            if earlier().any(|other| other.expert == fit.expert) {
                let message = "a second fit of the same variant and expert";
                out.push(Problem::error(&place, message).hint("give it another `variant`, or its `expert`"));
            } else if let Some(other) = earlier().find(|other| other.signal != fit.signal) {
                let message = format!(
                    "`signal` is {:?}, another fit of the variant has {:?}",
                    fit.signal, other.signal
                );
                out.push(Problem::error(&place, message).hint("give it another `variant`"));
            }
        }
        for (i, sensitivity) in self.sensitivities.iter().enumerate() {
            let place = format!("profile {:?}, sensitivity[{i}]", self.name);
            out.extend(sensitivity.problems(&place));
        }
        for (i, plans) in self.plans.iter().enumerate() {
            out.extend(plans.problems(&format!("profile {:?}, plan[{i}]", self.name)));
        }
        out
    }

    /// The curves of a variant (all experts); without one, those of the default variant.
    pub fn curves_of(&self, variant: Option<&str>) -> Result<Vec<&Curve>, ConfigError> {
        let names: Vec<_> = self.curves.iter().map(|c| c.variant.as_deref()).collect();
        let variant = self.variant("curve variant", variant, &names)?;
        Ok(self.curves.iter().filter(|c| c.variant.as_deref() == variant).collect())
    }

    /// The fits of a variant (all experts); without one, those of the default variant.
    pub fn fits_of(&self, variant: Option<&str>) -> Result<Vec<&Fit>, ConfigError> {
        let names: Vec<_> = self.fits.iter().map(|f| f.variant.as_deref()).collect();
        let variant = self.variant("fit variant", variant, &names)?;
        Ok(self.fits.iter().filter(|f| f.variant.as_deref() == variant).collect())
    }

    /// The sensitivities of a variant (all experts); without one, those of the default variant.
    pub fn sensitivities_of(&self, variant: Option<&str>) -> Result<Vec<&Sensitivity>, ConfigError> {
        let names: Vec<_> = self.sensitivities.iter().map(|s| s.variant.as_deref()).collect();
        let variant = self.variant("sensitivity variant", variant, &names)?;
        Ok(self.sensitivities.iter().filter(|s| s.variant.as_deref() == variant).collect())
    }

    fn variant<'a>(
        &'a self,
        kind: &'static str,
        asked: Option<&'a str>,
        known: &[Option<&'a str>],
    ) -> Result<Option<&'a str>, ConfigError> {
        match asked {
            None => Ok(known.first().copied().flatten()),
            Some(_) if known.contains(&asked) => Ok(asked),
            Some(name) => Err(ConfigError::UnknownName {
                place: format!("profile {:?}", self.name),
                kind,
                name: name.to_owned(),
                nearest: nearest(name, known.iter().copied().flatten()),
            }),
        }
    }
}

impl Curve {
    /// The values of a branch; a branch without its own takes the conditional one's.
    pub fn of(&self, branch: Branch) -> &[f64] {
        let own = self.ratios.get(&branch.to_string());
        own.or_else(|| self.ratios.get("cond")).or_else(|| self.ratios.values().next()).map_or(&[], |v| v)
    }

    /// Steps that the first expert runs of `run`: with the schedule that the curve was measured on, and with its own. `None` on
    /// the same schedule, and without a second expert.
    pub fn boundaries(&self, run: &Trajectory) -> Option<[usize; 2]> {
        let differs = |a: Option<f64>, b: Option<f64>| a.zip(b).is_some_and(|(a, b)| (a - b).abs() > 1e-6);
        let moved =
            differs(self.flow_shift, run.flow_shift) || differs(self.boundary_ratio, run.boundary_ratio);
        let (shift, ratio) = (self.flow_shift.or(run.flow_shift)?, self.boundary_ratio?);
        run.boundary_ratio.filter(|_| moved)?;
        let steps = run.len();
        let here = run.phases.iter().find(|p| p.expert.0 > 0).map_or(steps, |p| p.steps.start);
        Some([steps_above(ratio, shift, steps), here])
    }

    /// True when this curve's values run over `expert`'s phase alone.
    pub fn is_of(&self, expert: Expert) -> bool {
        self.expert == Some(expert.0)
    }

    fn problems(&self, place: &str, out: &mut Vec<Problem>) {
        if self.ratios.is_empty() || self.steps == 0 {
            out.push(Problem::error(
                place,
                format!("a curve of {} without ratios", count(self.steps, "step")),
            ));
        }
        for (what, by_branch) in
            [("ratios", &self.ratios), ("std", &self.std), ("cosine_distance", &self.cosine_distance)]
        {
            for (branch, values) in by_branch {
                out.extend(Problem::unless_branch(place, what, branch));
                if values.len() != self.steps {
                    let message = format!(
                        "`{what}.{branch}` has {}, `steps` is {}",
                        count(values.len(), "value"),
                        self.steps
                    );
                    out.push(Problem::error(place, message).hint("one value for every step"));
                }
                if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                    out.push(Problem::error(place, format!("`{what}.{branch}[{i}]` is {}", values[i])));
                }
                if what == "ratios" && values.iter().any(|v| *v <= 0.0) {
                    out.push(Problem::error(
                        place,
                        format!("`{what}.{branch}` has a value that is not positive"),
                    ));
                }
            }
        }
    }
}

impl Fit {
    fn problems(&self, place: &str, out: &mut Vec<Problem>) {
        if self.coefficients.is_empty() || self.coefficients.iter().any(|c| !c.is_finite()) {
            out.push(Problem::error(place, "`coefficients` must be finite numbers, highest power first"));
        }
        if !self.warmup.is_valid() {
            out.push(Problem::error(place, "`warmup` as a fraction must be between 0 and 1"));
        }
        if self.fitted_range.is_some_and(|[low, high]| low.is_nan() || high.is_nan() || low > high) {
            out.push(Problem::error(place, "`fitted_range` must be [low, high]"));
        }
    }
}

impl Sensitivity {
    /// What was measured nearest to `timestep`: of the latents, and of the timestep. The first of two as near.
    pub fn at(&self, timestep: f64) -> Option<(f64, f64)> {
        let near = |t: &f64| (t - timestep).abs();
        let (i, _) =
            self.timesteps.iter().enumerate().min_by(|(_, a), (_, b)| near(a).total_cmp(&near(b)))?;
        Some((*self.latent.get(i)?, *self.timestep.get(i)?))
    }

    /// Every value that cannot be right; `place` names it.
    pub fn problems(&self, place: &str) -> Vec<Problem> {
        let mut out = Vec::new();
        if self.timesteps.is_empty() {
            out.push(Problem::error(place, "`timesteps` is empty"));
        }
        for (what, values) in
            [("timesteps", &self.timesteps), ("latent", &self.latent), ("timestep", &self.timestep)]
        {
            if values.len() != self.timesteps.len() {
                let (got, expected) = (values.len(), self.timesteps.len());
                let message = format!("`{what}` has {}, `timesteps` has {expected}", count(got, "value"));
                out.push(Problem::error(place, message).hint("one value for every timestep"));
            }
            if let Some(i) = values.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
                let message = format!("`{what}[{i}]` is {}, it must be at least 0", values[i]);
                out.push(Problem::error(place, message));
            }
        }
        if self.thresholds.is_some_and(|both| both.iter().any(|t| !(t.is_finite() && *t >= 0.0))) {
            out.push(Problem::error(place, "`thresholds` must be two numbers of at least 0"));
        }
        out
    }
}
