//! A run of several clips is as many runs, each of which leads to the next.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{Branch, HookRegistry, Pass, Step, Trajectory, snapshot::Snapshot};
use magcache_models::{
    pipeline::{self, Denoiser, Entered, Generation, NextClip, PipelineError},
    sampler::{Sampler, SamplerKind, SchedulerConfig},
};

const STEPS: usize = 4;
const CLIPS: usize = 3;

/// Predicts a multiple of its latents; the next clip depends on how this one ended.
#[derive(Debug)]
struct Clip {
    index: usize,
    scale: f64,
}

impl Denoiser for Clip {
    fn enter<'a>(&'a self, latents: &'a Tensor, _: &'a Step) -> Result<Box<dyn Entered + 'a>> {
        Ok(Box::new(At(self, latents)))
    }

    fn guidance(&self, _: &Step) -> f64 {
        3.0
    }

    fn finish(&self, latents: &Tensor) -> Result<Tensor> {
        latents.affine(1.0, 0.25)
    }

    fn next_clip(&self, latents: &Tensor, stop: &dyn Fn() -> bool) -> pipeline::Result<NextClip> {
        if stop() {
            return Err(PipelineError::Interrupted { step: 0, steps: 0 });
        }
        let index = self.index + 1;
        assert!(index < CLIPS, "no clip follows the last");
        let mean = latents.mean_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let denoiser = Arc::new(Self { index, scale: 0.5 + 0.1 * mean });
        Ok(NextClip { frames: vec![latents.clone()], denoiser, noise: noise(index) })
    }
}

struct At<'a>(&'a Clip, &'a Tensor);

impl Entered for At<'_> {
    fn predict(&self, branch: Branch, _: &mut Pass<'_>) -> Result<Tensor> {
        let shift = if branch == Branch::Cond { 0.3 } else { -0.1 };
        self.1.affine(self.0.scale, shift)
    }
}

fn noise(clip: usize) -> Tensor {
    Tensor::new(&[1f32 + clip as f32, -2.0, 0.7], &Device::Cpu).unwrap()
}

fn first() -> Arc<dyn Denoiser> {
    Arc::new(Clip { index: 0, scale: 0.5 })
}

fn trajectory(clips: usize) -> Trajectory {
    Trajectory { clips, ..sampler().trajectory(true) }
}

/// Remembers earlier steps, which a new clip must not.
fn sampler() -> Sampler {
    Sampler::new(&SchedulerConfig::new(SamplerKind::UniPc, 3.0), STEPS).unwrap()
}

fn start() -> Generation {
    Generation::new(first(), trajectory(CLIPS), sampler(), &noise(0), &Arc::default()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The frames of all clips but the last, and the latents of that.
fn outcome(mut run: Generation) -> Vec<Vec<f32>> {
    let mut frames = Vec::new();
    while !run.is_done() {
        run.step(&|| false).unwrap();
        frames.extend(run.take_frames());
    }
    frames.iter().chain([run.latents()]).map(values).collect()
}

#[test]
fn three_clips_are_three_runs_in_a_row() {
    let (mut denoiser, mut begin, mut expected) = (first(), noise(0), Vec::new());
    for clip in 0..CLIPS {
        let (one, hooks) = (Arc::clone(&denoiser), Arc::default());
        let mut run = Generation::new(one, trajectory(1), sampler(), &begin, &hooks).unwrap();
        run.run(&|| false, &mut |_| {}).unwrap();
        expected.push(values(run.latents()));
        if clip + 1 < CLIPS {
            let next = denoiser.next_clip(run.latents(), &|| false).unwrap();
            (denoiser, begin) = (next.denoiser, next.noise);
        }
    }
    assert_eq!(outcome(start()), expected);
    assert!(expected[0] != expected[1] && expected[1] != expected[2]);
}

#[test]
fn a_run_resumes_within_a_clip_and_between_clips() {
    let expected = outcome(start());
    for stop in 0..=CLIPS * STEPS {
        let mut run = start();
        while run.next() < stop {
            run.step(&|| false).unwrap();
        }
        let mut stored = Snapshot::default();
        run.save(&mut stored.writer()).unwrap();
        let registry: Arc<HookRegistry> = Arc::default();
        let again = Generation::resume(
            Some(first()),
            trajectory(CLIPS),
            sampler(),
            &registry,
            &stored.reader(&Device::Cpu),
        )
        .unwrap();
        assert_eq!((again.next(), again.times().len()), (stop, 2 * stop));
        // The frames of clips that had ended are made again.
        assert_eq!(outcome_of_resumed(again), expected, "stored before step {stop}");
    }
}

fn outcome_of_resumed(mut run: Generation) -> Vec<Vec<f32>> {
    let before: Vec<Vec<f32>> = run.take_frames().iter().map(values).collect();
    before.into_iter().chain(outcome(run)).collect()
}

#[test]
fn what_is_interrupted_between_clips_can_go_on() {
    let mut run = start();
    while run.next() + 1 < STEPS {
        run.step(&|| false).unwrap();
    }
    let (latents, passes) = (values(run.latents()), run.times().len());
    let (velocity, _) = run.predict(None, &|| false).unwrap();
    // Both passes of the last step run, and then the clip is about to end.
    let asked = std::cell::Cell::new(0);
    let third = || asked.replace(asked.get() + 1) == 2;
    let error = run.step(&third).expect_err("is stopped").to_string();
    assert_eq!(error, format!("interrupted at step {} of {}", STEPS - 1, CLIPS * STEPS));
    assert_eq!((run.next(), run.times().len(), values(run.latents())), (STEPS - 1, passes, latents));
    assert_eq!(values(&run.predict(None, &|| false).unwrap().0), values(&velocity));
    assert_eq!(outcome(run), outcome(start()));
}
