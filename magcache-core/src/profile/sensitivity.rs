//! SenCache's sensitivities.

use serde::{Deserialize, Serialize};

use super::Provenance;
use crate::{Problem, error::count};

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
    pub source: Provenance,
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
