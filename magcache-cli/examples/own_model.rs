//! Caches your own model: a stack of blocks that this workspace does not know, in your own sampling loop.
//!
//! `cargo run --release --example own_model`
#![expect(clippy::print_stdout, reason = "it shows what it did")]

use candle_core::{Device, Result, Tensor};
use magcache_core::{
    Branch, CachePlan, ModelMeta, Pass, Session, StackMeta, Trajectory, metrics, state::HookId,
};

const BLOCKS: usize = 12;
const WIDTH: usize = 16;
const STEPS: usize = 30;

/// What the model says about itself.
const META: ModelMeta = ModelMeta::of("own", env!("CARGO_PKG_NAME"))
    .stacks(&[StackMeta::image("blocks", BLOCKS)])
    .hidden_size(WIDTH)
    .meta();

/// The steps of its sampler.
fn run() -> Trajectory {
    let sigmas: Vec<f64> = (0..=STEPS).map(|i| 1.0 - i as f64 / STEPS as f64).collect();
    Trajectory::from_sigmas(&sigmas, &[Branch::Cond])
}

struct Model {
    blocks: Vec<Tensor>,
}

impl Model {
    fn new() -> Result<Self> {
        let at = |i: usize, j: usize| ((i * 31 + j) as f32 * 0.37).sin() * 0.1;
        let block = |i: usize| {
            let values = (0..WIDTH * WIDTH).map(|j| at(i, j)).collect();
            Tensor::from_vec(values, (WIDTH, WIDTH), &Device::Cpu)
        };
        Ok(Self { blocks: (0..BLOCKS).map(block).collect::<Result<_>>()? })
    }

    /// The only change to the model: the pass runs its blocks.
    fn forward(&self, latents: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.blocks(&self.blocks, latents.clone(), |block, x| x + x.broadcast_matmul(block)?.tanh()?)
    }
}

/// Euler steps; without a session the blocks run in a plain loop.
fn sample(model: &Model, mut session: Option<&mut Session>) -> Result<Tensor> {
    let noise = (0..6 * WIDTH).map(|i| (i as f32 * 0.3).sin()).collect();
    let mut latents = Tensor::from_vec(noise, (1, 6, WIDTH), &Device::Cpu)?;
    for step in run().steps() {
        let mut pass = match &mut session {
            Some(session) => session.pass(&step, Branch::Cond),
            None => Pass::off(),
        };
        let velocity = model.forward(&latents, &mut pass)?;
        latents = (latents - (velocity * 0.02)?)?;
    }
    Ok(latents)
}

/// The number of skipped steps, and how far the result is from a dense run.
fn compared() -> anyhow::Result<(usize, f64)> {
    magcache_strategies::link();
    let model = Model::new()?;
    let job = CachePlan::parse("[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.1")?;
    let mut session = job.build(&META, Some(&run()))?.registry.session();
    let (dense, cached) = (sample(&model, None)?, sample(&model, Some(&mut session))?);
    let skipped = session.log().reused(HookId(0), Branch::Cond).count();
    Ok((skipped, metrics::relative_l1(&cached, &dense)?))
}

fn main() -> anyhow::Result<()> {
    let (skipped, distance) = compared()?;
    println!("{skipped} of {STEPS} steps skipped, relative distance to the dense run {distance:.4}");
    Ok(())
}

#[test]
fn steps_are_skipped_and_the_result_stays_near() {
    let (skipped, distance) = compared().unwrap();
    assert!(skipped > 5 && distance > 0.0 && distance < 0.05, "{skipped} skipped, {distance}");
}
