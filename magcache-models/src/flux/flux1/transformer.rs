//! FLUX.1's transformer.

use candle_core::{Result, Tensor};

use super::{FluxConfig, config::EPS, meta};
use crate::{
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
        let sizes = Sizes {
            meta: meta::of(&config),
            blocks: BlockSizes {
                form: Form::Flux1,
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
        Self::new(weights, config, sizes)
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
    use magcache_core::{Modules, Pass, Role, Streams, meta::BlockMeta};

    use super::*;
    use crate::{
        checkpoint::Ops,
        mmdit::{JointPositions, modulation::Conditioning},
        nn::silu,
        testing::Golden,
    };

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
            let conditioning = Conditioning { activated, shared: None };
            let mut x = vec![trace("context_embedder.out"), trace("x_embedder.out")];
            let text_tokens = x[0].dim(1)?;
            let (mut worst, mut off) = (0f32, Modules::off());
            for (i, BlockMeta { name, outputs }) in self.model.meta.block_metas().into_iter().enumerate() {
                let name = name
                    .replace("double", "transformer_blocks")
                    .replace("single", "single_transformer_blocks");
                let returned: Vec<Tensor> = match self.model.dual_blocks.get(i) {
                    Some(block) => block.forward([&x[0], &x[1]], &conditioning, &positions, &mut off)?.into(),
                    None => {
                        let block = &self.model.single_blocks[i - self.model.dual_blocks.len()];
                        let y = block.forward(&Tensor::cat(&x, 1)?, &conditioning, &positions, &mut off)?;
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
