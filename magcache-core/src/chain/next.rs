//! The chain: runs the rings of the onion and, at its centre, the blocks.
//!
//! The first ring of a registry is the outermost. Where a ring covers only a part of the current range, the
//! blocks before it run first, then the ring, then the blocks after it; inner rings see each part separately.

use std::{fmt, fmt::Debug, ops::Range};

use candle_core::Result;

use super::{LazyOutput, ModuleRings, Ring};
use crate::{Cx, Output, Streams};

/// The block to run, and whether caches inside it must compute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) block: usize,
    pub(crate) forced: bool,
    /// Whether it runs without any hook inside it.
    pub(crate) bare: bool,
}

pub(crate) type Block<'n> = &'n dyn Fn(&mut Cx<'_>, At, Streams) -> Result<Output>;

/// The inner rings and, at the centre, the blocks. A hook runs all of it, a part, or none.
#[derive(Clone)]
pub struct Next<'n> {
    rings: &'n [Ring],
    /// The rings inside the blocks.
    modules: &'n [ModuleRings],
    blocks: Range<usize>,
    block: Block<'n>,
    /// The text stream is read after every block before this one.
    text_until: usize,
    forced: bool,
    bare: bool,
}

impl<'n> Next<'n> {
    /// A chain whose output streams are all read, unless [`Next::text_ends`] says otherwise.
    pub(crate) fn new(rings: &'n [Ring], blocks: Range<usize>, block: Block<'n>) -> Self {
        Self { rings, modules: &[], blocks, block, text_until: usize::MAX, forced: false, bare: false }
    }

    /// Nothing after the last of these blocks reads the text stream.
    pub(crate) fn text_ends(self) -> Self {
        Self { text_until: self.blocks.end, ..self }
    }

    /// Adds rings inside the blocks, which are told when a block is replaced.
    pub(crate) fn over(self, modules: &'n [ModuleRings]) -> Self {
        Self { modules, ..self }
    }

    /// The blocks left to run.
    pub fn blocks(&self) -> Range<usize> {
        self.blocks.clone()
    }

    /// Whether a later block, or the model after its last block, reads the text stream that leaves these
    /// blocks.
    pub fn text_is_read(&self) -> bool {
        self.blocks.end < self.text_until
    }

    /// Whether an outer ring requires these blocks to be computed.
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

    /// The blocks without the inner rings and the rings around their modules: none is called, told or taught.
    #[must_use]
    pub(crate) fn bare(self) -> Next<'n> {
        Next { rings: &[], modules: &[], bare: true, ..self }
    }

    /// Runs the inner rings and the blocks.
    pub fn run(self, cx: &mut Cx<'_>, x: Streams) -> Result<Output> {
        self.run_lazy(cx, x)?.added()
    }

    /// [`Next::run`] with the last addition left to the caller. Blocks and hooks never see a deferred
    /// addition.
    pub(crate) fn run_lazy(self, cx: &mut Cx<'_>, x: Streams) -> Result<LazyOutput> {
        let mut out = LazyOutput::from(Output { streams: x, exact: true });
        if self.blocks.is_empty() {
            return Ok(out);
        }
        let Some((ring, inner)) = self.rings.split_first() else {
            for block in self.blocks {
                let at = At { block, forced: self.forced, bare: self.bare };
                out = out.then(|x| (self.block)(cx, at, x))?;
            }
            return Ok(out);
        };
        let inner = Next { rings: inner, ..self };
        if !ring.acts_in(cx.step.expert) {
            return out.then(|x| inner.run_lazy(cx, x));
        }
        let (before, inside, after) = inner.around(&ring.at);
        if !before.blocks.is_empty() {
            out = out.then(|x| before.run_lazy(cx, x))?;
        }
        if !inside.blocks.is_empty() {
            let outer = std::mem::replace(&mut cx.hook, ring.id);
            out = out.then(|x| ring.hook.call_lazy(cx, x, inside))?;
            cx.hook = outer;
        }
        if !after.blocks.is_empty() {
            out = out.then(|x| after.run_lazy(cx, x))?;
        }
        Ok(out)
    }

    /// Tells every inner ring that an outer ring replaced its blocks.
    pub fn skip(self, cx: &mut Cx<'_>) {
        let Some((ring, inner)) = self.rings.split_first() else {
            return skip_modules(self.modules, cx, self.blocks);
        };
        let inner = Next { rings: inner, ..self };
        if !ring.acts_in(cx.step.expert) {
            return inner.skip(cx);
        }
        let (before, inside, after) = inner.around(&ring.at);
        before.skip(cx);
        if !inside.blocks.is_empty() {
            let outer = std::mem::replace(&mut cx.hook, ring.id);
            ring.hook.skipped(cx, inside.blocks());
            cx.hook = outer;
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

/// Tells the rings around the modules of these blocks that an outer ring replaced the blocks.
fn skip_modules(modules: &[ModuleRings], cx: &mut Cx<'_>, blocks: Range<usize>) {
    let nothing = |_: &mut Cx<'_>, _: At, x: Streams| Ok(Output { streams: x, exact: false });
    for block in blocks {
        for ModuleRings { name, rings } in modules {
            Next::new(rings, block..block + 1, &nothing).skip(&mut cx.reborrow(Some(name)));
        }
    }
}

impl Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rings: Vec<_> = self.rings.iter().map(|r| r.id).collect();
        f.debug_struct("Next").field("blocks", &self.blocks).field("rings", &rings).finish_non_exhaustive()
    }
}
