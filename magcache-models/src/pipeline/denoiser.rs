//! One network with its prompt, as the denoising loop sees it.

use std::{fmt, iter::Sum, ops::AddAssign, sync::Arc};

use candle_core::{Result, Tensor};
use magcache_core::{Branch, Pass, Step};

use super::PipelineError;

/// How often the blocks' keys and values of the text were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextUses {
    /// Times they were computed: once per block and prompt.
    pub computed: usize,
    /// Times they were reused.
    pub reused: usize,
}

impl AddAssign for TextUses {
    fn add_assign(&mut self, other: Self) {
        self.computed += other.computed;
        self.reused += other.reused;
    }
}

impl Sum for TextUses {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, uses| {
            sum += uses;
            sum
        })
    }
}

/// The text of a branch: `uncond` of the unconditional one, `cond` of every other.
pub(crate) fn text_of<'a, T>(branch: Branch, cond: &'a T, uncond: Option<&'a T>) -> Result<&'a T> {
    match (branch, uncond) {
        (Branch::Uncond, Some(uncond)) => Ok(uncond),
        (Branch::Uncond, None) => candle_core::bail!("the unconditional branch has no text features"),
        _ => Ok(cond),
    }
}

/// The latents of `step`, the first that runs: noise, or as much of it as that step has on an image of its
/// shape (image to image).
pub(crate) fn begin_from(image: Option<&Tensor>, noise: &Tensor, step: &Step) -> Result<Tensor> {
    match image {
        None => Ok(noise.clone()),
        Some(image) if image.dims() == noise.dims() => (noise * step.sigma)? + (image * (1.0 - step.sigma))?,
        Some(image) => {
            candle_core::bail!("the image has latents {:?}, the noise {:?}", image.shape(), noise.shape())
        }
    }
}

/// What follows the end of a clip, in a run that makes several.
pub struct NextClip {
    /// The frames of the clip that ended, as [`Pipeline::decode`](super::Pipeline::decode) passes them on.
    pub frames: Vec<Tensor>,
    /// The network with the conditions of the next clip.
    pub denoiser: Arc<dyn Denoiser>,
    /// The noise that the next clip begins from.
    pub noise: Tensor,
}

impl fmt::Debug for NextClip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, noise, .. } = self;
        f.debug_struct("NextClip").field("frames", frames).field("noise", noise).finish_non_exhaustive()
    }
}

/// A step of a network, entered with its latents.
pub trait Entered {
    /// The velocity on one branch, in the shape of the latents.
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor>;
}

/// A network with the prompts of one request prepared. Shared by generations that run in turns.
pub trait Denoiser: Send + Sync {
    /// Loads what a step needs and does not have yet, so that it does not count towards the time of a pass.
    fn prepare(&self, _step: &Step) -> super::Result<()> {
        Ok(())
    }

    /// The latents of `step`, the first that runs, from noise of their shape. The noise itself, unless the
    /// run begins from something else as well (image to image).
    fn begin(&self, noise: &Tensor, _step: &Step) -> Result<Tensor> {
        Ok(noise.clone())
    }

    /// Does the work that all guidance branches of `step` share, for latents
    /// `[batch, channels, frames, height, width]`, or tokens `[batch, tokens, channels]` in models that keep
    /// their latents as tokens (Flux).
    fn enter<'a>(&'a self, latents: &'a Tensor, step: &'a Step) -> Result<Box<dyn Entered + 'a>>;

    /// The velocity for `latents` on one branch alone, in their shape.
    fn predict(&self, latents: &Tensor, step: &Step, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        self.enter(latents, step)?.predict(branch, pass)
    }

    /// Scale of classifier-free guidance at a step that has both branches.
    fn guidance(&self, step: &Step) -> f64;

    /// The guided velocity of a step that has both branches: `uncond + guidance * (cond - uncond)`, unless a
    /// model combines them in another way.
    fn guide(&self, step: &Step, cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
        uncond + (cond - uncond)?.affine(self.guidance(step), 0.0)?
    }

    /// How often keys and values of the text were computed and reused; `None` if a network has none that stay
    /// the same from step to step.
    fn text_uses(&self) -> Option<TextUses> {
        None
    }

    /// Ends the clip whose last step gave `latents`, as [`Denoiser::finish`] returned them, and begins the
    /// one after it. Called only where [`Trajectory::clips`](magcache_core::Trajectory::clips) is above 1.
    /// `stop` is checked now and then.
    fn next_clip(&self, _latents: &Tensor, _stop: &dyn Fn() -> bool) -> super::Result<NextClip> {
        Err(PipelineError::request("a second clip, and this model makes one", "clips: 1"))
    }

    /// Processes the latents after the last step of a clip. Leaves them unchanged by default.
    fn finish(&self, latents: &Tensor) -> Result<Tensor> {
        Ok(latents.clone())
    }
}
