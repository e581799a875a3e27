//! What a strategy author implements: the keys of its table, and how to build the strategy from them.

#[cfg(feature = "candle")]
use std::sync::Arc;
use std::{fmt::Debug, ops::Range};

#[cfg(feature = "candle")]
use crate::{
    BlockHook,
    strategy::{AnyCache, Measured},
};
use crate::{
    ConfigError, Expert, Guards, ModelMeta, Problem, Rule, Trajectory, Window,
    config::Given,
    meta,
    profile::Part,
    state::HookId,
    strategy::{Base, Quantity},
};

/// The strategy built from the keys of a table.
#[derive(Debug)]
#[non_exhaustive]
pub enum Strategy {
    /// A strategy that decides from numbers, with its limits.
    Rule(Box<dyn Rule>, Guards),
    /// A strategy that looks at tensors itself, with its limits.
    #[cfg(feature = "candle")]
    Cache(Box<dyn AnyCache>, Guards),
    /// A custom hook.
    #[cfg(feature = "candle")]
    Hook(Arc<dyn BlockHook>),
}

impl Strategy {
    /// A strategy that decides from numbers.
    pub fn rule(rule: impl Rule, guards: Guards) -> Self {
        Self::Rule(Box::new(rule), guards)
    }

    /// A strategy that looks at tensors itself.
    #[cfg(feature = "candle")]
    pub fn cache(cache: impl AnyCache + 'static, guards: Guards) -> Self {
        Self::Cache(Box::new(cache), guards)
    }

    /// The strategy as it runs in the adapter, with its limits; a custom hook as it is.
    #[cfg(feature = "candle")]
    pub fn on_tensors(self) -> Result<(Box<dyn AnyCache>, Guards), Arc<dyn BlockHook>> {
        match self {
            Self::Rule(rule, guards) => Ok((Box::new(Measured(rule)), guards)),
            Self::Cache(cache, guards) => Ok((cache, guards)),
            Self::Hook(hook) => Err(hook),
        }
    }

    /// The limits; `None` for a custom hook, which keeps its own.
    #[cfg_attr(
        not(feature = "candle"),
        expect(clippy::unnecessary_wraps, reason = "a custom hook, which needs candle, has none")
    )]
    pub(super) fn guards(&self) -> Option<&Guards> {
        match self {
            Self::Rule(_, guards) => Some(guards),
            #[cfg(feature = "candle")]
            Self::Cache(_, guards) => Some(guards),
            #[cfg(feature = "candle")]
            Self::Hook(_) => None,
        }
    }

    /// The blocks that always run.
    pub(super) fn window(&self) -> Window {
        match self {
            Self::Rule(rule, _) => rule.window(),
            #[cfg(feature = "candle")]
            Self::Cache(cache, _) => cache.any_window(),
            #[cfg(feature = "candle")]
            Self::Hook(_) => Window::default(),
        }
    }

    /// What skipped blocks are rebuilt from; `None` for a custom hook.
    #[cfg_attr(
        not(feature = "candle"),
        expect(clippy::unnecessary_wraps, reason = "a custom hook, which needs candle, has none")
    )]
    pub(super) fn base(&self) -> Option<Base> {
        match self {
            Self::Rule(..) => Some(Base::Input),
            #[cfg(feature = "candle")]
            Self::Cache(cache, _) => Some(cache.any_base()),
            #[cfg(feature = "candle")]
            Self::Hook(_) => None,
        }
    }

    pub(super) fn uses_signals(&self) -> bool {
        match self {
            Self::Rule(rule, _) => {
                rule.measure().is_some_and(|measure| matches!(measure.of, Quantity::Signal(_)))
            }
            #[cfg(feature = "candle")]
            Self::Cache(cache, _) => cache.any_uses_signals(),
            #[cfg(feature = "candle")]
            Self::Hook(_) => false,
        }
    }

    /// Whether it decides from the step alone and needs no block to run, so that it can surround anything.
    pub(super) fn is_blind(&self) -> bool {
        let by_step = match self {
            Self::Rule(rule, _) => rule.measure().is_none(),
            #[cfg(feature = "candle")]
            Self::Cache(cache, _) => cache.any_static(),
            #[cfg(feature = "candle")]
            Self::Hook(_) => false,
        };
        by_step && self.window() == Window::default()
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

#[cfg(feature = "keys")]
impl schemars::JsonSchema for dyn CacheConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "strategy".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "object", "description": "A strategy, by its name and with its keys." })
    }
}
