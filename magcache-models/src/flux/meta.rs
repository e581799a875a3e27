//! What strategies need to know about the FLUX.1 models.

use std::borrow::Cow;

use magcache_core::{ModelMeta, Role, Signal, StackMeta, inventory};

use super::FluxConfig;

/// What a block of either stack returns, in diffusers' order: `(encoder_hidden_states, hidden_states)`. Single-stream
/// blocks keep both in one sequence of the same order.
const OUTPUTS: &[Role] = &[Role::Text, Role::Image];

/// The part of a block that caches can surround, as the checkpoint calls it: it gives both streams, in one sequence in
/// single-stream blocks.
pub(crate) const MODULES: &[&str] = &[ATTENTION];
pub(crate) const ATTENTION: &str = "attn";

/// The two stacks of a Flux model.
pub(crate) const fn stacks(double: usize, single: usize) -> [StackMeta; 2] {
    [stack("double", double), stack("single", single)]
}

const fn stack(name: &'static str, blocks: usize) -> StackMeta {
    StackMeta { name: Cow::Borrowed(name), blocks, outputs: Cow::Borrowed(OUTPUTS) }
}

/// The places of text and image in what a dual-stream block of `meta` takes and returns.
pub(crate) fn dual_outputs(meta: &ModelMeta) -> &[Role] {
    meta.stacks.first().map_or(&[], |stack| &stack.outputs)
}

static STACKS: [StackMeta; 2] = stacks(19, 38);

static TINY_STACKS: [StackMeta; 2] = stacks(2, 4);

/// A model of either generation: no branch of guidance, and text that nothing reads behind the last block.
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

const SIGNALS: &[Signal] = &[Signal::ModulatedInput, Signal::TimestepEmbedding];

/// FLUX.1 dev and what has its architecture, Kontext among them: guidance is distilled.
pub const DEV: ModelMeta = model(
    "flux.1-dev",
    "FLUX.1 dev and Kontext dev: 19 dual-stream and 38 single-stream blocks of width 3072",
    &STACKS,
    3072,
    SIGNALS,
    &["flux.1-dev", "flux.1-kontext-dev"],
);

/// FLUX.1 schnell: a few steps without guidance. No calibration was published.
pub const SCHNELL: ModelMeta = model(
    "flux.1-schnell",
    "FLUX.1 schnell: 19 dual-stream and 38 single-stream blocks of width 3072, a few steps",
    &STACKS,
    3072,
    SIGNALS,
    &[],
);

/// The small trained model inside the program.
pub const TINY: ModelMeta = model(
    "tiny-flux",
    "the FLUX.1 model inside the program: 2 dual-stream and 4 single-stream blocks of width 96",
    &TINY_STACKS,
    96,
    SIGNALS,
    &["tiny-flux"],
);

inventory::submit! { TINY }
inventory::submit! { DEV }
inventory::submit! { SCHNELL }

/// The registered model of a configuration; one of other sizes is its family's model with its own sizes and no profile.
pub(super) fn of(config: &FluxConfig) -> ModelMeta {
    let family = if config.guidance_embeds { DEV } else { SCHNELL };
    sized(family, [config.num_layers, config.num_single_layers], config.inner_dim())
}

/// `family` with these sizes, without its profiles if they are not its own.
pub(crate) fn sized(family: ModelMeta, blocks: [usize; 2], width: usize) -> ModelMeta {
    let own = family.stacks.iter().map(|stack| stack.blocks).eq(blocks) && family.hidden_size == width;
    let profiles = if own { family.profiles.clone() } else { (&[]).into() };
    ModelMeta { hidden_size: width, profiles, ..family.with_blocks(&blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_the_registered_model_of_its_sizes() {
        let schnell = FluxConfig::default();
        assert_eq!(of(&schnell), SCHNELL);
        let dev = FluxConfig { guidance_embeds: true, ..schnell };
        assert_eq!(of(&dev), DEV);
        assert_eq!((DEV.blocks(), DEV.range("single").expect("a stack")), (57, 19..57));
        let small = of(&FluxConfig { num_single_layers: 4, ..dev.clone() });
        assert_eq!((small.blocks(), small.profiles.len()), (23, 0));
        let narrow = of(&FluxConfig { num_attention_heads: 2, ..dev });
        assert_eq!((narrow.hidden_size, narrow.profiles.len()), (256, 0));
    }
}
