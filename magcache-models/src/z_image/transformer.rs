//! The network: latents, a timestep and a caption to a prediction.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{ModelMeta, Pass, Signal, Stacks, Streams};

use super::{
    ZImageConfig,
    block::{self, Block},
    meta,
    positions::{self, CAPTION, IMAGE, Positions},
};
use crate::{
    blocks::{Blocks, Residence},
    checkpoint::Weights,
    mmdit::LoadResult,
    model_id::ModelId,
    nn::{Linear, RmsNorm, Sinusoids, silu},
    ranks::{self, DataPlane},
};

/// The list of blocks that caches work on.
pub(super) const LAYERS: &str = "layers";

/// Sinusoids of the timestep, and the width between the two layers that embed them; neither is in the
/// configuration.
const SINUSOIDS: usize = 256;
const TIME_HIDDEN: usize = 1024;

/// Epsilon of the last norm, unlike that of the others.
const HEAD_EPS: f64 = 1e-6;

/// The diffusion transformer of Z-Image.
///
/// Blocks without shifts over image and caption in one sequence, whose padding takes part in it; before them
/// `noise_refiner` over the image alone and `context_refiner` over the caption alone, which does not read the
/// timestep and so runs once for a prompt.
///
/// Source: `ZImageTransformer2DModel` of diffusers 0.42.1. Differences: one image at a time, so that no mask
/// is needed; all arithmetic is in f32 on a CPU, whatever the stored type of the weights.
///
/// The model holds weights only: it can serve several generations at once.
#[derive(Debug)]
pub struct ZImageTransformer {
    id: ModelId,
    config: ZImageConfig,
    meta: ModelMeta,
    device: Device,
    sinusoids: Sinusoids,
    time: [Linear; 2],
    x_embedder: Linear,
    x_pad_token: Tensor,
    cap_norm: RmsNorm,
    cap_embedder: Linear,
    cap_pad_token: Tensor,
    noise_refiner: Vec<Block>,
    context_refiner: Vec<Block>,
    layers: Blocks<Block>,
    /// Scale of the last norm.
    head_scale: Linear,
    head: Linear,
    /// Type of the hidden states.
    dtype: DType,
    /// The ranks that divide the tokens.
    plane: Option<Arc<dyn DataPlane>>,
}

/// A caption as one model sees it beside an image of one size: made once and used at every step. Cloning
/// copies handles, not data.
#[derive(Clone, Debug)]
pub struct ZImagePrompt {
    model: ModelId,
    /// After `context_refiner`, `[1, padded tokens, dim]`.
    caption: Tensor,
    positions: Positions,
}

/// A timestep embedded, and what it is for.
#[derive(Clone, Debug)]
pub struct ZImageTime(Tensor);

impl ZImageTransformer {
    /// Loads the tensors of the diffusers layout.
    ///
    /// Fails if a tensor is missing or has another shape than `config` implies.
    pub fn load(weights: &Weights, config: ZImageConfig) -> LoadResult<Self> {
        Self::load_in(weights, config, &Residence::Memory)
    }

    /// The same with the weights of its layers elsewhere while these do not run.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_in(weights: &Weights, config: ZImageConfig, residence: &Residence) -> LoadResult<Self> {
        let (dim, token, embedded) = (config.dim, config.token(), config.embedded());
        let linear = |name: &str, inputs: usize, outputs: usize| {
            Linear::load(&weights.pp(name), inputs, outputs, true)
        };
        let refiner = |list: &str, modulated: bool| {
            let block = |i: usize| Block::load(&weights.pp(list).pp(i), &config, modulated);
            (0..config.n_refiner_layers).map(block).collect::<LoadResult<Vec<_>>>()
        };
        let of_layer = config.clone();
        let layer = move |weights: &Weights| Block::load(weights, &of_layer, true);
        Ok(Self {
            id: ModelId::default(),
            meta: meta::of(&config, false),
            device: weights.device().clone(),
            sinusoids: Sinusoids::new(SINUSOIDS, weights.device())?,
            time: [
                linear("t_embedder.mlp.0", SINUSOIDS, TIME_HIDDEN)?,
                linear("t_embedder.mlp.2", TIME_HIDDEN, embedded)?,
            ],
            x_embedder: linear("all_x_embedder.2-1", token, dim)?,
            x_pad_token: weights.get("x_pad_token", &[1, dim])?,
            cap_norm: RmsNorm::load(&weights.pp("cap_embedder.0"), config.cap_feat_dim, config.norm_eps)?,
            cap_embedder: linear("cap_embedder.1", config.cap_feat_dim, dim)?,
            cap_pad_token: weights.get("cap_pad_token", &[1, dim])?,
            noise_refiner: refiner("noise_refiner", true)?,
            context_refiner: refiner("context_refiner", false)?,
            layers: Blocks::load(weights, LAYERS, config.n_layers, residence, layer)?,
            head_scale: linear("all_final_layer.2-1.adaLN_modulation.1", embedded, dim)?,
            head: linear("all_final_layer.2-1.linear", dim, token)?,
            dtype: weights.compute_dtype(),
            plane: None,
            config,
        })
    }

    /// The same, of whose tokens each of several ranks has some, of the image and of the caption: all make
    /// the same calls, and each gets the whole prediction.
    ///
    /// # Errors
    /// More ranks than heads.
    pub fn over(self, plane: Option<&Arc<dyn DataPlane>>) -> Result<Self> {
        let plane = plane.cloned();
        ranks::check_heads(self.config.n_heads, plane.as_deref())?;
        Ok(Self { plane, ..self })
    }

    /// The sizes that the model was loaded with.
    pub fn config(&self) -> &ZImageConfig {
        &self.config
    }

    /// Metadata for strategies: those of the base model with these sizes.
    pub fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    /// Prepares the text encoder's output `[1, tokens, cap_feat_dim]`, without padding, for images of so many
    /// rows and columns of tokens.
    ///
    /// # Errors
    /// A caption of another shape or without tokens, a size beyond the positions that there are.
    pub fn prompt(&self, caption: &Tensor, grid: [usize; 2]) -> Result<ZImagePrompt> {
        let (_, tokens, channels) = caption.dims3()?;
        if tokens == 0 || channels != self.config.cap_feat_dim {
            let expected = self.config.cap_feat_dim;
            candle_core::bail!(
                "a caption of {tokens} tokens and {channels} channels, expected {expected} channels"
            );
        }
        let embedded = self.cap_norm.forward(&caption.to_dtype(DType::F32)?)?.to_dtype(self.dtype)?;
        let mut caption = positions::pad(&self.cap_embedder.forward(&embedded)?, &self.cap_pad_token)?;
        let tokens = positions::of_caption(&self.config, caption.dim(1)?, &self.device)?;
        for refiner in &self.context_refiner {
            caption = refiner.forward(&caption, &caption, &tokens, &mut block::run)?;
        }
        let positions = Positions::new(&self.config, grid, &tokens, self.plane.as_ref(), &self.device)?;
        Ok(ZImagePrompt { model: self.id.clone(), caption, positions })
    }

    /// Embeds a timestep that counts from 0 to 1, from noise to image.
    pub fn time(&self, t: f32) -> Result<ZImageTime> {
        let t = Tensor::new(&[t * self.config.t_scale as f32], &self.device)?;
        let [first, second] = &self.time;
        let hidden = first.forward(&self.sinusoids.forward(&t)?)?;
        second.forward(&silu(first.ops(), &hidden)?).map(ZImageTime)
    }

    /// Predicts the velocity towards the image, in the shape of the latents `[1, channels, height, width]`.
    ///
    /// Schedulers count the other way: pipelines negate it. `pass` decides which layers run; [`Pass::off`]
    /// runs all of them. The refiner of the image, of embedders and the head runs in any case.
    ///
    /// # Errors
    /// A prompt of another model or for another size, latents of another shape.
    pub fn forward(
        &self,
        latents: &Tensor,
        time: &ZImageTime,
        prompt: &ZImagePrompt,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let (batch, _, height, width) = latents.dims4()?;
        self.id.check(&prompt.model, &prompt.caption, batch, "each needs its own")?;
        let ZImagePrompt { caption, positions, .. } = prompt;
        if [height / 2, width / 2] != positions.grid || !(height.is_multiple_of(2) && width.is_multiple_of(2))
        {
            let [rows, columns] = positions.grid;
            candle_core::bail!(
                "latents of {height} by {width}, the prompt is for {} by {}",
                2 * rows,
                2 * columns
            );
        }
        let time = &time.0;
        let sequence = &positions.joint.sequence;
        let patches = positions::to_tokens(latents)?;
        let image = self.image(&patches, time, positions)?;
        let x = Tensor::cat(&[&image, &sequence.narrow(caption, CAPTION)?], 1)?;

        let probe = |signal: Signal, x: &Streams| match signal {
            Signal::Latents => on_grid(&patches, positions.grid),
            Signal::TimestepEmbedding => Ok(time.clone()),
            Signal::TimestepProjection => self.layers.get(0)?.projection(time),
            Signal::ModulatedInput => self.layers.get(0)?.modulated_input(&x.image()?, time),
        };
        let (x, residual) = Stacks::default()
            .numbered(self.layers.len(), |i, x, modules| {
                let layer = self.layers.get(i)?;
                let mut part = |name, x: &Tensor, part: block::Part<'_>| {
                    modules.module(name, x.clone().into(), |x| x.map_image(part))?.into_image()
                };
                x.map_image(|x| layer.forward(x, time, &positions.joint, &mut part))
            })
            .signals(probe)
            .grid(&positions.grid)
            .run_lazy(pass, x)?
            .into_image_terms()?;
        // Nothing reads the caption after the last layer.
        let own = |x: &Tensor| x.narrow(1, 0, sequence.own(IMAGE).len());
        let residual = residual.as_ref().map(own).transpose()?;
        let scale = self.head_scale.forward(&silu(self.head.ops(), time)?)?.unsqueeze(1)?;
        let predicted = self.head.forward_modulated(
            &own(&x)?,
            residual.as_ref(),
            &scale.zeros_like()?,
            &scale,
            HEAD_EPS,
        )?;
        let predicted = positions.image.sequence.gather(&predicted, IMAGE)?.to_dtype(DType::F32)?;
        positions::from_tokens(&predicted.narrow(1, 0, positions.tokens())?, positions.grid)
    }

    /// The tokens of the image that are here after `noise_refiner`.
    fn image(&self, patches: &Tensor, time: &Tensor, positions: &Positions) -> Result<Tensor> {
        let embedded = self.x_embedder.forward(&patches.to_dtype(self.dtype)?)?;
        let padded = positions::pad(&embedded, &self.x_pad_token)?;
        let mut image = positions.image.sequence.narrow(&padded, IMAGE)?;
        for refiner in &self.noise_refiner {
            image = refiner.forward(&image, time, &positions.image, &mut block::run)?;
        }
        Ok(image)
    }

    /// What is computed outside the layers, by the names of the reference; for comparisons with recorded
    /// runs.
    #[cfg(feature = "verify")]
    pub fn outside(
        &self,
        latents: &Tensor,
        time: &ZImageTime,
        prompt: &ZImagePrompt,
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let positions = &prompt.positions;
        let image = self.image(&positions::to_tokens(latents)?, &time.0, positions)?;
        let caption = positions::of_caption(&self.config, prompt.caption.dim(1)?, &self.device)?.rope;
        let rope = &positions.image.rope;
        Ok(vec![
            ("t_embedder.out", time.0.clone()),
            ("noise_refiner.out", image),
            ("context_refiner.out", prompt.caption.clone()),
            ("rope.image.cos", rope.cos()?.unsqueeze(0)?),
            ("rope.image.sin", rope.sin()?.unsqueeze(0)?),
            ("rope.caption.cos", caption.cos()?.unsqueeze(0)?),
            ("rope.caption.sin", caption.sin()?.unsqueeze(0)?),
        ])
    }
}

/// Tokens `[1, tokens, channels]` as `[1, channels, rows, columns]`.
fn on_grid(tokens: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let channels = tokens.dim(2)?;
    tokens.transpose(1, 2)?.reshape((1, channels, rows, columns))
}
