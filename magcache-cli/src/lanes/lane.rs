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

    pub(crate) fn summary(&self) -> Summary {
        Summary::of_generation(&self.generation, self.scene.pipeline.meta())
    }
}

/// Runs a request to its end with the hooks of `registry`: its frames, `[frames, height, width, channels]` in
/// 0..=1, f32, and what the caches did. `stop` is checked before each pass.
pub(crate) fn run_once(
    scene: &Scene<'_>,
    registry: &Arc<HookRegistry>,
    stop: &dyn Fn() -> bool,
) -> Result<(Tensor, Summary)> {
    let mut lane = Lane::new(scene, registry)?;
    lane.generation.run(stop, &mut |_| {})?;
    Ok((lane.decode(stop)?, lane.summary()))
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::{
        lanes::{take_turns, testing::with_scene},
        quality::compare_tensors,
    };

    #[test]
    fn one_run_gives_what_a_lane_gives() {
        with_scene(3, |scene, hooks| {
            let (dense, summary) = run_once(scene, &Arc::default(), &|| false).unwrap();
            assert_eq!((summary.computed(), summary.skipped()), (6, 0));
            assert_eq!(dense.dims(), [5, 64, 64, 3]);
            let skip = hooks("[[cache]]\nstrategy = \"schedule\"\nskip = { cond = [1, 2], uncond = [2] }\n");
            let (cached, summary) = run_once(scene, &skip, &|| false).unwrap();
            assert_eq!((summary.computed(), summary.skipped()), (3, 3));

            let mut lane = Lane::new(scene, &skip).unwrap();
            take_turns(slice::from_mut(&mut lane), &|| false, &mut || {}).unwrap();
            let shown = lane.decode(&|| false).unwrap();
            assert!(compare_tensors(&cached, &shown, 1.0).unwrap().identical());
            let far = compare_tensors(&cached, &dense, 1.0).unwrap();
            assert!(far.psnr() > 5.0 && far.psnr() < 60.0, "{} dB", far.psnr());
            assert!(run_once(scene, &skip, &|| true).is_err(), "it stops when it is asked to");
        });
    }
}
