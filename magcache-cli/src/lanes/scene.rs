//! What the runs of one request share.

use std::sync::Arc;

use candle_core::Tensor;
use magcache_models::pipeline::{Denoiser, Pipeline, PipelineError, Request, Result};

use crate::job::Job;

/// A request and the network prepared for it.
#[derive(Clone)]
pub(crate) struct Scene<'a> {
    pub(crate) pipeline: &'a dyn Pipeline,
    pub(crate) request: Request,
    pub(crate) denoiser: Arc<dyn Denoiser>,
}

impl<'a> Scene<'a> {
    /// Checks `request` and loads the network for it; returns notes for the user too. `now` is called with each
    /// stage.
    pub(crate) fn load(
        job: &'a Job,
        request: Request,
        now: &dyn Fn(&'static str),
    ) -> Result<(Self, Vec<String>)> {
        job.pipeline.check(&request)?;
        let (denoiser, notes) = job.load(&request, now)?;
        Ok((Self { pipeline: job.pipeline.as_ref(), request, denoiser }, notes))
    }

    /// The same request with another number of steps: neither prompts nor weights depend on it.
    pub(crate) fn with_steps(&self, steps: usize) -> Self {
        Self { request: Request { steps, ..self.request.clone() }, ..self.clone() }
    }

    /// The same request with another seed, for requests whose network does not depend on it.
    pub(crate) fn with_seed(&self, seed: u64) -> Self {
        Self { request: Request { seed, ..self.request.clone() }, ..self.clone() }
    }

    /// Decodes the latents of a run to frames `[frames, height, width, channels]` in 0..=1, f32. `stop` is
    /// checked after each chunk.
    pub(crate) fn decode(&self, latents: &Tensor, stop: &dyn Fn() -> bool) -> Result<Tensor> {
        let mut parts = Vec::new();
        self.pipeline.decode(&self.request, latents, &|_| {}, &mut |frames| {
            if stop() {
                let steps = self.request.steps;
                return Err(PipelineError::Interrupted { step: steps, steps });
            }
            parts.push(frames.clone());
            Ok(())
        })?;
        let video = Tensor::cat(&parts, 1)?;
        Ok(video.affine(0.5, 0.5)?.clamp(0f32, 1f32)?.permute((1, 2, 3, 0))?.contiguous()?)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use magcache_core::{CachePlan, HookRegistry};
    use magcache_models::pipeline::{self, LoadOptions};

    use super::*;

    /// Calls a function with a scene of five frames of the embedded model, and a builder of hooks from
    /// `[[cache]]` tables.
    pub(crate) fn with_scene(
        steps: usize,
        test: impl FnOnce(&Scene<'_>, &dyn Fn(&str) -> Arc<HookRegistry>),
    ) {
        magcache_strategies::link();
        magcache_models::link();
        let model = pipeline::default_model().expect("this build has an embedded model");
        let pipeline = pipeline::open((model.folder)(), LoadOptions::default()).expect("it opens");
        let request = Request { steps, frames: 5, ..pipeline.defaults().request.clone() };
        let denoiser = pipeline.denoiser(&request, &|_| {}, &mut Vec::new()).expect("it loads");
        let run = pipeline.trajectory(&request).expect("the steps are sound");
        let hooks = |tables: &str| {
            let plan = CachePlan::parse(tables).expect("the tables are sound");
            plan.build(pipeline.meta(), Some(&run)).expect("they fit").registry
        };
        test(&Scene { pipeline: pipeline.as_ref(), request, denoiser }, &hooks);
    }
}
