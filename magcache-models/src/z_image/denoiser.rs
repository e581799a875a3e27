//! The network with the prompts and the image of one request.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use magcache_core::{Branch, Pass, Step};

use super::{ZImagePrompt, ZImageTime, ZImageTransformer};
use crate::pipeline::{Denoiser, Entered, begin_from, text_of};

/// Timesteps of the training: steps count down from it, the network up from 0 to 1.
const TRAIN_TIMESTEPS: f32 = 1000.0;

/// The part of the way from noise to image at a timestep of the scheduler.
fn part(timestep: f64) -> f32 {
    (TRAIN_TIMESTEPS - timestep as f32) / TRAIN_TIMESTEPS
}

/// How strongly the prompt is followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZImageGuidance {
    /// `cond + scale * (cond - uncond)`: one less than what other models call so. 0 means none.
    pub scale: f64,
    /// The most that the norm of a whole guided prediction may be, as a multiple of that without guidance.
    pub normalization: Option<f64>,
    /// The part of the way from noise to image after which there is no guidance.
    pub truncation: Option<f64>,
}

impl ZImageGuidance {
    /// Whether both branches run.
    pub fn is_on(self) -> bool {
        self.scale > 0.0
    }

    /// The first of the steps at these timesteps without guidance, if not all of them have it.
    pub fn end(self, timesteps: &[f64]) -> Option<usize> {
        let most = self.truncation?;
        timesteps.iter().position(|timestep| f64::from(part(*timestep)) > most)
    }

    /// The guided prediction.
    fn apply(self, cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
        let guided = (cond + (cond - uncond)?.affine(self.scale, 0.0)?)?;
        let Some(most) = self.normalization.filter(|most| *most > 0.0) else { return Ok(guided) };
        let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt();
        let most = norm(cond)?.affine(most, 0.0)?;
        // 1 where the norm is below, also if both are 0.
        let factor = (&most / norm(&guided)?.maximum(&most)?.maximum(f64::from(f32::MIN_POSITIVE))?)?;
        guided.broadcast_mul(&factor)
    }
}

/// A network and its prompts; with an image, the one that the run begins from.
///
/// Latents are `[1, channels, height, width]` in f32.
#[derive(Debug)]
pub struct ZImageDenoiser {
    network: Arc<ZImageTransformer>,
    cond: ZImagePrompt,
    uncond: Option<ZImagePrompt>,
    guidance: ZImageGuidance,
    start: Option<Tensor>,
}

impl ZImageDenoiser {
    /// `uncond` is for classifier-free guidance; it may have another length than `cond`.
    pub fn new(
        network: Arc<ZImageTransformer>,
        cond: ZImagePrompt,
        uncond: Option<ZImagePrompt>,
        guidance: ZImageGuidance,
    ) -> Self {
        Self { network, cond, uncond, guidance, start: None }
    }

    /// Begins from an image, in the shape of the latents, with as much noise as the first step has (image to
    /// image).
    #[must_use]
    pub fn starting_from(self, image: Option<Tensor>) -> Self {
        Self { start: image, ..self }
    }
}

impl Denoiser for ZImageDenoiser {
    fn begin(&self, noise: &Tensor, step: &Step) -> Result<Tensor> {
        begin_from(self.start.as_ref(), noise, step)
    }

    fn enter<'a>(&'a self, latents: &'a Tensor, step: &'a Step) -> Result<Box<dyn Entered + 'a>> {
        Ok(Box::new(ZImageStep { of: self, latents, time: self.network.time(part(step.timestep))? }))
    }

    fn guidance(&self, _: &Step) -> f64 {
        self.guidance.scale
    }

    fn guide(&self, _: &Step, cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
        self.guidance.apply(cond, uncond)
    }
}

/// What the branches of a step share.
struct ZImageStep<'a> {
    of: &'a ZImageDenoiser,
    latents: &'a Tensor,
    time: ZImageTime,
}

impl Entered for ZImageStep<'_> {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        let prompt = text_of(branch, &self.of.cond, self.of.uncond.as_ref())?;
        self.of.network.forward(self.latents, &self.time, prompt, pass)?.neg()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn guidance_adds_to_the_prompts_own_prediction_and_may_keep_its_norm() -> Result<()> {
        let of = |values: &[f32]| Tensor::new(values, &Device::Cpu);
        let (cond, uncond) = (of(&[3.0, 4.0])?, of(&[2.0, 4.0])?);
        let guide = |scale, normalization| -> Result<Vec<f32>> {
            ZImageGuidance { scale, normalization, truncation: None }.apply(&cond, &uncond)?.to_vec1()
        };
        assert_eq!(guide(4.0, None)?, [7.0, 4.0]);
        assert_eq!(guide(0.0, None)?, [3.0, 4.0]);
        let kept = guide(4.0, Some(1.0))?;
        let norm = kept.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm - 5.0).abs() < 1e-5 && (kept[0] / kept[1] - 1.75).abs() < 1e-6, "{kept:?}");
        // Far from the limit nothing changes.
        assert_eq!(guide(4.0, Some(2.0))?, [7.0, 4.0]);
        let nothing = of(&[0.0, 0.0])?;
        let guidance = ZImageGuidance { scale: 4.0, normalization: Some(1.0), truncation: Some(0.3) };
        assert_eq!(guidance.apply(&nothing, &nothing)?.to_vec1::<f32>()?, [0.0, 0.0]);
        // As there, the time is a number of four bytes: at 700 it is a little more than 0.3.
        assert_eq!(guidance.end(&[1000.0, 900.0, 701.0, 700.0, 500.0]), Some(3));
        assert_eq!(ZImageGuidance { truncation: Some(1.0), ..guidance }.end(&[1000.0, 1.0]), None);
        Ok(())
    }
}
