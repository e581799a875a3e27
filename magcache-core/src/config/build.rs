//! From a plan to the hooks of a candle model.

use std::sync::Arc;

use crate::{
    BlockHook, CachePlan, ConfigError, HookRegistry, Level, ModelMeta, Problem, Strategy, Trajectory,
    config::{Words, plan::Resolved},
    forecast::OutputConfig,
    profile::Profile,
    state::HookId,
    strategy::CacheHook,
};

/// A registry, and the warnings to show before the run.
#[derive(Clone, Debug)]
pub struct Built {
    /// The hooks.
    pub registry: Arc<HookRegistry>,
    /// The non-fatal problems.
    pub warnings: Vec<Problem>,
}

impl CachePlan {
    /// Validates everything against the model and the run, and builds the hooks.
    ///
    /// Errors: all fatal problems at once.
    pub fn build(&self, model: &ModelMeta, trajectory: Option<&Trajectory>) -> Result<Built, ConfigError> {
        self.build_with(model, trajectory, &[])
    }

    /// As [`CachePlan::build`], with profiles in memory: a table reads the one that it names, and a table
    /// that names none reads the first.
    ///
    /// Errors: as [`CachePlan::build`].
    pub fn build_with(
        &self,
        model: &ModelMeta,
        trajectory: Option<&Trajectory>,
        profiles: &[Profile],
    ) -> Result<Built, ConfigError> {
        let builder = HookRegistry::for_model(model);
        let builder = builder.storage(self.residuals.policy()?).audit(self.audit);
        let mut builder = if model.text_after { builder } else { builder.text_ends() };
        let Resolved { placed, warnings } = self.resolve(model, trajectory, profiles)?;
        for (entry, here) in self.cache.iter().zip(placed) {
            let Some(strategy) = here.strategy else { continue };
            let id = builder.next_id();
            let hook = hook(&entry.words, id, here.level, strategy);
            builder = match here.level {
                Level::Blocks => builder.ring(here.range, hook)?,
                Level::Modules => builder.module(here.module.unwrap_or_default(), hook),
                Level::Forward => builder.forward(hook),
            };
            builder = builder.only_experts(id, &here.experts);
        }
        Ok(Built { registry: builder.build(), warnings })
    }
}

fn hook(words: &Words, id: HookId, level: Level, strategy: Strategy) -> Arc<dyn BlockHook> {
    match strategy.on_tensors() {
        Err(hook) => hook,
        Ok((cache, guards)) => {
            // A module's output is not its input plus a residual, so by default the last output is repeated.
            let repeat = || (level == Level::Modules).then(|| Arc::new(OutputConfig {}) as _);
            let forecast = words.forecast.clone().or_else(repeat);
            Arc::new(CacheHook::new(id, cache, forecast, guards))
        }
    }
}
