//! A dual-stream block with a modulation of its own for each stream.

use candle_core::{Result, Tensor};
use magcache_core::{Modules, Streams};

use super::{
    QwenImageConfig,
    config::EPS,
    meta::{IMAGE_MLP, TEXT_MLP},
};
use crate::{
    checkpoint::Weights,
    mmdit::{
        ATTENTION, BlockSizes, Form, JointPositions, LoadResult, attention::JointAttention,
        feed_forward::FeedForward, modulation::Modulation,
    },
    nn::Linear,
};

/// `transformer_blocks.N`.
#[derive(Debug)]
pub(super) struct Block {
    img_mod: Linear,
    txt_mod: Linear,
    attn: JointAttention,
    img_mlp: FeedForward,
    txt_mlp: FeedForward,
}

/// The embedding of a step's timestep as the blocks read it.
#[derive(Debug)]
pub(super) struct Conditioning {
    /// After its `SiLU`, `[batch, inner]`.
    pub(super) activated: Tensor,
    /// Where tokens of reference pictures are modulated as at timestep 0: that one's embedding after the
    /// step's, `[2 * batch, inner]`, and the tokens that are here of the target.
    pub(super) clean: Option<(Tensor, usize)>,
}

/// The modulation of a part of a block: of all tokens, or of those before a place and of the others.
struct Parts {
    first: Modulation,
    others: Option<(usize, Modulation)>,
}

impl Parts {
    /// `f` on the tokens of each modulation.
    fn map<const N: usize>(
        &self,
        all: [&Tensor; N],
        f: impl Fn(&Modulation, [&Tensor; N]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let tokens = all.first().map_or(Ok(0), |x| x.dim(1))?;
        let (at, others) = match &self.others {
            None => return f(&self.first, all),
            Some((at, _)) if *at == tokens => return f(&self.first, all),
            Some((0, others)) => return f(others, all),
            Some((at, others)) => (*at, others),
        };
        let of = |modulation: &Modulation, start: usize, length: usize| {
            let parts = all.iter().map(|x| x.narrow(1, start, length)?.contiguous());
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let parts: Vec<&Tensor> = parts.iter().collect();
            match <[&Tensor; N]>::try_from(parts) {
                Ok(parts) => f(modulation, parts),
                Err(_) => candle_core::bail!("parts of another number of tensors"),
            }
        };
        Tensor::cat(&[of(&self.first, 0, at)?, of(others, at, tokens - at)?], 1)
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.map([x], |modulation, [x]| modulation.norm(x, EPS))
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.map([x, y], |modulation, [x, y]| modulation.add(x, y))
    }

    /// The feed-forward and what surrounds it; `mlp` is the module around its layers.
    fn feed_forward(
        &self,
        mlp: &str,
        layers: &FeedForward,
        x: &Tensor,
        modules: &mut Modules<'_>,
    ) -> Result<Tensor> {
        if !modules.surrounds(mlp) {
            return self.map([x], |modulation, [x]| {
                layers.forward_gated_add(&modulation.norm(x, EPS)?, x, modulation.gate())
            });
        }
        let run = |x: Streams| x.map_image(|x| layers.forward(x));
        let y = modules.module(mlp, Streams::Image(self.norm(x)?), run)?.into_image()?;
        self.add(x, &y)
    }
}

impl Block {
    pub(super) fn load(weights: &Weights, config: &QwenImageConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let sizes = BlockSizes {
            form: Form::Gelu,
            heads: config.num_attention_heads,
            head_dim: config.attention_head_dim,
            hidden: config.mlp_dim(),
            eps: EPS,
        };
        let modulator = |name: &str| Linear::load(&weights.pp(name), inner, 6 * inner, true);
        Ok(Self {
            img_mod: modulator("img_mod.1")?,
            txt_mod: modulator("txt_mod.1")?,
            attn: JointAttention::load(&weights.pp("attn"), &sizes)?,
            img_mlp: FeedForward::load(&weights.pp("img_mlp"), &sizes)?,
            txt_mlp: FeedForward::load(&weights.pp("txt_mlp"), &sizes)?,
        })
    }

    /// The output tuple in diffusers' order, text and image, from the same inputs: `[batch, tokens, inner]`
    /// each.
    pub(super) fn forward(
        &self,
        [text, image]: [&Tensor; 2],
        conditioning: &Conditioning,
        positions: &JointPositions,
        modules: &mut Modules<'_>,
    ) -> Result<[Tensor; 2]> {
        let [text_attention, text_forward] = parts(&self.txt_mod, &conditioning.activated, None)?;
        let [image_attention, image_forward] = self.of_image(conditioning)?;
        let normed = Streams::Dual { image: image_attention.norm(image)?, text: text_attention.norm(text)? };
        let attended = modules.module(ATTENTION, normed, |x| {
            x.map_dual(|image, text| {
                self.attn.forward(text, image, positions).map(|(text, image)| (image, text))
            })
        })?;
        let Streams::Dual { image: image_out, text: text_out } = attended else {
            candle_core::bail!("the attention of a dual-stream block gave one stream")
        };
        let text = text_attention.add(text, &text_out)?;
        let image = image_attention.add(image, &image_out)?;
        Ok([
            text_forward.feed_forward(TEXT_MLP, &self.txt_mlp, &text, modules)?,
            image_forward.feed_forward(IMAGE_MLP, &self.img_mlp, &image, modules)?,
        ])
    }

    /// The attention's input from the image.
    pub(super) fn modulated_input(&self, image: &Tensor, conditioning: &Conditioning) -> Result<Tensor> {
        let [attention, _] = self.of_image(conditioning)?;
        attention.norm(image)
    }

    /// The image's modulations of the step before they are split, `[batch, 6 * inner]`.
    pub(super) fn projection(&self, conditioning: &Conditioning) -> Result<Tensor> {
        self.img_mod.forward(&conditioning.activated)
    }

    fn of_image(&self, conditioning: &Conditioning) -> Result<[Parts; 2]> {
        match &conditioning.clean {
            None => parts(&self.img_mod, &conditioning.activated, None),
            Some((both, target)) => parts(&self.img_mod, both, Some(*target)),
        }
    }
}

/// The modulations of attention and feed-forward; with `split`, the second half of the rows is for the tokens
/// behind that place.
fn parts(layer: &Linear, activated: &Tensor, split: Option<usize>) -> Result<[Parts; 2]> {
    let rows = layer.forward(activated)?.unsqueeze(1)?;
    let Some(at) = split else {
        return Ok(Modulation::split(layer.ops(), &rows)?.map(|first| Parts { first, others: None }));
    };
    let batch = rows.dim(0)? / 2;
    let of = |start: usize| Modulation::split::<2>(layer.ops(), &rows.narrow(0, start, batch)?);
    let ([a, b], [c, d]) = (of(0)?, of(batch)?);
    Ok([Parts { first: a, others: Some((at, c)) }, Parts { first: b, others: Some((at, d)) }])
}
