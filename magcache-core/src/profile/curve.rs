//! MagCache's curves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Provenance;
use crate::{Branch, Expert, Problem, Trajectory, error::count, run::steps_above};

/// Magnitude ratios of residuals over the steps of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// The variant, if there are several (`t2v`, `i2v`); the first of a profile is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The expert, for a curve of one expert only: its values cover that expert's phase, not the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u8>,
    /// Number of steps at which it was measured.
    pub steps: usize,
    /// The dialect that its publisher uses, if not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// The shift of the schedule at which it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_shift: Option<f64>,
    /// The boundary between experts at which it was measured.
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
    /// Settings recommended by its publisher, the default first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recommended: Vec<Recommended>,
    /// Its provenance.
    #[serde(default)]
    pub source: Provenance,
}

/// A published setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recommended {
    /// The publisher's name for it.
    pub label: String,
    /// Threshold of the accumulated error.
    pub threshold: f64,
    /// Most consecutive skips.
    pub max_skips: usize,
    /// Fraction of the steps that is always computed first.
    pub warmup: f64,
}

impl Curve {
    /// The values of a branch; a branch without its own takes the conditional one's.
    pub fn of(&self, branch: Branch) -> &[f64] {
        let own = self.ratios.get(&branch.to_string());
        own.or_else(|| self.ratios.get("cond")).or_else(|| self.ratios.values().next()).map_or(&[], |v| v)
    }

    /// The number of steps of `run` in the first expert: with the schedule that the curve was measured on,
    /// and with its own. `None` if the two agree, or without a second expert.
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

    /// Whether this curve covers only `expert`'s phase.
    pub fn is_of(&self, expert: Expert) -> bool {
        self.expert == Some(expert.0)
    }

    pub(super) fn problems(&self, place: &str, out: &mut Vec<Problem>) {
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
