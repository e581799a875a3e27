//! Self-attention with rotary positions and cross-attention to text and image.

use candle_core::{Result, Tensor};

use super::{LoadResult, WanConfig};
use crate::checkpoint::Weights;
use crate::nn::{Linear, RmsNorm, RotaryTable, attention};
use crate::ranks::Sequence;

/// What both kinds of attention share: four projections and the norms of queries and keys.
#[derive(Debug)]
struct Projections {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    heads: usize,
}

impl Projections {
    fn load(weights: &Weights, config: &WanConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let linear = |name: &str| Linear::load(&weights.pp(name), inner, inner, true);
        Ok(Self {
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
            norm_q: RmsNorm::load(&weights.pp("norm_q"), inner, config.eps)?,
            norm_k: RmsNorm::load(&weights.pp("norm_k"), inner, config.eps)?,
            heads: config.num_attention_heads,
        })
    }
}

/// `attn1`: every token attends to every token.
#[derive(Debug)]
pub(super) struct SelfAttention(Projections);

impl SelfAttention {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> LoadResult<Self> {
        Ok(Self(Projections::load(weights, config)?))
    }

    /// `[batch, tokens, inner]` to the same shape, for the tokens of `sequence` that are here.
    pub(super) fn forward(&self, x: &Tensor, rope: &RotaryTable, sequence: &Sequence) -> Result<Tensor> {
        let p = &self.0;
        let q = p.to_q.forward_rms_norm_rotary(x, &p.norm_q, rope)?;
        let k = p.to_k.forward_rms_norm_rotary(x, &p.norm_k, rope)?;
        p.to_out.forward(&sequence.attention(p.to_out.ops(), &q, &k, &p.to_v.forward(x)?, p.heads)?)
    }
}

/// `attn2`: tokens attend to the text and, in some models, separately to an image.
#[derive(Debug)]
pub(super) struct CrossAttention {
    projections: Projections,
    image: Option<ImageProjections>,
}

#[derive(Debug)]
struct ImageProjections {
    add_k_proj: Linear,
    add_v_proj: Linear,
    norm_added_k: RmsNorm,
}

/// Keys and values of the text and of the image, `[batch, tokens, inner]` each.
#[derive(Debug)]
pub(super) struct KeysValues {
    text: (Tensor, Tensor),
    image: Option<(Tensor, Tensor)>,
}

impl KeysValues {
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.text).chain(&self.image).flat_map(|(k, v)| [k, v])
    }
}

impl CrossAttention {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let image = match config.added_kv_proj_dim {
            Some(added) => Some(ImageProjections {
                add_k_proj: Linear::load(&weights.pp("add_k_proj"), added, inner, true)?,
                add_v_proj: Linear::load(&weights.pp("add_v_proj"), added, inner, true)?,
                norm_added_k: RmsNorm::load(&weights.pp("norm_added_k"), inner, config.eps)?,
            }),
            None => None,
        };
        Ok(Self { projections: Projections::load(weights, config)?, image })
    }

    /// Keys and values of `text` and `image`, `[batch, tokens, inner]`: constant as long as the prompt is.
    pub(super) fn keys_values(&self, text: &Tensor, image: Option<&Tensor>) -> Result<KeysValues> {
        let p = &self.projections;
        let image = match (&self.image, image) {
            (Some(p), Some(image)) => {
                Some((p.add_k_proj.forward_rms_norm(image, &p.norm_added_k)?, p.add_v_proj.forward(image)?))
            }
            _ => None,
        };
        Ok(KeysValues { text: (p.to_k.forward_rms_norm(text, &p.norm_k)?, p.to_v.forward(text)?), image })
    }

    /// `[batch, tokens, inner]` to the same shape.
    pub(super) fn forward(&self, x: &Tensor, context: &KeysValues) -> Result<Tensor> {
        let p = &self.projections;
        let q = p.to_q.forward_rms_norm(x, &p.norm_q)?;
        let (k, v) = &context.text;
        let text = attention(p.to_out.ops(), &q, k, v, p.heads)?;
        let both = match &context.image {
            Some((k, v)) => (text + attention(p.to_out.ops(), &q, k, v, p.heads)?)?,
            None => text,
        };
        p.to_out.forward(&both)
    }
}
