//! Work that the guidance branches of a step share is done once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use candle_core::{Device, Result, Tensor};
use magcache_core::{BlockHook, Branch, Cx, HookRegistry, Next, Output, Pass, Step, Streams, Trajectory};
use magcache_models::{
    pipeline::{Denoiser, Entered, Generation},
    sampler::{Sampler, SamplerKind, SchedulerConfig},
};

const STEPS: usize = 4;

/// Predicts its own latents, and counts how often it is entered.
#[derive(Default)]
struct Counting {
    entered: AtomicUsize,
    predicted: AtomicUsize,
}

impl Denoiser for Counting {
    fn enter<'a>(&'a self, latents: &'a Tensor, _: &'a Step) -> Result<Box<dyn Entered + 'a>> {
        self.entered.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(At { of: self, latents }))
    }

    fn guidance(&self, _: &Step) -> f64 {
        3.0
    }
}

struct At<'a> {
    of: &'a Counting,
    latents: &'a Tensor,
}

impl Entered for At<'_> {
    fn predict(&self, _: Branch, _: &mut Pass<'_>) -> Result<Tensor> {
        self.of.predicted.fetch_add(1, Ordering::Relaxed);
        Ok(self.latents.clone())
    }
}

/// Runs the network on something other than the latents.
#[derive(Debug)]
struct Doubled;

impl BlockHook for Doubled {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let x = x.into_image()?;
        next.run(cx, Streams::Image((x * 2.0)?))
    }
}

/// Does not run the network at all.
#[derive(Debug)]
struct Never;

impl BlockHook for Never {
    fn call(&self, _: &mut Cx<'_>, x: Streams, _: Next<'_>) -> Result<Output> {
        Ok(Output { streams: x, exact: false })
    }
}

/// How often the network was entered and predicted in a run, and the velocity at its first step.
fn run(registry: &Arc<HookRegistry>) -> (usize, usize, Vec<f32>) {
    let denoiser = Arc::new(Counting::default());
    let trajectory = Trajectory::plain(STEPS, &[Branch::Cond, Branch::Uncond]);
    let sampler = Sampler::new(&SchedulerConfig::new(SamplerKind::Euler, 1.0), STEPS).unwrap();
    let noise = Tensor::new(&[1f32, -2.0], &Device::Cpu).unwrap();
    let mut run = Generation::new(denoiser.clone(), trajectory, sampler, &noise, registry).unwrap();
    let mut session = registry.session();
    let (velocity, _) = run.predict(Some(&mut session), &|| false).unwrap();
    denoiser.entered.store(0, Ordering::Relaxed);
    denoiser.predicted.store(0, Ordering::Relaxed);
    run.run(&|| false, &mut |_| {}).unwrap();
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    (count(&denoiser.entered), count(&denoiser.predicted), velocity.to_vec1().unwrap())
}

#[test]
fn a_step_is_entered_once_for_both_branches() {
    assert_eq!(run(&Arc::default()), (STEPS, 2 * STEPS, vec![1.0, -2.0]));
}

#[test]
fn other_latents_are_entered_anew() {
    let hooks = HookRegistry::builder(1).forward(Arc::new(Doubled)).build();
    assert_eq!(run(&hooks), (2 * STEPS, 2 * STEPS, vec![2.0, -4.0]));
}

#[test]
fn a_step_that_no_branch_runs_is_not_entered() {
    let hooks = HookRegistry::builder(1).forward(Arc::new(Never)).build();
    assert_eq!(run(&hooks), (0, 0, vec![1.0, -2.0]));
}
