//! A network with the prompts and the pictures of one request.

use std::sync::Arc;

use candle_core::{D, Result, Tensor};
use magcache_core::{Branch, Pass, Step};

use super::QwenImageTransformer;
use crate::{
    mmdit::{JointPositions, PromptContext},
    pipeline::{Denoiser, Entered, begin_from, text_of},
};

/// Timesteps of the training: steps count in these, the network from 0 to 1.
const TRAIN_TIMESTEPS: f32 = 1000.0;

/// A prompt as the network sees it, beside the pictures of a request.
#[derive(Clone, Debug)]
pub struct QwenImagePrompt {
    /// Its text.
    pub context: PromptContext,
    /// The positions of text and pictures.
    pub positions: JointPositions,
}

impl QwenImagePrompt {
    /// Prepares text embeddings `[1, tokens, channels]` beside pictures with these rows and columns of
    /// tokens, the target first.
    pub fn new(network: &QwenImageTransformer, text: &Tensor, grids: &[[usize; 2]]) -> Result<Self> {
        let context = network.text_context(text)?;
        Ok(Self { positions: network.positions(context.text().dim(1)?, grids)?, context })
    }
}

/// A network and its prompts, whose texts may have different lengths; with pictures, the one that the run
/// begins from, or those that the network looks at.
#[derive(Debug)]
pub struct QwenImageDenoiser {
    network: Arc<QwenImageTransformer>,
    cond: QwenImagePrompt,
    uncond: Option<QwenImagePrompt>,
    guidance: f64,
    start: Option<Tensor>,
    references: Option<Tensor>,
}

impl QwenImageDenoiser {
    /// `uncond` is for classifier-free guidance, of the scale `guidance`.
    pub fn new(
        network: Arc<QwenImageTransformer>,
        cond: QwenImagePrompt,
        uncond: Option<QwenImagePrompt>,
        guidance: f64,
    ) -> Self {
        Self { network, cond, uncond, guidance, start: None, references: None }
    }

    /// Begins from a picture, `[batch, tokens, channels]`, with as much noise as the first step has.
    #[must_use]
    pub fn starting_from(self, image: Tensor) -> Self {
        Self { start: Some(image), ..self }
    }

    /// Shows the network reference pictures at every step, `[batch, tokens, channels]` of all of them.
    #[must_use]
    pub fn with_references(self, tokens: Tensor) -> Self {
        Self { references: Some(tokens), ..self }
    }
}

impl Denoiser for QwenImageDenoiser {
    fn begin(&self, noise: &Tensor, step: &Step) -> Result<Tensor> {
        begin_from(self.start.as_ref(), noise, step)
    }

    fn enter<'a>(&'a self, latents: &'a Tensor, step: &'a Step) -> Result<Box<dyn Entered + 'a>> {
        let (batch, tokens, _) = latents.dims3()?;
        let input = match &self.references {
            None => latents.clone(),
            Some(references) => Tensor::cat(&[latents, references], 1)?,
        };
        let timestep = Tensor::full(step.timestep as f32 / TRAIN_TIMESTEPS, batch, latents.device())?;
        Ok(Box::new(QwenImageStep { of: self, input, tokens, timestep }))
    }

    fn guidance(&self, _: &Step) -> f64 {
        self.guidance
    }

    /// Every token of the guided prediction gets the norm that it has without guidance.
    fn guide(&self, _: &Step, cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
        let guided = (uncond + (cond - uncond)?.affine(self.guidance, 0.0)?)?;
        let norm = |x: &Tensor| x.sqr()?.sum_keepdim(D::Minus1)?.sqrt();
        guided.broadcast_mul(&(norm(cond)? / norm(&guided)?)?)
    }
}

/// The inputs that a network shares between the branches of a step.
struct QwenImageStep<'a> {
    of: &'a QwenImageDenoiser,
    /// Including reference pictures.
    input: Tensor,
    /// Tokens of the target alone.
    tokens: usize,
    timestep: Tensor,
}

impl Entered for QwenImageStep<'_> {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        let Self { of, input, tokens, timestep } = self;
        let QwenImagePrompt { context, positions } = text_of(branch, &of.cond, of.uncond.as_ref())?;
        of.network.forward(input, timestep, context, positions, pass)?.narrow(1, 0, *tokens)
    }
}
