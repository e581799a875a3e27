//! What a strategy author implements: the keys of its table, and how to build the strategy from them.

use std::{fmt::Debug, ops::Range, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    BlockHook, ConfigError, Expert, Guards, ModelMeta, Problem, Trajectory, Window, config::Given, meta,
    profile::Part, state::HookId, strategy::AnyCache,
};

/// The strategy built from the keys of a table.
#[derive(Debug)]
pub enum Strategy {
    /// A strategy that runs in the adapter, with its limits.
    Cache(Box<dyn AnyCache>, Guards),
    /// A custom hook.
    Hook(Arc<dyn BlockHook>),
}

impl Strategy {
    /// A strategy that runs in the adapter.
    pub fn cache(cache: impl AnyCache + 'static, guards: Guards) -> Self {
        Self::Cache(Box::new(cache), guards)
    }

    /// Whether it decides from the step alone and needs no block to run, so that it can surround anything.
    pub(super) fn is_blind(&self) -> bool {
        match self {
            Self::Cache(cache, _) => cache.any_static() && cache.any_window() == Window::default(),
            Self::Hook(_) => false,
        }
    }
}

/// Context available to a strategy when it is built.
#[derive(Debug)]
pub struct BuildCx<'a> {
    /// Name of this table in problems.
    pub place: &'a str,
    /// The ring's name.
    pub id: HookId,
    /// The model.
    pub model: &'a ModelMeta,
    /// The blocks that the hook will surround.
    pub range: Range<usize>,
    /// The run, if known.
    pub trajectory: Option<&'a Trajectory>,
    /// The common keys of the table.
    pub words: &'a Given<'a>,
    /// The experts it acts in; empty means all.
    pub experts: &'a [Expert],
}

impl BuildCx<'_> {
    /// The limits from the table, with the strategy's defaults for keys that are not given.
    pub fn guards(&self, defaults: Guards) -> Guards {
        let words = self.words;
        Guards {
            warmup: words.warmup().unwrap_or(defaults.warmup),
            last_steps: words.last_steps().unwrap_or(defaults.last_steps),
            max_skips: words.max_skips().or(defaults.max_skips),
            max_total_skips: words.max_total_skips().or(defaults.max_total_skips),
            branches: words.branches().unwrap_or(defaults.branches),
        }
    }

    /// All errors and warnings about a strategy's keys: its own, and a warning for each key that another key
    /// disables.
    pub fn check(&self, config: &dyn CacheConfig) -> Vec<Problem> {
        let mut out = config.validate(self);
        let info = meta::strategies().into_iter().find(|s| s.name == config.typetag_name());
        out.extend(info.iter().flat_map(|info| (info.keys)().idle(self.place, &config)));
        out
    }
}

/// The keys of one strategy, read strictly.
#[typetag::serde(tag = "strategy")]
pub trait CacheConfig: Debug + Send + Sync {
    /// All errors and warnings about the values for this model and run. Has no side effects.
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem>;

    /// The parts of the profile that it reads; empty if the table brings its own values. A run is judged
    /// against the conditions under which those parts were measured.
    fn reads(&self) -> Vec<Part> {
        Vec::new()
    }

    /// The tables of the strategies that this one combines.
    fn members(&self) -> &[Box<dyn CacheConfig>] {
        &[]
    }

    /// Builds the strategy. Called only if [`CacheConfig::validate`] found no error.
    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError>;
}

impl JsonSchema for dyn CacheConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "strategy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "description": "A strategy, by its name and with its keys." })
    }
}
