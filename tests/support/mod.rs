//! Hooks and strategies that the tests of this crate share.
#![allow(dead_code, reason = "every test target uses its own part")]

use std::sync::{Arc, Mutex};

use candle_core::Result;
use magcache_core::{
    BlockHook, Branch, BuildCx, Cx, Guards, Head, HookRegistry, Level, ModelMeta, Next, Output, Session,
    Step, Strategy, StrategyInfo, Streams, TimestepCache, Trajectory, Verdict, Why, Window,
    config::{CacheEntry, Given},
    forecast::{ForecastConfig, ResidualConfig},
    meta,
    state::HookId,
    strategy::CacheHook,
    testing::{Bench, Toy},
};

/// Every registered strategy.
pub(crate) fn strategies() -> Vec<&'static StrategyInfo> {
    magcache_strategies::link();
    meta::strategies()
}

/// Reuses at the given steps, wherever there is something to reuse.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) reuse: Vec<usize>,
    pub(crate) window: Window,
}

impl Script {
    pub(crate) fn at(reuse: impl IntoIterator<Item = usize>) -> Self {
        Self { reuse: reuse.into_iter().collect(), window: Window::default() }
    }

    pub(crate) fn window(self, front: usize, back: usize) -> Self {
        Self { window: Window { front, back }, ..self }
    }

    /// Returns a hook that keeps the text stream.
    pub(crate) fn hook(self, id: u16) -> Arc<dyn BlockHook> {
        self.hook_with(id, Arc::new(ResidualConfig {}), Guards::default())
    }

    pub(crate) fn hook_with(
        self,
        id: u16,
        forecast: Arc<dyn ForecastConfig>,
        guards: Guards,
    ) -> Arc<dyn BlockHook> {
        Arc::new(CacheHook::new(HookId(id), Box::new(self), Some(forecast), guards))
    }
}

impl TimestepCache for Script {
    type State = ();

    fn window(&self) -> Window {
        self.window
    }

    fn head(&self, (): &mut (), step: &Step, _: Branch, _: &Head<'_>) -> Result<Verdict> {
        let reuse = self.reuse.contains(&step.index);
        Ok(if reuse { Verdict::reuse(Why::Scheduled) } else { Verdict::compute(Why::Scheduled) })
    }
}

/// An observer that records what it sees and changes nothing.
#[derive(Clone, Debug)]
pub(crate) struct Witness(pub(crate) &'static str, pub(crate) Arc<Mutex<Vec<String>>>);

impl Witness {
    fn say(&self, what: &str) {
        self.1.lock().unwrap().push(format!("{} {what}", self.0));
    }
}

impl BlockHook for Witness {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let forced = if next.is_forced() { " forced" } else { "" };
        let blocks = next.blocks();
        self.say(&format!("in {blocks:?}{forced}"));
        let out = next.run(cx, x)?;
        self.say(&format!("out {blocks:?}"));
        Ok(out)
    }

    fn skipped(&self, _: &mut Cx<'_>, blocks: std::ops::Range<usize>) {
        self.say(&format!("skipped {blocks:?}"));
    }
}

/// What witnesses recorded since the last call.
pub(crate) fn said(notes: &Mutex<Vec<String>>) -> Vec<String> {
    std::mem::take(&mut *notes.lock().unwrap())
}

/// A hook for a strategy's table around all of a toy.
pub(crate) fn hook_of(
    info: &StrategyInfo,
    text: &str,
    id: u16,
    model: &ModelMeta,
    run: &Trajectory,
) -> Arc<dyn BlockHook> {
    let entry = CacheEntry::from_table("table", toml::from_str(text).unwrap()).unwrap();
    let cx = BuildCx {
        place: "table",
        id: HookId(id),
        model,
        range: if info.level == Level::Forward { 0..1 } else { model.whole() },
        trajectory: Some(run),
        words: &Given::new(&entry.words, None),
        experts: &[],
    };
    match entry.config.build(&cx).unwrap() {
        Strategy::Hook(hook) => hook,
        Strategy::Cache(cache, guards) => Arc::new(CacheHook::new(HookId(id), cache, None, guards)),
    }
}

/// Whether `outer` would leave blocks without block 0 to `inner`, which needs signals of the model: plans
/// refuse that.
pub(crate) fn cuts_off(outer: &StrategyInfo, inner: &StrategyInfo) -> bool {
    let cache = |info| match Bench::new(info, Toy::image(12)).strategy() {
        Some(Strategy::Cache(cache, _)) => Some((cache.any_window(), cache.any_uses_signals())),
        _ => None,
    };
    matches!((cache(outer), cache(inner)), (Some((window, _)), Some((_, true))) if window != Window::default())
}

/// Two strategies that may skip nothing, around all blocks of a model or around its forward, whichever is
/// their level. No plan has two around the same blocks; a chain built by hand can.
pub(crate) fn idle_chain(
    [outer, inner]: [&StrategyInfo; 2],
    model: &ModelMeta,
    run: &Trajectory,
) -> Arc<HookRegistry> {
    let mut builder = HookRegistry::builder(model.blocks());
    for (id, info) in [(0, outer), (1, inner)] {
        let hook = hook_of(info, info.never, id, model, run);
        builder = match info.level {
            Level::Blocks | Level::Modules => builder.ring(model.whole(), hook).unwrap(),
            Level::Forward => builder.forward(hook),
        };
    }
    builder.build()
}

/// A session of `toy` with the `[[cache]]` tables in `text`.
pub(crate) fn session(toy: &Toy, text: &str, run: &Trajectory) -> Session {
    magcache_strategies::link();
    let plan = magcache_core::CachePlan::parse(text).unwrap();
    plan.build(toy.meta(), Some(run)).unwrap().registry.session()
}

/// A session with one strategy's own example.
pub(crate) fn example(info: &StrategyInfo, toy: &Toy, run: &Trajectory) -> Session {
    session(toy, &format!("[[cache]]\n{}", info.example), run)
}
