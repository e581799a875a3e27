//! Audits: a sample of the skipped passes is also computed to measure the true error of reuse.
//!
//! For an audited reuse the blocks run as well, without any inner hooks, so that none of them learns or
//! decides anything. The difference between the forecast and the output of the blocks is the true error of
//! that reuse. The run continues with the forecast, bit for bit as without an audit, unless a drift budget is
//! exceeded.

#[cfg(feature = "candle")]
mod drift;

#[cfg(feature = "candle")]
pub(crate) use drift::Drift;

use serde::{Deserialize, Serialize};

use crate::Problem;

/// The `[audit]` table: how many reuses are checked, and what is done about their error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AuditPolicy {
    /// The part of the reuses that is checked, 0 to 1, evenly spread over those of each slot: with 0.1 the
    /// 5th, the 15th, ...
    #[cfg_attr(feature = "keys", schemars(range(min = 0.0, max = 1.0)))]
    pub fraction: f64,
    /// Most drift of a slot: the relative L1 errors of its audited outputs added up, each in place of `1 /
    /// fraction` reuses. When it is passed, the sum begins again at 0.
    #[cfg_attr(feature = "keys", schemars(range(min = 0.0)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift_budget: Option<f64>,
    /// What is done when it is passed.
    pub on_drift: OnDrift,
}

/// What passing the drift budget does to a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnDrift {
    /// Nothing: it is reported.
    #[default]
    Report,
    /// The audited pass gives the truth, and from then on half as many consecutive skips are allowed, rounded
    /// down: half of `max_skips`, or without it of the longest run of skips so far; 0 is none.
    Tighten,
    /// The audited pass gives the truth, and every later pass is computed.
    Disable,
}

/// The true error of one reuse on the denoised stream, for the worst row of a batch. 0 if both sides are
/// zero, infinite if the error is not a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Audit {
    /// `mean|guess − truth| / mean|truth|` of the output of the blocks, or of the prediction.
    pub output_l1: f64,
    /// `‖guess − truth‖₂ / ‖truth‖₂` of the same.
    pub output_l2: f64,
    /// Relative L1 of the residual over the base of the forecast: the input of the blocks, or the leading
    /// branch.
    pub residual_l1: f64,
    /// Relative L2 of the same.
    pub residual_l2: f64,
}

crate::fields!(Audit { output_l1, output_l2, residual_l1, residual_l2 });

impl AuditPolicy {
    /// Whether the table is empty.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether measured errors can change a decision.
    pub fn acts(&self) -> bool {
        self.drift_budget.is_some() && self.on_drift != OnDrift::Report
    }

    /// All problems of the values.
    pub fn problems(&self) -> Vec<Problem> {
        let place = "[audit]";
        let mut out = Vec::new();
        out.extend(Problem::unless_in(place, "fraction", self.fraction, 0.0, 1.0));
        if let Some(budget) = self.drift_budget {
            out.extend(Problem::unless_in(place, "drift_budget", budget, 0.0, f64::MAX));
            if self.fraction == 0.0 {
                let message = format!("`drift_budget` is {budget} and `fraction` is 0: nothing is measured");
                out.push(Problem::error(place, message).hint("`fraction = 0.1`"));
            }
        } else if self.on_drift != OnDrift::Report {
            let message = "`on_drift` acts on a drift budget and there is none";
            out.push(Problem::error(place, message).hint("`drift_budget = 0.5`"));
        }
        out
    }
}
