//! Planned schedules in which steps also run some of the blocks.

use serde::{Deserialize, Serialize};

use crate::{
    Problem,
    planner::{Continuation, PlannedWindows},
};

/// One planned schedule of steps and windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowedSchedule {
    /// Predicted time of the network relative to a dense run.
    pub time: f64,
    /// The replacement for the blocks.
    pub continuation: Continuation,
    /// Predicted root mean square error of the pixels of the result, in 0..=1.
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
    /// The ranges of blocks that are replaced together; no block is in two of them.
    #[serde(rename = "part")]
    pub parts: Vec<SkippedPart>,
}

/// A range of blocks and the steps at which they are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedPart {
    /// The blocks, as the word `at` has them: `1..5`.
    pub at: String,
    /// The skipped steps, on every branch.
    pub skip: Vec<usize>,
}

impl WindowedSchedule {
    /// A schedule that the planner found for a continuation and a model of `blocks` blocks, not measured yet.
    pub fn new(planned: &PlannedWindows, blocks: usize, continuation: Continuation) -> Self {
        let part = |(range, skip): (std::ops::Range<usize>, _)| SkippedPart {
            at: format!("{}..{}", range.start, range.end),
            skip,
        };
        let PlannedWindows { time, error, .. } = *planned;
        let parts = planned.skips(blocks).into_iter().map(part).collect();
        let [psnr, psnr_error, ssim] = [None; 3];
        Self { time, continuation, error, psnr, psnr_error, ssim, parts }
    }

    /// PSNR in dB that follows from the predicted error.
    pub fn predicted_psnr(&self) -> f64 {
        -20.0 * self.error.log10()
    }

    /// Problems with every invalid value, for runs of `steps` steps; `place` names the schedule.
    pub(super) fn problems(&self, place: &str, steps: usize) -> Vec<Problem> {
        let mut out = Vec::new();
        if !(self.time > 0.0 && self.time <= 1.0) {
            let message = format!("`time` is {}, it must be above 0 and at most 1", self.time);
            out.push(Problem::error(place, message));
        }
        if !(self.error.is_finite() && self.error >= 0.0) {
            let message = format!("`error` is {}, it must be at least 0", self.error);
            out.push(Problem::error(place, message));
        }
        for SkippedPart { at, skip } in &self.parts {
            if !skip.is_sorted_by(|a, b| a < b) || skip.first() == Some(&0) {
                let message =
                    format!("`skip` of blocks {at} is {skip:?}, it must be in order and without step 0");
                out.push(Problem::error(place, message).hint("the first step has nothing to reuse"));
            }
            if let Some(last) = skip.last().filter(|last| **last >= steps) {
                let message = format!("`skip` of blocks {at} names step {last}, `steps` is {steps}");
                out.push(Problem::error(place, message));
            }
        }
        out
    }
}
