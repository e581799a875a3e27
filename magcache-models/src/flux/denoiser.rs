//! A network of either generation with the prompts and the image of one request.

use std::{fmt::Debug, sync::Arc};

use candle_core::{Result, Tensor};
use magcache_core::{Branch, Pass, Step};

use super::Transformer;
use crate::{
    mmdit::{JointPositions, PromptContext},
    pipeline::{Denoiser, Entered, begin_from, text_of},
};

/// Timesteps of the training: steps count in these, the network from 0 to 1.
const TRAIN_TIMESTEPS: f32 = 1000.0;

/// A Flux transformer of either generation.
pub trait FluxNetwork: Debug + Send + Sync {
    /// The velocity `[batch, tokens, channels]` for packed latents of this shape, see
    /// [`Transformer::forward`].
    fn forward(
        &self,
        hidden_states: &Tensor,
        timestep: &Tensor,
        guidance: Option<&Tensor>,
        text: &PromptContext,
        positions: &JointPositions,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor>;
}

impl<C: Debug + Send + Sync, const AXES: usize> FluxNetwork for Transformer<C, AXES> {
    fn forward(
        &self,
        hidden_states: &Tensor,
        timestep: &Tensor,
        guidance: Option<&Tensor>,
        text: &PromptContext,
        positions: &JointPositions,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        self.forward(hidden_states, timestep, guidance, text, positions, pass)
    }
}

/// How strongly the prompt is followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FluxGuidance {
    /// The guidance scale that a guidance-distilled network takes as input.
    pub embedded: Option<f64>,
    /// Scale of classifier-free guidance; at most 1 means none.
    pub scale: f64,
}

impl FluxGuidance {
    /// Whether both branches run.
    pub fn is_classifier_free(self) -> bool {
        self.scale > 1.0
    }
}

/// A network, its prompts and the positions of their tokens; with an image, the one that the run begins from
/// or that the network looks at.
#[derive(Debug)]
pub struct FluxDenoiser {
    network: Arc<dyn FluxNetwork>,
    cond: PromptContext,
    uncond: Option<PromptContext>,
    positions: JointPositions,
    guidance: FluxGuidance,
    start: Option<Tensor>,
    reference: Option<Tensor>,
}

impl FluxDenoiser {
    /// `positions` are those of the text, the image and then the reference images. `uncond` is for
    /// classifier-free guidance and has as many tokens as `cond`.
    pub fn new(
        network: Arc<dyn FluxNetwork>,
        cond: PromptContext,
        uncond: Option<PromptContext>,
        positions: JointPositions,
        guidance: FluxGuidance,
    ) -> Self {
        Self { network, cond, uncond, positions, guidance, start: None, reference: None }
    }

    /// Begins from an image, `[batch, tokens, channels]`, with as much noise as the first step has (image to
    /// image).
    #[must_use]
    pub fn starting_from(self, image: Tensor) -> Self {
        Self { start: Some(image), ..self }
    }

    /// Shows the network reference images at every step, `[batch, tokens, channels]` (Kontext, FLUX.2).
    #[must_use]
    pub fn with_reference(self, tokens: Tensor) -> Self {
        Self { reference: Some(tokens), ..self }
    }
}

impl Denoiser for FluxDenoiser {
    fn begin(&self, noise: &Tensor, step: &Step) -> Result<Tensor> {
        begin_from(self.start.as_ref(), noise, step)
    }

    fn enter<'a>(&'a self, latents: &'a Tensor, step: &'a Step) -> Result<Box<dyn Entered + 'a>> {
        let (batch, tokens, _) = latents.dims3()?;
        let full = |value: f32| Tensor::full(value, batch, latents.device());
        let input = match &self.reference {
            None => latents.clone(),
            Some(reference) => Tensor::cat(&[latents, reference], 1)?,
        };
        Ok(Box::new(FluxStep {
            of: self,
            input,
            tokens,
            timestep: full(step.timestep as f32 / TRAIN_TIMESTEPS)?,
            guidance: self.guidance.embedded.map(|scale| full(scale as f32)).transpose()?,
        }))
    }

    fn guidance(&self, _: &Step) -> f64 {
        self.guidance.scale
    }
}

/// The inputs that a network shares between the branches of a step.
struct FluxStep<'a> {
    of: &'a FluxDenoiser,
    /// Including reference images.
    input: Tensor,
    /// Tokens of the image alone.
    tokens: usize,
    timestep: Tensor,
    guidance: Option<Tensor>,
}

impl Entered for FluxStep<'_> {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        let Self { of, input, tokens, timestep, guidance } = self;
        let text = text_of(branch, &of.cond, of.uncond.as_ref())?;
        let predicted = of.network.forward(input, timestep, guidance.as_ref(), text, &of.positions, pass)?;
        predicted.narrow(1, 0, *tokens)
    }
}
