//! What models and strategies say about themselves, and the lists that they register in.

use std::{borrow::Cow, ops::Range};

use crate::{ConfigError, Keys, Problem, Role, Signal, error::nearest};

/// What `at` names beside stacks and modules: every block, and the whole forward.
const ALL: &str = "all";
pub(crate) const FORWARD: &str = "forward";

/// One stack of like blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackMeta {
    /// Its name as a range in a configuration (`at = "single"`).
    pub name: Cow<'static, str>,
    /// Blocks in it.
    pub blocks: usize,
    /// What a block returns, in order: the residual tuple indices.
    pub outputs: Cow<'static, [Role]>,
}

/// One block of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMeta {
    /// Stack and place, `single.3`.
    pub name: String,
    /// What the block returns, in order.
    pub outputs: Cow<'static, [Role]>,
}

/// What a strategy needs to know about a model. Registered with `inventory::submit!`; a loaded checkpoint gives
/// its own copy with the sizes of its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMeta {
    /// The name in a configuration.
    pub name: Cow<'static, str>,
    /// One line.
    pub summary: Cow<'static, str>,
    /// The stacks in the order in which they run.
    pub stacks: Cow<'static, [StackMeta]>,
    /// Modules inside blocks that caches can surround, as ranges in a configuration (`at = "attn1"`): the names that the
    /// forward gives to [`Modules::module`](crate::Modules::module). Not every block need have each of them.
    pub modules: Cow<'static, [&'static str]>,
    /// Networks, in the order of their phases.
    pub experts: Cow<'static, [&'static str]>,
    /// True when a step has a conditional and an unconditional pass.
    pub guided: bool,
    /// True when something behind the last block reads the text stream.
    pub text_after: bool,
    /// The signals that it shows.
    pub signals: Cow<'static, [Signal]>,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Built-in profiles made for it, the default first.
    pub profiles: Cow<'static, [&'static str]>,
    /// The crate that registers it.
    pub origin: &'static str,
}

impl ModelMeta {
    /// A model of one image stream with default everything: for tests and small crates.
    pub fn simple(name: &'static str, blocks: usize) -> Self {
        let stack = StackMeta { name: "blocks".into(), blocks, outputs: Cow::Borrowed(&[Role::Image]) };
        Self {
            name: name.into(),
            summary: "".into(),
            stacks: vec![stack].into(),
            modules: Cow::Borrowed(&[]),
            experts: Cow::Borrowed(&["transformer"]),
            guided: true,
            text_after: false,
            signals: Cow::Borrowed(&[Signal::ModulatedInput]),
            hidden_size: 1,
            profiles: Cow::Borrowed(&[]),
            origin: env!("CARGO_PKG_NAME"),
        }
    }

    /// The same model with other stack sizes, in order. Stacks without a size keep theirs.
    #[must_use]
    pub fn with_blocks(mut self, blocks: &[usize]) -> Self {
        for (stack, blocks) in self.stacks.to_mut().iter_mut().zip(blocks) {
            stack.blocks = *blocks;
        }
        self
    }

    /// Blocks of all stacks.
    pub fn blocks(&self) -> usize {
        self.stacks.iter().map(|s| s.blocks).sum()
    }

    /// The whole stack.
    pub fn whole(&self) -> Range<usize> {
        0..self.blocks()
    }

    /// Every block in order.
    pub fn block_metas(&self) -> Vec<BlockMeta> {
        let of = |s: &StackMeta| {
            let (name, outputs) = (s.name.clone(), s.outputs.clone());
            (0..s.blocks).map(move |i| BlockMeta { name: format!("{name}.{i}"), outputs: outputs.clone() })
        };
        self.stacks.iter().flat_map(|s| of(s).collect::<Vec<_>>()).collect()
    }

    /// What is wrong with the names that a configuration can use: each must mean one thing.
    pub fn problems(&self) -> Vec<Problem> {
        let stacks = self.stacks.iter().map(|s| ("stack", &*s.name));
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
        if at == ALL {
            return Ok(self.whole());
        }
        let mut first = 0;
        for stack in self.stacks.iter() {
            if stack.name == at {
                return Ok(first..first + stack.blocks);
            }
            first += stack.blocks;
        }
        let numbers: Option<Vec<usize>> = at.split("..").map(|n| n.trim().parse().ok()).collect();
        let range = match numbers.as_deref() {
            Some([block]) => *block..block.saturating_add(1),
            Some([start, end]) => *start..*end,
            _ => {
                let names = self.stacks.iter().map(|s| &*s.name);
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

/// Where a strategy acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Around a range of blocks.
    Blocks,
    /// Around a module inside every block that has it. No strategy is at home there; `at` places it.
    Modules,
    /// Around the whole forward.
    Forward,
}

/// What a strategy says about itself. Registered with `inventory::submit!`.
#[derive(Debug)]
pub struct StrategyInfo {
    /// The name in a configuration.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Where it acts.
    pub level: Level,
    /// A `[[cache]]` table that parses and skips something on a guided model; with `never` set, nothing.
    pub example: &'static str,
    /// A `[[cache]]` table with which the strategy runs and skips nothing.
    pub never: &'static str,
    /// Its own keys: [`keys_of`](crate::keys_of) of the type that reads them.
    pub keys: fn() -> Keys,
    /// The crate that registers it.
    pub origin: &'static str,
}

/// What a forecast says about itself. Registered with `inventory::submit!`.
#[derive(Debug)]
pub struct ForecastInfo {
    /// The `type` in a configuration.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Its own keys: [`keys_of`](crate::keys_of) of the type that reads them.
    pub keys: fn() -> Keys,
    /// The crate that registers it.
    pub origin: &'static str,
}

/// A calibration profile that ships in a crate. Registered with `inventory::submit!`.
#[derive(Debug)]
pub struct ProfileInfo {
    /// The name in a configuration; equals the profile's own.
    pub name: &'static str,
    /// The profile.
    pub toml: &'static str,
    /// The crate that registers it.
    pub origin: &'static str,
}

inventory::collect!(ModelMeta);
inventory::collect!(StrategyInfo);
inventory::collect!(ForecastInfo);
inventory::collect!(ProfileInfo);

/// Every registered model, by name.
pub fn models() -> Vec<&'static ModelMeta> {
    sorted(|m: &ModelMeta| &m.name)
}

/// Every registered strategy, by name.
pub fn strategies() -> Vec<&'static StrategyInfo> {
    sorted(|s: &StrategyInfo| s.name)
}

/// Every registered forecast, by name.
pub fn forecasts() -> Vec<&'static ForecastInfo> {
    sorted(|f: &ForecastInfo| f.name)
}

/// Every registered profile, by name.
pub fn profiles() -> Vec<&'static ProfileInfo> {
    sorted(|p: &ProfileInfo| p.name)
}

/// The registered model of this name.
pub fn model(name: &str) -> Result<&'static ModelMeta, ConfigError> {
    let known = models();
    known.iter().find(|m| m.name == name).copied().ok_or_else(|| ConfigError::UnknownName {
        place: "model".to_owned(),
        kind: "model",
        name: name.to_owned(),
        nearest: nearest(name, known.iter().map(|m| &*m.name)),
    })
}

fn sorted<T: inventory::Collect, F: Fn(&T) -> &str>(name: F) -> Vec<&'static T>
where
    &'static inventory::iter<T>: Sized,
    inventory::iter<T>: IntoIterator<Item = &'static T>,
{
    let mut all: Vec<&'static T> = inventory::iter::<T>.into_iter().collect();
    all.sort_by(|a, b| name(a).cmp(name(b)));
    all
}
