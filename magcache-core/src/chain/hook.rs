//! What a hook is, what it sees, and where it sits.

use std::{any::Any, fmt, fmt::Debug, ops::Range, sync::Arc};

use candle_core::{Result, Tensor};

use super::LazyOutput;
use crate::{
    Branch, Expert, Next, Signal, Step, Streams,
    forecast::ForecastTable,
    log::{AuditPolicy, DecisionLog},
    metrics::Reducer,
    snapshot::{Reader, SnapshotError, Writer},
    state::{HookId, SlotKey, Slots, StoragePolicy},
};

/// The model's answer to a [`Signal`], given the input of block 0. A model without that signal returns an error.
pub type Probe<'a> = &'a dyn Fn(Signal, &Streams) -> Result<Tensor>;

/// What a range of blocks gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// The streams after the range.
    pub streams: Streams,
    /// True when every block of the range really ran on exact input.
    pub exact: bool,
}

crate::fields!(Output { streams, exact });

/// What a hook sees of the pass that it is in.
pub struct Cx<'a> {
    /// Where the pass stands.
    pub step: &'a Step,
    /// The guidance branch.
    pub branch: Branch,
    /// The module that the hook surrounds, inside a block; `None` around blocks and around the whole forward.
    pub module: Option<&'a Arc<str>>,
    /// The model's signals, which are about block 0; `None` at the level of the whole forward and of modules.
    pub probe: Option<Probe<'a>>,
    /// The session's state.
    pub slots: &'a mut Slots,
    /// The session's decisions, those that other branches took at this step among them.
    pub log: &'a mut DecisionLog,
    /// How tensors are stored between passes.
    pub storage: &'a StoragePolicy,
    /// Which reuses are checked against the truth.
    pub audit: &'a AuditPolicy,
    /// Combines metrics over ranks.
    pub reducer: Option<&'a Reducer>,
}

impl Cx<'_> {
    /// A metric, reduced over ranks.
    pub fn reduce(&self, metric: f64) -> Result<f64> {
        self.reducer.map_or(Ok(metric), |reduce| reduce(metric))
    }

    /// True in a pass that ran to its end before and is run again before the next step: what it left is there already, and what
    /// it decided is logged. A hook that learns in its own slots must not learn the same pass twice.
    pub fn is_again(&self) -> bool {
        self.log.is_again()
    }

    /// The same pass for a shorter while, as `module` of a block sees it.
    pub(crate) fn reborrow<'m>(&'m mut self, module: Option<&'m Arc<str>>) -> Cx<'m> {
        Cx {
            step: self.step,
            branch: self.branch,
            module,
            probe: None,
            slots: &mut *self.slots,
            log: &mut *self.log,
            storage: self.storage,
            audit: self.audit,
            reducer: self.reducer,
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
    /// An error abandons the pass: the slots that it touched are dropped.
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output>;

    /// [`BlockHook::call`] where the last addition is put off: for hooks whose stand-in is a residual. What is around the hook
    /// calls this, and adds before another hook or a block reads.
    ///
    /// Errors: as [`BlockHook::call`].
    fn call_lazy(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<LazyOutput> {
        self.call(cx, x, next).map(LazyOutput::from)
    }

    /// Told instead of [`BlockHook::call`] when a ring further out replaced these blocks.
    fn skipped(&self, _cx: &mut Cx<'_>, _blocks: Range<usize>) {}

    /// True when decisions depend on the step alone, never on a tensor: a schedule can be printed.
    fn is_static(&self) -> bool {
        true
    }

    /// What the accumulated value of its records is compared with at a step, if it is compared with a number.
    fn threshold(&self, _step: &Step) -> Option<f64> {
        None
    }

    /// The `forecast` table that stands in for skipped blocks as this hook does, in runs like that of `step`: for schedules
    /// that repeat what it skipped. `None` where no table does.
    fn stand_in(&self, _step: &Step) -> Option<ForecastTable> {
        None
    }

    /// Writes one of this hook's slots, for a run that may have to be continued. A hook that keeps nothing in slots is never
    /// asked.
    ///
    /// # Errors
    /// Always, unless a hook says how: what it keeps must not be lost in silence.
    fn save_slot(
        &self,
        key: &SlotKey,
        _slot: &dyn Any,
        _to: &mut Writer<'_>,
    ) -> std::result::Result<(), SnapshotError> {
        Err(SnapshotError::Refused { hook: key.hook.0, name: format!("{self:?}") })
    }

    /// Reads back what [`BlockHook::save_slot`] wrote, as the type that it keeps in its slots.
    ///
    /// # Errors
    /// As [`BlockHook::save_slot`]; a part that is missing or odd.
    fn load_slot(
        &self,
        key: &SlotKey,
        _from: &Reader<'_>,
    ) -> std::result::Result<Box<dyn Any + Send>, SnapshotError> {
        Err(SnapshotError::Refused { hook: key.hook.0, name: format!("{self:?}") })
    }
}

/// A hook and where it sits.
#[derive(Clone, Debug)]
pub struct Ring {
    /// The blocks that it surrounds, or whose module it surrounds.
    pub at: Range<usize>,
    /// Its name.
    pub id: HookId,
    /// The experts in whose steps it acts; empty means all of them.
    pub experts: Vec<Expert>,
    /// The hook.
    pub hook: Arc<dyn BlockHook>,
}

impl Ring {
    pub(super) fn acts_in(&self, expert: Expert) -> bool {
        self.experts.is_empty() || self.experts.contains(&expert)
    }
}
