//! The chain: what runs the rings of the onion and, at the centre, the blocks.
//!
//! The first ring of a registry is the outermost. A ring that covers a part of the range it is reached with
//! runs what lies before it, then itself, then what lies after; rings further in see each part on its own.

use std::{fmt, fmt::Debug, ops::Range};

use candle_core::Result;

use super::{LazyOutput, ModuleRings, Ring, module};
use crate::{Cx, Output, Streams};

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

    /// Nothing after the last of these blocks reads the text stream.
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

    /// True when a block after these, or the model after its last block, reads the text stream that leaves them.
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

    /// Runs the rings and the blocks inside.
    pub fn run(self, cx: &mut Cx<'_>, x: Streams) -> Result<Output> {
        self.run_lazy(cx, x)?.added()
    }

    /// [`Next::run`], with the last addition left to the caller. Blocks and hooks are given streams that are added.
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
            out = out.then(|x| ring.hook.call_lazy(cx, x, inside))?;
        }
        if !after.blocks.is_empty() {
            out = out.then(|x| after.run_lazy(cx, x))?;
        }
        Ok(out)
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
