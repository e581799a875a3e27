//! One of several runs of a request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::HookRegistry;
use magcache_models::pipeline::Generation;

use super::Scene;
use crate::summary::Summary;

/// A run, its result and its times.
pub(crate) struct Lane<'a> {
    pub(crate) scene: Scene<'a>,
    pub(crate) generation: Generation,
    /// How long decoding took.
    pub(crate) decode: Duration,
    /// Distance of the latents after each step from the first lane's after the same step:
    /// `‖x − dense‖₂ / ‖dense‖₂`. Empty in a lane with a different number of steps.
    pub(crate) divergence: Vec<f64>,
}

impl<'a> Lane<'a> {
    /// A run at its start; it is dense if `registry` has no hooks.
    pub(crate) fn new(scene: &Scene<'a>, registry: &Arc<HookRegistry>) -> Result<Self> {
        let (pipeline, request) = (scene.pipeline, &scene.request);
        let (sampler, noise) = (pipeline.sampler(request)?, pipeline.noise(request)?);
        let run = pipeline.trajectory(request)?;
        let generation = Generation::new(Arc::clone(&scene.denoiser), run, sampler, &noise, registry)?;
        Ok(Self { scene: scene.clone(), generation, decode: Duration::ZERO, divergence: Vec::new() })
    }

    /// Steps that ran, and steps in all.
    pub(super) fn progress(&self) -> (usize, usize) {
        let run = self.generation.trajectory();
        (self.generation.next() - run.first, run.len() - run.first)
    }

    /// Decodes the result, see [`Scene::decode`].
    pub(crate) fn decode(&mut self, stop: &dyn Fn() -> bool) -> Result<Tensor> {
        let start = Instant::now();
        let frames = self.scene.decode(self.generation.latents(), stop)?;
        self.decode = start.elapsed();
        Ok(frames)
    }

    /// Seconds in the network.
    pub(crate) fn transformer_seconds(&self) -> f64 {
        self.generation.transformer_time().as_secs_f64()
    }

    /// Seconds in the network and in the autoencoder.
    pub(crate) fn seconds(&self) -> f64 {
        self.transformer_seconds() + self.decode.as_secs_f64()
    }

    /// What the caches did.
    pub(crate) fn summary(&self) -> Summary {
        Summary::of_generation(&self.generation, self.scene.pipeline.meta())
    }
}
