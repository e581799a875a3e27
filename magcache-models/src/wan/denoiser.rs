//! A Wan transformer with the prompts of one request.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};
use magcache_core::{Branch, Pass, Step};

use super::{TextContext, WanTransformer};
use crate::pipeline::Denoiser;

/// One network, the conditional and (with guidance) the unconditional text.
#[derive(Debug)]
pub struct WanDenoiser {
    transformer: Arc<WanTransformer>,
    cond: TextContext,
    uncond: Option<TextContext>,
    guidance: f64,
}

impl WanDenoiser {
    /// From text features `[batch, tokens, text_dim]`, their padding rows zero.
    ///
    /// Errors: features of another width than the network's `text_dim`.
    pub fn new(
        transformer: Arc<WanTransformer>,
        prompt_embeds: &Tensor,
        negative_prompt_embeds: Option<&Tensor>,
        guidance: f64,
    ) -> Result<Self> {
        let cond = transformer.text_context(prompt_embeds)?;
        let uncond = negative_prompt_embeds.map(|e| transformer.text_context(e)).transpose()?;
        Ok(Self { transformer, cond, uncond, guidance })
    }
}

impl Denoiser for WanDenoiser {
    fn predict(&self, latents: &Tensor, step: &Step, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        let text = match (branch, &self.uncond) {
            (Branch::Uncond, Some(uncond)) => uncond,
            (Branch::Uncond, None) => bail!("the unconditional branch has no text features"),
            _ => &self.cond,
        };
        let batch = latents.dim(0)?;
        let timestep = Tensor::full(step.timestep as f32, batch, latents.device())?.to_dtype(DType::F32)?;
        self.transformer.forward(latents, &timestep, text, pass)
    }

    fn guidance(&self, _: &Step) -> f64 {
        self.guidance
    }
}
