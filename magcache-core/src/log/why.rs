//! Why a pass computed or reused.

use std::{fmt, str::FromStr};

use crate::snapshot;

/// Why a pass computed or reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Why {
    /// Nothing is stored to reuse yet, or it was evicted.
    NoHistory,
    /// One of the first steps of the phase, which are always computed.
    Warmup,
    /// One of the last steps, which are always computed.
    LastSteps,
    /// The accumulated value is over the threshold.
    Over,
    /// The accumulated value is under the threshold.
    Under,
    /// The cap on consecutive skips was reached.
    SkipCap,
    /// The cap on total skips was reached.
    TotalCap,
    /// A fixed schedule says so.
    Scheduled,
    /// A special rule of the strategy for this step (a forced recompute of a dialect).
    Gate,
    /// Another member of a combination vetoed the skip.
    Vetoed,
    /// This branch follows the decision of another one.
    Followed,
    /// The branch to follow, or to be rebuilt from, has not run at this step.
    NoLeader,
    /// Other branches are rebuilt from this one.
    Leads,
    /// An outer cache requires these blocks to be computed.
    Forced,
    /// All of these blocks lie in the strategy's own window and therefore always run.
    Window,
    /// An outer cache skipped this range.
    OuterCache,
    /// The audited errors exceeded the drift budget.
    DriftBudget,
    /// Shape, dtype or device of the streams changed: the slot was reset.
    FailsafeShape,
    /// A metric or an output was NaN or infinite: the slot was reset.
    FailsafeNonFinite,
}

impl Why {
    /// Every reason.
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

    /// The word for it in logs, traces and JSON.
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

    /// Whether the hook had nothing to decide, because of an outer ring or the strategy's own window.
    pub fn is_imposed(self) -> bool {
        matches!(self, Self::Forced | Self::Window | Self::OuterCache)
    }

    /// Whether something went wrong and was caught.
    pub fn is_failsafe(self) -> bool {
        matches!(self, Self::FailsafeShape | Self::FailsafeNonFinite)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

snapshot::words! { Why: "the reason of a decision" }

/// A word that names no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no decision has this reason")]
pub struct UnknownReason;

impl FromStr for Why {
    type Err = UnknownReason;

    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        Self::ALL.into_iter().find(|why| why.as_str() == word).ok_or(UnknownReason)
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
        assert_eq!("because".parse::<Why>(), Err(UnknownReason));
    }
}
