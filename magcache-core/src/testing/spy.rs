//! Hooks, strategies and forecasts that record how they are called.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use serde::{Deserialize, Serialize};

use crate::{
    BlockHook, Branch, Cx, Head, Next, Output, Step, Streams, Verdict, Window,
    forecast::{Entered, Forecast, ForecastConfig, LastResidual},
    state::StoragePolicy,
    strategy::{AnyCache, AnyState, Base},
};

/// The calls in order: `head`, `tail`, `observe`, `predict`, each with its step.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<Vec<(&'static str, usize)>>>);

impl Calls {
    fn push(&self, what: &'static str, step: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((what, step));
    }

    /// Takes the calls since the last `take`.
    pub fn take(&self) -> Vec<(&'static str, usize)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A strategy that records how it is called.
#[derive(Debug)]
pub struct Spy {
    inner: Box<dyn AnyCache>,
    calls: Calls,
}

impl Spy {
    /// Wraps a strategy.
    pub fn new(inner: Box<dyn AnyCache>, calls: Calls) -> Self {
        Self { inner, calls }
    }
}

impl AnyCache for Spy {
    fn any_state(&self) -> Box<dyn AnyState> {
        self.inner.any_state()
    }

    fn any_window(&self) -> Window {
        self.inner.any_window()
    }

    fn any_base(&self) -> Base {
        self.inner.any_base()
    }

    fn any_forecast(&self, step: &Step) -> Box<dyn Forecast> {
        self.inner.any_forecast(step)
    }

    fn any_static(&self) -> bool {
        self.inner.any_static()
    }

    fn any_uses_signals(&self) -> bool {
        self.inner.any_uses_signals()
    }

    fn any_threshold(&self, step: &Step) -> Option<f64> {
        self.inner.any_threshold(step)
    }

    fn any_head(
        &self,
        state: &mut dyn AnyState,
        step: &Step,
        branch: Branch,
        x: &Head<'_>,
    ) -> Result<Verdict> {
        self.calls.push("head", step.index);
        self.inner.any_head(state, step, branch, x)
    }

    fn any_tail(
        &self,
        state: &mut dyn AnyState,
        step: &Step,
        branch: Branch,
        x: &Streams,
        y: &Streams,
    ) -> Result<()> {
        self.calls.push("tail", step.index);
        self.inner.any_tail(state, step, branch, x, y)
    }
}

/// The residual forecast, recording how it is called.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SpyForecast {
    #[serde(skip)]
    calls: Calls,
}

impl SpyForecast {
    /// Records into `calls`.
    pub fn new(calls: Calls) -> Self {
        Self { calls }
    }
}

#[derive(Debug)]
struct Watched {
    inner: LastResidual,
    calls: Calls,
}

crate::fields!(Watched { inner } given { calls });

#[typetag::serde(name = "magcache-testing-spy")]
impl ForecastConfig for SpyForecast {
    fn build(&self) -> Box<dyn Forecast> {
        Box::new(Watched { inner: LastResidual::default(), calls: self.calls.clone() })
    }
}

impl Forecast for Watched {
    fn observe(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        self.calls.push("observe", at.step.index);
        self.inner.observe(at, y, storage)
    }

    fn predict(&self, at: &Entered<'_>) -> Result<Option<Streams>> {
        self.calls.push("predict", at.step.index);
        self.inner.predict(at)
    }
}

/// A hook that runs its blocks but claims at some steps that it did not, like an inner cache that guessed.
#[derive(Clone, Debug, Default)]
pub struct Inexact {
    /// The steps at which it does.
    pub at: Vec<usize>,
}

impl BlockHook for Inexact {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let out = next.run(cx, x)?;
        Ok(Output { exact: out.exact && !self.at.contains(&cx.step.index), ..out })
    }
}
