//! The network: latents and a timestep to a prediction.

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{ModelMeta, Pass, Signal, Streams};

use super::{
    FluxConfig,
    block::{FluxDualBlock, FluxSingleBlock},
    config::EPS,
    meta,
};
use crate::{
    checkpoint::Weights,
    flux::meta::dual_outputs,
    mmdit::{
        AxesRope, JointPositions, LoadResult, PromptContext,
        dual::by_roles,
        embed::{Mlp, TimeEmbedder},
        head::Head,
    },
    model_id::ModelId,
    nn::{Linear, silu},
};

/// Length of the sinusoidal embedding of timesteps.
const FREQ_DIM: usize = 256;

/// Base of the geometric progression of rotary frequencies.
const THETA: f64 = 10_000.0;

/// The diffusion transformer of FLUX.1: dev, schnell, Kontext, and others of the same blocks.
///
/// Source: `FluxTransformer2DModel` of diffusers 0.42.1, without its `ControlNet` and IP adapter inputs.
/// Differences: whatever depends only on the prompt or the ids is prepared once ([`PromptContext`],
/// [`JointPositions`]), and all arithmetic is in f32 whatever the stored type of the weights.
///
/// The model holds weights only: it can serve several generations at once.
#[derive(Debug)]
pub struct FluxTransformer {
    id: ModelId,
    config: FluxConfig,
    meta: ModelMeta,
    device: Device,
    rope: AxesRope<3>,
    x_embedder: Linear,
    context_embedder: Linear,
    time: TimeEmbedder,
    pooled: Mlp,
    dual_blocks: Vec<FluxDualBlock>,
    single_blocks: Vec<FluxSingleBlock>,
    head: Head,
    /// Type of the hidden states.
    dtype: DType,
}

impl FluxTransformer {
    /// Loads the tensors of the diffusers layout.
    ///
    /// Fails if a tensor is missing or has another shape than `config` implies.
    pub fn load(weights: &Weights, config: FluxConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let embedder = weights.pp("time_text_embed");
        let dual = (0..config.num_layers)
            .map(|i| FluxDualBlock::load(&weights.pp(format!("transformer_blocks.{i}")), &config));
        let single = (0..config.num_single_layers)
            .map(|i| FluxSingleBlock::load(&weights.pp(format!("single_transformer_blocks.{i}")), &config));
        let (text, pooled) = (config.joint_attention_dim, config.pooled_projection_dim);
        Ok(Self {
            id: ModelId::default(),
            meta: meta::of(&config),
            device: weights.device().clone(),
            rope: AxesRope::new(config.axes_dims_rope, THETA),
            x_embedder: Linear::load(&weights.pp("x_embedder"), config.in_channels, inner, true)?,
            context_embedder: Linear::load(&weights.pp("context_embedder"), text, inner, true)?,
            time: TimeEmbedder::load(&embedder, FREQ_DIM, inner, config.guidance_embeds, true)?,
            pooled: Mlp::load(&embedder.pp("text_embedder"), pooled, inner, true)?,
            dual_blocks: dual.collect::<LoadResult<_>>()?,
            single_blocks: single.collect::<LoadResult<_>>()?,
            head: Head::load(weights, inner, config.outputs(), EPS, true)?,
            dtype: weights.compute_dtype(),
            config,
        })
    }

    /// The same with hidden states of another type. Defaults to f32 on a CPU, elsewhere to the type of the
    /// weights.
    #[must_use]
    pub fn computing_in(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The sizes that the model was loaded with.
    pub fn config(&self) -> &FluxConfig {
        &self.config
    }

    /// Metadata for strategies: the registered model of these sizes, or one like it without profiles.
    pub fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    /// Rounds the frequencies `which` of the timestep embedding, counted from 0, to the f32 above the
    /// nearest, as torch does on some CPUs; for comparisons with recorded runs. See
    /// [`Sinusoids::rounded_up`](crate::nn::Sinusoids::rounded_up).
    pub fn round_frequencies_up(&mut self, which: &[usize]) -> Result<()> {
        self.time.round_up(which)
    }

    /// Prepares text embeddings `[batch, tokens, joint_attention_dim]` (T5) and pooled ones
    /// `[batch, pooled_projection_dim]` (CLIP) for use at every step.
    ///
    /// All tokens take part in attention, so padding must be as in training.
    pub fn text_context(&self, text: &Tensor, pooled: &Tensor) -> Result<PromptContext> {
        let (batch, _, _) = text.dims3()?;
        if pooled.dims() != [batch, self.config.pooled_projection_dim] {
            candle_core::bail!(
                "pooled text has shape {:?}, expected [{batch}, {}]",
                pooled.shape(),
                self.config.pooled_projection_dim
            );
        }
        let text = self.context_embedder.forward(&text.to_dtype(self.dtype)?)?;
        let pooled = self.pooled.forward(&pooled.to_dtype(DType::F32)?)?;
        Ok(PromptContext::new(self.id.clone(), text, Some(pooled)))
    }

    /// Prepares the ids of tokens for use at every step.
    ///
    /// Text tokens have zeros, image tokens (0, row, column) of the packed latents; tokens of a reference
    /// image (Kontext) follow, with 1 as the first number.
    pub fn positions(&self, text: &[[f32; 3]], image: &[[f32; 3]]) -> Result<JointPositions> {
        self.rope.positions(text, image, &self.device)
    }

    /// Predicts the velocity `[batch, tokens, out_channels]` for packed latents
    /// `[batch, tokens, in_channels]`.
    ///
    /// Tokens of a reference image follow those of the image and are part of the prediction too, whose first
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
        let temb = match text.pooled() {
            Some(pooled) => (self.time.forward(timestep, guidance, batch)? + pooled)?,
            None => self.time.forward(timestep, guidance, batch)?,
        };
        let activated = silu(self.x_embedder.ops(), &temb)?;
        let image = self.x_embedder.forward(&hidden_states.to_dtype(self.dtype)?)?;

        let probe = |signal: Signal, x: &Streams| match (signal, self.dual_blocks.first()) {
            (Signal::TimestepEmbedding, _) => Ok(temb.clone()),
            (Signal::ModulatedInput, Some(block)) => block.modulated_input(&x.image()?, &activated),
            (signal, _) => candle_core::bail!("FLUX.1 does not show {signal:?}"),
        };
        let roles = dual_outputs(&self.meta);
        let streams = Streams::Dual { image, text: text.text().clone() };
        let blocks = self.dual_blocks.len() + self.single_blocks.len();
        let (x, residual) = pass
            .run_lazy(blocks, &probe, streams, |i, x, modules| match self.dual_blocks.get(i) {
                Some(block) => {
                    by_roles(roles, x, |tuple| block.forward(tuple, &activated, positions, modules))
                }
                None => {
                    let block = &self.single_blocks[i - self.dual_blocks.len()];
                    x.map_joint(|x| block.forward(x, &activated, positions, modules))
                }
            })?
            .into_image_terms()?;
        self.head.forward(&x, residual.as_ref(), &activated)?.to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use magcache_core::{Modules, Role, meta::BlockMeta};

    use super::*;
    use crate::{checkpoint::Ops, testing::Golden};

    struct Case {
        golden: Golden<FluxConfig>,
        model: FluxTransformer,
    }

    impl Case {
        fn open() -> Self {
            let golden = Golden::open("flux_dev", FluxConfig::from_json);
            let model = FluxTransformer::load(&golden.weights, golden.config.clone()).expect("loads");
            Self { golden, model }
        }

        fn input(&self, name: &str) -> Tensor {
            self.golden.tensor(&format!("b1.{name}"))
        }

        fn context(&self) -> PromptContext {
            let (text, pooled) = (self.input("encoder_hidden_states"), self.input("pooled_projections"));
            self.model.text_context(&text, &pooled).expect("fits")
        }

        fn positions(&self) -> JointPositions {
            let ids = |name: &str| -> Vec<[f32; 3]> {
                let rows = self.input(name).to_vec2::<f32>().expect("ids");
                rows.into_iter().map(|row| row.try_into().expect("three axes")).collect()
            };
            self.model.positions(&ids("txt_ids"), &ids("img_ids")).expect("fits")
        }

        fn forward(&self) -> Result<Tensor> {
            let (x, t, guidance) =
                (self.input("hidden_states"), self.input("timestep"), self.input("guidance"));
            let (context, positions) = (self.context(), self.positions());
            self.model.forward(&x, &t, Some(&guidance), &context, &positions, &mut Pass::off())
        }

        /// Every block on its recorded input, as the tuples that the metadata names.
        fn blocks(&self) -> Result<f32> {
            let trace = |name: &str| self.input(&format!("trace.{name}"));
            let (activated, positions) = (silu(Ops::default(), &trace("temb"))?, self.positions());
            let mut x = vec![trace("context_embedder.out"), trace("x_embedder.out")];
            let text_tokens = x[0].dim(1)?;
            let (mut worst, mut off) = (0f32, Modules::off());
            for (i, BlockMeta { name, outputs }) in self.model.meta.block_metas().into_iter().enumerate() {
                let name = name
                    .replace("double", "transformer_blocks")
                    .replace("single", "single_transformer_blocks");
                let returned: Vec<Tensor> = match self.model.dual_blocks.get(i) {
                    Some(block) => block.forward([&x[0], &x[1]], &activated, &positions, &mut off)?.into(),
                    None => {
                        let block = &self.model.single_blocks[i - self.model.dual_blocks.len()];
                        let y = block.forward(&Tensor::cat(&x, 1)?, &activated, &positions, &mut off)?;
                        vec![y.narrow(1, 0, text_tokens)?, y.narrow(1, text_tokens, y.dim(1)? - text_tokens)?]
                    }
                };
                let streams = Streams::from_outputs(&outputs, returned)?;
                let (text, image) = (trace(&format!("{name}.context_out")), trace(&format!("{name}.out")));
                let got = streams.text()?.ok_or_else(|| candle_core::Error::msg("no text"))?;
                for (got, want) in [(got, &text), (streams.image()?, &image)] {
                    worst = worst.max((got - want)?.abs()?.flatten_all()?.max(0)?.to_scalar()?);
                }
                x = vec![text, image];
            }
            Ok(worst)
        }
    }

    #[test]
    fn the_metadata_says_where_text_and_image_are_and_is_heeded() -> Result<()> {
        let mut case = Case::open();
        let error = (case.forward()? - case.input("sample"))?.abs()?.flatten_all()?.max(0)?;
        assert!(error.to_scalar::<f32>()? < 1e-4);
        let worst = case.blocks()?;
        assert!(worst < 5e-5, "{worst}");
        for stack in 0..2 {
            case.model.meta.stacks.to_mut()[stack].outputs = vec![Role::Image, Role::Text].into();
            assert!(case.blocks().is_err(), "the swapped roles of stack {stack} went unnoticed");
            assert_eq!(case.forward().is_err(), stack == 0);
            case.model.meta = meta::of(&case.golden.config);
        }
        Ok(())
    }
}
