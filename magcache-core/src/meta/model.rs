//! Metadata of a model.

use std::{borrow::Cow, ops::Range};

use crate::{ConfigError, Problem, error::nearest};

/// A tensor that a model can show to a strategy, computed only when asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// Block 0's normalised and modulated input `[batch, tokens, channels]`.
    ModulatedInput,
    /// The time embedding `[batch, channels]` (Wan: `e`, `temb`).
    TimestepEmbedding,
    /// Its projection to the modulation of a block `[batch, n·channels]` (Wan: `e0`, `timestep_proj`).
    TimestepProjection,
    /// The latents that are denoised, `[batch, channels, frames, height, width]`, or
    /// `[batch, channels, height, width]` for pictures: the same for every guidance branch.
    Latents,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 4] =
        [Self::ModulatedInput, Self::TimestepEmbedding, Self::TimestepProjection, Self::Latents];

    /// The word for it in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ModulatedInput => "modulated-input",
            Self::TimestepEmbedding => "timestep-embedding",
            Self::TimestepProjection => "timestep-projection",
            Self::Latents => "latents",
        }
    }
}

/// Values of `at` besides stacks and modules: every block, and the whole forward.
const ALL: &str = "all";
pub(crate) const FORWARD: &str = "forward";

/// The role of one element of a block's output tuple: the "residual tuple indices" of a model's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The hidden states that are denoised.
    Image,
    /// The text stream.
    Text,
}

/// One stack of identical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackMeta {
    /// Its name as a range in a configuration (`at = "single"`).
    pub name: &'static str,
    /// Number of blocks.
    pub blocks: usize,
    /// The roles of the tensors that a block returns, in any order: whether there is a text stream.
    pub outputs: &'static [Role],
}

/// What a strategy needs to know about a model. Registered with `inventory::submit!`; a loaded checkpoint
/// provides its own copy with the sizes from its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMeta {
    /// The name in a configuration.
    pub name: Cow<'static, str>,
    /// One line.
    pub summary: Cow<'static, str>,
    /// The stacks in the order in which they run.
    pub stacks: Cow<'static, [StackMeta]>,
    /// Work that every pass does besides the blocks of the stacks, whatever is skipped, in blocks: what a
    /// skipped pass still costs.
    pub always_run: usize,
    /// Modules inside blocks that caches can surround (`at = "attn1"`): the names that the forward passes to
    /// [`Modules::module`](crate::Modules::module). Not every block needs to have each of them.
    pub modules: Cow<'static, [&'static str]>,
    /// The networks, in the order of their phases.
    pub experts: Cow<'static, [&'static str]>,
    /// Whether a step has a conditional and an unconditional pass.
    pub guided: bool,
    /// Whether something after the last block reads the text stream.
    pub text_after: bool,
    /// The signals that it exposes.
    pub signals: Cow<'static, [Signal]>,
    /// Width of the hidden states; 0 if it is not said.
    pub hidden_size: usize,
    /// Built-in profiles made for it, the default first.
    pub profiles: Cow<'static, [&'static str]>,
    /// The crate that registers it.
    pub origin: &'static str,
}

impl ModelMeta {
    /// The same model with other stack sizes, in order. Stacks without a size keep theirs.
    #[must_use]
    pub fn with_blocks(mut self, blocks: &[usize]) -> Self {
        for (stack, blocks) in self.stacks.to_mut().iter_mut().zip(blocks) {
            stack.blocks = *blocks;
        }
        self
    }

    /// Number of blocks in all stacks.
    pub fn blocks(&self) -> usize {
        self.stacks.iter().map(|s| s.blocks).sum()
    }

    /// The whole stack.
    pub fn whole(&self) -> Range<usize> {
        0..self.blocks()
    }

    /// Problems of the names that a configuration can use: each name must be unambiguous.
    pub fn problems(&self) -> Vec<Problem> {
        let stacks = self.stacks.iter().map(|s| ("stack", s.name));
        let named = stacks.chain(self.modules.iter().map(|name| ("module", *name)));
        let mut known = vec![("word of every configuration", ALL), ("word of every configuration", FORWARD)];
        let mut out = Vec::new();
        for (kind, name) in named {
            let place = format!("model {:?}", self.name);
            if let Some((other, _)) = known.iter().find(|(_, other)| *other == name) {
                out.push(Problem::error(place, format!("its {kind} {name:?} has the name of a {other}")));
            } else if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                out.push(Problem::error(place, format!("its {kind} {name:?} reads as a range of blocks")));
            }
            known.push((kind, name));
        }
        out
    }

    /// The blocks that `at` names: `all`, a stack's name, a block `7`, or a range `3..9`.
    pub fn range(&self, at: &str) -> Result<Range<usize>, ConfigError> {
        let mut first = 0;
        let mut named = (at == ALL).then(|| self.whole());
        for stack in self.stacks.iter() {
            if stack.name == at {
                named = Some(first..first + stack.blocks);
            }
            first += stack.blocks;
        }
        let numbers: Option<Vec<usize>> = at.split("..").map(|n| n.trim().parse().ok()).collect();
        let range = match (named, numbers.as_deref()) {
            (Some(named), _) => named,
            (None, Some([block])) => *block..block.saturating_add(1),
            (None, Some([start, end])) => *start..*end,
            _ => {
                let names = self.stacks.iter().map(|s| s.name);
                let names = names.chain(self.modules.iter().copied()).chain([ALL, FORWARD]);
                return Err(ConfigError::UnknownName {
                    place: "at".to_owned(),
                    kind: "range of blocks",
                    name: at.to_owned(),
                    nearest: nearest(at, names),
                });
            }
        };
        if range.is_empty() || range.end > self.blocks() {
            return Err(ConfigError::Range { at: range, blocks: self.blocks() });
        }
        Ok(range)
    }
}
