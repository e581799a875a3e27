//! Configuration: `[[cache]]` tables to hooks.
//!
//! A table names a strategy and holds its keys beside the words that every strategy has in common. Every key is
//! read by somebody or refused; every problem of a configuration is reported at once.

use std::{fmt::Debug, ops::Range, sync::Arc};

use candle_core::{DType, Device};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    AnyCache, AuditPolicy, BlockHook, CacheHook, ConfigError, Expert, Given, Guards, HookId, HookRegistry,
    Level, ModelMeta, Problem, Profile, StoragePolicy, Trajectory, Window, Words,
    error::nearest,
    exclusion,
    exclusion::Placed,
    forecast::OutputConfig,
    meta::{self, FORWARD},
    syntax::syntax,
    words::WORDS,
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
    fn is_blind(&self) -> bool {
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

/// One `[[cache]]` table.
#[derive(Debug)]
pub struct CacheEntry {
    /// The common words.
    pub words: Words,
    /// The strategy's name.
    pub name: String,
    /// The strategy's own keys.
    pub config: Box<dyn CacheConfig>,
}

/// The `[residuals]` table: how what is stored for reuse is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Residuals {
    /// `f32`, `bf16` or `f16`, in storage only; without it, as the model computes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Most bytes, `2 GiB` or a number; past them the oldest are dropped and computed again. No limit without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// `same` (as the model, what holds without it) or `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// Which hooks a run has: the `[[cache]]` tables, outermost first, `[residuals]` and `[audit]`.
#[derive(Debug, Default)]
pub struct CachePlan {
    /// The tables.
    pub cache: Vec<CacheEntry>,
    /// How residuals are stored.
    pub residuals: Residuals,
    /// Which reuses are checked against the truth.
    pub audit: AuditPolicy,
}

/// A registry, and what to tell the user before the run.
#[derive(Clone, Debug)]
pub struct Built {
    /// The hooks.
    pub registry: Arc<HookRegistry>,
    /// Problems that are not fatal.
    pub warnings: Vec<Problem>,
}

impl CacheEntry {
    /// Reads one table; `place` names it in errors.
    pub fn from_table(place: &str, mut table: toml::Table) -> Result<Self, ConfigError> {
        let name = match table.get("strategy") {
            Some(toml::Value::String(name)) => name.clone(),
            Some(other) => return Err(syntax(place, &format!("`strategy` is {other}, it must be a name"))),
            None => return Err(syntax(place, &"a table without `strategy`")),
        };
        let place = format!("{place} (strategy {name:?})");
        let known = meta::strategies();
        if !known.iter().any(|s| s.name == name) {
            let nearest = nearest(&name, known.iter().map(|s| s.name));
            return Err(ConfigError::UnknownName { place, kind: "strategy", name, nearest });
        }
        let mut words = toml::Table::new();
        for word in WORDS {
            if let Some(value) = table.remove(word) {
                words.insert(word.to_owned(), value);
            }
        }
        Ok(Self { words: read(&place, words)?, config: read(&place, table)?, name })
    }

    /// The table that reads back as this entry.
    pub fn to_table(&self) -> Result<toml::Table, ConfigError> {
        let place = || format!("strategy {:?}", self.name);
        let mut table = match toml::Value::try_from(&self.config) {
            Ok(toml::Value::Table(table)) => table,
            Ok(other) => return Err(syntax(&place(), &format!("its keys are no table: {other}"))),
            Err(e) => return Err(syntax(&place(), &e)),
        };
        table.extend(toml::Table::try_from(&self.words).map_err(|e| syntax(&place(), &e))?);
        Ok(table)
    }
}

impl CachePlan {
    /// Reads the `cache` array and the tables `residuals` and `audit` of a document that has nothing else.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            #[serde(default)]
            cache: Vec<toml::Table>,
            #[serde(default)]
            residuals: toml::Table,
            #[serde(default)]
            audit: toml::Table,
        }
        let table: toml::Table = toml::from_str(text).map_err(|e| syntax("configuration", &e))?;
        let document: Document = read("configuration", table)?;
        let plan = Self::from_tables(document.cache, read("[residuals]", document.residuals)?)?;
        Ok(Self { audit: read("[audit]", document.audit)?, ..plan })
    }

    /// Reads the tables of a document that was parsed elsewhere.
    pub fn from_tables(cache: Vec<toml::Table>, residuals: Residuals) -> Result<Self, ConfigError> {
        let entry = |(i, table)| CacheEntry::from_table(&format!("cache[{i}]"), table);
        let cache = cache.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { cache, residuals, audit: AuditPolicy::default() })
    }

    /// Checks everything against the model and the run, and builds the hooks.
    ///
    /// Errors: every fatal problem at once.
    pub fn build(&self, model: &ModelMeta, trajectory: Option<&Trajectory>) -> Result<Built, ConfigError> {
        let builder = HookRegistry::builder(model.blocks());
        let builder = builder.storage(self.residuals.policy()?).audit(self.audit);
        let mut builder = if model.text_after { builder } else { builder.text_ends() };
        let mut problems = model.problems();
        problems.extend(self.audit.problems());
        let mut placed: Vec<Placed<'_>> = Vec::new();
        for (i, entry) in self.cache.iter().enumerate() {
            let place = format!("cache[{i}] (strategy {:?})", entry.name);
            let words = &entry.words;
            words.problems(&place, &mut problems);
            let own =
                meta::strategies().iter().find(|s| s.name == entry.name).map_or(Level::Blocks, |s| s.level);
            let module = words.at.as_deref().filter(|at| model.modules.contains(at));
            let (level, range) = match (own, words.at.as_deref()) {
                (_, Some(FORWARD)) | (Level::Forward, None) => (Level::Forward, 0..1),
                (Level::Blocks | Level::Modules, _) if module.is_some() => (Level::Modules, model.whole()),
                (Level::Blocks | Level::Modules, at) => (Level::Blocks, model.range(at.unwrap_or("all"))?),
                (Level::Forward, Some(at)) => {
                    let message = format!("`at` is {at:?}, but this strategy acts on the whole forward");
                    problems.push(Problem::error(&place, message).hint("remove `at`"));
                    (Level::Forward, 0..1)
                }
            };
            let experts = words.experts(model)?;
            let default = || model.profiles.first().map(|name| Profile::find(name));
            let profile = words.profile.as_deref().map(Profile::find).or_else(default).transpose()?;
            let given = Given::new(words, profile.as_ref());
            let id = HookId(u16::try_from(i).unwrap_or(u16::MAX));
            let cx = BuildCx {
                place: &place,
                id,
                model,
                range: range.clone(),
                trajectory,
                words: &given,
                experts: &experts,
            };
            let found = cx.check(&*entry.config);
            let fatal = found.iter().any(|p| p.fatal);
            problems.extend(found);
            let strategy = if fatal { None } else { Some(entry.config.build(&cx)?) };
            problems.extend(strategy.iter().flat_map(|s| given.without_effect(&place, &entry.name, s)));
            if own != level && strategy.as_ref().is_some_and(|strategy| !strategy.is_blind()) {
                let at = module.unwrap_or(FORWARD);
                let message = format!("`at` is {at:?}, but {:?} looks at what the blocks do", entry.name);
                let hint = "remove `at`, or use a strategy that looks at the step alone, such as schedule";
                problems.push(Problem::error(&place, message).hint(hint));
            }
            let name = &entry.name;
            placed.push(Placed { name, place: place.clone(), level, range, module, experts, strategy });
        }
        problems.extend(exclusion::problems(&placed, model));
        if problems.iter().any(|p| p.fatal) {
            problems.retain(|p| p.fatal);
            return Err(ConfigError::Problems(problems));
        }
        for (entry, here) in self.cache.iter().zip(placed) {
            let Placed { level, range, module, experts, strategy, .. } = here;
            let Some(strategy) = strategy else { continue };
            let id = builder.next_id();
            let hook = entry.hook(id, level, strategy);
            builder = match level {
                Level::Blocks => builder.ring(range, hook)?,
                Level::Modules => builder.module(module.unwrap_or_default(), hook),
                Level::Forward => builder.forward(hook),
            };
            builder = builder.only_experts(id, &experts);
        }
        Ok(Built { registry: builder.build(), warnings: problems })
    }
}

impl CacheEntry {
    fn hook(&self, id: HookId, level: Level, strategy: Strategy) -> Arc<dyn BlockHook> {
        match strategy {
            Strategy::Hook(hook) => hook,
            Strategy::Cache(cache, guards) => {
                // What a module gives is no continuation of what it reads: unless the table says more, it is repeated.
                let repeat = || (level == Level::Modules).then(|| Arc::new(OutputConfig {}) as _);
                let forecast = self.words.forecast.clone().or_else(repeat);
                Arc::new(CacheHook::new(id, cache, forecast, guards))
            }
        }
    }
}

impl Residuals {
    /// True when the table says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The policy, with `device = "same"` as no device at all.
    pub fn policy(&self) -> Result<StoragePolicy, ConfigError> {
        let place = "[residuals]";
        let dtype = match self.dtype.as_deref() {
            None => None,
            Some("f32") => Some(DType::F32),
            Some("bf16") => Some(DType::BF16),
            Some("f16") => Some(DType::F16),
            Some(other) => {
                return Err(syntax(place, &format!("`dtype` is {other:?}, it must be f32, bf16 or f16")));
            }
        };
        let device = match self.device.as_deref() {
            None | Some("same") => None,
            Some("cpu") => Some(Device::Cpu),
            Some(other) => {
                return Err(syntax(place, &format!("`device` is {other:?}, it must be same or cpu")));
            }
        };
        let budget = self.budget.as_deref().map(|text| bytes(place, text)).transpose()?;
        Ok(StoragePolicy { dtype, device, budget })
    }
}

/// `2 GiB`, `512 MB`, `1000`.
fn bytes(place: &str, text: &str) -> Result<usize, ConfigError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim();
    let scale: Option<f64> = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1.0),
        "kb" => Some(1e3),
        "mb" => Some(1e6),
        "gb" => Some(1e9),
        "kib" => Some(1024.0),
        "mib" => Some(1024f64.powi(2)),
        "gib" => Some(1024f64.powi(3)),
        _ => None,
    };
    match (digits.parse::<f64>(), scale) {
        (Ok(n), Some(scale)) if n.is_finite() && n >= 0.0 => Ok((n * scale) as usize),
        _ => Err(syntax(place, &format!("`budget` is {text:?}, it must be a size such as \"2 GiB\""))),
    }
}

/// Reads a table strictly; serde's "unknown field" becomes an error that names the nearest known key.
fn read<T: DeserializeOwned>(place: &str, table: toml::Table) -> Result<T, ConfigError> {
    toml::Value::Table(table).try_into().map_err(|e: toml::de::Error| syntax(place, &e))
}
