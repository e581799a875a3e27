//! The network: latents and a timestep to a prediction.

use std::{cell::OnceCell, sync::Arc};

use candle_core::{DType, Result, Tensor};
use magcache_core::{Pass, Signal, Stacks, Streams, hint};

use super::block::WanBlock;
use super::embed::{ImageEmbedder, TimeEmbedder};
use super::modulation::TimestepProjection;
use super::patch::{Grid, Head, PatchEmbedding};
use super::text::TextContext;
use super::{LoadResult, WanConfig, WanRope};
use crate::blocks::{Blocks, Residence};
use crate::checkpoint::Weights;
use crate::mmdit::embed::Mlp;
use crate::model_id::ModelId;
use crate::nn::{RotaryTable, in_parallel};
use crate::once::get_or_try_init;
use crate::ranks::{self, DataPlane, Sequence};

/// Text tokens that a model with image attention was trained with; the reference splits the context at this
/// length.
const TEXT_TOKENS: usize = 512;

/// The diffusion transformer of Wan 2.1 and Wan 2.2.
///
/// Text to video, image to video with image embeddings (2.1) or concatenated latents (2.2), first and last
/// frame to video, and per-token timesteps (2.2 TI2V) are the same network with other sizes. Source:
/// `WanTransformer3DModel` of diffusers 0.42.1; differences: keys and values of the conditioning are kept in
/// [`TextContext`], latents that do not divide into patches are refused, and all arithmetic is in f32
/// whatever the stored type of the weights.
///
/// The model holds weights only: it can serve several generations at once.
#[derive(Debug)]
pub struct WanTransformer {
    pub(super) id: ModelId,
    pub(super) config: WanConfig,
    pub(super) rope: WanRope,
    pub(super) patch_embedding: PatchEmbedding,
    pub(super) time: TimeEmbedder,
    /// Text encoder output to the width of the blocks.
    text: Mlp,
    image: Option<ImageEmbedder>,
    pub(super) blocks: Blocks<WanBlock>,
    pub(super) head: Head,
    /// Type of the hidden states.
    pub(super) dtype: DType,
    /// The ranks that divide the tokens.
    pub(super) plane: Option<Arc<dyn DataPlane>>,
}

impl WanTransformer {
    /// Rounds the frequencies `which` of the timestep embedding, counted from 0, to the f32 above the
    /// nearest, as torch does on some CPUs; for comparisons with recorded runs. See
    /// [`Sinusoids::rounded_up`](crate::nn::Sinusoids::rounded_up).
    #[cfg(feature = "verify")]
    pub fn round_frequencies_up(&mut self, which: &[usize]) -> Result<()> {
        self.time.round_up(which)
    }

    /// Loads the tensors of the diffusers layout; see [`names`](super::names) for the native one.
    ///
    /// Fails if a tensor is missing or has another shape than `config` implies.
    pub fn load(weights: &Weights, config: WanConfig) -> LoadResult<Self> {
        Self::load_in(weights, config, &Residence::Memory)
    }

    /// The same with the weights of its blocks elsewhere while these do not run.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_in(weights: &Weights, config: WanConfig, residence: &Residence) -> LoadResult<Self> {
        let embedder = weights.pp("condition_embedder");
        let image = config
            .image_dim
            .map(|dim| ImageEmbedder::load(&embedder.pp("image_embedder"), &config, dim))
            .transpose()?;
        let (sizes, layers) = (config.clone(), config.num_layers);
        let block = move |weights: &Weights| WanBlock::load(weights, &sizes);
        Ok(Self {
            id: ModelId::default(),
            rope: WanRope::new(&config),
            patch_embedding: PatchEmbedding::load(
                &weights.pp("patch_embedding"),
                config.in_channels,
                config.patch_size,
                config.inner_dim(),
            )?,
            time: TimeEmbedder::load(&embedder, &config)?,
            text: Mlp::load(&embedder.pp("text_embedder"), config.text_dim, config.inner_dim(), true)?,
            image,
            blocks: Blocks::load(weights, "blocks", layers, residence, block)?,
            head: Head::load(weights, &config)?,
            dtype: weights.compute_dtype(),
            plane: None,
            config,
        })
    }

    /// The same, of whose tokens each of several ranks has some: all make the same calls, and each gets the
    /// whole prediction.
    ///
    /// # Errors
    /// More ranks than heads.
    pub fn over(self, plane: Option<&Arc<dyn DataPlane>>) -> Result<Self> {
        let plane = plane.cloned();
        ranks::check_heads(self.config.num_attention_heads, plane.as_deref())?;
        Ok(Self { plane, ..self })
    }

    /// The same, computing in another type. Defaults to f32 on a CPU, elsewhere to the type of the weights.
    /// Sums, norms and whatever depends on the timestep stay in f32. A CPU computes in half precision with
    /// candle's operations, many times slower than in f32, and only with weights stored in that type.
    #[must_use]
    pub fn computing_in(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The sizes that the model was loaded with.
    pub fn config(&self) -> &WanConfig {
        &self.config
    }

    /// Prepares text embeddings `[batch, tokens, text_dim]` for use at every step.
    ///
    /// All tokens take part in attention, so padding must be as in training: zeros up to 512 tokens.
    pub fn text_context(&self, text: &Tensor) -> Result<TextContext> {
        if self.image.is_some() {
            return Err(hint::tensor_error(
                "this model attends to image embeddings too",
                "call `image_text_context`",
            ));
        }
        Ok(TextContext::new(self.id.clone(), self.project_text(text)?, None, self.blocks.len()))
    }

    /// Like [`Self::text_context`], for models that also attend to image embeddings
    /// `[batch, tokens, image_dim]`, or `[2 * batch, tokens, image_dim]` if `pos_embed_seq_len` is set (first
    /// and last frame of each sample).
    pub fn image_text_context(&self, text: &Tensor, image: &Tensor) -> Result<TextContext> {
        let Some(embedder) = &self.image else {
            return Err(hint::tensor_error(
                "this model has no image embedder (`image_dim` is null)",
                "call `text_context`",
            ));
        };
        let tokens = text.dim(1)?;
        if tokens != TEXT_TOKENS {
            candle_core::bail!("got {tokens} text tokens, a model with image attention takes {TEXT_TOKENS}");
        }
        let image = embedder.forward(&image.to_dtype(self.dtype)?)?;
        let text = self.project_text(text)?;
        if image.dim(0)? != text.dim(0)? {
            candle_core::bail!("image embeddings for {} samples, text for {}", image.dim(0)?, text.dim(0)?);
        }
        Ok(TextContext::new(self.id.clone(), text, Some(image), self.blocks.len()))
    }

    fn project_text(&self, text: &Tensor) -> Result<Tensor> {
        let (_, _, channels) = text.dims3()?;
        if channels != self.config.text_dim {
            candle_core::bail!(
                "text has {channels} channels, `text_dim` of the model is {}",
                self.config.text_dim
            );
        }
        self.text.forward_gelu_tanh(&text.to_dtype(self.dtype)?)
    }

    /// Predicts the velocity `[batch, out_channels, frames, height, width]` for latents of that size.
    ///
    /// `timestep` counts from 0 to 1000: one per sample, `[batch]`, or one per token, `[batch, tokens]`
    /// (TI2V). `pass` decides which blocks run; [`Pass::off`] runs all of them.
    pub fn forward(
        &self,
        hidden_states: &Tensor,
        timestep: &Tensor,
        text: &TextContext,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        self.predict(&self.embed(hidden_states, timestep)?, text, pass)
    }

    /// The part of [`Self::forward`] that does not depend on the text: the branches of classifier-free
    /// guidance share it.
    pub fn embed(&self, hidden_states: &Tensor, timestep: &Tensor) -> Result<WanInput> {
        let grid = Grid::new(hidden_states, &self.config)?;
        check_timestep(timestep, grid)?;
        let sequence = Sequence::new(self.plane.as_ref(), &[grid.len()])?;
        let timestep = if timestep.rank() == 2 { sequence.narrow(timestep, 0)? } else { timestep.clone() };
        let (tokens, temb) = in_parallel(
            hidden_states.device(),
            || self.patch_embedding.forward_own(&hidden_states.to_dtype(self.dtype)?, &sequence),
            || self.time.embed(&timestep.to_dtype(DType::F32)?),
        );
        Ok(WanInput {
            model: self.id.clone(),
            grid,
            sequence,
            // What is not denoised, such as a first frame and its mask, follows.
            latents: hidden_states.narrow(1, 0, self.config.out_channels.min(hidden_states.dim(1)?))?,
            tokens: tokens?,
            temb: temb?,
            timestep_proj: OnceCell::new(),
            last_modulation: OnceCell::new(),
            rope: OnceCell::new(),
        })
    }

    /// The rest of [`Self::forward`].
    ///
    /// Fails if the input or the text comes from another model, or if the text is for another number of
    /// samples.
    pub fn predict(&self, input: &WanInput, text: &TextContext, pass: &mut Pass<'_>) -> Result<Tensor> {
        let WanInput { model, grid, sequence, latents, tokens, temb, timestep_proj, last_modulation, rope } =
            input;
        if *model != self.id {
            candle_core::bail!("the latents were embedded by another model");
        }
        text.check(&self.id, grid.batch)?;
        // A pass that skips every block never needs these two.
        let timestep_proj =
            || get_or_try_init(timestep_proj, || self.time.project(temb).map(TimestepProjection::Whole));
        let own = sequence.own(0);
        let rope = || {
            get_or_try_init(rope, || {
                self.rope.table(grid.tokens, tokens.device())?.narrow(own.start, own.len())
            })
        };

        let probe = |signal: Signal, x: &Streams| match signal {
            Signal::TimestepEmbedding => Ok(temb.clone()),
            Signal::TimestepProjection => timestep_proj()?.signal(),
            Signal::Latents => Ok(latents.clone()),
            Signal::ModulatedInput => self.blocks.get(0)?.modulated_input(&x.image()?, timestep_proj()?),
        };
        let (x, residual) = Stacks::default()
            .numbered(self.blocks.len(), |i, streams, modules| {
                let block = self.blocks.get(i)?;
                let context = text.keys_values(i, block.cross_attention())?;
                let place = (rope()?, sequence);
                streams.map_image(|x| block.forward(x, timestep_proj()?, place, context, modules))
            })
            .signals(probe)
            .grid(&grid.tokens)
            .run_lazy(pass, tokens.clone())?
            .into_image_terms()?;
        let modulation = get_or_try_init(last_modulation, || self.head.modulation(temb))?;
        self.head.forward(&x, residual.as_ref(), modulation, *grid, sequence)?.to_dtype(DType::F32)
    }
}

/// The initial state of a [`WanTransformer`] for given latents and timestep.
#[derive(Debug)]
pub struct WanInput {
    model: ModelId,
    grid: Grid,
    sequence: Sequence,
    /// `[batch, out_channels, frames, height, width]`.
    latents: Tensor,
    /// `[batch, tokens, inner]`, of the tokens that are here, as everything that is about tokens.
    tokens: Tensor,
    temb: Tensor,
    timestep_proj: OnceCell<TimestepProjection>,
    last_modulation: OnceCell<[Tensor; 2]>,
    rope: OnceCell<RotaryTable>,
}

fn check_timestep(timestep: &Tensor, grid: Grid) -> Result<()> {
    let (batch, tokens) = (grid.batch, grid.len());
    match timestep.dims() {
        [n] if *n == batch => Ok(()),
        [n, t] if *n == batch && *t == tokens => Ok(()),
        got => candle_core::bail!("timestep has shape {got:?}, expected [{batch}] or [{batch}, {tokens}]"),
    }
}
