//! The networks of a Wan model with the prompts and the image of one request.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use magcache_core::{Branch, Expert, Pass, Step, hint};

use super::{
    FrameCondition, LoadResult, WanInput, WanTransformer,
    experts::{Experts, Ready, WanPrompts},
};
use crate::pipeline::{self, Denoiser, Entered, TextUses, text_of};

/// One network or two, the conditional and (with guidance) the unconditional text, and the condition from a
/// given image.
#[derive(Debug)]
pub struct WanDenoiser {
    experts: Experts,
    /// Scale of guidance per expert.
    guidance: Vec<f64>,
    condition: Option<FrameCondition>,
}

impl WanDenoiser {
    /// From networks in memory, in the order of their phases, each with its scale of guidance.
    ///
    /// Errors: features of a width that a network does not accept.
    pub fn new(
        transformers: Vec<Arc<WanTransformer>>,
        prompts: WanPrompts,
        guidance: Vec<f64>,
    ) -> Result<Self> {
        let experts = Experts::loaded(transformers, prompts)?;
        Ok(Self { experts, guidance, condition: None })
    }

    /// Like [`WanDenoiser::new`], with networks that `load` returns when their phases begin; with `keep` each
    /// then stays in memory, otherwise it is dropped before the next one is loaded.
    pub fn loading(
        load: impl Fn(Expert) -> LoadResult<Arc<WanTransformer>> + Send + Sync + 'static,
        keep: bool,
        prompts: WanPrompts,
        guidance: Vec<f64>,
    ) -> Self {
        let experts = Experts::new(guidance.len(), prompts, keep, Box::new(load));
        Self { experts, guidance, condition: None }
    }

    /// The same for a video with a given image.
    #[must_use]
    pub fn with_condition(self, condition: FrameCondition) -> Self {
        Self { condition: Some(condition), ..self }
    }
}

impl Denoiser for WanDenoiser {
    fn prepare(&self, step: &Step) -> pipeline::Result<()> {
        self.experts.get(step.expert)?;
        Ok(())
    }

    fn enter<'a>(&'a self, latents: &'a Tensor, step: &'a Step) -> Result<Box<dyn Entered + 'a>> {
        let ready = self.experts.get(step.expert).map_err(hint::wrap)?;
        let batch = latents.dim(0)?;
        let input = match &self.condition {
            None => {
                let timestep = Tensor::full(step.timestep as f32, batch, latents.device())?;
                ready.network.embed(latents, &timestep)?
            }
            Some(condition) => {
                let patch = ready.network.config().patch_size;
                let timestep = condition.timestep(step.timestep, batch, patch)?;
                ready.network.embed(&condition.model_input(latents)?, &timestep)?
            }
        };
        Ok(Box::new(WanStep { ready, input }))
    }

    fn guidance(&self, step: &Step) -> f64 {
        let of = self.guidance.get(usize::from(step.expert.0)).or(self.guidance.last());
        of.copied().unwrap_or(1.0)
    }

    fn text_uses(&self) -> Option<TextUses> {
        Some(self.experts.text_uses())
    }

    fn finish(&self, latents: &Tensor) -> Result<Tensor> {
        match &self.condition {
            None => Ok(latents.clone()),
            Some(condition) => condition.finish(latents),
        }
    }
}

/// A network with its input.
struct WanStep {
    ready: Arc<Ready>,
    input: WanInput,
}

impl Entered for WanStep {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        let Ready { network, cond, uncond } = &*self.ready;
        let text = text_of(branch, cond, uncond.as_ref())?;
        network.predict(&self.input, text, pass)
    }
}
