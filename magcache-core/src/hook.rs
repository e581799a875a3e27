//! The onion: hooks around ranges of blocks, and the chain that runs them.
//!
//! The first ring of a registry is the outermost. A ring that covers a part of the range it is reached with
//! runs what lies before it, then itself, then what lies after; rings further in see each part on its own.

use std::{any::Any, fmt, fmt::Debug, ops::Range, sync::Arc};

use candle_core::{Result, Tensor, bail};

use crate::{
    AuditPolicy, Branch, DecisionLog, Expert, ForecastTable, ModuleRings, Reader, SlotKey, Slots,
    SnapshotError, Step, StoragePolicy, Streams, Writer, module,
};

/// Names one ring of a registry: its place in the configuration, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HookId(pub u16);

/// A tensor that a model can show to a strategy, computed only when asked for.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// Block 0's normalised and modulated input `[batch, tokens, channels]`.
    ModulatedInput,
    /// The time embedding `[batch, channels]` (Wan: `e`, `temb`).
    TimestepEmbedding,
    /// Its projection to the modulation of a block `[batch, n·channels]` (Wan: `e0`, `timestep_proj`).
    TimestepProjection,
}

/// The model's answer to a [`Signal`], given the input of block 0. A model without that signal returns an error.
pub type Probe<'a> = &'a dyn Fn(Signal, &Streams) -> Result<Tensor>;

/// Combines a metric over ranks before anything is decided from it, so that every rank decides alike.
pub type Reducer = Arc<dyn Fn(f64) -> Result<f64> + Send + Sync>;

/// What a range of blocks gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// The streams behind the range.
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
    /// Runs `next` whole, in parts, or not at all, and returns the streams behind it.
    ///
    /// An error abandons the pass: the slots that it touched are dropped.
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output>;

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
        Err(SnapshotError::Refused { hook: key.hook, name: format!("{self:?}") })
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
        Err(SnapshotError::Refused { hook: key.hook, name: format!("{self:?}") })
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
    fn acts_in(&self, expert: Expert) -> bool {
        self.experts.is_empty() || self.experts.contains(&expert)
    }
}

/// The block that is to run, and whether caches inside it must compute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) block: usize,
    pub(crate) forced: bool,
    /// Without any hook inside it.
    pub(crate) bare: bool,
}

pub(crate) type Block<'n> = &'n dyn Fn(&mut Cx<'_>, At, Streams) -> Result<Output>;

/// The rings further in and, at the centre, the blocks. Run all of it, a part, or none.
#[derive(Clone)]
pub struct Next<'n> {
    rings: &'n [Ring],
    /// The rings inside the blocks.
    modules: &'n [ModuleRings],
    blocks: Range<usize>,
    block: Block<'n>,
    /// Text that leaves a block before this one is read by somebody.
    text_until: usize,
    forced: bool,
    bare: bool,
}

impl<'n> Next<'n> {
    /// Everything that leaves these blocks is read, unless [`Next::text_ends`] says otherwise.
    pub(crate) fn new(rings: &'n [Ring], blocks: Range<usize>, block: Block<'n>) -> Self {
        Self { rings, modules: &[], blocks, block, text_until: usize::MAX, forced: false, bare: false }
    }

    /// Nothing behind the last of these blocks reads the text stream.
    pub(crate) fn text_ends(self) -> Self {
        Self { text_until: self.blocks.end, ..self }
    }

    /// With rings inside the blocks, which are told when a block is replaced.
    pub(crate) fn over(self, modules: &'n [ModuleRings]) -> Self {
        Self { modules, ..self }
    }

    /// The blocks left to run.
    pub fn blocks(&self) -> Range<usize> {
        self.blocks.clone()
    }

    /// True when a block behind these, or the model behind its last block, reads the text stream that leaves them.
    pub fn text_is_read(&self) -> bool {
        self.blocks.end < self.text_until
    }

    /// True when a ring further out wants these blocks really computed.
    pub fn is_forced(&self) -> bool {
        self.forced
    }

    /// The first `n` blocks and the rest; `n` is clamped to the range.
    pub fn split_at(self, n: usize) -> (Next<'n>, Next<'n>) {
        let middle = self.blocks.start.saturating_add(n).min(self.blocks.end);
        let head = Next { blocks: self.blocks.start..middle, ..self.clone() };
        (head, Next { blocks: middle..self.blocks.end, ..self })
    }

    /// Caches inside must compute; observers still see the blocks.
    #[must_use]
    pub fn forced(self) -> Next<'n> {
        Next { forced: true, ..self }
    }

    /// The blocks without any ring around them, further in or inside them: none is told, none learns.
    #[must_use]
    pub(crate) fn bare(self) -> Next<'n> {
        Next { rings: &[], modules: &[], bare: true, ..self }
    }

    /// Runs the rings and the blocks inside. They are never given a [`Streams::Sum`], and may return one.
    pub fn run(self, cx: &mut Cx<'_>, x: Streams) -> Result<Output> {
        if self.blocks.is_empty() {
            return Ok(Output { streams: x, exact: true });
        }
        let Some((ring, inner)) = self.rings.split_first() else {
            let mut out = Output { streams: x, exact: true };
            for block in self.blocks {
                let at = At { block, forced: self.forced, bare: self.bare };
                let y = (self.block)(cx, at, out.streams.added()?)?;
                out = Output { streams: y.streams, exact: out.exact && y.exact };
            }
            return Ok(out);
        };
        let inner = Next { rings: inner, ..self };
        if !ring.acts_in(cx.step.expert) {
            return inner.run(cx, x);
        }
        let (before, inside, after) = inner.around(&ring.at);
        let a = before.run(cx, x)?;
        let b = if inside.blocks.is_empty() {
            Output { streams: a.streams, exact: true }
        } else {
            ring.hook.call(cx, a.streams.added()?, inside)?
        };
        let c = after.run(cx, b.streams)?;
        Ok(Output { streams: c.streams, exact: a.exact && b.exact && c.exact })
    }

    /// Tells every ring inside that its blocks were replaced from further out.
    pub fn skip(self, cx: &mut Cx<'_>) {
        let Some((ring, inner)) = self.rings.split_first() else {
            return module::skip(self.modules, cx, self.blocks);
        };
        let inner = Next { rings: inner, ..self };
        if !ring.acts_in(cx.step.expert) {
            return inner.skip(cx);
        }
        let (before, inside, after) = inner.around(&ring.at);
        before.skip(cx);
        if !inside.blocks.is_empty() {
            ring.hook.skipped(cx, inside.blocks());
            inside.skip(cx);
        }
        after.skip(cx);
    }

    fn around(self, at: &Range<usize>) -> (Next<'n>, Next<'n>, Next<'n>) {
        let Range { start, end } = self.blocks;
        let (from, to) = (at.start.clamp(start, end), at.end.clamp(start, end));
        let (before, rest) = self.split_at(from - start);
        let (inside, after) = rest.split_at(to.saturating_sub(from));
        (before, inside, after)
    }
}

impl Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rings: Vec<_> = self.rings.iter().map(|r| r.id).collect();
        f.debug_struct("Next").field("blocks", &self.blocks).field("rings", &rings).finish_non_exhaustive()
    }
}

/// Asks a probe that may be missing.
pub(crate) fn ask(probe: Option<Probe<'_>>, signal: Signal, x: &Streams) -> Result<Tensor> {
    match probe {
        Some(probe) => probe(signal, x),
        None => bail!(
            "a strategy asked for {signal:?}, which is about block 0: it is shown to hooks around blocks that begin there"
        ),
    }
}
