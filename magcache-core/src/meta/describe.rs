//! Metadata written as a constant.

use std::borrow::Cow;

use super::model::{ModelMeta, Role, Signal, StackMeta};

/// A model that describes itself; [`Describe::meta`] ends it. Everything that is not said is as for a model
/// of one network and one image stream (of no blocks: see [`ModelMeta::with_blocks`]) with guidance, without
/// signals, modules and profiles.
///
/// ```
/// use magcache_core::{ModelMeta, StackMeta, inventory};
///
/// pub const META: ModelMeta = ModelMeta::of("mine", env!("CARGO_PKG_NAME"))
///     .stacks(&[StackMeta::dual("double", 19), StackMeta::dual("single", 38)])
///     .meta();
/// inventory::submit! { META }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Describe {
    name: &'static str,
    origin: &'static str,
    summary: &'static str,
    stacks: &'static [StackMeta],
    always_run: usize,
    modules: &'static [&'static str],
    experts: &'static [&'static str],
    guided: bool,
    text_after: bool,
    signals: &'static [Signal],
    hidden_size: usize,
    profiles: &'static [&'static str],
}

/// One stack, whose size a checkpoint gives.
const ONE: &[StackMeta] = &[StackMeta::image("blocks", 0)];

impl ModelMeta {
    /// Begins the description of a model: its name in configurations, and the crate that registers it.
    pub const fn of(name: &'static str, origin: &'static str) -> Describe {
        Describe {
            name,
            origin,
            summary: "",
            stacks: ONE,
            always_run: 0,
            modules: &[],
            experts: &["transformer"],
            guided: true,
            text_after: false,
            signals: &[],
            hidden_size: 0,
            profiles: &[],
        }
    }
}

impl StackMeta {
    /// Blocks of one stream; text enters by cross-attention, if at all.
    pub const fn image(name: &'static str, blocks: usize) -> Self {
        Self { name, blocks, outputs: &[Role::Image] }
    }

    /// Blocks of an image stream and a text stream, apart or as one sequence.
    pub const fn dual(name: &'static str, blocks: usize) -> Self {
        Self { name, blocks, outputs: &[Role::Image, Role::Text] }
    }
}

impl Describe {
    /// One line about it.
    pub const fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    /// The stacks, in the order in which they run.
    pub const fn stacks(self, stacks: &'static [StackMeta]) -> Self {
        Self { stacks, ..self }
    }

    /// Work of a pass besides them that no cache replaces, in blocks; nothing worth mentioning if it is not
    /// said.
    pub const fn always_run(self, blocks: usize) -> Self {
        Self { always_run: blocks, ..self }
    }

    /// Modules inside blocks that caches can surround.
    pub const fn modules(self, modules: &'static [&'static str]) -> Self {
        Self { modules, ..self }
    }

    /// The networks, in the order of their phases.
    pub const fn experts(self, experts: &'static [&'static str]) -> Self {
        Self { experts, ..self }
    }

    /// A step has one pass: guidance is distilled, or there is none.
    pub const fn unguided(self) -> Self {
        Self { guided: false, ..self }
    }

    /// Something after the last block reads the text stream.
    pub const fn text_after(self) -> Self {
        Self { text_after: true, ..self }
    }

    /// The signals that it shows.
    pub const fn signals(self, signals: &'static [Signal]) -> Self {
        Self { signals, ..self }
    }

    /// Width of the hidden states, from which bytes are predicted; without it they are not.
    pub const fn hidden_size(self, hidden_size: usize) -> Self {
        Self { hidden_size, ..self }
    }

    /// Built-in profiles made for it, the default first.
    pub const fn profiles(self, profiles: &'static [&'static str]) -> Self {
        Self { profiles, ..self }
    }

    /// The metadata.
    pub const fn meta(self) -> ModelMeta {
        ModelMeta {
            name: Cow::Borrowed(self.name),
            summary: Cow::Borrowed(self.summary),
            stacks: Cow::Borrowed(self.stacks),
            always_run: self.always_run,
            modules: Cow::Borrowed(self.modules),
            experts: Cow::Borrowed(self.experts),
            guided: self.guided,
            text_after: self.text_after,
            signals: Cow::Borrowed(self.signals),
            hidden_size: self.hidden_size,
            profiles: Cow::Borrowed(self.profiles),
            origin: self.origin,
        }
    }
}
