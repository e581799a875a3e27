//! What an author of a strategy writes: when to skip.

use std::{any::Any, fmt::Debug};

use candle_core::{Result, Tensor, bail};

use crate::{
    Branch, Forecast, LastResidual, Persist, Probe, Reducer, Signal, Step, Streams, Why, hook, metrics,
};

/// A decision, its cause, and the numbers behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Replace the blocks instead of running them.
    pub reuse: bool,
    /// The cause.
    pub why: Why,
    /// What was measured at this step. NaN or infinite: the adapter computes and resets the slot.
    pub metric: Option<f64>,
    /// What was compared with the threshold.
    pub accumulated: Option<f64>,
}

crate::fields!(Verdict { reuse, why, metric, accumulated });

impl Verdict {
    /// Run the blocks.
    pub fn compute(why: Why) -> Self {
        Self { reuse: false, why, metric: None, accumulated: None }
    }

    /// Replace the blocks.
    pub fn reuse(why: Why) -> Self {
        Self { reuse: true, why, metric: None, accumulated: None }
    }

    /// Reuse if `value < threshold`, else compute. NaN computes.
    pub fn below(value: f64, threshold: f64) -> Self {
        let verdict = if value < threshold { Self::reuse(Why::Under) } else { Self::compute(Why::Over) };
        Self { accumulated: Some(value), ..verdict }
    }

    /// Adds what was measured.
    #[must_use]
    pub fn metric(self, metric: f64) -> Self {
        Self { metric: Some(metric), ..self }
    }

    /// Adds what was compared with the threshold.
    #[must_use]
    pub fn accumulated(self, value: f64) -> Self {
        Self { accumulated: Some(value), ..self }
    }

    /// The same numbers with another decision to compute.
    #[must_use]
    pub fn overruled(self, why: Why) -> Self {
        Self { reuse: false, why, ..self }
    }

    /// False where a number behind the verdict is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        [self.metric, self.accumulated].iter().flatten().all(|v| v.is_finite())
    }
}

/// Blocks of a range that always run for real, whatever caches inside them would do (DBCache's Fn and Bn).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Blocks at the start.
    pub front: usize,
    /// Blocks at the end.
    pub back: usize,
}

/// What a forecast starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// What entered the range: a skipped range is rebuilt from its input.
    #[default]
    Input,
    /// What the conditional branch gave at this step: a skipped branch is rebuilt from another one. The conditional
    /// branch itself is always computed; a branch that runs before it is computed too.
    Leader,
}

/// What the slot of a strategy has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The last step at which every block of the range really ran; what a forecast builds on.
    pub last_computed: Option<usize>,
    /// Steps skipped since the last one that was run.
    pub consecutive: usize,
    /// Steps skipped in all.
    pub skipped: usize,
}

crate::fields!(History { last_computed, consecutive, skipped });

/// What a strategy may look at before it decides.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// What entered the range.
    pub input: &'a Streams,
    /// What the forecast starts from: what left the front blocks (the input where the window has no front), or with
    /// [`Base::Leader`] the conditional branch's output.
    pub fronted: &'a Streams,
    /// What the slot has seen.
    pub history: History,
    pub(crate) probe: Option<Probe<'a>>,
    pub(crate) reducer: Option<&'a Reducer>,
}

impl Head<'_> {
    /// A signal of the model, computed now.
    ///
    /// Errors: the model does not show it.
    pub fn signal(&self, signal: Signal) -> Result<Tensor> {
        hook::ask(self.probe, signal, self.input)
    }

    /// What the front blocks added to the denoised stream, `[batch, tokens, channels]`.
    pub fn front_residual(&self) -> Result<Tensor> {
        self.fronted.image()?.sub(&self.input.image()?)
    }

    /// What the front blocks added, and how far that is from `before` by [`metrics::relative_l1`], reduced over ranks: in one pass.
    pub fn front_residual_and_change(&self, before: &Tensor) -> Result<(Tensor, f64)> {
        let (fronted, input) = (self.fronted.image()?, self.input.image()?);
        let (now, change) = metrics::residual_and_relative_l1(&fronted, &input, before)?;
        Ok((now, self.reduce(change)?))
    }

    /// [`metrics::relative_l1`], reduced over ranks.
    pub fn relative_l1(&self, now: &Tensor, before: &Tensor) -> Result<f64> {
        self.reduce(metrics::relative_l1(now, before)?)
    }

    /// [`metrics::relative_l2`], reduced over ranks.
    pub fn relative_l2(&self, now: &Tensor, before: &Tensor) -> Result<f64> {
        self.reduce(metrics::relative_l2(now, before)?)
    }

    /// A metric of the strategy's own, reduced over ranks.
    pub fn reduce(&self, metric: f64) -> Result<f64> {
        self.reducer.map_or(Ok(metric), |reduce| reduce(metric))
    }
}

impl Debug for Head<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("history", &self.history).finish_non_exhaustive()
    }
}

/// State of a strategy in one slot: everything that `magcache_core::fields!(MyState { anchor, pending })` can store.
pub trait SlotState: Persist + Default + Send + 'static {}

impl<S: Persist + Default + Send + 'static> SlotState for S {}

/// When to skip. `self` is configuration and never changes; `State` is one slot's.
///
/// Whether there is anything to reuse, the warm-up and the caps that every strategy has in common, and the
/// failsafes are the adapter's business ([`CacheHook`](crate::CacheHook)): a strategy's verdict can be overruled
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

    /// True when `head` asks the model for a [`Signal`]. Signals are about block 0, so a range that begins elsewhere is refused.
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

/// A [`SlotState`] with its type erased. Implemented for every one; not for authors.
pub trait AnyState: Persist + Any + Send {}

impl<S: SlotState> AnyState for S {}

/// [`TimestepCache`] with its state erased, so that one adapter and the combinations can hold any strategy.
/// Implemented for every strategy; not for authors.
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
