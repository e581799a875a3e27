//! The network of both generations: latents and a timestep to a prediction.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{ModelMeta, Pass, Signal, Stacks, Streams};

use super::meta::dual_outputs;
use crate::{
    blocks::{Blocks, Residence},
    checkpoint::Weights,
    mmdit::{
        AxesRope, BlockSizes, Form, IMAGE, JointPositions, LoadResult, PromptContext, TEXT,
        dual::{DualBlock, by_roles},
        embed::{Mlp, TimeEmbedder},
        head::Head,
        modulation::{Conditioning, SharedModulators},
        single::SingleBlock,
    },
    model_id::ModelId,
    nn::{Linear, silu},
    ranks::{self, DataPlane},
};

/// The lists of blocks of a checkpoint.
pub(in crate::flux) const DUAL_BLOCKS: &str = "transformer_blocks";
pub(in crate::flux) const SINGLE_BLOCKS: &str = "single_transformer_blocks";

/// A Flux transformer with positions of `AXES` axes, loaded with a configuration `C`:
/// [`FluxTransformer`](super::FluxTransformer) or [`Flux2Transformer`](super::Flux2Transformer).
///
/// Differences from diffusers: whatever depends only on the prompt or the ids is prepared once
/// ([`PromptContext`], [`JointPositions`]), a missing guidance scale is an error if the model has an embedder
/// for it, and all arithmetic is in f32 whatever the stored type of the weights.
///
/// The model holds weights only: it can serve several generations at once.
#[derive(Debug)]
pub struct Transformer<C, const AXES: usize> {
    id: ModelId,
    config: C,
    pub(super) meta: ModelMeta,
    device: Device,
    rope: AxesRope<AXES>,
    x_embedder: Linear,
    context_embedder: Linear,
    time: TimeEmbedder,
    /// Embeds the pooled text, in FLUX.1.
    pooled: Option<Mlp>,
    /// The modulations of all blocks, in FLUX.2.
    modulators: Option<SharedModulators>,
    pub(super) dual_blocks: Blocks<DualBlock>,
    pub(super) single_blocks: Blocks<SingleBlock>,
    head: Head,
    /// Type of the hidden states.
    dtype: DType,
    heads: usize,
    /// The ranks that divide the tokens.
    plane: Option<Arc<dyn DataPlane>>,
}

/// The sizes of a network that follow from its configuration.
pub(super) struct Sizes<const AXES: usize> {
    pub(super) meta: ModelMeta,
    pub(super) blocks: BlockSizes,
    /// Dual-stream and single-stream blocks.
    pub(super) layers: [usize; 2],
    /// Channels of a token, of a token of the text, and of a predicted token.
    pub(super) channels: [usize; 3],
    /// Channels of the pooled text.
    pub(super) pooled: Option<usize>,
    /// Length of the sinusoidal embedding.
    pub(super) frequencies: usize,
    pub(super) guidance_embeds: bool,
    pub(super) axes: [usize; AXES],
    /// Base of the geometric progression of rotary frequencies.
    pub(super) theta: f64,
}

impl<C, const AXES: usize> Transformer<C, AXES> {
    pub(super) fn new(
        weights: &Weights,
        config: C,
        sizes: Sizes<AXES>,
        residence: &Residence,
    ) -> LoadResult<Self> {
        let (blocks, inner, bias) = (&sizes.blocks, sizes.blocks.inner(), sizes.blocks.bias());
        let linear = |name: &str, inputs: usize| Linear::load(&weights.pp(name), inputs, inner, bias);
        let ([dual, single], [inputs, text, outputs]) = (sizes.layers, sizes.channels);
        let embedder = weights.pp(match blocks.form {
            Form::Gelu => "time_text_embed",
            Form::SwiGlu => "time_guidance_embed",
        });
        let of_block = sizes.blocks;
        let dual_block = move |weights: &Weights| DualBlock::load(weights, &of_block);
        let single_block = move |weights: &Weights| SingleBlock::load(weights, &of_block);
        let pooled = |channels| Mlp::load(&embedder.pp("text_embedder"), channels, inner, bias);
        let shared = blocks.form == Form::SwiGlu;
        Ok(Self {
            id: ModelId::default(),
            meta: sizes.meta,
            device: weights.device().clone(),
            rope: AxesRope::new(sizes.axes, sizes.theta),
            x_embedder: linear("x_embedder", inputs)?,
            context_embedder: linear("context_embedder", text)?,
            time: TimeEmbedder::load(&embedder, sizes.frequencies, inner, sizes.guidance_embeds, bias)?,
            pooled: sizes.pooled.map(pooled).transpose()?,
            modulators: shared.then(|| SharedModulators::load(weights, blocks)).transpose()?,
            dual_blocks: Blocks::load(weights, DUAL_BLOCKS, dual, residence, dual_block)?,
            single_blocks: Blocks::load(weights, SINGLE_BLOCKS, single, residence, single_block)?,
            head: Head::load(weights, blocks, outputs)?,
            dtype: weights.compute_dtype(),
            heads: blocks.heads,
            plane: None,
            config,
        })
    }

    /// The same, of whose tokens each of several ranks has some, of the text and of the image: all make the
    /// same calls, and each gets the whole prediction.
    ///
    /// # Errors
    /// More ranks than heads.
    pub fn over(self, plane: Option<&Arc<dyn DataPlane>>) -> Result<Self> {
        let plane = plane.cloned();
        ranks::check_heads(self.heads, plane.as_deref())?;
        Ok(Self { plane, ..self })
    }

    /// The same with hidden states of another type. Defaults to f32 on a CPU, elsewhere to the type of the
    /// weights.
    #[must_use]
    pub fn computing_in(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The sizes that the model was loaded with.
    pub fn config(&self) -> &C {
        &self.config
    }

    /// Metadata for strategies: the registered model of these sizes, or one like it without profiles.
    pub fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    /// Rounds the frequencies `which` of the timestep embedding, counted from 0, to the f32 above the
    /// nearest, as torch does on some CPUs; for comparisons with recorded runs. See
    /// [`Sinusoids::rounded_up`](crate::nn::Sinusoids::rounded_up).
    #[cfg(feature = "verify")]
    pub fn round_frequencies_up(&mut self, which: &[usize]) -> Result<()> {
        self.time.round_up(which)
    }

    /// The context of `text` `[batch, tokens, channels]` and, in FLUX.1, of the pooled text.
    pub(super) fn context(&self, text: &Tensor, pooled: Option<&Tensor>) -> Result<PromptContext> {
        let (batch, _, _) = text.dims3()?;
        let pooled = match (&self.pooled, pooled) {
            (None, _) => None,
            (Some(embedder), Some(pooled)) if pooled.dims() == [batch, embedder.inputs()] => {
                Some(embedder.forward(&pooled.to_dtype(DType::F32)?)?)
            }
            (Some(embedder), Some(pooled)) => {
                let (got, channels) = (pooled.shape(), embedder.inputs());
                candle_core::bail!("pooled text has shape {got:?}, expected [{batch}, {channels}]")
            }
            (Some(_), None) => candle_core::bail!("FLUX.1 needs a pooled prompt"),
        };
        let text = self.context_embedder.forward(&text.to_dtype(self.dtype)?)?;
        Ok(PromptContext::new(self.id.clone(), text, pooled))
    }

    /// Prepares the ids of tokens for use at every step, see [`positions`](super::positions).
    pub fn positions(&self, text: &[[f32; AXES]], image: &[[f32; AXES]]) -> Result<JointPositions> {
        self.rope.positions(text, image, &self.device)
    }

    /// Predicts the velocity `[batch, tokens, out_channels]` for packed latents
    /// `[batch, tokens, in_channels]`.
    ///
    /// Tokens of reference images follow those of the image and are part of the prediction too, whose first
    /// tokens are the image's. `timestep` counts from 0 to 1, `[batch]`; `guidance` is the guidance scale
    /// (3.5, say), `[batch]`, for guidance-distilled models. `pass` decides which blocks run; [`Pass::off`]
    /// runs all of them.
    pub fn forward(
        &self,
        hidden_states: &Tensor,
        timestep: &Tensor,
        guidance: Option<&Tensor>,
        text: &PromptContext,
        positions: &JointPositions,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let (batch, tokens, _) = hidden_states.dims3()?;
        text.check(&self.id, batch)?;
        positions.check(text.text().dim(1)?, tokens)?;
        let time = self.time.forward(timestep, guidance, batch)?;
        let temb = match text.pooled() {
            Some(pooled) => (time + pooled)?,
            None => time,
        };
        let activated = silu(self.x_embedder.ops(), &temb)?;
        let positions = &positions.over(self.plane.as_ref())?;
        let sequence = positions.sequence();
        let image = sequence.narrow(&hidden_states.to_dtype(self.dtype)?, IMAGE)?;
        let (image, text) = (self.x_embedder.forward(&image)?, sequence.narrow(text.text(), TEXT)?);
        let shared = self.modulators.as_ref().map(|layers| layers.forward(&activated)).transpose()?;
        let conditioning = Conditioning { activated, shared };

        let probe = |signal: Signal, x: &Streams| match (signal, &conditioning.shared) {
            (Signal::Latents, _) => positions.on_grid(hidden_states),
            (Signal::TimestepEmbedding, _) => Ok(temb.clone()),
            (Signal::TimestepProjection, Some(shared)) => Ok(shared.projection.clone()),
            (Signal::ModulatedInput, _) => {
                self.dual_blocks.get(0)?.modulated_input(&x.image()?, &conditioning)
            }
            (Signal::TimestepProjection, None) => candle_core::bail!("FLUX.1 does not show {signal:?}"),
        };
        let roles = dual_outputs(&self.meta);
        let (x, residual) = Stacks::default()
            .numbered(self.dual_blocks.len(), |i, x, modules| {
                let block = self.dual_blocks.get(i)?;
                by_roles(roles, x, |tuple| block.forward(tuple, &conditioning, positions, modules))
            })
            .numbered(self.single_blocks.len(), |i, x, modules| {
                let block = self.single_blocks.get(i)?;
                x.map_joint(|x| block.forward(x, &conditioning, positions, modules))
            })
            .signals(probe)
            .grid(positions.grid())
            .run_lazy(pass, (image, text))?
            .into_image_terms()?;
        let predicted = self.head.forward(&x, residual.as_ref(), &conditioning.activated)?;
        sequence.gather(&predicted, IMAGE)?.to_dtype(DType::F32)
    }
}
