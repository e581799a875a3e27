//! The log of decisions and their reasons.

pub(crate) mod audit;
mod done;
pub(crate) mod why;

#[cfg(feature = "candle")]
use std::hash::{DefaultHasher, Hash, Hasher};
use std::{ops::Range, sync::Arc};

pub(crate) use done::Done;

pub use audit::{Audit, AuditPolicy, OnDrift};
pub use why::UnknownReason;

use crate::{
    Branch, Expert, Step, Why,
    state::{HookId, SlotKey},
};

/// One decision of one hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Step of the run, as [`Step::place`] counts them.
    pub step: usize,
    /// Evaluation within the step.
    pub eval: u8,
    /// Network.
    pub expert: Expert,
    /// Guidance branch.
    pub branch: Branch,
    /// The hook.
    pub hook: HookId,
    /// The blocks that were computed or replaced, or the block whose module was.
    pub blocks: Range<usize>,
    /// The module inside the block that was computed or replaced; `None` for whole blocks.
    pub module: Option<Arc<str>>,
    /// Whether the blocks, or the module, were replaced.
    pub reused: bool,
    /// The reason.
    pub why: Why,
    /// The strategy's metric at this step, before any accumulation.
    pub metric: Option<f64>,
    /// The value compared with the threshold.
    pub accumulated: Option<f64>,
    /// The true error of the reuse, if it was audited; also present if the audit overruled it
    /// ([`Why::DriftBudget`]).
    pub audit: Option<Audit>,
    /// Bytes held by the session's slots when the decision was made.
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
    /// Whether this hook itself replaced blocks or the whole forward: not a module inside a block, and not by
    /// an outer ring.
    pub fn is_skip(&self) -> bool {
        self.reused && self.module.is_none() && self.why != Why::OuterCache
    }

    /// Whether it is the decision of a hook that covers all of `blocks`, or their module, at this
    /// evaluation of the step for `branch`.
    pub(crate) fn decides(&self, hook: HookId, blocks: &Range<usize>, step: &Step, branch: Branch) -> bool {
        let whole =
            self.blocks.start <= blocks.start && blocks.end <= self.blocks.end && !self.why.is_imposed();
        whole && (self.hook, self.branch, self.step, self.eval) == (hook, branch, step.place(), step.eval)
    }

    /// Whether both are about the same part of the same pass.
    fn is_of(&self, other: &Self) -> bool {
        let pass = |r: &Self| (r.step, r.eval, r.expert, r.branch, r.hook);
        pass(self) == pass(other) && self.blocks == other.blocks && self.module == other.module
    }
}

/// Every decision of a session, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecisionLog {
    records: Vec<Record>,
    /// Whether the current pass already ran to its end before.
    again: bool,
}

crate::fields!(DecisionLog { records } given { again });

impl DecisionLog {
    /// Appends a record and returns its index. In a pass that is run again, the existing record is kept.
    pub fn push(&mut self, record: Record) -> usize {
        let step = record.step;
        let mut known = self.records.iter().enumerate().rev().take_while(|(_, r)| r.step == step);
        if self.again
            && let Some((place, _)) = known.find(|(_, r)| r.is_of(&record))
        {
            return place;
        }
        self.records.push(record);
        self.records.len() - 1
    }

    /// Begins a pass; `again` if it already ran to its end.
    pub(crate) fn begin(&mut self, again: bool) {
        self.again = again;
    }

    /// Ends a pass. The decisions of a failed pass are discarded.
    pub(crate) fn end(&mut self, step: &Step, branch: Branch, failed: bool) {
        if failed {
            let first = self.records.iter().rposition(|r| r.step != step.place()).map_or(0, |last| last + 1);
            let mut place = 0;
            self.records.retain(|r| {
                place += 1;
                place <= first || (r.eval, r.expert, r.branch) != (step.eval, step.expert, branch)
            });
        }
    }

    /// How often a hook itself replaced `blocks` in the clip of `step`, and the same including reuses that an
    /// audit overruled.
    pub(crate) fn reuses_of(&self, key: &SlotKey, step: &Step) -> (usize, usize) {
        let clip = step.clip * step.total;
        let own = |r: &&Record| {
            let pass = (r.hook, r.expert, r.branch, r.eval) == (key.hook, key.expert, key.branch, key.eval);
            pass && r.step >= clip && r.blocks == key.blocks && !r.why.is_imposed()
        };
        let count = |(reused, turns), r: &Record| {
            (reused + usize::from(r.reused), turns + usize::from(r.reused || r.audit.is_some()))
        };
        self.records.iter().filter(own).fold((0, 0), count)
    }

    /// Every record, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The latest decision of a hook that covers all of `blocks`, or their module, at this evaluation of the
    /// step for `branch`. `None` if an outer ring left it nothing to decide.
    pub fn decision(
        &self,
        hook: HookId,
        blocks: &Range<usize>,
        step: &Step,
        branch: Branch,
    ) -> Option<&Record> {
        let mut here = self.records.iter().rev().take_while(|r| r.step == step.place());
        here.find(|r| r.decides(hook, blocks, step, branch))
    }

    /// The steps at which a hook's range was replaced on `branch`, in order. A step appears once for each
    /// part that was decided separately, such as a module of every block.
    pub fn reused(&self, hook: HookId, branch: Branch) -> impl Iterator<Item = usize> {
        self.records.iter().filter(move |r| r.hook == hook && r.branch == branch && r.reused).map(|r| r.step)
    }

    /// Number of failsafes.
    pub fn failsafes(&self) -> usize {
        self.records.iter().filter(|r| r.why.is_failsafe()).count()
    }
}

/// What only the adapter of tensors does.
#[cfg(feature = "candle")]
impl DecisionLog {
    pub(crate) fn is_again(&self) -> bool {
        self.again
    }

    /// Identifies the latest decisions, those of the last two steps: ranks that went the same way have the
    /// same. Bytes do not count.
    pub(crate) fn digest(&self) -> u64 {
        let since = self.records.last().map_or(0, |last| last.step.saturating_sub(1));
        let mut hasher = DefaultHasher::new();
        for r in self.records.iter().rev().take_while(|r| r.step >= since) {
            let Record { step, eval, expert, branch, hook, blocks, module, reused, why, .. } = r;
            (step, eval, expert, branch, hook, blocks, module, reused, why.as_str()).hash(&mut hasher);
            (r.metric.map(f64::to_bits), r.accumulated.map(f64::to_bits)).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Replaces the decisions of an evaluation of a step by those of all branches.
    pub(crate) fn replace(&mut self, step: &Step, records: Vec<Record>) {
        self.records.retain(|r| (r.step, r.eval) != (step.place(), step.eval));
        self.records.extend(records);
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

    /// Turns a logged reuse into a computed pass.
    pub(crate) fn overrule(&mut self, place: usize, why: Why) {
        if let Some(record) = self.records.get_mut(place) {
            (record.reused, record.why) = (false, why);
        }
    }

    /// The same decisions with byte counts multiplied by `unit`.
    pub(crate) fn in_units(&self, unit: usize) -> Self {
        let scaled = |record: &Record| Record { bytes: record.bytes * unit, ..record.clone() };
        Self { records: self.records.iter().map(scaled).collect(), ..Self::default() }
    }
}
