//! Which steps to compute, from measurements of dense runs.
//!
//! Each step of a dense run is rehearsed with the blocks replaced by the residuals of earlier steps
//! ([`Rehearsal`](crate::calibrate::Rehearsal)), and some of the resulting errors are followed to the end of
//! the run. From these [`ReuseErrors`] a [`Planner`] predicts how far a schedule's result is from the dense
//! one, as the root mean square over the pixels in 0..=1, and finds for every number of computed steps a
//! schedule for which that is small.
//!
//! Errors are vectors, and a schedule's is the sum of those of its skipped steps: those of neighbouring steps
//! point the same way, distant ones are nearly orthogonal. The length of the sum depends on all pairs of
//! skipped steps, so [`Objective::Final`] is climbed to, from schedules whose errors have the least sum of
//! lengths. Those are found exactly, by dynamic programming. Angles are measured between errors of reused
//! residuals. Those of lines agree within a gap of skipped steps and compound there; gaps count as
//! orthogonal, so that dynamic programming finds the best schedule of lines.
//!
//! A [`Search`] scores schedules by running them, and climbs from what was planned.

mod climb;
mod costs;
mod errors;
mod partial;
mod path;
mod search;
mod stop;

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use climb::{Climbed, climb, neighbours};
pub use errors::{PartialStep, ReuseErrors, StepErrors};
pub use partial::{PlannedWindows, Runs};
pub use search::{Ended, Search, Searched};
pub use stop::StopRule;

use costs::{Costs, Skip};

/// The skipped steps of a schedule, in order.
pub type Skipped = Vec<usize>;

/// The scores of a schedule, one for each run; larger is better.
pub type Scores = Vec<f64>;

/// The largest distance of one move of a climb, in steps: larger ones are hardly ever better and far more.
pub const WINDOW: usize = 3;

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

/// Which of two schedules with the same number of computed steps is better. Its words are `final`, `sum`,
/// `power:GAMMA` and `minimax`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Objective {
    /// The smaller predicted error of the result.
    #[default]
    Final,
    /// The smaller sum of the errors of the steps, as if all pointed the same way.
    Sum,
    /// The smaller sum of these errors, each to this power (above 0): the larger it is, the more the largest
    /// of them decides. Source: MeanCache (arXiv 2601.19961), with 4.
    Power(f64),
    /// The smaller maximum of these errors; then the smaller sum.
    Minimax,
}

/// A schedule and its predicted errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Number of computed steps.
    pub computed: usize,
    /// The skipped steps, in order.
    pub skip: Vec<usize>,
    /// The error of the result; a bound if it was not measured how errors add up.
    pub error: f64,
    /// The sum of the errors that each skipped step alone would cause.
    pub sum: f64,
    /// The largest of them.
    pub worst: f64,
}

/// Finds schedules for runs like the measured ones.
#[derive(Clone, Debug)]
pub struct Planner {
    runs: Vec<ReuseErrors>,
    max_gap: usize,
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
    /// Runs with other windows.
    #[error("rehearsed runs differ in the blocks that were tried apart")]
    Windows,
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
            let windows = |run: &ReuseErrors| run.windows.iter().map(|own| own.window).collect::<Vec<_>>();
            if windows(run) != windows(first) {
                return Err(PlannerError::Windows);
            }
            let differs = |(a, b): (&StepErrors, &StepErrors)| a.sources != b.sources;
            if let Some(step) = run.steps.iter().zip(&first.steps).position(differs) {
                return Err(PlannerError::Sources { step });
            }
        }
        Ok(Self { runs: runs.to_vec(), max_gap: usize::MAX })
    }

    /// The same with at most `max_gap` skipped steps in a row.
    #[must_use]
    pub fn with_max_gap(self, max_gap: usize) -> Self {
        Self { max_gap, ..self }
    }

    /// A schedule for each feasible number of computed steps, the fewest first: the best one, or for
    /// [`Objective::Final`] one that no single move makes better, and of lines the one whose gaps have the
    /// least sum of squares. The last one computes every step.
    pub fn schedules(&self, with: Continuation, objective: Objective) -> Vec<Planned> {
        let costs = self.costs(with);
        let found = match objective {
            Objective::Sum => path::least_sum(&costs, 1.0),
            Objective::Final if with == Continuation::Line => path::least_gaps(&costs),
            Objective::Power(power) => path::least_sum(&costs, power),
            Objective::Minimax => path::least_worst(&costs),
            Objective::Final => {
                // Errors that all point the same way, and ones that are all orthogonal.
                let starts = path::least_sum(&costs, 1.0).into_iter().zip(path::least_sum(&costs, 2.0));
                return starts.filter_map(|(a, b)| polished(&costs, [a, b])).collect();
            }
        };
        found.iter().filter_map(|skip| priced(&costs, skip)).collect()
    }

    /// The predicted error of a given schedule. `None` if one of its steps cannot be skipped, or lies too far
    /// after the last computed step to have been measured.
    pub fn predict(&self, with: Continuation, skip: &[usize]) -> Option<Planned> {
        priced(&self.costs(with), skip)
    }

    fn costs(&self, with: Continuation) -> Costs<'_> {
        Costs::new(&self.runs, with, self.max_gap)
    }
}

/// The schedule with the least error that single moves reach from `starts`.
fn polished(costs: &Costs<'_>, starts: [Vec<usize>; 2]) -> Option<Planned> {
    let fixed: Vec<usize> = (0..costs.len()).filter(|step| costs.must_compute(*step)).collect();
    let near = |skip: &[usize]| neighbours(skip, costs.len(), WINDOW, &fixed);
    let mut score = |all: &[Vec<usize>]| {
        let one = |skip: &Vec<usize>| Some(-costs.all(&skips(costs, skip)?)?);
        Ok::<_, Infallible>(all.iter().map(one).collect())
    };
    let top = |start| climb(start, &near, &mut score).ok()?.way.pop();
    let tops = starts.map(top).into_iter().flatten();
    tops.filter_map(|skip| priced(costs, &skip)).min_by(|a, b| a.error.total_cmp(&b.error))
}

/// A schedule with its predicted errors.
fn priced(costs: &Costs<'_>, skip: &[usize]) -> Option<Planned> {
    let skips = skips(costs, skip)?;
    let each: Vec<f64> = skips.iter().map(|skip| costs.one(*skip)).collect::<Option<_>>()?;
    Some(Planned {
        computed: costs.len().checked_sub(skip.len())?,
        skip: skip.to_vec(),
        error: costs.all(&skips)?,
        sum: each.iter().sum(),
        worst: each.iter().copied().fold(0.0, f64::max),
    })
}

/// What replaces each step of `skip`; `None` if nothing can.
fn skips(costs: &Costs<'_>, skip: &[usize]) -> Option<Vec<Skip>> {
    let (mut found, mut pair) = (Vec::with_capacity(skip.len()), None);
    for step in 0..costs.len() {
        if skip.contains(&step) {
            let (before, last) = pair?;
            found.push(Skip { before, last, step, window: None });
        } else {
            let before = pair.map(|(_, last)| last).filter(|_| !costs.must_compute(step));
            pair = Some((before, step));
        }
    }
    Some(found)
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let power = |text: &str| text.parse().ok().filter(|power: &f64| power.is_finite() && *power > 0.0);
        match word.split_once(':') {
            None if word == "final" => Ok(Self::Final),
            None if word == "sum" => Ok(Self::Sum),
            None if word == "minimax" => Ok(Self::Minimax),
            Some(("power", text)) => {
                power(text).map(Self::Power).ok_or_else(|| format!("{text:?} is not a power above 0"))
            }
            _ => Err("one of final, sum, power:GAMMA and minimax".to_owned()),
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Final => f.write_str("final"),
            Self::Sum => f.write_str("sum"),
            Self::Power(power) => write!(f, "power:{power}"),
            Self::Minimax => f.write_str("minimax"),
        }
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
