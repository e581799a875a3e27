//! A dual-stream block: text and image have weights of their own and meet in the attention.

use candle_core::{Result, Tensor};
use magcache_core::{Modules, Role, Streams};

use super::ATTENTION;
use super::JointPositions;
use super::LoadResult;
use super::attention::{Heads, JointAttention};
use super::feed_forward::{Activation, FeedForward};
use super::modulation::Modulation;
use crate::checkpoint::Weights;

/// `transformer_blocks.N` without the layers that compute its modulation.
#[derive(Debug)]
pub(crate) struct DualBlock {
    attn: JointAttention,
    ff: FeedForward,
    ff_context: FeedForward,
    eps: f64,
}

impl DualBlock {
    /// `hidden`: channels inside the feed-forward layers; `eps` is that of the layer norms.
    pub(crate) fn load(
        weights: &Weights,
        heads: Heads,
        hidden: usize,
        activation: Activation,
        eps: f64,
    ) -> LoadResult<Self> {
        let ff = |name: &str| FeedForward::load(&weights.pp(name), heads.inner(), hidden, activation);
        Ok(Self {
            attn: JointAttention::load(&weights.pp("attn"), heads)?,
            ff: ff("ff")?,
            ff_context: ff("ff_context")?,
            eps,
        })
    }

    /// The output tuple in diffusers' order, text and image, from the same inputs: `[batch, tokens, inner]`
    /// each.
    ///
    /// The modulations are those of the attention and of the feed-forward.
    pub(crate) fn forward(
        &self,
        [text, image]: [&Tensor; 2],
        [of_text, of_image]: [&[Modulation; 2]; 2],
        positions: &JointPositions,
        modules: &mut Modules<'_>,
    ) -> Result<[Tensor; 2]> {
        let [text_attention, text_forward] = of_text;
        let [image_attention, image_forward] = of_image;
        let normed = Streams::Dual {
            image: image_attention.norm(image, self.eps)?,
            text: text_attention.norm(text, self.eps)?,
        };
        let attended = modules.module(ATTENTION, normed, |x| {
            x.map_dual(|image, text| {
                self.attn.forward(text, image, positions).map(|(text, image)| (image, text))
            })
        })?;
        let [text_out, image_out] = tuple(&attended)?;
        let text = text_attention.add(text, &text_out)?;
        let image = image_attention.add(image, &image_out)?;
        let forward = |ff: &FeedForward, of: &Modulation, x: &Tensor| {
            ff.forward_gated_add(&of.norm(x, self.eps)?, x, of.gate())
        };
        Ok([forward(&self.ff_context, text_forward, &text)?, forward(&self.ff, image_forward, &image)?])
    }

    /// The attention's input from the image.
    pub(crate) fn modulated_input(&self, image: &Tensor, modulation: &[Modulation; 2]) -> Result<Tensor> {
        modulation[0].norm(image, self.eps)
    }
}

/// Text and image.
fn tuple(streams: &Streams) -> Result<[Tensor; 2]> {
    match streams {
        Streams::Dual { image, text } => Ok([text.clone(), image.clone()]),
        _ => candle_core::bail!("the attention of a dual-stream block gave one stream"),
    }
}

/// Runs a dual-stream block on its input and output tuple, whose positions `roles` names.
pub(crate) fn by_roles(
    roles: &[Role],
    x: Streams,
    block: impl FnOnce([&Tensor; 2]) -> Result<[Tensor; 2]>,
) -> Result<Streams> {
    let tuple = x.into_outputs(roles)?;
    match tuple.as_slice() {
        [first, second] => Streams::from_outputs(roles, block([first, second])?.into()),
        _ => candle_core::bail!("a dual-stream block takes 2 tensors, its metadata names {}", tuple.len()),
    }
}
