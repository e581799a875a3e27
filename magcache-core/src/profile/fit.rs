//! TeaCache's fits.

use serde::{Deserialize, Serialize};

use super::Provenance;
use crate::{Problem, Signal, Warmup};

/// A polynomial from the distance of a signal to the distance of the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// The variant, if there are several; the first of a profile is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The number of the expert that it is for; a fit without one serves the experts that have no fit of
    /// their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u8>,
    /// The signal compared between steps; the same in all fits of a variant.
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
    /// Range of distances that it was fitted on; distances outside are clamped to it, or used as they are if
    /// it is missing, as in published fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted_range: Option<[f64; 2]>,
    /// Root mean square residual of the fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<f64>,
    /// Its provenance.
    #[serde(default)]
    pub source: Provenance,
}

impl Fit {
    pub(super) fn problems(&self, place: &str, out: &mut Vec<Problem>) {
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
