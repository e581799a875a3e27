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
        out.extend(Self::polynomial_problems(place, Some(&self.coefficients), self.fitted_range));
        if !self.warmup.is_valid() {
            out.push(Problem::error(place, "`warmup` as a fraction must be between 0 and 1"));
        }
    }

    /// What is wrong with the coefficients of a polynomial, and with the range that it was fitted on, in the
    /// table or part `place`.
    pub fn polynomial_problems(
        place: &str,
        coefficients: Option<&[f64]>,
        fitted_range: Option<[f64; 2]>,
    ) -> Vec<Problem> {
        let odd = coefficients.and_then(|all| match all.iter().position(|c| !c.is_finite()) {
            Some(i) => Some(format!("`coefficients[{i}]` is {}, it must be finite", all[i])),
            None => all.is_empty().then(|| "`coefficients` is empty".to_owned()),
        });
        let hint = "give the polynomial with its highest power first; [1.0, 0.0] is the distance itself";
        let odd = odd.map(|message| Problem::error(place, message).hint(hint));
        let range = fitted_range.filter(|[low, high]| low.is_nan() || high.is_nan() || low > high).map(
            |[low, high]| {
                Problem::error(place, format!("`fitted_range` is [{low}, {high}], it must be [low, high]"))
            },
        );
        odd.into_iter().chain(range).collect()
    }
}
