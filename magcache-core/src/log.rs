//! What was decided, and why.

use std::{fmt, ops::Range, str::FromStr, sync::Arc};

use crate::{Audit, Branch, Expert, HookId, Step};

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
    const ALL: [Self; 18] = [
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
            Self::OuterCache => "outer-cache",
            Self::DriftBudget => "drift-budget",
            Self::FailsafeShape => "failsafe-shape",
            Self::FailsafeNonFinite => "failsafe-non-finite",
        }
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

/// One decision of one hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Step of the trajectory.
    pub step: usize,
    /// Evaluation within the step.
    pub eval: u8,
    /// Network.
    pub expert: Expert,
    /// Guidance branch.
    pub branch: Branch,
    /// The hook.
    pub hook: HookId,
    /// The blocks that were computed or replaced, or the one whose module was.
    pub blocks: Range<usize>,
    /// The module inside the block that was computed or replaced; `None` where it was the blocks.
    pub module: Option<Arc<str>>,
    /// True when the blocks, or the module, were replaced.
    pub reused: bool,
    /// The cause.
    pub why: Why,
    /// What the strategy measured at this step, before any accumulation.
    pub metric: Option<f64>,
    /// What it compared with its threshold.
    pub accumulated: Option<f64>,
    /// The true error of the reuse, where it was audited. Of a reuse that was overruled for it ([`Why::DriftBudget`]) too.
    pub audit: Option<Audit>,
    /// Bytes that the session's slots held when the decision was taken.
    pub bytes: usize,
}

crate::fields!(Record {
    step,
    eval,
    expert,
    branch,
    hook,
    blocks,
    module,
    reused,
    why,
    metric,
    accumulated,
    audit,
    bytes,
});

impl Record {
    /// True when blocks, or the whole forward, were replaced by this hook itself: not a module inside a block, and not by a
    /// ring further out.
    pub fn is_skip(&self) -> bool {
        self.reused && self.module.is_none() && self.why != Why::OuterCache
    }
}

/// Every decision of a session, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecisionLog {
    records: Vec<Record>,
}

crate::fields!(DecisionLog { records });

impl DecisionLog {
    /// Appends a record and returns its place.
    pub fn push(&mut self, record: Record) -> usize {
        self.records.push(record);
        self.records.len() - 1
    }

    pub(crate) fn amend(&mut self, place: usize, why: Why) {
        if let Some(record) = self.records.get_mut(place) {
            record.why = why;
        }
    }

    pub(crate) fn audited(&mut self, place: usize, audit: Audit) {
        if let Some(record) = self.records.get_mut(place) {
            record.audit = Some(audit);
        }
    }

    /// A reuse that becomes computed after all.
    pub(crate) fn overrule(&mut self, place: usize, why: Why) {
        if let Some(record) = self.records.get_mut(place) {
            (record.reused, record.why) = (false, why);
        }
    }

    /// Every record, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The latest decision of a hook that holds for all of `blocks`, or for their module, on this step's evaluation for
    /// `branch`.
    pub fn decision(
        &self,
        hook: HookId,
        blocks: &Range<usize>,
        step: &Step,
        branch: Branch,
    ) -> Option<&Record> {
        let here = |r: &&Record| {
            let whole = r.blocks.start <= blocks.start && blocks.end <= r.blocks.end;
            whole && (r.hook, r.branch, r.step, r.eval) == (hook, branch, step.index, step.eval)
        };
        self.records.iter().rev().take_while(|r| r.step == step.index).find(here)
    }

    /// The steps at which a hook's range was replaced on `branch`, in order; a step is named once for each part of it that
    /// was decided on its own, such as a module of every block.
    pub fn reused(&self, hook: HookId, branch: Branch) -> impl Iterator<Item = usize> {
        self.records.iter().filter(move |r| r.hook == hook && r.branch == branch && r.reused).map(|r| r.step)
    }

    /// Failsafes counted.
    pub fn failsafes(&self) -> usize {
        self.records.iter().filter(|r| r.why.is_failsafe()).count()
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
