//! The decisions of a run without its tensors: the real hooks on a model of one number.

use std::{ops::Range, sync::Arc};

use candle_core::{Device, Result, Tensor};

use crate::{DecisionLog, HookRegistry, ModelMeta, Role, Streams, Trajectory, session::no_signals};

/// Runs every pass of `trajectory` through the hooks on blocks that do nothing, and returns what was decided.
///
/// This is the code that decides in a real run, so a registry whose [`HookRegistry::is_static`] is true decides
/// the same there. A strategy that needs a tensor's content fails here with its own error.
pub fn simulate(
    registry: &Arc<HookRegistry>,
    model: &ModelMeta,
    trajectory: &Trajectory,
) -> Result<DecisionLog> {
    let mut session = registry.unaudited().session();
    let one = Tensor::ones((1, 1, 1), candle_core::DType::F32, &Device::Cpu)?;
    let text = model.stacks.iter().any(|s| s.outputs.contains(&Role::Text));
    for step in trajectory.steps() {
        for branch in trajectory.branches_at(&step) {
            let x = if text {
                Streams::Dual { image: one.clone(), text: one.clone() }
            } else {
                Streams::Image(one.clone())
            };
            let mut pass = session.pass(step.clone(), *branch);
            pass.forward(one.clone(), |latents, pass| {
                pass.run_modules(model.blocks(), &no_signals, x.clone(), |_, x, modules| {
                    model.modules.iter().try_fold(x, |x, name| modules.module(name, x, Ok))
                })?;
                Ok(latents)
            })?;
        }
    }
    Ok(session.log().clone())
}

/// The most a run can gain: `N / (N − skipped)`, of passes whose skipped blocks cost nothing.
pub fn ceiling(passes: usize, skipped: usize) -> f64 {
    passes as f64 / passes.saturating_sub(skipped).max(1) as f64
}

/// The part of `range`'s decisions in blocks of the whole model: what a skip of it saves at most.
pub fn share(range: &Range<usize>, blocks: usize) -> f64 {
    range.len() as f64 / blocks.max(1) as f64
}
