//! What a strategy answers, and what it can ask for: verdict, window, base, history.

use crate::Why;

/// A decision, its cause, and the numbers behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Replace the blocks instead of running them.
    pub reuse: bool,
    /// The cause.
    pub why: Why,
    /// What was measured at this step. NaN or infinite: the adapter computes and resets the slot.
    pub metric: Option<f64>,
    /// What was compared with the threshold.
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

    /// Adds what was measured.
    #[must_use]
    pub fn metric(self, metric: f64) -> Self {
        Self { metric: Some(metric), ..self }
    }

    /// Adds what was compared with the threshold.
    #[must_use]
    pub fn accumulated(self, value: f64) -> Self {
        Self { accumulated: Some(value), ..self }
    }

    /// The same numbers with another decision to compute.
    #[must_use]
    pub fn overruled(self, why: Why) -> Self {
        Self { reuse: false, why, ..self }
    }

    /// False where a number behind the verdict is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        [self.metric, self.accumulated].iter().flatten().all(|v| v.is_finite())
    }
}

/// Blocks of a range that always run for real, whatever caches inside them would do (DBCache's Fn and Bn).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Blocks at the start.
    pub front: usize,
    /// Blocks at the end.
    pub back: usize,
}

/// What a forecast starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// What entered the range: a skipped range is rebuilt from its input.
    #[default]
    Input,
    /// What the conditional branch gave at this step: a skipped branch is rebuilt from another one. The conditional
    /// branch itself is always computed; a branch that runs before it is computed too.
    Leader,
}

/// What the slot of a strategy has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The last step at which every block of the range really ran; what a forecast builds on.
    pub last_computed: Option<usize>,
    /// Steps skipped since the last one that was run.
    pub consecutive: usize,
    /// Steps skipped in all.
    pub skipped: usize,
}

crate::fields!(History { last_computed, consecutive, skipped });
