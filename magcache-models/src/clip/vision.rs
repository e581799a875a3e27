//! Pictures to hidden states.

use candle_core::{DType, Device, Result, Tensor};

use super::{
    ClipVisionConfig,
    layer::{ClipLayers, LayerSizes},
};
use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    nn::{LayerNorm, Linear, patchify},
};

/// `CLIPVisionModel` of transformers (5.23.0) up to the block before the last, which is all that Wan 2.1 uses
/// of it.
///
/// The last block, the norm after it and the projections are not loaded. Weights keep their storage type and
/// results are f32.
#[derive(Clone, Debug)]
pub struct ClipVisionEncoder {
    config: ClipVisionConfig,
    /// `[hidden_size]`.
    class_embedding: Tensor,
    patch_embedding: Linear,
    /// `[tokens, hidden_size]`.
    position_embedding: Tensor,
    pre_layrnorm: LayerNorm,
    layers: ClipLayers,
}

impl ClipVisionEncoder {
    /// Reads an `image_encoder` folder.
    pub fn open(
        folder: &Folder,
        device: &Device,
        dtype: WeightDtype,
    ) -> std::result::Result<Self, CheckpointError> {
        let config = ClipVisionConfig::read(folder)?;
        Self::load(&Weights::open(folder, device, dtype)?, &config)
    }

    /// Loads the tensors from `weights`, by their names on the hub (`vision_model.encoder.layers.0...`) or as
    /// transformers 5 writes them, without `vision_model.`.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn load(weights: &Weights, config: &ClipVisionConfig) -> std::result::Result<Self, CheckpointError> {
        const PREFIX: &str = "vision_model";
        weights.spare(&["visual_projection.", "text_projection.", "text_model.", "logit_scale"]);
        let bare = weights.contains("embeddings.class_embedding");
        let weights = if bare { weights.clone() } else { weights.pp(PREFIX) };
        let (channels, patch) = (config.hidden_size, config.patch_size);
        let last = format!("encoder.layers.{}.", config.num_hidden_layers - 1);
        weights.spare(&[&last, "post_layernorm.", "embeddings.position_ids"]);
        let embeddings = weights.pp("embeddings");
        let kernel = [channels, config.num_channels, patch, patch];
        let kernel = embeddings.pp("patch_embedding").get("weight", &kernel)?.flatten_from(1)?;
        let sizes = LayerSizes {
            channels,
            hidden: config.intermediate_size,
            heads: config.num_attention_heads,
            eps: config.layer_norm_eps,
            activation: config.hidden_act,
        };
        Ok(Self {
            class_embedding: embeddings.get_f32("class_embedding", &[channels])?,
            patch_embedding: Linear::new(weights.ops(), kernel, None)?,
            position_embedding: embeddings
                .pp("position_embedding")
                .get_f32("weight", &[config.tokens(), channels])?,
            // Spelled like this in every checkpoint.
            pre_layrnorm: LayerNorm::load(&weights.pp("pre_layrnorm"), channels, config.layer_norm_eps)?,
            layers: ClipLayers::load(&weights, config.num_hidden_layers - 1, &sizes)?,
            config: config.clone(),
        })
    }

    /// The configuration that the encoder was built from.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// Normalised pixels `[batch, 3, image_size, image_size]` to the hidden states before the last block
    /// (`hidden_states[-2]` in transformers), f32 `[batch, tokens, hidden_size]`: the whole picture's token,
    /// then the patches row by row.
    ///
    /// # Errors
    /// Pixels of another shape.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Tensor> {
        self.run(pixel_values, |_| ())
    }

    /// The input of the first block, then the output of each loaded block: `hidden_states` of transformers
    /// without its last entry.
    pub fn hidden_states(&self, pixel_values: &Tensor) -> Result<Vec<Tensor>> {
        let mut all = Vec::with_capacity(self.layers.len() + 1);
        let last = self.run(pixel_values, |hidden_states| all.push(hidden_states.clone()))?;
        all.push(last);
        Ok(all)
    }

    /// Calls `before` with the input of each block.
    fn run(&self, pixel_values: &Tensor, before: impl FnMut(&Tensor)) -> Result<Tensor> {
        let hidden_states = self.pre_layrnorm.forward(&self.embed(pixel_values)?)?;
        self.layers.forward(hidden_states, None, before)
    }

    fn embed(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = pixel_values.dims4()?;
        let (size, patch, grid) = (self.config.image_size, self.config.patch_size, self.config.grid());
        if [channels, height, width] != [self.config.num_channels, size, size] {
            candle_core::bail!(
                "pixels {:?}: the image encoder takes [batch, 3, {size}, {size}]",
                pixel_values.shape()
            );
        }
        // A convolution whose stride is its kernel leaves out pixels that do not fill a patch.
        let seen = grid * patch;
        let pixels = pixel_values.to_dtype(DType::F32)?.narrow(2, 0, seen)?.narrow(3, 0, seen)?;
        let patches = patchify(&pixels.unsqueeze(2)?, [1, patch, patch])?;
        let patches = self.patch_embedding.forward(&patches)?;
        let class = self.class_embedding.expand((batch, 1, self.config.hidden_size))?;
        Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.position_embedding)
    }
}
