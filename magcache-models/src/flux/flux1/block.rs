//! The blocks of FLUX.1, each with a modulation of its own.

use candle_core::{Result, Tensor};
use magcache_core::Modules;

use super::{FluxConfig, config::EPS};
use crate::{
    checkpoint::Weights,
    mmdit::{
        JointPositions, LoadResult,
        attention::{Heads, Projections},
        dual::DualBlock,
        feed_forward::Activation,
        modulation::Modulation,
        single::{Extent, SingleBlock},
    },
    nn::{JoinedLinear, Linear},
};

/// Hidden channels of the feed-forward layers, as a multiple of the width.
const MLP_RATIO: usize = 4;

fn heads(config: &FluxConfig) -> Heads {
    Heads { count: config.num_attention_heads, dim: config.attention_head_dim, eps: EPS, bias: true }
}

/// `transformer_blocks.N`.
#[derive(Debug)]
pub(super) struct FluxDualBlock {
    norm1: Linear,
    norm1_context: Linear,
    block: DualBlock,
}

impl FluxDualBlock {
    pub(super) fn load(weights: &Weights, config: &FluxConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let norm = |name: &str| Linear::load(&weights.pp(name), inner, 6 * inner, true);
        Ok(Self {
            norm1: norm("norm1.linear")?,
            norm1_context: norm("norm1_context.linear")?,
            block: DualBlock::load(weights, heads(config), MLP_RATIO * inner, Activation::GeluTanh, EPS)?,
        })
    }

    /// The output tuple in diffusers' order, text and image, from the same inputs: `[batch, tokens, inner]`
    /// each.
    ///
    /// `activated` is the embedding `[batch, inner]` after its `SiLU`.
    pub(super) fn forward(
        &self,
        tuple: [&Tensor; 2],
        activated: &Tensor,
        positions: &JointPositions,
        modules: &mut Modules<'_>,
    ) -> Result<[Tensor; 2]> {
        let of_text = Modulation::split(self.norm1.ops(), &self.norm1_context.forward(activated)?)?;
        let of_image = Modulation::split(self.norm1.ops(), &self.norm1.forward(activated)?)?;
        self.block.forward(tuple, [&of_text, &of_image], positions, modules)
    }

    /// The attention's input from the image.
    pub(super) fn modulated_input(&self, image: &Tensor, activated: &Tensor) -> Result<Tensor> {
        self.block
            .modulated_input(image, &Modulation::split(self.norm1.ops(), &self.norm1.forward(activated)?)?)
    }
}

/// `single_transformer_blocks.N`.
#[derive(Debug)]
pub(super) struct FluxSingleBlock {
    norm: Linear,
    block: SingleBlock,
}

impl FluxSingleBlock {
    pub(super) fn load(weights: &Weights, config: &FluxConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let hidden = MLP_RATIO * inner;
        Ok(Self {
            norm: Linear::load(&weights.pp("norm.linear"), inner, 3 * inner, true)?,
            block: SingleBlock {
                projections: Projections::load_image(&weights.pp("attn"), heads(config))?,
                proj_mlp: Linear::load(&weights.pp("proj_mlp"), inner, hidden, true)?,
                activation: Activation::GeluTanh,
                proj_out: JoinedLinear::load(&weights.pp("proj_out"), [inner, hidden], inner, true)?,
                heads: config.num_attention_heads,
                attn: Extent::Attention,
                eps: EPS,
            },
        })
    }

    /// `[batch, text tokens + image tokens, inner]` to the same shape.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        activated: &Tensor,
        positions: &JointPositions,
        modules: &mut Modules<'_>,
    ) -> Result<Tensor> {
        let [modulation] = Modulation::split(self.norm.ops(), &self.norm.forward(activated)?)?;
        self.block.forward(x, &modulation, positions, modules)
    }
}
