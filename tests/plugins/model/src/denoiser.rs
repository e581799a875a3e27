//! The network with the prompts of one request, as the denoising loop sees it.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use magcache_core::{Branch, Pass, Step};
use magcache_models::pipeline::{Denoiser, Entered};

use crate::Mini;

pub(crate) struct MiniDenoiser {
    pub(crate) network: Arc<Mini>,
    /// `[1, tokens, 16]`.
    pub(crate) cond: Tensor,
    /// Where there is guidance.
    pub(crate) uncond: Option<Tensor>,
    pub(crate) guidance: f64,
}

impl Denoiser for MiniDenoiser {
    fn enter<'a>(&'a self, latents: &'a Tensor, step: &'a Step) -> Result<Box<dyn Entered + 'a>> {
        Ok(Box::new(MiniStep { of: self, latents, timestep: step.timestep }))
    }

    fn guidance(&self, _: &Step) -> f64 {
        self.guidance
    }
}

/// What both guidance passes of a step share.
struct MiniStep<'a> {
    of: &'a MiniDenoiser,
    latents: &'a Tensor,
    timestep: f64,
}

impl Entered for MiniStep<'_> {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        let text = match (branch, &self.of.uncond) {
            (Branch::Uncond, Some(uncond)) => uncond,
            (Branch::Uncond, None) => bail!("this run has no negative prompt"),
            _ => &self.of.cond,
        };
        self.of.network.forward(self.latents, self.timestep, text, pass)
    }
}
