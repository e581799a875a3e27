//! The limits common to all strategies: warm-up, last steps, caps, following another branch.

use serde::{Deserialize, Serialize};

use crate::{Branch, Step, Why, strategy::History};

/// Steps at the start of each expert's phase that are always computed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Warmup {
    /// So many steps.
    Steps(usize),
    /// This fraction of the phase, in 0..=1.
    Fraction(#[cfg_attr(feature = "keys", schemars(range(min = 0.0, max = 1.0)))] f64),
}

impl Warmup {
    /// Number of warm-up steps in a phase of `steps` steps: those whose index is below `fraction · steps`. A
    /// product that misses a whole number only by floating-point rounding (`0.14 · 50`) counts as that
    /// number.
    pub fn steps(self, steps: usize) -> usize {
        match self {
            Self::Steps(n) => n,
            Self::Fraction(f) => {
                let product = steps as f64 * f;
                let whole = product.round();
                let rounded = (product - whole).abs() <= 4.0 * f64::EPSILON * whole;
                (if rounded { whole } else { product.ceil() }) as usize
            }
        }
    }

    /// False for a fraction outside 0..=1.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Steps(_) => true,
            Self::Fraction(f) => (0.0..=1.0).contains(&f),
        }
    }
}

/// Whose decision a branch takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Branches {
    /// Every branch decides for itself.
    #[default]
    Own,
    /// The conditional branch decides, the others follow; they compute where it has not run at this step.
    CondDecides,
}

/// Limits that the adapter enforces for every strategy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guards {
    /// Steps computed at the start of each phase. The first step of a phase is always computed.
    pub warmup: Warmup,
    /// Steps computed at the end of the run.
    pub last_steps: usize,
    /// Maximum number of consecutive skips.
    pub max_skips: Option<usize>,
    /// Maximum number of skips per branch and expert.
    pub max_total_skips: Option<usize>,
    /// Whose decision a branch follows.
    pub branches: Branches,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            warmup: Warmup::Steps(0),
            last_steps: 0,
            max_skips: None,
            max_total_skips: None,
            branches: Branches::Own,
        }
    }
}

impl Guards {
    /// The reason why this step must be computed whatever the strategy says, if there is one.
    pub fn verdict(&self, step: &Step, history: &History) -> Option<Why> {
        let local = step.index.saturating_sub(step.phase.start);
        if local < self.warmup.steps(step.phase.len()).max(1) {
            Some(Why::Warmup)
        } else if step.index + self.last_steps >= step.total {
            Some(Why::LastSteps)
        } else if self.max_skips.is_some_and(|max| history.consecutive >= max) {
            Some(Why::SkipCap)
        } else if self.max_total_skips.is_some_and(|max| history.skipped >= max) {
            Some(Why::TotalCap)
        } else {
            None
        }
    }

    /// Whether `branch` follows the decision of the conditional branch.
    pub fn follows(&self, branch: Branch) -> bool {
        self.branches == Branches::CondDecides && !matches!(branch, Branch::Cond | Branch::Batched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_holds_back_exactly_its_steps() {
        let step = |index| Step { phase: 4..10, ..Step::plain(index, 12) };
        let seen = |consecutive, skipped| History { last_computed: Some(4), consecutive, skipped };
        let free = Guards::default();
        assert_eq!(free.verdict(&step(4), &seen(0, 0)), Some(Why::Warmup));
        assert_eq!(free.verdict(&step(5), &seen(9, 9)), None);
        let warm = Guards { warmup: Warmup::Fraction(0.5), ..free };
        assert_eq!(warm.verdict(&step(6), &seen(0, 0)), Some(Why::Warmup));
        assert_eq!(warm.verdict(&step(7), &seen(0, 0)), None);
        let last = Guards { last_steps: 3, ..free };
        assert_eq!(last.verdict(&step(8), &seen(0, 0)), None);
        assert_eq!(last.verdict(&step(9), &seen(0, 0)), Some(Why::LastSteps));
        let cap = Guards { max_skips: Some(2), ..free };
        assert_eq!(cap.verdict(&step(7), &seen(1, 5)), None);
        assert_eq!(cap.verdict(&step(7), &seen(2, 5)), Some(Why::SkipCap));
        let total = Guards { max_total_skips: Some(5), ..free };
        assert_eq!(total.verdict(&step(7), &seen(1, 5)), Some(Why::TotalCap));
    }

    #[test]
    fn a_fraction_is_a_place_and_no_rounding_noise() {
        let steps = |fraction, steps| Warmup::Fraction(fraction).steps(steps);
        assert_eq!([steps(0.14, 50), steps(0.28, 25), steps(0.07, 100)], [7, 7, 7]);
        assert_eq!([steps(0.2, 50), steps(0.21, 50), steps(0.1, 28), steps(1e-9, 50)], [10, 11, 3, 1]);
        // For every two-digit fraction and every length: the smallest whole number not below the exact
        // product.
        for (hundredths, n) in (0..=100usize).flat_map(|h| (1..=120usize).map(move |n| (h, n))) {
            assert_eq!(
                steps(hundredths as f64 / 100.0, n),
                (hundredths * n).div_ceil(100),
                "{hundredths} % of {n}"
            );
        }
    }
}
