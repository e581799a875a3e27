//! The network: latents and a timestep to a prediction.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{ModelMeta, Pass, Signal, Stacks, Streams};

use super::{
    QwenImageConfig,
    block::{Block, Conditioning},
    config::EPS,
    meta::{self, OUTPUTS},
    positions,
};
use crate::{
    blocks::{Blocks, Residence},
    checkpoint::Weights,
    mmdit::{
        AxesRope, BlockSizes, Form, IMAGE, JointPositions, LoadResult, PromptContext, TEXT, dual::by_roles,
        embed::TimeEmbedder, head::Head,
    },
    model_id::ModelId,
    nn::{Linear, RmsNorm, silu},
    ranks::{self, DataPlane},
};

/// The list of blocks of a checkpoint.
pub(super) const BLOCKS: &str = "transformer_blocks";

/// Length of the sinusoidal embedding of timesteps.
const FREQUENCIES: usize = 256;

/// Base of the geometric progression of rotary frequencies.
const THETA: f64 = 10_000.0;

/// The diffusion transformer of Qwen-Image and Qwen-Image-Edit.
///
/// Source: `QwenImageTransformer2DModel` of diffusers 0.42.1. Differences: what depends only on the prompt or
/// the sizes of pictures is prepared once ([`PromptContext`], [`JointPositions`]), texts have no padding and
/// so no mask, and all arithmetic is in f32 whatever the stored type of the weights.
///
/// The model holds weights only: it can serve several generations at once.
#[derive(Debug)]
pub struct QwenImageTransformer {
    id: ModelId,
    config: QwenImageConfig,
    meta: ModelMeta,
    device: Device,
    rope: AxesRope<3>,
    img_in: Linear,
    txt_norm: RmsNorm,
    txt_in: Linear,
    time: TimeEmbedder,
    blocks: Blocks<Block>,
    head: Head,
    /// Type of the hidden states.
    dtype: DType,
    /// The ranks that divide the tokens.
    plane: Option<Arc<dyn DataPlane>>,
}

impl QwenImageTransformer {
    /// Loads the tensors of the diffusers layout.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than `config` implies.
    pub fn load(weights: &Weights, config: QwenImageConfig) -> LoadResult<Self> {
        Self::load_in(weights, config, &Residence::Memory)
    }

    /// The same with the weights of its blocks elsewhere while these do not run.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_in(weights: &Weights, config: QwenImageConfig, residence: &Residence) -> LoadResult<Self> {
        let (inner, text) = (config.inner_dim(), config.joint_attention_dim);
        let sizes = BlockSizes {
            form: Form::Gelu,
            heads: config.num_attention_heads,
            head_dim: config.attention_head_dim,
            hidden: config.mlp_dim(),
            eps: EPS,
        };
        let of_block = config.clone();
        let block = move |weights: &Weights| Block::load(weights, &of_block);
        let time = weights.pp("time_text_embed");
        Ok(Self {
            id: ModelId::default(),
            meta: meta::of(&config, false),
            device: weights.device().clone(),
            rope: AxesRope::new(config.axes_dims_rope, THETA),
            img_in: Linear::load(&weights.pp("img_in"), config.in_channels, inner, true)?,
            txt_norm: RmsNorm::load(&weights.pp("txt_norm"), text, EPS)?,
            txt_in: Linear::load(&weights.pp("txt_in"), text, inner, true)?,
            time: TimeEmbedder::load(&time, FREQUENCIES, inner, false, true)?,
            blocks: Blocks::load(weights, BLOCKS, config.num_layers, residence, block)?,
            head: Head::load(weights, &sizes, config.outputs())?,
            dtype: weights.compute_dtype(),
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
        ranks::check_heads(self.config.num_attention_heads, plane.as_deref())?;
        Ok(Self { plane, ..self })
    }

    /// The same with hidden states of another type. Defaults to f32 on a CPU, elsewhere to the type of the
    /// weights.
    #[must_use]
    pub fn computing_in(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The sizes that the model was loaded with.
    pub fn config(&self) -> &QwenImageConfig {
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

    /// The embedding of a timestep from 0 to 1, `[batch]`, and the modulations that the first block makes of
    /// it for the image; for comparisons with recorded runs.
    #[cfg(feature = "verify")]
    pub fn embedded(&self, timestep: &Tensor) -> Result<[Tensor; 2]> {
        let temb = self.time.forward(timestep, None, timestep.dim(0)?)?;
        let activated = silu(self.img_in.ops(), &temb)?;
        Ok([temb, self.blocks.get(0)?.projection(&Conditioning { activated, clean: None })?])
    }

    /// Prepares text embeddings `[batch, tokens, joint_attention_dim]`, without padding, for use at every
    /// step.
    pub fn text_context(&self, text: &Tensor) -> Result<PromptContext> {
        let text = self.txt_norm.forward(&text.to_dtype(self.dtype)?)?;
        Ok(PromptContext::new(self.id.clone(), self.txt_in.forward(&text)?, None))
    }

    /// Prepares the positions of so many tokens of text and of pictures with these rows and columns, the
    /// target first.
    pub fn positions(&self, text: usize, grids: &[[usize; 2]]) -> Result<JointPositions> {
        let (text, image) = (positions::text_ids(grids, text), positions::image_ids(grids));
        self.rope.positions(&text, &image, &self.device)
    }

    /// Predicts the velocity `[batch, tokens, in_channels]` for packed latents of that shape.
    ///
    /// Tokens of reference pictures follow those of the target and are part of the prediction too, whose
    /// first tokens are the target's. `timestep` is the noise level, from 0 to 1, `[batch]`. `pass` decides
    /// which blocks run; [`Pass::off`] runs all of them.
    pub fn forward(
        &self,
        hidden_states: &Tensor,
        timestep: &Tensor,
        text: &PromptContext,
        positions: &JointPositions,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let (batch, tokens, _) = hidden_states.dims3()?;
        text.check(&self.id, batch)?;
        positions.check(text.text().dim(1)?, tokens)?;
        let temb = self.time.forward(timestep, None, batch)?;
        let target = positions.grid().iter().product();
        let positions = &positions.over(self.plane.as_ref())?;
        let sequence = positions.sequence();
        let image = sequence.narrow(&hidden_states.to_dtype(self.dtype)?, IMAGE)?;
        let (image, text) = (self.img_in.forward(&image)?, sequence.narrow(text.text(), TEXT)?);
        let (here, start) = (image.dim(1)?, sequence.own(IMAGE).start);
        let conditioning = self.conditioning(&temb, timestep, [tokens, target], [here, start])?;

        let probe = |signal: Signal, x: &Streams| match signal {
            Signal::Latents => positions.on_grid(hidden_states),
            Signal::TimestepEmbedding => Ok(temb.clone()),
            Signal::TimestepProjection => self.blocks.get(0)?.projection(&conditioning),
            Signal::ModulatedInput => self.blocks.get(0)?.modulated_input(&x.image()?, &conditioning),
        };
        let (x, residual) = Stacks::default()
            .numbered(self.blocks.len(), |i, x, modules| {
                let block = self.blocks.get(i)?;
                by_roles(OUTPUTS, x, |tuple| block.forward(tuple, &conditioning, positions, modules))
            })
            .signals(probe)
            .grid(positions.grid())
            .run_lazy(pass, (image, text))?
            .into_image_terms()?;
        let predicted = self.head.forward(&x, residual.as_ref(), &conditioning.activated)?;
        sequence.gather(&predicted, IMAGE)?.to_dtype(DType::F32)
    }

    /// What the blocks read of the timestep, for `here` of the tokens, the first of which is `start`.
    fn conditioning(
        &self,
        temb: &Tensor,
        timestep: &Tensor,
        [tokens, target]: [usize; 2],
        [here, start]: [usize; 2],
    ) -> Result<Conditioning> {
        let ops = self.img_in.ops();
        let activated = silu(ops, temb)?;
        if !self.config.zero_cond_t || tokens == target {
            return Ok(Conditioning { activated, clean: None });
        }
        let zero = self.time.forward(&timestep.zeros_like()?, None, temb.dim(0)?)?;
        let both = Tensor::cat(&[&activated, &silu(ops, &zero)?], 0)?;
        let clean = Some((both, target.saturating_sub(start).min(here)));
        Ok(Conditioning { activated, clean })
    }
}
