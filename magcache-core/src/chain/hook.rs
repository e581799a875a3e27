//! Hooks: the trait, and what a hook sees of a pass.

use std::{any::Any, fmt, fmt::Debug, ops::Range, sync::Arc};

use candle_core::{Result, Tensor};

use super::LazyOutput;
use crate::{
    Branch, Next, Output, Signal, Step, Streams,
    forecast::ForecastTable,
    group::{Branches, Group, Together},
    log::{AuditPolicy, DecisionLog},
    snapshot::{Reader, SnapshotError, Writer},
    state::{HookId, SlotKey, Slots, StoragePolicy},
};

/// Computes a [`Signal`] of the model from the input of block 0. Returns an error if the model does not
/// expose it.
pub type Probe<'a> = &'a dyn Fn(Signal, &Streams) -> Result<Tensor>;

/// What a hook sees of the current pass.
pub struct Cx<'a> {
    /// Where the pass stands.
    pub step: &'a Step,
    /// The guidance branch.
    pub branch: Branch,
    /// The hook that is called, for the keys of its slots.
    pub hook: HookId,
    /// The module that the hook surrounds, inside a block; `None` around blocks and around the whole forward.
    pub module: Option<&'a Arc<str>>,
    /// The model's signals, which describe block 0; `None` at the level of the whole forward and of modules.
    pub probe: Option<Probe<'a>>,
    /// The grid in which the tokens of the denoised stream lie, row by row: frames, height and width of a
    /// video, height and width of a picture. Tokens of references follow those of the grid. Empty if the
    /// model does not say, and where there is no probe.
    pub grid: &'a [usize],
    /// The session's state.
    pub slots: &'a mut Slots,
    /// The session's decisions, including those of other branches at this step.
    pub log: &'a mut DecisionLog,
    /// How tensors are stored between passes.
    pub storage: &'a StoragePolicy,
    /// Which reuses are checked against the truth.
    pub audit: &'a AuditPolicy,
    /// The ranks that run the same pass.
    pub group: Option<&'a Group>,
    /// Whether each of them has its own tokens; else, at the level of the whole forward, every rank has all.
    pub(crate) split: bool,
    /// Other branches of the step, which run at the same time.
    pub(crate) branches: Option<&'a mut Branches>,
}

impl Cx<'_> {
    /// The other ranks, at this place of the pass.
    pub(crate) fn together(&self) -> Together<'_> {
        let (group, split, step) = (self.group, self.split, self.step.place());
        Together { group, split, step, branch: self.branch, hook: self.hook }
    }

    /// Whether this pass already ran to its end and is now run again before the next step: its state is
    /// stored and its decision is logged. A hook that learns in its own slots must not learn from the same
    /// pass twice.
    pub fn is_again(&self) -> bool {
        self.log.is_again()
    }

    /// Reborrows the context for `module` of a block.
    pub(crate) fn reborrow<'m>(&'m mut self, module: Option<&'m Arc<str>>) -> Cx<'m> {
        Cx {
            step: self.step,
            branch: self.branch,
            hook: self.hook,
            module,
            probe: None,
            grid: &[],
            slots: &mut *self.slots,
            log: &mut *self.log,
            storage: self.storage,
            audit: self.audit,
            group: self.group,
            split: self.split,
            branches: self.branches.as_deref_mut(),
        }
    }
}

impl Debug for Cx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("step", self.step).field("branch", &self.branch).finish_non_exhaustive()
    }
}

/// One ring of the onion, around one range of blocks. `self` is configuration and never changes.
pub trait BlockHook: Debug + Send + Sync {
    /// Runs `next` whole, in parts, or not at all, and returns the streams after it.
    ///
    /// An error abandons the pass: the slots it touched serve only a retry of the same pass.
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output>;

    /// [`BlockHook::call`] with the last addition deferred, for hooks that substitute a residual. The chain
    /// calls this, and adds the residual before another hook or a block reads the streams.
    ///
    /// Errors: as [`BlockHook::call`].
    fn call_lazy(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<LazyOutput> {
        self.call(cx, x, next).map(LazyOutput::from)
    }

    /// Called instead of [`BlockHook::call`] when an outer ring replaced these blocks.
    fn skipped(&self, _cx: &mut Cx<'_>, _blocks: Range<usize>) {}

    /// Whether it rebuilds one guidance branch from another, which then has to run before it and on the same
    /// rank.
    fn rebuilds_branches(&self) -> bool {
        false
    }

    /// Whether decisions depend on the step alone, never on a tensor, so that the schedule is known before
    /// the run.
    fn is_static(&self) -> bool {
        true
    }

    /// The threshold that the accumulated value is compared with at a step, if it is a number.
    fn threshold(&self, _step: &Step) -> Option<f64> {
        None
    }

    /// The `forecast` table that replaces skipped blocks as this hook does, in runs like that of `step`; used
    /// by schedules that replay its skips. `None` if no table does.
    fn stand_in(&self, _step: &Step) -> Option<ForecastTable> {
        None
    }

    /// Writes one of this hook's slots into a snapshot of the run. Never called for a hook that keeps nothing
    /// in slots.
    ///
    /// # Errors
    /// Always, unless the hook overrides this: state must not be lost silently.
    fn save_slot(
        &self,
        key: &SlotKey,
        _slot: &dyn Any,
        _to: &mut Writer<'_>,
    ) -> std::result::Result<(), SnapshotError> {
        Err(SnapshotError::Refused { hook: key.hook.0, name: format!("{self:?}") })
    }

    /// Reads back what [`BlockHook::save_slot`] wrote, as the type that the hook keeps in its slots.
    ///
    /// # Errors
    /// As [`BlockHook::save_slot`]; also a part that is missing or malformed.
    fn load_slot(
        &self,
        key: &SlotKey,
        _from: &Reader<'_>,
    ) -> std::result::Result<Box<dyn Any + Send>, SnapshotError> {
        Err(SnapshotError::Refused { hook: key.hook.0, name: format!("{self:?}") })
    }
}
