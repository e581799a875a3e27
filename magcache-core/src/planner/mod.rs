//! Which steps to compute: an offline search over what dense runs showed.
//!
//! A dense run is rehearsed step by step with the residuals of earlier steps in the blocks' place
//! ([`Rehearsal`](crate::calibrate::Rehearsal)); what that does to the latents is a [`ReuseErrors`]. A [`Planner`] adds up these errors
//! over a schedule, each grown to the end of the run, and finds for every number of computed steps the schedule with the
//! least. Predicted errors are root mean squares over the pixels in 0..=1; a sum of them bounds that of a schedule, because
//! errors of several steps partly cancel.
//!
//! The search is exact for its costs: dynamic programming over pairs of computed steps, the newest and the one before it, which
//! is all that the residual of one step or the line through two depends on.

mod costs;
mod search;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use costs::{ReuseErrors, StepErrors};

use costs::Costs;

/// What stands in for the blocks of a skipped step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Continuation {
    /// The residual of the last computed step.
    #[default]
    Residual,
    /// The line through the residuals of the last two computed steps, TaylorSeer of order 1; after a single one, that one.
    Line,
}

/// Which of two schedules of as many computed steps is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The smaller sum of predicted errors.
    #[default]
    Sum,
    /// The smaller largest predicted error; of those, the smaller sum.
    Minimax,
}

/// A schedule and what it is predicted to cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Steps of the run that are computed.
    pub computed: usize,
    /// The others, in order.
    pub skip: Vec<usize>,
    /// Sum of the predicted errors.
    pub error: f64,
    /// The largest of them.
    pub worst: f64,
}

/// Finds schedules for runs like those that were measured.
#[derive(Clone, Debug)]
pub struct Planner {
    runs: Vec<ReuseErrors>,
}

/// Why there is nothing to plan from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlannerError {
    /// No run was measured.
    #[error("no run was rehearsed, there is nothing to plan from")]
    NoRuns,
    /// Runs of different lengths.
    #[error("rehearsed runs of {got} and of {expected} steps cannot be planned for together")]
    Steps {
        /// Of one run.
        got: usize,
        /// Of the first.
        expected: usize,
    },
    /// Runs that could replace other steps.
    #[error("rehearsed runs differ in the steps that could stand in at step {step}")]
    Sources {
        /// Where.
        step: usize,
    },
}

impl Planner {
    /// From rehearsed runs of the same steps.
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

    /// The best schedule for each number of computed steps that a schedule can have, the fewest first. The last computes
    /// every step.
    pub fn schedules(&self, with: Continuation, objective: Objective) -> Vec<Planned> {
        search::best(&Costs::new(&self.runs, with), objective)
    }

    /// What a given schedule is predicted to cost; `None` where one of its steps cannot be skipped, or too long after the
    /// last computed one to have been measured.
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
