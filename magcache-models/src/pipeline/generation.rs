//! The denoising loop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Tensor};
use magcache_core::{Branch, HookRegistry, Session, Trajectory};

use super::{Denoiser, PipelineError, Result};
use crate::sampler::Sampler;

/// How long one pass of the network took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassTime {
    /// Step of the trajectory.
    pub step: usize,
    /// Guidance branch.
    pub branch: Branch,
    /// Wall time, the device's work included on a CPU.
    pub time: Duration,
}

/// One run of the sampler. Owns its solver, its latents and its caches, so several can run in turns.
pub struct Generation {
    denoiser: Option<Arc<dyn Denoiser>>,
    trajectory: Trajectory,
    sampler: Sampler,
    session: Option<Session>,
    latents: Tensor,
    next: usize,
    times: Vec<PassTime>,
}

impl Generation {
    /// A run from `noise` of the latents' shape. With no hooks in `registry` the blocks run in the bare loop.
    ///
    /// # Errors
    /// Noise of another shape than the image that the run begins with.
    pub fn new(
        denoiser: Arc<dyn Denoiser>,
        trajectory: Trajectory,
        sampler: Sampler,
        noise: &Tensor,
        registry: &Arc<HookRegistry>,
    ) -> Result<Self> {
        let session = (!registry.is_empty()).then(|| registry.session());
        let next = trajectory.first;
        let latents = denoiser.begin(noise, &trajectory.step(next))?;
        let denoiser = Some(denoiser);
        Ok(Self { denoiser, trajectory, sampler, session, latents, next, times: Vec::new() })
    }

    /// Runs one step: the branches that the trajectory gives it, guidance, the solver. `stop` is asked before each pass of the network.
    ///
    /// Errors: [`PipelineError::Interrupted`] when `stop` says so; latents and solver are then as before the step.
    pub fn step(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        let Some(denoiser) = self.denoiser.clone() else {
            return Err(PipelineError::request(
                "a step after the network was released",
                "make a new generation",
            ));
        };
        let step = self.trajectory.step(self.next);
        denoiser.prepare(&step)?;
        let guidance = denoiser.guidance(&step);
        let mut cond = None;
        let mut velocity = None;
        for branch in self.trajectory.branches_at(&step).to_vec() {
            if stop() {
                return Err(PipelineError::Interrupted { step: self.next, steps: self.trajectory.len() });
            }
            let start = Instant::now();
            let mut pass = match &mut self.session {
                Some(session) => session.pass(step.clone(), branch),
                None => magcache_core::Pass::off(),
            };
            let predicted = pass.forward(self.latents.clone(), |latents, pass| {
                denoiser.predict(&latents, &step, branch, pass)
            })?;
            drop(pass);
            self.times.push(PassTime { step: step.index, branch, time: start.elapsed() });
            velocity = Some(match (branch, &cond) {
                (Branch::Uncond, Some(cond)) => guide(cond, &predicted, guidance)?,
                _ => {
                    cond = Some(predicted.clone());
                    predicted
                }
            });
        }
        let Some(velocity) = velocity else {
            return Err(PipelineError::request("a run without branches", "give it at least one"));
        };
        self.latents = self.sampler.step(self.next, &velocity.to_dtype(DType::F32)?, &self.latents)?;
        self.next += 1;
        if self.is_done() {
            self.latents = denoiser.finish(&self.latents)?;
        }
        Ok(())
    }

    /// Runs what is left, with `progress` after each step.
    pub fn run(&mut self, stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(&Self)) -> Result<()> {
        while !self.is_done() {
            self.step(stop)?;
            progress(self);
        }
        Ok(())
    }

    /// Lets go of the network, which is freed with its last user: for a run that is done and will be decoded. A step
    /// after this is an error.
    pub fn release(&mut self) {
        self.denoiser = None;
    }

    /// True behind the last step.
    pub fn is_done(&self) -> bool {
        self.next >= self.trajectory.len()
    }

    /// The next step.
    pub fn next(&self) -> usize {
        self.next
    }

    /// The latents behind the last step run, f32, in the shape that the model's [`Denoiser`] takes.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// The steps of the run.
    pub fn trajectory(&self) -> &Trajectory {
        &self.trajectory
    }

    /// The caches and their decisions; `None` for a run without hooks.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// How long each pass took, in order.
    pub fn times(&self) -> &[PassTime] {
        &self.times
    }

    /// Time in the network.
    pub fn transformer_time(&self) -> Duration {
        self.times.iter().map(|t| t.time).sum()
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("next", &self.next).finish_non_exhaustive()
    }
}

/// Classifier-free guidance: `uncond + scale · (cond − uncond)`.
fn guide(cond: &Tensor, uncond: &Tensor, scale: f64) -> Result<Tensor> {
    Ok((uncond + (cond - uncond)?.affine(scale, 0.0)?)?)
}
