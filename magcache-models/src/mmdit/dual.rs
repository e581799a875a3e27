//! A dual-stream block: text and image have weights of their own and meet in the attention.

use candle_core::{Result, Tensor};
use magcache_core::{Modules, Role, Streams};

use super::{
    ATTENTION, BlockSizes, Form, JointPositions, LoadResult,
    attention::JointAttention,
    feed_forward::FeedForward,
    modulation::{Conditioning, Modulation, Modulator},
};
use crate::checkpoint::Weights;

/// `transformer_blocks.N`.
#[derive(Debug)]
pub(crate) struct DualBlock {
    /// In FLUX.1.
    norm1: Option<Modulator<2>>,
    norm1_context: Option<Modulator<2>>,
    attn: JointAttention,
    ff: FeedForward,
    ff_context: FeedForward,
    eps: f64,
}

impl DualBlock {
    pub(crate) fn load(weights: &Weights, sizes: &BlockSizes) -> LoadResult<Self> {
        let own = sizes.form == Form::Gelu;
        let modulator = |name: &str| own.then(|| Modulator::load(&weights.pp(name), sizes)).transpose();
        Ok(Self {
            norm1: modulator("norm1")?,
            norm1_context: modulator("norm1_context")?,
            attn: JointAttention::load(&weights.pp("attn"), sizes)?,
            ff: FeedForward::load(&weights.pp("ff"), sizes)?,
            ff_context: FeedForward::load(&weights.pp("ff_context"), sizes)?,
            eps: sizes.eps,
        })
    }

    /// The output tuple in diffusers' order, text and image, from the same inputs: `[batch, tokens, inner]`
    /// each.
    pub(crate) fn forward(
        &self,
        [text, image]: [&Tensor; 2],
        conditioning: &Conditioning,
        positions: &JointPositions,
        modules: &mut Modules<'_>,
    ) -> Result<[Tensor; 2]> {
        let [text_attention, text_forward] =
            conditioning.modulation(self.norm1_context.as_ref(), |shared| &shared.text)?;
        let [image_attention, image_forward] = self.of_image(conditioning)?;
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
        Ok([forward(&self.ff_context, &text_forward, &text)?, forward(&self.ff, &image_forward, &image)?])
    }

    /// The attention's input from the image.
    pub(crate) fn modulated_input(&self, image: &Tensor, conditioning: &Conditioning) -> Result<Tensor> {
        let [attention, _] = self.of_image(conditioning)?;
        attention.norm(image, self.eps)
    }

    /// The modulations of the image's attention and feed-forward.
    fn of_image(&self, conditioning: &Conditioning) -> Result<[Modulation; 2]> {
        conditioning.modulation(self.norm1.as_ref(), |shared| &shared.image)
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
