//! One of several runs of a request, and what they share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::{HookRegistry, group::GroupError};
use magcache_models::{
    pipeline::{self, Denoiser, Generation, Pipeline, PipelineError, Request},
    ranks::Ranks,
};

use crate::{job::Job, summary::Summary};

/// A request and the network prepared for it.
#[derive(Clone)]
pub(crate) struct Scene<'a> {
    pub(crate) pipeline: &'a dyn Pipeline,
    pub(crate) request: Request,
    pub(crate) denoiser: Arc<dyn Denoiser>,
    /// The ranks that all runs are divided among.
    pub(crate) ranks: Option<&'a Ranks>,
}

impl<'a> Scene<'a> {
    /// Checks `request` and loads the network for it; returns notes for the user too. `now` is called with
    /// each stage.
    pub(crate) fn load(
        job: &'a Job,
        request: Request,
        now: &dyn Fn(&'static str),
    ) -> pipeline::Result<(Self, Vec<String>)> {
        job.pipeline.check(&request)?;
        let (denoiser, notes) = job.load(&request, now)?;
        Ok((Self { pipeline: job.pipeline.as_ref(), request, denoiser, ranks: job.ranks.as_ref() }, notes))
    }

    /// Every prompt with every seed, in this order: scenes that share one network.
    pub(crate) fn load_each(
        job: &'a Job,
        prompts: &[String],
        seeds: &[u64],
        now: &dyn Fn(&'static str),
    ) -> pipeline::Result<(Vec<Self>, Vec<String>)> {
        // The latents of the image that a run starts from are sampled with the seed; all else is the same for
        // every seed.
        let sampled = job.request.strength.is_some();
        let loaded = if sampled { seeds } else { seeds.get(..1).unwrap_or_default() };
        let of = |prompt: &String, seed: u64| Request { prompt: prompt.clone(), seed, ..job.request.clone() };
        let requests: Vec<Request> =
            prompts.iter().flat_map(|prompt| loaded.iter().map(move |seed| of(prompt, *seed))).collect();
        requests.iter().try_for_each(|request| job.pipeline.check(request))?;
        let (denoisers, notes) = job.load_each(&requests, now)?;
        let (pipeline, ranks) = (job.pipeline.as_ref(), job.ranks.as_ref());
        let scenes = requests.into_iter().zip(denoisers);
        let scenes = scenes.map(|(request, denoiser)| Self { pipeline, request, denoiser, ranks });
        let scenes = if sampled {
            scenes.collect()
        } else {
            scenes.flat_map(|scene| seeds.iter().map(move |seed| scene.with_seed(*seed))).collect()
        };
        Ok((scenes, notes))
    }

    /// The same request with another number of steps: neither prompts nor weights depend on it.
    pub(crate) fn with_steps(&self, steps: usize) -> Self {
        Self { request: Request { steps, ..self.request.clone() }, ..self.clone() }
    }

    /// The same request with another seed, for requests whose network does not depend on it.
    pub(crate) fn with_seed(&self, seed: u64) -> Self {
        Self { request: Request { seed, ..self.request.clone() }, ..self.clone() }
    }

    /// What the first of several ranks says, of what may differ between them.
    pub(crate) fn first_says(&self, about: &str, own: bool) -> Result<bool> {
        let Some(ranks) = self.ranks else { return Ok(own) };
        Ok(ranks.world().from_first(about, || Ok::<_, GroupError>(vec![u8::from(own)]))? == [1])
    }

    /// Decodes the latents of a run of one clip to frames `[frames, height, width, channels]` in 0..=1, f32.
    /// `stop` is checked after each chunk.
    pub(crate) fn decode(&self, latents: &Tensor, stop: &dyn Fn() -> bool) -> pipeline::Result<Tensor> {
        self.decode_after(Vec::new(), latents, stop)
    }

    /// The frames of a run of several clips: `ended`, of those that have ended, then as [`Scene::decode`].
    fn decode_after(
        &self,
        ended: Vec<Tensor>,
        latents: &Tensor,
        stop: &dyn Fn() -> bool,
    ) -> pipeline::Result<Tensor> {
        let mut parts = ended;
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
        let generation = generation.among(scene.ranks)?;
        Ok(Self { scene: scene.clone(), generation, decode: Duration::ZERO, divergence: Vec::new() })
    }

    /// Steps that ran, and steps in all.
    pub(super) fn progress(&self) -> (usize, usize) {
        let run = self.generation.trajectory();
        let next = run.step(self.generation.next().min(run.end().saturating_sub(1)));
        let done = next.clip * (run.len() - run.first)
            + (self.generation.next() - next.clip * run.len() - run.first);
        (done, run.steps().count())
    }

    pub(crate) fn decode(&mut self, stop: &dyn Fn() -> bool) -> Result<Tensor> {
        let start = Instant::now();
        let ended = self.generation.take_frames();
        let frames = self.scene.decode_after(ended, self.generation.latents(), stop)?;
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
pub(crate) mod testing {
    use magcache_core::{CachePlan, HookRegistry};
    use magcache_models::pipeline::LoadOptions;

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
        test(&Scene { pipeline: pipeline.as_ref(), request, denoiser, ranks: None }, &hooks);
    }
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
            assert_eq!(dense.dims(), [5, 128, 128, 3]);
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
