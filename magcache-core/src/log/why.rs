//! Why a pass computed or reused.

use std::{fmt, str::FromStr};

use crate::snapshot;

/// Why a pass computed or reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Why {
    /// There is nothing to reuse yet, or it was evicted.
    NoHistory,
    /// Within the first steps of the phase that are always computed.
    Warmup,
    /// Within the last steps that are always computed.
    LastSteps,
    /// The metric is over the threshold.
    Over,
    /// The metric is under the threshold.
    Under,
    /// As many consecutive steps as allowed were skipped.
    SkipCap,
    /// As many steps as allowed were skipped in all.
    TotalCap,
    /// A fixed schedule says so.
    Scheduled,
    /// The strategy's own rule for this step (a forced recompute of a dialect).
    Gate,
    /// Another member of a combination objected.
    Vetoed,
    /// This branch follows another one's decision.
    Followed,
    /// The branch to follow, or to be rebuilt from, has not run at this step.
    NoLeader,
    /// Other branches are rebuilt from this one.
    Leads,
    /// An outer cache keeps these blocks computed.
    Forced,
    /// All of these blocks lie in the strategy's own window, whose blocks always run.
    Window,
    /// An outer cache skipped this range.
    OuterCache,
    /// The audited errors of reuse passed their budget.
    DriftBudget,
    /// Shape, dtype or device of the streams changed: the slot was reset.
    FailsafeShape,
    /// A metric or an output was NaN or infinite: the slot was reset.
    FailsafeNonFinite,
}

impl Why {
    /// Every cause.
    pub const ALL: [Self; 19] = [
        Self::NoHistory,
        Self::Warmup,
        Self::LastSteps,
        Self::Over,
        Self::Under,
        Self::SkipCap,
        Self::TotalCap,
        Self::Scheduled,
        Self::Gate,
        Self::Vetoed,
        Self::Followed,
        Self::NoLeader,
        Self::Leads,
        Self::Forced,
        Self::Window,
        Self::OuterCache,
        Self::DriftBudget,
        Self::FailsafeShape,
        Self::FailsafeNonFinite,
    ];

    /// The word used in logs, traces and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoHistory => "no-history",
            Self::Warmup => "warmup",
            Self::LastSteps => "last-steps",
            Self::Over => "over-threshold",
            Self::Under => "under-threshold",
            Self::SkipCap => "skip-cap",
            Self::TotalCap => "total-skip-cap",
            Self::Scheduled => "scheduled",
            Self::Gate => "gate",
            Self::Vetoed => "vetoed",
            Self::Followed => "followed",
            Self::NoLeader => "no-leader",
            Self::Leads => "leads",
            Self::Forced => "forced",
            Self::Window => "window",
            Self::OuterCache => "outer-cache",
            Self::DriftBudget => "drift-budget",
            Self::FailsafeShape => "failsafe-shape",
            Self::FailsafeNonFinite => "failsafe-non-finite",
        }
    }

    /// True where nothing was decided: a ring further out, or the strategy's window, left nothing to decide.
    pub fn is_imposed(self) -> bool {
        matches!(self, Self::Forced | Self::Window | Self::OuterCache)
    }

    /// True for the causes that mean something went wrong and was caught.
    pub fn is_failsafe(self) -> bool {
        matches!(self, Self::FailsafeShape | Self::FailsafeNonFinite)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

snapshot::words! { Why: "the cause of a decision" }

/// A word that names no cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no decision has this cause")]
pub struct UnknownCause;

impl FromStr for Why {
    type Err = UnknownCause;

    fn from_str(word: &str) -> Result<Self, UnknownCause> {
        Self::ALL.into_iter().find(|why| why.as_str() == word).ok_or(UnknownCause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_reads_back_from_its_word() {
        for (i, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, i, "causes are listed in order, none left out before the last");
            assert_eq!(why.as_str().parse(), Ok(why));
        }
        assert_eq!("because".parse::<Why>(), Err(UnknownCause));
    }
}
