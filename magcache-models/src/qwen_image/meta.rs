//! Metadata of the Qwen-Image models, for strategies.

use magcache_core::{ModelMeta, Role, Signal, StackMeta, inventory};

use super::QwenImageConfig;
use crate::mmdit::ATTENTION;

/// The feed-forward layers of a block, one for each stream.
pub(super) const IMAGE_MLP: &str = "img_mlp";
pub(super) const TEXT_MLP: &str = "txt_mlp";

/// The outputs of a block, in diffusers' order: `(encoder_hidden_states, hidden_states)`.
pub(super) const OUTPUTS: &[Role] = &[Role::Text, Role::Image];

static STACKS: [StackMeta; 1] = [StackMeta { name: "transformer_blocks", blocks: 60, outputs: OUTPUTS }];

const fn model(name: &'static str, summary: &'static str, profiles: &'static [&'static str]) -> ModelMeta {
    ModelMeta::of(name, env!("CARGO_PKG_NAME"))
        .summary(summary)
        .stacks(&STACKS)
        .modules(&[ATTENTION, IMAGE_MLP, TEXT_MLP])
        .signals(&[
            Signal::ModulatedInput,
            Signal::TimestepEmbedding,
            Signal::TimestepProjection,
            Signal::Latents,
        ])
        .hidden_size(3072)
        .profiles(profiles)
        .meta()
}

/// Qwen-Image, 2512 and Lightning: text to image. They have one configuration, so nothing tells 2512 from the
/// first release: who runs it names its profile.
pub const QWEN_IMAGE: ModelMeta = model(
    "qwen-image",
    "Qwen-Image: 60 dual-stream blocks of width 3072, true classifier-free guidance",
    &["qwen-image", "qwen-image-2512"],
);

/// Qwen-Image-Edit, of all versions: one or several pictures and text to image.
pub const QWEN_IMAGE_EDIT: ModelMeta = model(
    "qwen-image-edit",
    "Qwen-Image-Edit: 60 dual-stream blocks of width 3072, which look at one or several pictures",
    &["qwen-image-edit"],
);

inventory::submit! { QWEN_IMAGE }
inventory::submit! { QWEN_IMAGE_EDIT }

/// The registered model of a configuration; for other sizes, it with those sizes and no profile.
pub(crate) fn of(config: &QwenImageConfig, edit: bool) -> ModelMeta {
    let family = if edit { QWEN_IMAGE_EDIT } else { QWEN_IMAGE };
    let (blocks, width) = (config.num_layers, config.inner_dim());
    let own = family.blocks() == blocks && family.hidden_size == width;
    let profiles = if own { family.profiles.clone() } else { (&[]).into() };
    ModelMeta { hidden_size: width, profiles, ..family.with_blocks(&[blocks]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_the_registered_model_of_its_sizes() {
        let published = QwenImageConfig::default();
        assert_eq!((of(&published, false), of(&published, true)), (QWEN_IMAGE, QWEN_IMAGE_EDIT));
        let small = of(&QwenImageConfig { num_layers: 2, ..published }, false);
        assert_eq!((small.blocks(), small.profiles.len()), (2, 0));
    }
}
