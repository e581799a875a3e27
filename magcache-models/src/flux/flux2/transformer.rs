//! FLUX.2's transformer.

use candle_core::{Result, Tensor};

use super::{Flux2Config, meta};
use crate::{
    blocks::Residence,
    checkpoint::Weights,
    flux::transformer::{Sizes, Transformer},
    mmdit::{BlockSizes, Form, LoadResult, PromptContext},
};

/// The diffusion transformer of FLUX.2: dev and klein.
///
/// Compared with FLUX.1: no biases, one modulation shared by all blocks of a stack, `SwiGLU` feed-forwards,
/// one input projection for attention and feed-forward in single-stream blocks, positions of four axes, and
/// no pooled text.
///
/// Source: `Flux2Transformer2DModel` of diffusers 0.42.1, without its cache of the keys and values of
/// reference images.
pub type Flux2Transformer = Transformer<Flux2Config, 4>;

impl Flux2Transformer {
    /// Loads the tensors of the diffusers layout.
    ///
    /// Fails if a tensor is missing or has another shape than `config` implies.
    pub fn load(weights: &Weights, config: Flux2Config) -> LoadResult<Self> {
        Self::load_in(weights, config, &Residence::Memory)
    }

    /// The same with the weights of its blocks elsewhere while these do not run.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_in(weights: &Weights, config: Flux2Config, residence: &Residence) -> LoadResult<Self> {
        let sizes = Sizes {
            meta: meta::of(&config),
            blocks: BlockSizes {
                form: Form::SwiGlu,
                heads: config.num_attention_heads,
                head_dim: config.attention_head_dim,
                hidden: config.mlp_hidden_dim(),
                eps: config.eps,
            },
            layers: [config.num_layers, config.num_single_layers],
            channels: [config.in_channels, config.joint_attention_dim, config.outputs()],
            pooled: None,
            frequencies: config.timestep_guidance_channels,
            guidance_embeds: config.guidance_embeds,
            axes: config.axes_dims_rope,
            theta: config.rope_theta,
        };
        Self::new(weights, config, sizes, residence)
    }

    /// Prepares text embeddings `[batch, tokens, joint_attention_dim]` for use at every step.
    ///
    /// All tokens take part in attention, so padding must be as in training.
    pub fn text_context(&self, text: &Tensor) -> Result<PromptContext> {
        self.context(text, None)
    }
}
