//! The decisions and memory use of a run without its weights: the real hooks on blocks that do nothing.

use std::{ops::Range, sync::Arc};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::{
    BlockHook, CachePlan, ConfigError, Cx, HookRegistry, ModelMeta, Next, Output, Phase, Problem, Role,
    Session, Signal, Step, Streams, Trajectory, Warmup, hint, log::DecisionLog, no_signals,
};

/// Width of a timestep's projection in units of the hidden size: shift, scale and gate of the two halves of a
/// block.
const PROJECTED: usize = 6;

/// Sizes of the tensors of a pass for one sample, which determine the bytes that a session holds.
///
/// Modules inside blocks are assumed to return streams of these sizes too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens of the denoised stream, including those of reference images.
    pub tokens: usize,
    /// Tokens of the text stream; 0 if the model has none.
    pub text_tokens: usize,
    /// Number of elements of the latents, which are f32.
    pub latents: usize,
    /// Number of timesteps given to a pass: 1, or one per token.
    pub timesteps: usize,
    /// Dtype of the streams and of the model's signals.
    pub dtype: DType,
}

/// The result of a run without weights.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// Every decision.
    pub log: DecisionLog,
    /// The most bytes that the session held at once.
    pub peak_bytes: usize,
}

/// Runs every pass of `trajectory` through the hooks on blocks that do nothing, and returns the decisions.
///
/// The same code decides in a real run, so a registry whose [`HookRegistry::is_static`] is true decides the
/// same there. A strategy that needs the content of a tensor fails here with its own error. A byte budget
/// fails too, because evictions depend on sizes; see [`simulate_sized`].
pub fn simulate(
    registry: &Arc<HookRegistry>,
    model: &ModelMeta,
    trajectory: &Trajectory,
) -> Result<DecisionLog> {
    if let Some(budget) = registry.storage().budget {
        bail!(
            "what a budget of {budget} bytes drops follows from sizes of tensors, which are not known here"
        );
    }
    let mut session = registry.unaudited(1).session();
    let content = Content::still(&Sizes::ONE, &ModelMeta { hidden_size: 1, ..model.clone() }, 1)?;
    for step in trajectory.steps() {
        content.passes(&mut session, model, trajectory, &step)?;
    }
    Ok(session.log().clone())
}

/// As [`simulate`], with the bytes that a real run of these sizes holds, and the evictions of a budget.
///
/// # Errors
/// As [`simulate`], except that a budget is allowed; also metadata without a `hidden_size`.
pub fn simulate_sized(
    registry: &Arc<HookRegistry>,
    model: &ModelMeta,
    trajectory: &Trajectory,
    sizes: &Sizes,
) -> Result<Simulated> {
    check_width(model).map_err(hint::wrap)?;
    let unit = sizes.unit(model, registry);
    let mut session = registry.unaudited(unit).session();
    let content = Content::still(sizes, model, unit)?;
    for step in trajectory.steps() {
        content.passes(&mut session, model, trajectory, &step)?;
    }
    Ok(Simulated::of(&session, unit))
}

/// The most bytes that a session of these caches can hold in a run of these sizes, whatever they decide.
/// `None` if that cannot be known because a hook ignores `warmup` or fails on tensors without content.
///
/// A slot holds the most when every step was computed and learned from, and then one more step calls `head`
/// but learns nothing, so that the strategy's pending tensors are still held. This runs exactly that: each
/// phase is followed by such a step.
///
/// # Errors
/// Caches that cannot be built, and metadata without a `hidden_size`.
pub fn most_bytes(
    mut plan: CachePlan,
    model: &ModelMeta,
    trajectory: &Trajectory,
    sizes: &Sizes,
) -> std::result::Result<Option<usize>, ConfigError> {
    check_width(model)?;
    let longer = longer(trajectory);
    // What a budget evicts depends on the decisions, so peak bytes are counted without a budget.
    let budget = plan.residuals.policy()?.budget;
    plan.residuals.budget = None;
    for entry in &mut plan.cache {
        entry.words.warmup = Some(Warmup::Steps(longer.len()));
    }
    let registry = plan.build(model, Some(trajectory))?.registry;
    let unit = sizes.unit(model, &registry);
    let doubt = Doubt(longer.phases.iter().map(|phase| phase.steps.end.saturating_sub(1)).collect());
    let hooks = registry.unaudited(unit).around_each(model.blocks(), &(Arc::new(doubt) as _));
    let mut session = hooks.session();
    let run = |session: &mut Session| {
        let still = Content::still(sizes, model, unit)?;
        for step in longer.steps() {
            still.moved(step.index)?.passes(session, model, &longer, &step)?;
        }
        Result::Ok(())
    };
    let known = run(&mut session).is_ok()
        && session.log().records().iter().all(|record| !record.reused && !record.why.is_failsafe());
    let most = Simulated::of(&session, unit).peak_bytes;
    Ok(known.then(|| budget.map_or(most, |budget| most.min(budget))))
}

/// Bytes are counted in tensors whose width the metadata must say.
fn check_width(model: &ModelMeta) -> std::result::Result<(), ConfigError> {
    if model.hidden_size > 0 {
        return Ok(());
    }
    let (place, message) =
        (format!("model {:?}", model.name), "bytes cannot be predicted without `hidden_size`");
    let hint = "say the width of the hidden states: `ModelMeta::of(..).hidden_size(3072)`";
    Err(ConfigError::Problems(vec![Problem::error(place, message).hint(hint)]))
}

/// The same run with one more step at the end of each phase.
fn longer(run: &Trajectory) -> Trajectory {
    let later = |(i, phase): (usize, &Phase)| {
        let Range { start, end } = phase.steps;
        Phase { expert: phase.expert, steps: start + i..end + i + 1 }
    };
    let steps = |values: &[f64]| -> Vec<f64> {
        let of = |phase: &Phase| values.iter().take(phase.steps.end).skip(phase.steps.start);
        run.phases.iter().flat_map(|phase| of(phase).chain(of(phase).last())).copied().collect()
    };
    Trajectory {
        timesteps: steps(&run.timesteps),
        sigmas: steps(&run.sigmas).into_iter().chain([0.0]).collect(),
        phases: run.phases.iter().enumerate().map(later).collect(),
        ..run.clone()
    }
}

/// Marks the output of these steps as inexact, so that nothing is learned from them.
#[derive(Debug)]
struct Doubt(Vec<usize>);

impl BlockHook for Doubt {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let out = next.run(cx, x)?;
        Ok(Output { exact: out.exact && !self.0.contains(&cx.step.index), ..out })
    }
}

impl Sizes {
    /// The smallest sizes, if only the decisions matter.
    const ONE: Self = Self { tokens: 1, text_tokens: 1, latents: 1, timesteps: 1, dtype: DType::F32 };

    /// The greatest common divisor of all sizes. Tensors are made smaller by this factor and bytes are
    /// counted in this unit, because real tensors can be gigabytes.
    fn unit(&self, model: &ModelMeta, registry: &HookRegistry) -> usize {
        let latents = if registry.forward_rings().is_empty() { 0 } else { self.latents };
        let common = |mut a: usize, mut b: usize| {
            while b > 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        common(model.hidden_size, latents).max(1)
    }
}

impl Simulated {
    fn of(session: &Session, unit: usize) -> Self {
        Self { log: session.log().in_units(unit), peak_bytes: session.slots().peak_bytes() * unit }
    }
}

/// Placeholders for the tensors of a pass.
struct Content {
    /// The input of block 0.
    streams: Streams,
    latents: Tensor,
    timestep_embedding: Tensor,
    timestep_projection: Tensor,
    /// The amount that every block adds to its input, and the forward to the latents.
    added: f64,
}

impl Content {
    /// Tensors of ones, `unit` times smaller than real ones: in channels, or in frames for latents.
    fn still(sizes: &Sizes, model: &ModelMeta, unit: usize) -> Result<Self> {
        let width = model.hidden_size / unit;
        let ones = |tokens: usize, width: usize| Tensor::ones((1, tokens, width), sizes.dtype, &Device::Cpu);
        let image = ones(sizes.tokens, width)?;
        let streams = if model.stacks.iter().any(|s| s.outputs.contains(&Role::Text)) {
            Streams::Dual { image, text: ones(sizes.text_tokens, width)? }
        } else {
            Streams::Image(image)
        };
        let latents = Tensor::ones((1, (sizes.latents / unit).max(1), 1, 1), DType::F32, &Device::Cpu)?;
        Ok(Self {
            streams,
            latents,
            timestep_embedding: ones(sizes.timesteps, width)?,
            timestep_projection: ones(sizes.timesteps, PROJECTED * width)?,
            added: 0.0,
        })
    }

    /// The same with values that change from step to step, so that no metric divides by zero.
    fn moved(&self, step: usize) -> Result<Self> {
        let moved = |t: &Tensor| t.affine((step + 1) as f64, 0.0);
        Ok(Self {
            streams: self.streams.map(moved)?,
            latents: moved(&self.latents)?,
            timestep_embedding: moved(&self.timestep_embedding)?,
            timestep_projection: moved(&self.timestep_projection)?,
            added: 1.0,
        })
    }

    /// Runs every pass of a step.
    fn passes(
        &self,
        session: &mut Session,
        model: &ModelMeta,
        trajectory: &Trajectory,
        step: &Step,
    ) -> Result<()> {
        let block = |t: &Tensor| if self.added == 0.0 { Ok(t.clone()) } else { t.affine(1.0, self.added) };
        let signal = |signal: Signal, x: &Streams| match signal {
            _ if self.added == 0.0 => no_signals(signal, x),
            Signal::ModulatedInput => x.image(),
            Signal::TimestepEmbedding => Ok(self.timestep_embedding.clone()),
            Signal::TimestepProjection => Ok(self.timestep_projection.clone()),
            Signal::Latents => Ok(self.latents.clone()),
        };
        for branch in trajectory.branches_at(step) {
            let mut pass = session.pass(step, *branch);
            pass.forward(self.latents.clone(), |latents, pass| {
                pass.run_modules(model.blocks(), &signal, self.streams.clone(), |_, x, modules| {
                    let run = |x: Streams| x.map(block);
                    model.modules.iter().try_fold(run(x)?, |x, name| modules.module(name, x, run))
                })?;
                block(&latents)
            })?;
        }
        Ok(())
    }
}

/// The ceiling of the speed-up: `N / (N − skipped)`, as if skipped passes cost nothing.
pub fn ceiling(passes: usize, skipped: usize) -> f64 {
    passes as f64 / passes.saturating_sub(skipped).max(1) as f64
}

/// The fraction of a pass that the blocks in `range` are: the most that skipping them can save.
pub fn share(range: &Range<usize>, model: &ModelMeta) -> f64 {
    range.len() as f64 / (model.blocks() + model.always_run).max(1) as f64
}
