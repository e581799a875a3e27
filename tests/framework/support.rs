//! Runs, models, sessions and hooks that these tests share.

use std::{fs, path::Path};

use magcache_core::{
    BuildCx,
    calibrate::Recording,
    chain::Builder,
    config::{Built, CacheEntry, Given},
    forecast::ForecastConfig,
    profile::{Curve, Provenance},
    testing::Bench,
};
use magcache_strategies::magcache::{Dialect, MagCache};
use serde_json::Value;

use crate::prelude::*;

/// A model of one image stream that shows its modulated input.
pub(crate) fn simple(name: &'static str, blocks: usize) -> ModelMeta {
    ModelMeta::of(name, "tests").signals(&[Signal::ModulatedInput]).meta().with_blocks(&[blocks])
}

pub(crate) const BOTH: [Branch; 2] = [Branch::Cond, Branch::Uncond];

/// A run of the conditional branch alone.
pub(crate) fn alone(steps: usize) -> Trajectory {
    Trajectory::plain(steps, &[Branch::Cond])
}

/// A run with guidance.
pub(crate) fn guided(steps: usize) -> Trajectory {
    Trajectory::plain(steps, &BOTH)
}

/// A run that a plan knows nothing of.
pub(crate) const ANY: Option<&Trajectory> = None;

/// Experts one after the other, each for so many steps; one with no steps is left out.
pub(crate) fn phases(lengths: &[usize]) -> Vec<Phase> {
    let mut start = 0;
    let lengths = lengths.iter().filter(|steps| **steps > 0).zip(0..);
    let phase = |(steps, expert): (&usize, u8)| {
        let first = start;
        start += steps;
        Phase { expert: Expert(expert), steps: first..start }
    };
    lengths.map(phase).collect()
}

/// A toy whose text is separate in the first blocks and joined to the image in the others.
pub(crate) fn dual(dual: usize, joint: usize) -> Toy {
    Toy::dual_joint(dual, joint, [Role::Text, Role::Image])
}

/// Every registered strategy.
pub(crate) fn strategies() -> Vec<&'static StrategyInfo> {
    magcache_strategies::link();
    meta::strategies()
}

/// A strategy that is registered.
pub(crate) fn strategy(name: &str) -> &'static StrategyInfo {
    strategies().into_iter().find(|info| info.name == name).unwrap()
}

/// What the tables in `text` build for a model.
pub(crate) fn build<'a>(
    text: &str,
    model: &ModelMeta,
    run: impl Into<Option<&'a Trajectory>>,
) -> Result<Built, ConfigError> {
    magcache_strategies::link();
    CachePlan::parse(text)?.build(model, run.into())
}

/// A session with the tables in `text`.
#[track_caller]
pub(crate) fn session<'a>(text: &str, model: &ModelMeta, run: impl Into<Option<&'a Trajectory>>) -> Session {
    build(text, model, run).unwrap().registry.session()
}

/// A session with one strategy's own example.
pub(crate) fn example<'a>(info: &StrategyInfo, toy: &Toy, run: impl Into<Option<&'a Trajectory>>) -> Session {
    session(&format!("[[cache]]\n{}", info.example), toy.meta(), run)
}

/// Hooks around ranges of blocks, outermost first.
pub(crate) fn rings<const N: usize>(
    blocks: usize,
    rings: [(Range<usize>, Arc<dyn BlockHook>); N],
) -> Builder {
    let builder = HookRegistry::builder(blocks);
    rings.into_iter().fold(builder, |builder, (at, hook)| builder.ring(at, hook).unwrap())
}

/// A session of one hook around all blocks.
pub(crate) fn around(blocks: usize, hook: Arc<dyn BlockHook>) -> Session {
    rings(blocks, [(0..blocks, hook)]).build().session()
}

/// A session of one hook around all blocks that reuses at these steps, and stores tensors by this policy.
pub(crate) fn scripted(
    blocks: usize,
    reuse: impl IntoIterator<Item = usize>,
    storage: StoragePolicy,
) -> Session {
    rings(blocks, [(0..blocks, Script::at(reuse).hook(0))]).storage(storage).build().session()
}

/// The steps at which a hook replaced blocks of a branch.
pub(crate) fn reused(session: &Session, hook: u16, branch: Branch) -> Vec<usize> {
    session.log().reused(HookId(hook), branch).collect()
}

/// Asserts that two runs are of the same passes and give the same bits.
#[track_caller]
pub(crate) fn assert_same(a: &[Ran], b: &[Ran], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert_eq!((&a.step, a.branch), (&b.step, b.branch), "{what}");
        assert!(same_bits(&a.output, &b.output), "{what}: step {} {}", a.step.index, a.branch);
    }
}

/// A stream of ones `[1, tokens, channels]`.
pub(crate) fn ones(tokens: usize, channels: usize) -> Streams {
    Streams::Image(Tensor::ones((1, tokens, channels), DType::F32, &Device::Cpu).unwrap())
}

/// A MagCache curve of two branches.
pub(crate) fn curve(cond: Vec<f64>, uncond: Vec<f64>) -> Curve {
    let ratios = BTreeMap::from([("cond".to_owned(), cond), ("uncond".to_owned(), uncond)]);
    let steps = ratios["cond"].len();
    Curve {
        variant: None,
        expert: None,
        steps,
        dialect: None,
        flow_shift: None,
        boundary_ratio: None,
        ratios,
        std: BTreeMap::new(),
        cosine_distance: BTreeMap::new(),
        recommended: Vec::new(),
        source: Provenance::default(),
    }
}

/// MagCache's rule with a threshold, a cap and a retention.
pub(crate) fn rule(dialect: Dialect, setting: (f64, usize, f64), curves: Vec<Curve>) -> MagCache {
    let (threshold, max_skips, retention) = setting;
    let retention = Warmup::Fraction(retention);
    MagCache { dialect, threshold, max_skips, retention, curves, assume_steps: None }
}

/// What a program in `tests/reference` recorded: its report, and its tensors.
pub(crate) fn recorded(folder: &str) -> (Value, HashMap<String, Tensor>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let report = serde_json::from_str(&fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
    (report, candle_core::safetensors::load(folder.join("runs.safetensors"), &Device::Cpu).unwrap())
}

/// Asserts that a recording in which this tensor is another one, or missing, is refused with these words.
#[track_caller]
pub(crate) fn unread<const N: usize>(
    tensors: &HashMap<String, Tensor>,
    name: &str,
    other: Option<Tensor>,
    expected: [&str; N],
) {
    let mut tensors = tensors.clone();
    tensors.remove(name);
    tensors.extend(other.map(|tensor| (name.to_owned(), tensor)));
    let error = Recording::from_tensors(&tensors).unwrap_err().to_string();
    assert!(expected.iter().all(|part| error.contains(part)), "{error}");
}

/// The values of a tensor.
pub(crate) fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
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

    fn head(&self, (): &mut (), step: &Step, _: Branch, _: &Head<'_>) -> candle_core::Result<Verdict> {
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
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> candle_core::Result<Output> {
        let forced = if next.is_forced() { " forced" } else { "" };
        let blocks = next.blocks();
        self.say(&format!("in {blocks:?}{forced}"));
        let out = next.run(cx, x)?;
        self.say(&format!("out {blocks:?}"));
        Ok(out)
    }

    fn skipped(&self, _: &mut Cx<'_>, blocks: Range<usize>) {
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
    match entry.config.build(&cx).unwrap().on_tensors() {
        Err(hook) => hook,
        Ok((cache, guards)) => Arc::new(CacheHook::new(HookId(id), cache, None, guards)),
    }
}

/// Whether `outer` would leave blocks without block 0 to `inner`, which needs signals of the model: plans
/// refuse that.
fn cuts_off(outer: &StrategyInfo, inner: &StrategyInfo) -> bool {
    let cache = |info| {
        let (cache, _) = Bench::new(info, Toy::image(12)).cache()?;
        Some((cache.any_window(), cache.any_uses_signals()))
    };
    matches!((cache(outer), cache(inner)), (Some((window, _)), Some((_, true))) if window != Window::default())
}

/// Every pair of strategies of which neither takes from the other what it needs.
pub(crate) fn pairs() -> impl Iterator<Item = [&'static StrategyInfo; 2]> {
    let all = strategies().into_iter().flat_map(|a| strategies().into_iter().map(move |b| [a, b]));
    all.filter(|[outer, inner]| !cuts_off(outer, inner))
}

/// Two strategies around all blocks of a model or around its forward, whichever is their level, each with one
/// of its texts. No plan has two around the same blocks; a chain built by hand can.
pub(crate) fn chain(
    infos: [&StrategyInfo; 2],
    text: impl Fn(&StrategyInfo) -> &'static str,
    model: &ModelMeta,
    run: &Trajectory,
) -> Arc<HookRegistry> {
    let mut builder = HookRegistry::builder(model.blocks());
    for (id, info) in (0..).zip(infos) {
        let hook = hook_of(info, text(info), id, model, run);
        builder = match info.level {
            Level::Blocks | Level::Modules => builder.ring(model.whole(), hook).unwrap(),
            Level::Forward => builder.forward(hook),
        };
    }
    builder.build()
}
