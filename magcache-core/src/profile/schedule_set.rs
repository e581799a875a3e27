//! Planned schedules of a model: a part of its profile.

use serde::{Deserialize, Serialize};

use crate::{
    Problem, Trajectory,
    planner::{Continuation, Planned},
    profile::{Provenance, Quality, WindowedSchedule},
};

/// Planned schedules for one kind of run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSet {
    /// Number of steps of those runs.
    pub steps: usize,
    /// Shift of the schedule of those runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_shift: Option<f64>,
    /// Boundary between experts of those runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary_ratio: Option<f64>,
    /// Time of a skipped step relative to a computed one, including the overhead of the cache in computed
    /// steps.
    pub skipped_cost: f64,
    /// One for each number of computed steps, the fewest first.
    #[serde(rename = "schedule")]
    pub schedules: Vec<PlannedSchedule>,
    /// Schedules in which steps also run some of the blocks, the fastest first: those that are better than
    /// every one of whole steps which takes no longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windowed: Vec<WindowedSchedule>,
    /// Their provenance.
    #[serde(default)]
    pub source: Provenance,
}

/// One planned schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedSchedule {
    /// Number of computed steps.
    pub computed: usize,
    /// The skipped steps, on every branch.
    pub skip: Vec<usize>,
    /// The replacement for their blocks.
    pub continuation: Continuation,
    /// Predicted root mean square error of the pixels of the result, in 0..=1; an upper bound if it was not
    /// measured how the errors of steps add up.
    pub error: f64,
    /// Measured: mean PSNR against dense runs, dB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psnr: Option<f64>,
    /// Standard error of that mean, dB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psnr_error: Option<f64>,
    /// Measured: mean SSIM against dense runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssim: Option<f64>,
    /// How it was found, if by running schedules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched: Option<SearchedOn>,
}

/// How a schedule was found by running many: it is the best one for these runs, and for no other solver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchedOn {
    /// Schedules that were run.
    pub scored: usize,
    /// Seed of the search.
    pub seed: u64,
    /// How much better than the planned schedule it is on the runs that chose it: mean, dB.
    pub gain: f64,
    /// The same on runs that were held back.
    pub held_back: Held,
}

/// A gain on runs that were held back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Number of these runs.
    pub runs: usize,
    /// Mean, dB.
    pub gain: f64,
    /// Standard error of that mean, dB.
    pub gain_error: f64,
}

impl ScheduleSet {
    /// Whether they were planned for runs like this one: the same steps, shift and boundary, from the first
    /// step.
    pub fn fit(&self, run: &Trajectory) -> bool {
        let same = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-6,
            (None, None) => true,
            _ => false,
        };
        let schedule = same(self.flow_shift, run.flow_shift) && same(self.boundary_ratio, run.boundary_ratio);
        self.steps == run.len() && schedule && run.first == 0
    }

    /// Speed-up of the network over a dense run if `computed` steps are computed.
    pub fn speedup(&self, computed: usize) -> f64 {
        let skipped = self.steps.saturating_sub(computed) as f64;
        self.steps as f64 / (computed as f64 + skipped * self.skipped_cost)
    }

    /// The expected quality of each schedule, in their order.
    pub fn qualities(&self) -> Vec<Quality> {
        super::quality::of(&self.schedules)
    }

    /// Problems with every invalid value; `place` names them.
    pub fn problems(&self, place: &str) -> Vec<Problem> {
        let mut out = Vec::new();
        if !(0.0..=1.0).contains(&self.skipped_cost) {
            let message = format!("`skipped_cost` is {}, it must be between 0 and 1", self.skipped_cost);
            out.push(Problem::error(place, message));
        }
        for (i, schedule) in self.schedules.iter().enumerate() {
            let place = format!("{place}, schedule[{i}]");
            let (computed, skipped) = (schedule.computed, schedule.skip.len());
            if computed + skipped != self.steps {
                let message = format!(
                    "{computed} computed and {skipped} skipped steps are not the {} of `steps`",
                    self.steps
                );
                out.push(Problem::error(&place, message));
            }
            if !schedule.skip.is_sorted_by(|a, b| a < b) || schedule.skip.first() == Some(&0) {
                let message =
                    format!("`skip` is {:?}, it must be in order and without step 0", schedule.skip);
                out.push(Problem::error(&place, message).hint("the first step has nothing to reuse"));
            }
            if let Some(last) = schedule.skip.last().filter(|last| **last >= self.steps) {
                let message = format!("`skip` names step {last}, `steps` is {}", self.steps);
                out.push(Problem::error(&place, message));
            }
            if !(schedule.error.is_finite() && schedule.error >= 0.0) {
                let message = format!("`error` is {}, it must be at least 0", schedule.error);
                out.push(Problem::error(&place, message));
            }
        }
        let windowed = self.windowed.iter().enumerate();
        out.extend(
            windowed.flat_map(|(i, own)| own.problems(&format!("{place}, windowed[{i}]"), self.steps)),
        );
        out
    }
}

impl PlannedSchedule {
    /// A schedule that the planner found for a continuation, not measured yet.
    pub fn new(planned: Planned, continuation: Continuation) -> Self {
        let Planned { computed, skip, error, .. } = planned;
        let [psnr, psnr_error, ssim] = [None; 3];
        Self { computed, skip, continuation, error, psnr, psnr_error, ssim, searched: None }
    }

    /// PSNR in dB that follows from the predicted error.
    pub fn predicted_psnr(&self) -> f64 {
        -20.0 * self.error.log10()
    }
}
