//! What an author of a strategy writes: when to skip.

use std::fmt::Debug;

use candle_core::Result;

use crate::{
    Branch, Head, Step, Streams, Verdict, Window,
    forecast::{Forecast, LastResidual},
    snapshot::Persist,
    strategy::Base,
};

/// State of a strategy in one slot: everything that `magcache_core::fields!(MyState { anchor, pending })` can store.
pub trait SlotState: Persist + Default + Send + 'static {}

impl<S: Persist + Default + Send + 'static> SlotState for S {}

/// When to skip. `self` is configuration and never changes; `State` is one slot's.
///
/// Whether there is anything to reuse, the warm-up and the caps that every strategy has in common, and the
/// failsafes are the adapter's business ([`CacheHook`](crate::strategy::CacheHook)): a strategy's verdict can be overruled
/// to compute, never to reuse. What must be true after a step that computed belongs in `tail`.
pub trait TimestepCache: Debug + Send + Sync + 'static {
    /// One slot's state.
    type State: SlotState;

    /// The blocks that always run.
    fn window(&self) -> Window {
        Window::default()
    }

    /// The state before the first pass.
    fn state(&self) -> Self::State {
        Self::State::default()
    }

    /// What a forecast starts from.
    fn base(&self) -> Base {
        Base::Input
    }

    /// What stands in for what is skipped where the table names no `forecast`, without history, for a run like the one
    /// that `step` belongs to.
    fn forecast(&self, _step: &Step) -> Box<dyn Forecast> {
        Box::new(LastResidual::default())
    }

    /// True when `head` looks at the step and the history alone.
    fn is_static(&self) -> bool {
        false
    }

    /// True when `head` asks the model for a [`Signal`](crate::Signal). Signals are about block 0, so a range that begins elsewhere is refused.
    fn uses_signals(&self) -> bool {
        false
    }

    /// What `head` compares [`Verdict::accumulated`] with at a step, for charts; `None` where it compares with no number.
    fn threshold(&self, _step: &Step) -> Option<f64> {
        None
    }

    /// Called once per step and branch, after the front blocks and before any other block, warm-up included; not on a branch
    /// that leads or follows another one. An error must leave `state` as it was: the step may be run again.
    fn head(&self, state: &mut Self::State, step: &Step, branch: Branch, x: &Head<'_>) -> Result<Verdict>;

    /// Called after the middle blocks really ran on `x` and gave `y`; never after a reuse, here or further in. An error must
    /// leave `state` as it was.
    fn tail(
        &self,
        _state: &mut Self::State,
        _step: &Step,
        _branch: Branch,
        _x: &Streams,
        _y: &Streams,
    ) -> Result<()> {
        Ok(())
    }
}
