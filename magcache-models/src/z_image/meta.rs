//! Metadata of the Z-Image models, for strategies.

use magcache_core::{ModelMeta, Signal, StackMeta, inventory};

use super::{
    ZImageConfig,
    block::{ATTENTION, FEED_FORWARD},
};

/// Image and caption are one stream: a block returns one tensor, and what caches measure is measured over
/// both.
static STACKS: [StackMeta; 1] = [StackMeta::image("layers", 30)];

/// Blocks of `noise_refiner`, which a skipped step still runs: 2 of 32.
const REFINER: usize = 2;

const SIGNALS: &[Signal] =
    &[Signal::ModulatedInput, Signal::TimestepEmbedding, Signal::TimestepProjection, Signal::Latents];

const fn model(name: &'static str, summary: &'static str, guided: bool) -> ModelMeta {
    let of = ModelMeta::of(name, env!("CARGO_PKG_NAME"))
        .summary(summary)
        .stacks(&STACKS)
        .always_run(REFINER)
        .modules(&[ATTENTION, FEED_FORWARD])
        .experts(&["transformer"])
        .signals(SIGNALS)
        .hidden_size(3840);
    if guided { of.profiles(&["z-image"]).meta() } else { of.unguided().profiles(&["z-image-turbo"]).meta() }
}

/// Z-Image, the base model: guidance and many steps.
pub const BASE: ModelMeta = model("z-image", "Z-Image: 30 blocks of width 3840 over image and caption", true);

/// Z-Image-Turbo: distilled to 8 steps without guidance.
pub const TURBO: ModelMeta =
    model("z-image-turbo", "Z-Image-Turbo: 30 blocks of width 3840 over image and caption, 8 steps", false);

inventory::submit! { BASE }
inventory::submit! { TURBO }

/// The registered model of a configuration; for other sizes, one like it without profiles.
pub(crate) fn of(config: &ZImageConfig, turbo: bool) -> ModelMeta {
    let family = if turbo { TURBO } else { BASE };
    if (family.blocks(), family.hidden_size) == (config.n_layers, config.dim) {
        return family;
    }
    ModelMeta {
        hidden_size: config.dim,
        always_run: config.n_refiner_layers,
        profiles: (&[]).into(),
        ..family.with_blocks(&[config.n_layers])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_the_registered_model_of_its_sizes() {
        let published = ZImageConfig::default();
        assert_eq!((of(&published, true), of(&published, false)), (TURBO, BASE));
        let small = of(&ZImageConfig { n_layers: 3, dim: 16, ..published }, false);
        assert_eq!((small.blocks(), small.hidden_size, small.profiles.len()), (3, 16, 0));
        assert!(small.guided && !TURBO.guided);
    }
}
