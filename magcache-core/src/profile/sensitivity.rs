//! SenCache's sensitivities.

use serde::{Deserialize, Serialize};

use super::Provenance;
use crate::{Problem, error::count};

/// How much the prediction changes with the latents and with the timestep, at the timesteps of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivity {
    /// The variant, if there are several; the first of a profile is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The expert on which it was measured, for a model with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u8>,
    /// The timesteps at which it was measured, 0 to 1000, in the order of a run.
    pub timesteps: Vec<f64>,
    /// `‖Δprediction‖ / ‖Δlatents‖` at a fixed timestep; dimensionless.
    pub latent: Vec<f64>,
    /// `rms(Δprediction) / |Δtimestep|` at fixed latents: per training step, independent of the size of the
    /// latents.
    pub timestep: Vec<f64>,
    /// Recommended tolerances for the first part of a run and for the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<[f64; 2]>,
    /// Its provenance.
    #[serde(default)]
    pub source: Provenance,
}

impl Sensitivity {
    /// The sensitivities to latents and to the timestep, measured nearest to `timestep`; the first of two
    /// equally near.
    pub fn at(&self, timestep: f64) -> Option<(f64, f64)> {
        let near = |t: &f64| (t - timestep).abs();
        let (i, _) =
            self.timesteps.iter().enumerate().min_by(|(_, a), (_, b)| near(a).total_cmp(&near(b)))?;
        Some((*self.latent.get(i)?, *self.timestep.get(i)?))
    }

    /// Problems with every invalid value; `place` names it.
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
