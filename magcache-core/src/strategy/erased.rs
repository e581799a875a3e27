//! Strategies with their state's type erased.

use std::{any::Any, fmt::Debug};

use candle_core::{Result, bail};

use super::{Base, SlotState};
use crate::{
    Branch, Head, Step, Streams, TimestepCache, Verdict, Window, forecast::Forecast, snapshot::Persist,
};

/// A [`SlotState`] with its type erased. Implemented for every state; not for strategy authors.
pub trait AnyState: Persist + Any + Send {}

impl<S: SlotState> AnyState for S {}

/// [`TimestepCache`] with its state erased, so that one adapter and the combinations can hold any strategy.
/// Implemented for every strategy; not for strategy authors.
pub trait AnyCache: Debug + Send + Sync {
    /// [`TimestepCache::state`].
    fn any_state(&self) -> Box<dyn AnyState>;
    /// [`TimestepCache::window`].
    fn any_window(&self) -> Window;
    /// [`TimestepCache::base`].
    fn any_base(&self) -> Base;
    /// [`TimestepCache::forecast`].
    fn any_forecast(&self, step: &Step) -> Box<dyn Forecast>;
    /// [`TimestepCache::is_static`].
    fn any_static(&self) -> bool;
    /// [`TimestepCache::uses_signals`].
    fn any_uses_signals(&self) -> bool;
    /// [`TimestepCache::threshold`].
    fn any_threshold(&self, step: &Step) -> Option<f64>;
    /// [`TimestepCache::head`].
    fn any_head(
        &self,
        state: &mut dyn AnyState,
        step: &Step,
        branch: Branch,
        x: &Head<'_>,
    ) -> Result<Verdict>;
    /// [`TimestepCache::tail`].
    fn any_tail(
        &self,
        state: &mut dyn AnyState,
        step: &Step,
        branch: Branch,
        x: &Streams,
        y: &Streams,
    ) -> Result<()>;
}

impl<C: TimestepCache> AnyCache for C {
    fn any_state(&self) -> Box<dyn AnyState> {
        Box::new(self.state())
    }

    fn any_window(&self) -> Window {
        self.window()
    }

    fn any_base(&self) -> Base {
        self.base()
    }

    fn any_forecast(&self, step: &Step) -> Box<dyn Forecast> {
        self.forecast(step)
    }

    fn any_static(&self) -> bool {
        self.is_static()
    }

    fn any_uses_signals(&self) -> bool {
        self.uses_signals()
    }

    fn any_threshold(&self, step: &Step) -> Option<f64> {
        self.threshold(step)
    }

    fn any_head(
        &self,
        state: &mut dyn AnyState,
        step: &Step,
        branch: Branch,
        x: &Head<'_>,
    ) -> Result<Verdict> {
        self.head(own(state)?, step, branch, x)
    }

    fn any_tail(
        &self,
        state: &mut dyn AnyState,
        step: &Step,
        branch: Branch,
        x: &Streams,
        y: &Streams,
    ) -> Result<()> {
        self.tail(own(state)?, step, branch, x, y)
    }
}

fn own<S: SlotState>(state: &mut dyn AnyState) -> Result<&mut S> {
    let state: &mut dyn Any = state;
    match state.downcast_mut() {
        Some(state) => Ok(state),
        None => bail!("a slot holds another strategy's state"),
    }
}
