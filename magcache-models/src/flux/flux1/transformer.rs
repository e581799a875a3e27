//! FLUX.1's transformer.

use candle_core::{Result, Tensor};

use super::{FluxConfig, config::EPS, meta};
use crate::{
    blocks::Residence,
    checkpoint::Weights,
    flux::transformer::{Sizes, Transformer},
    mmdit::{BlockSizes, Form, LoadResult, PromptContext},
};

/// Hidden channels of the feed-forward layers, as a multiple of the width.
const MLP_RATIO: usize = 4;

/// Length of the sinusoidal embedding of timesteps.
const FREQ_DIM: usize = 256;

/// Base of the geometric progression of rotary frequencies.
const THETA: f64 = 10_000.0;

/// The diffusion transformer of FLUX.1: dev, schnell, Kontext, and others of the same blocks.
///
/// Source: `FluxTransformer2DModel` of diffusers 0.42.1, without its `ControlNet` and IP adapter inputs.
pub type FluxTransformer = Transformer<FluxConfig, 3>;

impl FluxTransformer {
    /// Loads the tensors of the diffusers layout.
    ///
    /// Fails if a tensor is missing or has another shape than `config` implies.
    pub fn load(weights: &Weights, config: FluxConfig) -> LoadResult<Self> {
        Self::load_in(weights, config, &Residence::Memory)
    }

    /// The same with the weights of its blocks elsewhere while these do not run.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_in(weights: &Weights, config: FluxConfig, residence: &Residence) -> LoadResult<Self> {
        let sizes = Sizes {
            meta: meta::of(&config),
            blocks: BlockSizes {
                form: Form::Gelu,
                heads: config.num_attention_heads,
                head_dim: config.attention_head_dim,
                hidden: MLP_RATIO * config.inner_dim(),
                eps: EPS,
            },
            layers: [config.num_layers, config.num_single_layers],
            channels: [config.in_channels, config.joint_attention_dim, config.outputs()],
            pooled: Some(config.pooled_projection_dim),
            frequencies: FREQ_DIM,
            guidance_embeds: config.guidance_embeds,
            axes: config.axes_dims_rope,
            theta: THETA,
        };
        Self::new(weights, config, sizes, residence)
    }

    /// Prepares text embeddings `[batch, tokens, joint_attention_dim]` (T5) and pooled ones
    /// `[batch, pooled_projection_dim]` (CLIP) for use at every step.
    ///
    /// All tokens take part in attention, so padding must be as in training.
    pub fn text_context(&self, text: &Tensor, pooled: &Tensor) -> Result<PromptContext> {
        self.context(text, Some(pooled))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use magcache_core::{Modules, Pass, Role, Streams};

    use super::*;
    use crate::{
        checkpoint::{Ops, WeightDtype},
        flux::tiny,
        mmdit::{JointPositions, modulation::Conditioning},
        nn::silu,
    };

    const TEXT: usize = 3;
    const IMAGE: usize = 4;

    fn zeros(shape: &[usize]) -> Tensor {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("fits")
    }

    fn positions(model: &FluxTransformer) -> JointPositions {
        model.positions(&[[0.0; 3]; TEXT], &[[0.0; 3]; IMAGE]).expect("fits")
    }

    fn forward(model: &FluxTransformer) -> Result<Tensor> {
        let FluxConfig { in_channels, joint_attention_dim, pooled_projection_dim, .. } = *model.config();
        let context = model
            .text_context(&zeros(&[1, TEXT, joint_attention_dim]), &zeros(&[1, pooled_projection_dim]))?;
        let (x, one) = (zeros(&[1, IMAGE, in_channels]), zeros(&[1]));
        let guidance = model.config().guidance_embeds.then_some(&one);
        model.forward(&x, &one, guidance, &context, &positions(model), &mut Pass::off())
    }

    /// Whether the tuple of every block has text and image where the metadata says.
    fn tuples_are_as_told(model: &FluxTransformer) -> Result<bool> {
        let inner = model.config().inner_dim();
        let (text, image) = (zeros(&[1, TEXT, inner]), zeros(&[1, IMAGE, inner]));
        let (activated, positions) = (silu(Ops::default(), &zeros(&[1, inner]))?, positions(model));
        let conditioning = Conditioning { activated, shared: None };
        let mut off = Modules::off();
        let stacks = model.meta.stacks.iter();
        let outputs = stacks.flat_map(|stack| std::iter::repeat_n(stack.outputs, stack.blocks));
        for (i, outputs) in outputs.enumerate() {
            let returned: Vec<Tensor> = match i.checked_sub(model.dual_blocks.len()) {
                None => {
                    let block = model.dual_blocks.get(i)?;
                    block.forward([&text, &image], &conditioning, &positions, &mut off)?.into()
                }
                Some(i) => {
                    let block = model.single_blocks.get(i)?;
                    let y = block.forward(
                        &Tensor::cat(&[&text, &image], 1)?,
                        &conditioning,
                        &positions,
                        &mut off,
                    )?;
                    vec![y.narrow(1, 0, TEXT)?, y.narrow(1, TEXT, IMAGE)?]
                }
            };
            let streams = Streams::from_outputs(outputs, returned)?;
            let tokens = (streams.text()?.map(|x| x.dim(1)).transpose()?, streams.image()?.dim(1)?);
            if tokens != (Some(TEXT), IMAGE) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    #[test]
    fn the_metadata_says_where_text_and_image_are_and_is_heeded() -> Result<()> {
        let folder = tiny::flux().sub("transformer");
        let config = folder.read_to_string("config.json").expect("is there");
        let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).expect("is there");
        let mut model =
            FluxTransformer::load(&weights, FluxConfig::from_json(&config).expect("valid")).expect("loads");
        forward(&model)?;
        assert!(tuples_are_as_told(&model)?);
        for stack in 0..2 {
            model.meta.stacks.to_mut()[stack].outputs = &[Role::Image, Role::Text];
            assert!(!tuples_are_as_told(&model)?, "the swapped roles of stack {stack} went unnoticed");
            assert_eq!(forward(&model).is_err(), stack == 0);
            model.meta = meta::of(model.config());
        }
        Ok(())
    }
}
