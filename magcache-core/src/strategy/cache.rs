//! The trait that a strategy author implements: when to skip.

use std::fmt::Debug;

use candle_core::Result;

use crate::{
    Branch, Head, Step, Streams, Verdict, Window,
    forecast::{Forecast, LastResidual},
    snapshot::Persist,
    strategy::Base,
};

/// State of a strategy in one slot: any type that `magcache_core::fields!(MyState { anchor, pending })` can
/// store.
pub trait SlotState: Persist + Default + Send + 'static {}

impl<S: Persist + Default + Send + 'static> SlotState for S {}

/// Decides when to skip. `self` is configuration and never changes; `State` belongs to one slot.
///
/// The adapter ([`CacheHook`](crate::strategy::CacheHook)) handles missing history, the common warm-up and
/// caps, and the failsafes: it can overrule a verdict to compute, but never to reuse. Anything that must hold
/// after a computed step belongs in `tail`.
pub trait TimestepCache: Debug + Send + Sync + 'static {
    /// The state of one slot.
    type State: SlotState;

    /// The blocks that always run.
    fn window(&self) -> Window {
        Window::default()
    }

    /// The state before the first pass.
    fn state(&self) -> Self::State {
        Self::State::default()
    }

    /// The base of the forecast.
    fn base(&self) -> Base {
        Base::Input
    }

    /// The forecast if the table names none: without history, for a run like that of `step`.
    fn forecast(&self, _step: &Step) -> Box<dyn Forecast> {
        Box::new(LastResidual::default())
    }

    /// Whether `head` looks only at the step and the history.
    fn is_static(&self) -> bool {
        false
    }

    /// Whether `head` uses a [`Signal`](crate::Signal) of the model. Signals describe block 0, so ranges that
    /// begin elsewhere are refused.
    fn uses_signals(&self) -> bool {
        false
    }

    /// The threshold that `head` compares [`Verdict::accumulated`] with at a step, for charts; `None` if
    /// there is none.
    fn threshold(&self, _step: &Step) -> Option<f64> {
        None
    }

    /// Called once per step and branch, after the front blocks and before any other block, also during
    /// warm-up; not on a branch that leads or follows another one. An error must leave `state` unchanged,
    /// because the step may be run again.
    fn head(&self, state: &mut Self::State, step: &Step, branch: Branch, x: &Head<'_>) -> Result<Verdict>;

    /// Called after the middle blocks really ran on `x` and returned `y`; never after a reuse by this cache
    /// or an inner one. An error must leave `state` unchanged.
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
