//! Metadata of the FLUX.2 models, for strategies.
//!
//! Sizes: dev from the defaults of diffusers 0.42.1, klein from the parameters that Black Forest Labs publish
//! with their reference code.

use magcache_core::{ModelMeta, Signal, StackMeta, inventory};

use super::Flux2Config;
use crate::flux::meta::{model, sized, stacks};

static DEV_STACKS: [StackMeta; 2] = stacks(8, 48);
static KLEIN_4B_STACKS: [StackMeta; 2] = stacks(5, 20);
static KLEIN_9B_STACKS: [StackMeta; 2] = stacks(8, 24);

const SIGNALS: &[Signal] =
    &[Signal::ModulatedInput, Signal::TimestepEmbedding, Signal::TimestepProjection, Signal::Latents];

/// FLUX.2 dev: guidance is distilled.
pub const DEV: ModelMeta = model(
    "flux.2-dev",
    "FLUX.2 dev: 8 dual-stream and 48 single-stream blocks of width 6144",
    &DEV_STACKS,
    6144,
    SIGNALS,
    &["flux.2"],
);

/// FLUX.2 klein, 4B: a few steps without guidance.
pub const KLEIN_4B: ModelMeta = model(
    "flux.2-klein",
    "FLUX.2 klein, 4B: 5 dual-stream and 20 single-stream blocks of width 3072, a few steps",
    &KLEIN_4B_STACKS,
    3072,
    SIGNALS,
    &["flux.2-klein"],
);

/// FLUX.2 klein, 9B: a few steps without guidance.
pub const KLEIN_9B: ModelMeta = model(
    "flux.2-klein-9b",
    "FLUX.2 klein, 9B: 8 dual-stream and 24 single-stream blocks of width 4096, a few steps",
    &KLEIN_9B_STACKS,
    4096,
    SIGNALS,
    &["flux.2-klein"],
);

inventory::submit! { DEV }
inventory::submit! { KLEIN_4B }
inventory::submit! { KLEIN_9B }

/// The registered model of a configuration; for other sizes, the family's model with those sizes and no
/// profile.
pub(crate) fn of(config: &Flux2Config) -> ModelMeta {
    let width = config.inner_dim();
    let family = match config.guidance_embeds {
        true => DEV,
        false if width == KLEIN_9B.hidden_size => KLEIN_9B,
        false => KLEIN_4B,
    };
    sized(family, [config.num_layers, config.num_single_layers], width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_the_registered_model_of_its_sizes() {
        let dev = Flux2Config::default();
        assert_eq!(of(&dev), DEV);
        let klein = Flux2Config {
            guidance_embeds: false,
            num_layers: 5,
            num_single_layers: 20,
            num_attention_heads: 24,
            ..dev.clone()
        };
        assert_eq!(of(&klein), KLEIN_4B);
        let large =
            Flux2Config { num_layers: 8, num_single_layers: 24, num_attention_heads: 32, ..klein.clone() };
        assert_eq!(of(&large), KLEIN_9B);
        let small = of(&Flux2Config { num_layers: 2, ..klein });
        assert_eq!((small.blocks(), small.profiles.len()), (22, 0));
    }
}
