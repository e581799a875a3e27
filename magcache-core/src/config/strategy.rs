//! What an author of a strategy writes: the keys of its table, and what they build.

use std::{fmt::Debug, ops::Range, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    BlockHook, ConfigError, Expert, Guards, ModelMeta, Problem, Trajectory, Window, config::Given, meta,
    profile::Part, state::HookId, strategy::AnyCache,
};

/// What a strategy's keys build.
#[derive(Debug)]
pub enum Strategy {
    /// A strategy in the one adapter, with its limits.
    Cache(Box<dyn AnyCache>, Guards),
    /// A hook of its own.
    Hook(Arc<dyn BlockHook>),
}

impl Strategy {
    /// A strategy in the one adapter.
    pub fn cache(cache: impl AnyCache + 'static, guards: Guards) -> Self {
        Self::Cache(Box::new(cache), guards)
    }

    /// True when it decides from the step alone and wants no block to run: it can surround anything.
    pub(super) fn is_blind(&self) -> bool {
        match self {
            Self::Cache(cache, _) => cache.any_static() && cache.any_window() == Window::default(),
            Self::Hook(_) => false,
        }
    }
}

/// What a strategy can look at when it is built.
#[derive(Debug)]
pub struct BuildCx<'a> {
    /// Names this table in problems.
    pub place: &'a str,
    /// The ring's name.
    pub id: HookId,
    /// The model.
    pub model: &'a ModelMeta,
    /// The blocks that the hook will surround.
    pub range: Range<usize>,
    /// The run, where it is known.
    pub trajectory: Option<&'a Trajectory>,
    /// The words of the table.
    pub words: &'a Given<'a>,
    /// The experts that it acts in; empty means all of them.
    pub experts: &'a [Expert],
}

impl BuildCx<'_> {
    /// The limits of the table, with the strategy's own defaults for words that it does not have.
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

    /// Everything wrong or doubtful about a strategy's keys: what it says itself, and those that another one silences.
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
    /// Everything wrong or doubtful about the values for this model and run. Changes nothing.
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem>;

    /// What it reads of its profile; nothing where the table brings its own. A run is told what those measurements hold for.
    fn reads(&self) -> Vec<Part> {
        Vec::new()
    }

    /// The tables of the strategies that this one is made of.
    fn members(&self) -> &[Box<dyn CacheConfig>] {
        &[]
    }

    /// The strategy. Called only when [`CacheConfig::validate`] found no error.
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
