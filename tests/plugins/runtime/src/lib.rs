//! A runtime of one's own: plain vectors and no candle. A strategy from a TOML plan says which blocks it
//! computes; the runtime keeps what they added, and measures what the strategy asks for.
//!
//! The guide `docs/guide/without-candle.md` walks through this file.

use std::{collections::HashMap, convert::Infallible, ops::Range};

use magcache_core::{
    Branch, CachePlan, ConfigError, ModelMeta, Signal, StackMeta, Step, Trajectory,
    decisions::{Asked, DecisionSession, Runtime},
    log::DecisionLog,
    state::{HookId, SlotKey},
    strategy::{Norm, Quantity},
};

/// Number of blocks.
pub const BLOCKS: usize = 8;

/// Number of values of a token.
pub const CHANNELS: usize = 8;

/// What the model says about itself.
pub const META: ModelMeta = ModelMeta::of("vectors", env!("CARGO_PKG_NAME"))
    .stacks(&[StackMeta::image("blocks", BLOCKS)])
    .experts(&["high", "low"])
    .signals(&[Signal::ModulatedInput])
    .meta();

/// The steps of the run: a shifted schedule, with guidance.
pub fn trajectory(steps: usize) -> Trajectory {
    let shifted = |i: usize| {
        let u = 1.0 - i as f64 / steps as f64;
        3.0 * u / (1.0 + 2.0 * u)
    };
    let sigmas: Vec<f64> = (0..=steps).map(shifted).collect();
    Trajectory::from_sigmas(&sigmas, &[Branch::Cond, Branch::Uncond])
}

/// What block `i` of a step's expert adds to each value.
pub fn added(i: usize, x: f32, step: &Step, branch: Branch) -> f32 {
    let prompt = if branch == Branch::Cond { 0.4 } else { 0.1 };
    (0.1 + 0.02 * f32::from(step.expert.0))
        * (x * (0.6 + 0.05 * i as f32) + prompt * step.sigma as f32).tanh()
}

/// The modulated input of block 0.
pub fn modulated(x: f32, step: &Step) -> f32 {
    x * (1.0 + 0.3 * step.sigma as f32)
}

/// The state of one request.
#[derive(Debug)]
pub struct Engine {
    x: Vec<f32>,
    step: Step,
    branch: Branch,
    inputs: HashMap<SlotKey, Vec<f32>>,
    residuals: HashMap<SlotKey, Vec<f32>>,
    quantities: HashMap<(SlotKey, usize), Vec<f32>>,
}

impl Engine {
    /// No state yet.
    pub fn new(run: &Trajectory) -> Self {
        let (x, step, branch) = (Vec::new(), run.step(0), Branch::Cond);
        let (inputs, residuals, quantities) = Default::default();
        Self { x, step, branch, inputs, residuals, quantities }
    }

    /// What the model predicts for `latents`, of `CHANNELS` values a token, in one pass.
    pub fn predict(
        &mut self,
        session: &mut DecisionSession,
        step: &Step,
        branch: Branch,
        latents: &[f32],
    ) -> Vec<f32> {
        (self.x, self.step, self.branch) = (latents.to_vec(), step.clone(), branch);
        let Ok(()) = session.pass(step, branch, self);
        self.x.clone()
    }

    /// Where something is kept.
    fn place(&self, hook: HookId, blocks: &Range<usize>) -> SlotKey {
        let Step { expert, eval, .. } = self.step;
        SlotKey { hook, blocks: blocks.clone(), expert, branch: self.branch, eval }
    }
}

impl Runtime for Engine {
    type Error = Infallible;

    fn compute(&mut self, blocks: Range<usize>) -> Result<(), Infallible> {
        for i in blocks {
            self.x.iter_mut().for_each(|x| *x += added(i, *x, &self.step, self.branch));
        }
        Ok(())
    }

    fn reuse(&mut self, cache: HookId, blocks: Range<usize>) -> Result<(), Infallible> {
        let residual = &self.residuals[&self.place(cache, &blocks)];
        self.x.iter_mut().zip(residual).for_each(|(x, added)| *x += added);
        Ok(())
    }

    fn measure(&mut self, asked: &Asked<'_>) -> Result<f64, Infallible> {
        // A signal describes what came in, before the front blocks.
        let kept = self.inputs.get(&self.place(asked.cache, &asked.front));
        let input = kept.filter(|_| !asked.front.is_empty()).unwrap_or(&self.x);
        let seen: Vec<f32> = match asked.measure.of {
            Quantity::Signal(_) => input.iter().map(|x| modulated(*x, &self.step)).collect(),
            // Its only stream is the denoised one.
            Quantity::FrontResidual | Quantity::FrontResidualOfAll => {
                self.x.iter().zip(input).map(|(x, input)| x - input).collect()
            }
        };
        let now: Vec<f32> = seen.chunks(CHANNELS).step_by(asked.measure.every).flatten().copied().collect();
        let place = self.place(asked.cache, &asked.blocks);
        let distance = asked.since.map(|since| {
            let before = &self.quantities[&(place.clone(), since)];
            let size = |value: f32| match asked.measure.norm {
                Norm::L1 => f64::from(value.abs()),
                Norm::L2 => f64::from(value * value),
            };
            let moved: f64 = now.iter().zip(before).map(|(now, before)| size(now - before)).sum();
            let relative = moved / before.iter().map(|before| size(*before)).sum::<f64>();
            if asked.measure.norm == Norm::L2 { relative.sqrt() } else { relative }
        });
        self.quantities.retain(|(of, step), _| *of != place || Some(*step) == asked.since);
        self.quantities.insert((place, self.step.index), now);
        Ok(distance.unwrap_or_default())
    }

    fn enter(&mut self, cache: HookId, blocks: Range<usize>) -> Result<(), Infallible> {
        self.inputs.insert(self.place(cache, &blocks), self.x.clone());
        Ok(())
    }

    fn leave(&mut self, cache: HookId, blocks: Range<usize>) -> Result<(), Infallible> {
        let place = self.place(cache, &blocks);
        let residual = self.x.iter().zip(&self.inputs[&place]).map(|(x, input)| x - input).collect();
        self.residuals.insert(place, residual);
        Ok(())
    }
}

/// Denoises `latents` with the caches of a plan; returns them, and every decision.
///
/// # Errors
/// A plan that cannot be used.
pub fn denoise(
    plan: &str,
    run: &Trajectory,
    mut latents: Vec<f32>,
) -> Result<(Vec<f32>, DecisionLog), ConfigError> {
    magcache_strategies::link();
    let decided = CachePlan::parse(plan)?.decisions(&META, Some(run), &[])?;
    let mut session = decided.decisions.session();
    let mut engine = Engine::new(run);
    for (step, sigmas) in run.steps().zip(run.sigmas.windows(2)) {
        let mut predict = |branch| engine.predict(&mut session, &step, branch, &latents);
        let (cond, uncond) = (predict(Branch::Cond), predict(Branch::Uncond));
        for ((x, cond), uncond) in latents.iter_mut().zip(cond).zip(uncond) {
            *x += (uncond + 4.0 * (cond - uncond)) * (sigmas[1] - sigmas[0]) as f32;
        }
    }
    Ok((latents, session.log().clone()))
}
