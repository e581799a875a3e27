//! Metadata common to the models of both generations, for strategies.

use std::borrow::Cow;

use magcache_core::{ModelMeta, Role, Signal, StackMeta};

use crate::mmdit::ATTENTION;

/// The outputs of a block of either stack, in diffusers' order: `(encoder_hidden_states, hidden_states)`.
/// Single-stream blocks keep both in one sequence of the same order.
const OUTPUTS: &[Role] = &[Role::Text, Role::Image];

const MODULES: &[&str] = &[ATTENTION];

/// The two stacks of a Flux model.
pub(crate) const fn stacks(double: usize, single: usize) -> [StackMeta; 2] {
    [stack("double", double), stack("single", single)]
}

const fn stack(name: &'static str, blocks: usize) -> StackMeta {
    StackMeta { name, blocks, outputs: OUTPUTS }
}

/// The positions of text and image in the inputs and outputs of a dual-stream block of `meta`.
pub(crate) fn dual_outputs(meta: &ModelMeta) -> &[Role] {
    meta.stacks.first().map_or(&[], |stack| stack.outputs)
}

/// A model of either generation: without a guidance branch, and with text that nothing reads after the last
/// block.
pub(crate) const fn model(
    name: &'static str,
    summary: &'static str,
    stacks: &'static [StackMeta],
    hidden_size: usize,
    signals: &'static [Signal],
    profiles: &'static [&'static str],
) -> ModelMeta {
    ModelMeta {
        name: Cow::Borrowed(name),
        summary: Cow::Borrowed(summary),
        stacks: Cow::Borrowed(stacks),
        always_run: 0,
        modules: Cow::Borrowed(MODULES),
        experts: Cow::Borrowed(&["transformer"]),
        guided: false,
        text_after: false,
        signals: Cow::Borrowed(signals),
        hidden_size,
        profiles: Cow::Borrowed(profiles),
        origin: env!("CARGO_PKG_NAME"),
    }
}

/// `family` with these sizes, without its profiles if they are not its own.
pub(crate) fn sized(family: ModelMeta, blocks: [usize; 2], width: usize) -> ModelMeta {
    let own = family.stacks.iter().map(|stack| stack.blocks).eq(blocks) && family.hidden_size == width;
    let profiles = if own { family.profiles.clone() } else { (&[]).into() };
    ModelMeta { hidden_size: width, profiles, ..family.with_blocks(&blocks) }
}
