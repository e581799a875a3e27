//! Which steps to compute: an offline search based on measurements of dense runs.
//!
//! Each step of a dense run is rehearsed with the blocks replaced by the residuals of earlier steps
//! ([`Rehearsal`](crate::calibrate::Rehearsal)); the resulting errors of the latents are a [`ReuseErrors`]. A
//! [`Planner`] adds up these errors over a schedule, each grown to the end of the run, and finds for every
//! number of computed steps the schedule with the smallest sum. Predicted errors are root mean squares over
//! the pixels in 0..=1; their sum is an upper bound for the error of a schedule, because errors of several
//! steps partly cancel.
//!
//! The search is exact for these costs: dynamic programming over pairs of computed steps, the newest and the
//! one before it. The residual of one step, or the line through two, depends on nothing else.

mod costs;
mod search;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use costs::{ReuseErrors, StepErrors};

use costs::Costs;

/// The replacement for the blocks of a skipped step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Continuation {
    /// The residual of the last computed step.
    #[default]
    Residual,
    /// The line through the residuals of the last two computed steps (TaylorSeer of order 1); after only one
    /// computed step, its residual.
    Line,
}

/// Which of two schedules with the same number of computed steps is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The smaller sum of predicted errors.
    #[default]
    Sum,
    /// The smaller maximum of the predicted errors; then the smaller sum.
    Minimax,
}

/// A schedule and its predicted error.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Number of computed steps.
    pub computed: usize,
    /// The skipped steps, in order.
    pub skip: Vec<usize>,
    /// Sum of the predicted errors.
    pub error: f64,
    /// The largest predicted error.
    pub worst: f64,
}

/// Finds schedules for runs like the measured ones.
#[derive(Clone, Debug)]
pub struct Planner {
    runs: Vec<ReuseErrors>,
}

/// Why nothing can be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlannerError {
    /// No run was measured.
    #[error("no run was rehearsed, there is nothing to plan from")]
    NoRuns,
    /// Runs of different lengths.
    #[error("rehearsed runs of {got} and of {expected} steps cannot be planned for together")]
    Steps {
        /// Steps of one run.
        got: usize,
        /// Steps of the first run.
        expected: usize,
    },
    /// Runs whose sources for a step differ.
    #[error("rehearsed runs differ in the steps that could stand in at step {step}")]
    Sources {
        /// The step.
        step: usize,
    },
}

impl Planner {
    /// A planner from rehearsed runs of the same steps.
    ///
    /// # Errors
    /// No runs, or runs of different steps.
    pub fn new(runs: &[ReuseErrors]) -> Result<Self, PlannerError> {
        let first = runs.first().ok_or(PlannerError::NoRuns)?;
        for run in runs {
            let (got, expected) = (run.steps.len(), first.steps.len());
            if got != expected {
                return Err(PlannerError::Steps { got, expected });
            }
            let differs = |(a, b): (&StepErrors, &StepErrors)| a.sources != b.sources;
            if let Some(step) = run.steps.iter().zip(&first.steps).position(differs) {
                return Err(PlannerError::Sources { step });
            }
        }
        Ok(Self { runs: runs.to_vec() })
    }

    /// The best schedule for each feasible number of computed steps, the fewest first. The last one computes
    /// every step.
    pub fn schedules(&self, with: Continuation, objective: Objective) -> Vec<Planned> {
        search::best(&Costs::new(&self.runs, with), objective)
    }

    /// The predicted error of a given schedule. `None` if one of its steps cannot be skipped, or lies too far
    /// after the last computed step to have been measured.
    pub fn predict(&self, with: Continuation, skip: &[usize]) -> Option<Planned> {
        search::price(&Costs::new(&self.runs, with), skip)
    }
}

impl fmt::Display for Continuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Residual => "residual",
            Self::Line => "line",
        })
    }
}
