//! Metadata of the FLUX.1 models, for strategies.

use magcache_core::{ModelMeta, Signal, StackMeta, inventory};

use super::FluxConfig;
use crate::flux::meta::{model, sized, stacks};

static STACKS: [StackMeta; 2] = stacks(19, 38);

static TINY_STACKS: [StackMeta; 2] = stacks(2, 4);

const SIGNALS: &[Signal] = &[Signal::ModulatedInput, Signal::TimestepEmbedding, Signal::Latents];

/// FLUX.1 dev and models of the same architecture, including Kontext: guidance is distilled.
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

/// The small trained model inside the binary.
pub const TINY: ModelMeta = model(
    "tiny-flux",
    "the FLUX.1 model inside the program: 2 dual-stream and 4 single-stream blocks of width 128",
    &TINY_STACKS,
    128,
    SIGNALS,
    &["tiny-flux"],
);

inventory::submit! { TINY }
inventory::submit! { DEV }
inventory::submit! { SCHNELL }

/// The registered model of a configuration; for other sizes, the family's model with those sizes and no
/// profile.
pub(crate) fn of(config: &FluxConfig) -> ModelMeta {
    let family = if config.guidance_embeds { DEV } else { SCHNELL };
    sized(family, [config.num_layers, config.num_single_layers], config.inner_dim())
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
