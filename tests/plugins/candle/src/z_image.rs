//! Z-Image, put together from the parts that the library publishes, with its layers behind caches.

use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::{Linear, VarBuilder, linear};
use candle_transformers::models::{
    with_tracing::RmsNorm,
    z_image::{
        Config, FlowMatchEulerDiscreteScheduler,
        sampling::{CfgConfig, apply_cfg},
        transformer::{
            ADALN_EMBED_DIM, FinalLayer, RopeEmbedder, TimestepEmbedder, ZImageTransformerBlock,
            create_coordinate_grid, patchify, unpatchify,
        },
    },
};
use magcache_core::{
    Branch, ModelMeta, Pass, Session, Signal, StackMeta, Stacks, Step, Streams, Trajectory, inventory,
};

/// What the model says about itself. The refiners before the layers always run: they are 4 of 34 blocks.
pub const META: ModelMeta = ModelMeta::of("candle-z-image", env!("CARGO_PKG_NAME"))
    .summary("Z-Image of candle-transformers")
    .stacks(&[StackMeta::dual("layers", 30)])
    .signals(&[Signal::TimestepEmbedding])
    .hidden_size(3840)
    .meta();

inventory::submit! { META }

/// The parts of `ZImageTransformer2DModel`.
#[derive(Clone, Debug)]
pub struct ZImage {
    time: TimestepEmbedder,
    caption_norm: RmsNorm,
    caption_in: Linear,
    image_in: Linear,
    noise_refiner: Vec<ZImageTransformerBlock>,
    context_refiner: Vec<ZImageTransformerBlock>,
    layers: Vec<ZImageTransformerBlock>,
    last: FinalLayer,
    rope: RopeEmbedder,
    config: Config,
}

impl ZImage {
    /// Loads the parts from the weights of `ZImageTransformer2DModel`.
    ///
    /// # Errors
    /// A weight that is missing, or has another shape.
    pub fn new(config: &Config, vb: VarBuilder<'_>) -> Result<Self> {
        let patch = config.all_f_patch_size[0] * config.all_patch_size[0].pow(2) * config.in_channels;
        let caption = vb.pp("cap_embedder");
        let stack = |name: &str, blocks: usize, modulated: bool| {
            let block = |i| ZImageTransformerBlock::new(config, modulated, vb.pp(name).pp(i));
            (0..blocks).map(block).collect::<Result<Vec<_>>>()
        };
        let (axes, lengths) = (config.axes_dims.clone(), config.axes_lens.clone());
        Ok(Self {
            time: TimestepEmbedder::new(config.dim.min(ADALN_EMBED_DIM), 1024, vb.pp("t_embedder"))?,
            caption_norm: RmsNorm::new(config.cap_feat_dim, config.norm_eps, caption.pp(0))?,
            caption_in: linear(config.cap_feat_dim, config.dim, caption.pp(1))?,
            image_in: linear(patch, config.dim, vb.pp("all_x_embedder.2-1"))?,
            noise_refiner: stack("noise_refiner", config.n_refiner_layers, true)?,
            context_refiner: stack("context_refiner", config.n_refiner_layers, false)?,
            layers: stack("layers", config.n_layers, true)?,
            last: FinalLayer::new(config.dim, patch, vb.pp("all_final_layer.2-1"))?,
            rope: RopeEmbedder::new(config.rope_theta, axes, lengths, vb.device(), vb.dtype())?,
            config: config.clone(),
        })
    }

    /// What it says about itself, with the number of its layers.
    pub fn meta(&self) -> ModelMeta {
        META.with_blocks(&[self.layers.len()])
    }

    /// The prediction for `latents`, both `[batch, channels, frames, height, width]`, at the times `t`
    /// `[batch]` (0 to 1), with a prompt `[batch, text tokens, features]` and its mask.
    ///
    /// # Errors
    /// Shapes that do not fit; any error of a cache.
    pub fn forward(
        &self,
        latents: &Tensor,
        t: &Tensor,
        (caption, mask): (&Tensor, &Tensor),
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        pass.forward(latents.clone(), |x, pass| self.predict(&x, t, caption, mask, pass))
    }

    fn predict(
        &self,
        latents: &Tensor,
        t: &Tensor,
        caption: &Tensor,
        mask: &Tensor,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let Config { all_patch_size, all_f_patch_size, in_channels, t_scale, .. } = &self.config;
        let (patch, f_patch, device) = (all_patch_size[0], all_f_patch_size[0], latents.device());
        let time = self.time.forward(&(t * *t_scale)?)?;

        let (patches, size) = patchify(latents, patch, f_patch)?;
        let mut image = patches.apply(&self.image_in)?;
        let (batch, image_tokens, _) = image.dims3()?;
        let image_mask = Tensor::ones((batch, image_tokens), DType::U8, device)?;
        let text_tokens = caption.dim(1)?;
        let (frames, rows, columns) = (size.0 / f_patch, size.1 / patch, size.2 / patch);
        let image_ids = create_coordinate_grid((frames, rows, columns), (text_tokens + 1, 0, 0), device)?;
        let (cos, sin) = self.rope.forward(&image_ids)?;
        for block in &self.noise_refiner {
            image = block.forward(&image, Some(&image_mask), &cos, &sin, Some(&time))?;
        }

        let mut text = self.caption_norm.forward(caption)?.apply(&self.caption_in)?;
        let text_mask = mask.to_dtype(DType::U8)?;
        let text_ids = create_coordinate_grid((text_tokens, 1, 1), (1, 0, 0), device)?;
        let (cos, sin) = self.rope.forward(&text_ids)?;
        for block in &self.context_refiner {
            text = block.forward(&text, Some(&text_mask), &cos, &sin, None)?;
        }

        let (cos, sin) = self.rope.forward(&Tensor::cat(&[image_ids, text_ids], 0)?)?;
        let mask = Tensor::cat(&[image_mask, text_mask], 1)?;
        // Unlike FLUX, the sequence begins with the image.
        let text_at = image_tokens..image_tokens + text_tokens;
        let x = Streams::Joint { tokens: Tensor::cat(&[image, text], 1)?, text: text_at };
        let x = Stacks::default()
            .joint(&self.layers, |block, x| block.forward(x, Some(&mask), &cos, &sin, Some(&time)))
            .signals(|signal, _| match signal {
                Signal::TimestepEmbedding => Ok(time.clone()),
                _ => bail!("Z-Image does not show {signal:?}"),
            })
            .run(pass, x)?;
        unpatchify(&self.last.forward(&x, &time)?, size, patch, f_patch, *in_channels)
    }

    /// Denoises along the scheduler's steps, guided from the second prompt to the first; `after` sees the
    /// latents after every step.
    ///
    /// # Errors
    /// As [`ZImage::forward`].
    pub fn denoise(
        &self,
        mut latents: Tensor,
        [positive, negative]: [(&Tensor, &Tensor); 2],
        mut scheduler: FlowMatchEulerDiscreteScheduler,
        guidance: &CfgConfig,
        session: &mut Session,
        mut after: impl FnMut(&Step, &Tensor),
    ) -> Result<Tensor> {
        for step in trajectory(&scheduler).steps() {
            let time = scheduler.current_timestep_normalized();
            let t = Tensor::full(time as f32, latents.dim(0)?, latents.device())?;
            let cond = self.forward(&latents, &t, positive, &mut session.pass(&step, Branch::Cond))?;
            let uncond = self.forward(&latents, &t, negative, &mut session.pass(&step, Branch::Uncond))?;
            // The model predicts the velocity towards the image, the scheduler wants that towards the noise.
            let velocity = apply_cfg(&cond, &uncond, guidance, time)?.neg()?;
            latents = scheduler.step(&velocity, &latents)?;
            after(&step, &latents);
        }
        Ok(latents)
    }
}

/// The steps that a scheduler will take, with guidance.
pub fn trajectory(scheduler: &FlowMatchEulerDiscreteScheduler) -> Trajectory {
    Trajectory::from_sigmas(&scheduler.sigmas, &[Branch::Cond, Branch::Uncond])
}
