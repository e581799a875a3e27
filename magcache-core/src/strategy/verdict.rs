//! The outputs and inputs of a strategy: verdict, window, base, history.

use crate::Why;

/// A decision, its reason, and the numbers it is based on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Whether to replace the blocks instead of running them.
    pub reuse: bool,
    /// The reason.
    pub why: Why,
    /// The metric at this step. If it is NaN or infinite, the adapter computes and resets the slot.
    pub metric: Option<f64>,
    /// The value compared with the threshold.
    pub accumulated: Option<f64>,
}

crate::fields!(Verdict { reuse, why, metric, accumulated });

impl Verdict {
    /// Run the blocks.
    pub fn compute(why: Why) -> Self {
        Self { reuse: false, why, metric: None, accumulated: None }
    }

    /// Replace the blocks.
    pub fn reuse(why: Why) -> Self {
        Self { reuse: true, why, metric: None, accumulated: None }
    }

    /// Reuse if `value < threshold`, else compute. NaN computes.
    pub fn below(value: f64, threshold: f64) -> Self {
        let verdict = if value < threshold { Self::reuse(Why::Under) } else { Self::compute(Why::Over) };
        Self { accumulated: Some(value), ..verdict }
    }

    /// Adds the metric.
    #[must_use]
    pub fn metric(self, metric: f64) -> Self {
        Self { metric: Some(metric), ..self }
    }

    /// Adds the value compared with the threshold.
    #[must_use]
    pub fn accumulated(self, value: f64) -> Self {
        Self { accumulated: Some(value), ..self }
    }

    /// The same numbers with the decision to compute.
    #[must_use]
    pub fn overruled(self, why: Why) -> Self {
        Self { reuse: false, why, ..self }
    }

    /// Whether no number of the verdict is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        [self.metric, self.accumulated].iter().flatten().all(|v| v.is_finite())
    }
}

/// Blocks of a range that always really run, whatever inner caches would do (DBCache's Fn and Bn).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Number of blocks at the start.
    pub front: usize,
    /// Number of blocks at the end.
    pub back: usize,
}

/// The base of a forecast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// The input of the range: a skipped range is rebuilt from its input.
    #[default]
    Input,
    /// The output of the conditional branch at this step: a skipped branch is rebuilt from it. The
    /// conditional branch itself is always computed, and so is a branch that runs before it.
    Leader,
}

/// The history of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The last step at which every block of the range really ran, on which a forecast builds.
    pub last_computed: Option<usize>,
    /// Steps skipped since the last one that ran.
    pub consecutive: usize,
    /// Total number of skipped steps.
    pub skipped: usize,
}

crate::fields!(History { last_computed, consecutive, skipped });
