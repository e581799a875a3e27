//! The network: latents and a timestep to a prediction.

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{ModelMeta, Pass, Signal, Streams};

use super::{Flux2Config, meta};
use crate::{
    checkpoint::Weights,
    flux::meta::dual_outputs,
    mmdit::{
        AxesRope, JointPositions, LoadResult, PromptContext,
        attention::{Heads, Projections},
        dual::{DualBlock, by_roles},
        embed::TimeEmbedder,
        feed_forward::Activation,
        head::Head,
        modulation::Modulation,
        single::{Extent, SingleBlock, split_rows},
    },
    model_id::ModelId,
    nn::{JoinedLinear, Linear, silu},
};

/// The diffusion transformer of FLUX.2: dev and klein.
///
/// Compared with FLUX.1: no biases, one modulation shared by all blocks of a stack, `SwiGLU` feed-forwards,
/// one input projection for attention and feed-forward in single-stream blocks, positions of four axes, and
/// no pooled text.
///
/// Source: `Flux2Transformer2DModel` of diffusers 0.42.1, without its cache of the keys and values of
/// reference images. Differences: whatever depends only on the prompt or the ids is prepared once
/// ([`PromptContext`], [`JointPositions`]), a missing guidance scale is an error if the model has an embedder
/// for it, and all arithmetic is in f32 whatever the stored type of the weights.
///
/// The model holds weights only: it can serve several generations at once.
#[derive(Debug)]
pub struct Flux2Transformer {
    id: ModelId,
    config: Flux2Config,
    meta: ModelMeta,
    device: Device,
    rope: AxesRope<4>,
    x_embedder: Linear,
    context_embedder: Linear,
    time: TimeEmbedder,
    double_stream_modulation_img: Linear,
    double_stream_modulation_txt: Linear,
    single_stream_modulation: Linear,
    dual_blocks: Vec<DualBlock>,
    single_blocks: Vec<SingleBlock>,
    head: Head,
    /// Type of the hidden states.
    dtype: DType,
}

impl Flux2Transformer {
    /// Loads the tensors of the diffusers layout.
    ///
    /// Fails if a tensor is missing or has another shape than `config` implies.
    pub fn load(weights: &Weights, config: Flux2Config) -> LoadResult<Self> {
        let (inner, eps) = (config.inner_dim(), config.eps);
        let linear = |name: &str, inputs: usize, outputs: usize| {
            Linear::load(&weights.pp(name), inputs, outputs, false)
        };
        let modulation =
            |name: &str, parts: usize| linear(&format!("{name}.linear"), inner, 3 * parts * inner);
        let dual = (0..config.num_layers).map(|i| {
            let weights = weights.pp(format!("transformer_blocks.{i}"));
            DualBlock::load(&weights, heads(&config), config.mlp_hidden_dim(), Activation::SwiGlu, eps)
        });
        let single = (0..config.num_single_layers)
            .map(|i| single_block(&weights.pp(format!("single_transformer_blocks.{i}")), &config));
        Ok(Self {
            id: ModelId::default(),
            meta: meta::of(&config),
            device: weights.device().clone(),
            rope: AxesRope::new(config.axes_dims_rope, config.rope_theta),
            x_embedder: linear("x_embedder", config.in_channels, inner)?,
            context_embedder: linear("context_embedder", config.joint_attention_dim, inner)?,
            time: TimeEmbedder::load(
                &weights.pp("time_guidance_embed"),
                config.timestep_guidance_channels,
                inner,
                config.guidance_embeds,
                false,
            )?,
            double_stream_modulation_img: modulation("double_stream_modulation_img", 2)?,
            double_stream_modulation_txt: modulation("double_stream_modulation_txt", 2)?,
            single_stream_modulation: modulation("single_stream_modulation", 1)?,
            dual_blocks: dual.collect::<LoadResult<_>>()?,
            single_blocks: single.collect::<LoadResult<_>>()?,
            head: Head::load(weights, inner, config.outputs(), eps, false)?,
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
    pub fn config(&self) -> &Flux2Config {
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

    /// Prepares text embeddings `[batch, tokens, joint_attention_dim]` for use at every step.
    ///
    /// All tokens take part in attention, so padding must be as in training.
    pub fn text_context(&self, text: &Tensor) -> Result<PromptContext> {
        text.dims3()?;
        let text = self.context_embedder.forward(&text.to_dtype(self.dtype)?)?;
        Ok(PromptContext::new(self.id.clone(), text, None))
    }

    /// Prepares the ids of tokens for use at every step.
    ///
    /// Text tokens have (0, 0, 0, index), image tokens (0, row, column, 0) of the packed latents; tokens of
    /// reference images follow, with 10, 20 and so on as the first number.
    pub fn positions(&self, text: &[[f32; 4]], image: &[[f32; 4]]) -> Result<JointPositions> {
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
        let temb = self.time.forward(timestep, guidance, batch)?;
        let activated = silu(self.x_embedder.ops(), &temb)?;
        let image = self.x_embedder.forward(&hidden_states.to_dtype(self.dtype)?)?;

        let ops = self.x_embedder.ops();
        let projected = self.double_stream_modulation_img.forward(&activated)?;
        let of_image = Modulation::split(ops, &projected)?;
        let of_text = Modulation::split(ops, &self.double_stream_modulation_txt.forward(&activated)?)?;
        let [of_both] = Modulation::split(ops, &self.single_stream_modulation.forward(&activated)?)?;

        let probe = |signal: Signal, x: &Streams| match (signal, self.dual_blocks.first()) {
            (Signal::TimestepEmbedding, _) => Ok(temb.clone()),
            (Signal::TimestepProjection, _) => Ok(projected.clone()),
            (Signal::ModulatedInput, Some(block)) => block.modulated_input(&x.image()?, &of_image),
            (Signal::ModulatedInput, None) => candle_core::bail!("a model without dual-stream blocks"),
        };
        let roles = dual_outputs(&self.meta);
        let streams = Streams::Dual { image, text: text.text().clone() };
        let blocks = self.dual_blocks.len() + self.single_blocks.len();
        let (x, residual) = pass
            .run_lazy(blocks, &probe, streams, |i, x, modules| match self.dual_blocks.get(i) {
                Some(block) => by_roles(roles, x, |tuple| {
                    block.forward(tuple, [&of_text, &of_image], positions, modules)
                }),
                None => {
                    let block = &self.single_blocks[i - self.dual_blocks.len()];
                    x.map_joint(|x| block.forward(x, &of_both, positions, modules))
                }
            })?
            .into_image_terms()?;
        self.head.forward(&x, residual.as_ref(), &activated)?.to_dtype(DType::F32)
    }
}

fn heads(config: &Flux2Config) -> Heads {
    Heads { count: config.num_attention_heads, dim: config.attention_head_dim, eps: config.eps, bias: false }
}

/// `single_transformer_blocks.N`, whose first layer holds the projections of attention and feed-forward in
/// one tensor.
fn single_block(weights: &Weights, config: &Flux2Config) -> LoadResult<SingleBlock> {
    let weights = weights.pp("attn");
    let (inner, hidden) = (config.inner_dim(), config.mlp_hidden_dim());
    let activation = Activation::SwiGlu;
    let rows = [inner, inner, inner, activation.inputs(hidden)];
    let fused = weights.get("to_qkv_mlp_proj.weight", &[rows.iter().sum(), inner])?;
    let [to_q, to_k, to_v, proj_mlp] = split_rows(weights.ops(), &fused, rows)?;
    Ok(SingleBlock {
        projections: Projections::new(&weights, [to_q, to_k, to_v], ["norm_q", "norm_k"], heads(config))?,
        proj_mlp,
        activation,
        proj_out: JoinedLinear::load(&weights.pp("to_out"), [inner, hidden], inner, false)?,
        heads: config.num_attention_heads,
        attn: Extent::All,
        eps: config.eps,
    })
}
