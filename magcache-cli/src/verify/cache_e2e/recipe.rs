//! Converts the configuration of a recorded run to the equivalent `[[cache]]` table.

use std::{collections::BTreeMap, ops::Range};

use anyhow::Result;
use magcache_core::{CachePlan, config::Residuals};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use toml::Table;

use super::{published::Strategy, taylor::TaylorSeer};
use crate::console::bad_input;

/// One recorded run.
#[derive(Deserialize)]
pub(super) struct Run {
    pub(super) name: String,
    decisions: PerNetwork<ByBranch>,
    /// The steps after which `latents` were recorded.
    pub(super) latents_step_indices: Vec<usize>,
    /// The name of the tensor that holds them.
    pub(super) latents: String,
    /// What differs from the sampling of the case.
    sampling: Option<Map<String, Value>>,
    #[serde(flatten)]
    cache: CachedWith,
}

/// What a run was cached with.
#[derive(Deserialize)]
pub(super) struct CachedWith {
    /// The configuration of diffusers, one for each network.
    cache_config: Option<PerNetwork<Option<Value>>>,
    teacache: Option<TeaCache>,
    /// The one cache of a fork for both of its methods.
    cache_manager: Option<Value>,
    /// A rule of published code.
    strategy: Option<Strategy>,
    /// The order of every step that MeanCache replaces.
    #[serde(default)]
    orders: Vec<Option<usize>>,
}

pub(super) type ByBranch = BTreeMap<String, Decisions>;

/// One value for the only network, or a list with one per network.
#[derive(Deserialize)]
#[serde(untagged)]
enum PerNetwork<T> {
    Each(Vec<T>),
    One(T),
}

impl<T> PerNetwork<T> {
    fn all(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Each(all) => all,
        }
    }
}

/// The decisions about every step.
#[derive(Deserialize)]
pub(super) struct Decisions {
    /// 1 if blocks were skipped.
    pub(super) skip: Vec<u8>,
    /// How often the last block's attention ran.
    pub(super) inner_executed: Option<Vec<usize>>,
}

/// What diffusers' hooks see of a network's blocks.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    /// The modules of a block.
    pub(super) modules: &'a [&'a str],
    /// The `metric` of `fbcache` that compares what they compare.
    pub(super) metric: &'a str,
}

/// How to repeat a run.
#[derive(Debug)]
pub(super) enum Recipe {
    /// Without a cache.
    Dense,
    /// Without a cache, measuring the magnitudes of residuals.
    Measure,
    /// With this cache.
    Cache(CachePlan),
    /// This build has no equivalent, for this reason.
    Unknown(String),
}

/// The recorded configuration of one network, in the terms of this build.
pub(super) enum Network {
    Dense,
    Measure,
    Tables { tables: Vec<Table>, residuals: Residuals },
    Unknown(String),
}

impl Network {
    /// One `[[cache]]` table.
    pub(super) fn of_table(table: &Value) -> Result<Self> {
        Ok(Self::Tables { tables: vec![Table::try_from(table)?], residuals: Residuals::default() })
    }
}

/// diffusers' `MagCacheConfig`.
#[derive(Deserialize)]
struct MagCache {
    threshold: f64,
    max_skip_steps: usize,
    retention_ratio: f64,
    num_inference_steps: usize,
    mag_ratios: Option<Vec<f64>>,
    #[serde(default)]
    calibrate: bool,
}

/// diffusers' `FirstBlockCacheConfig`.
#[derive(Deserialize)]
struct FirstBlockCache {
    threshold: f64,
}

/// The settings of a recorded TeaCache run, for which diffusers has no class.
#[derive(Deserialize)]
struct TeaCache {
    kind: String,
    coefficients: Vec<f64>,
    threshold: f64,
    forced: String,
}

impl Run {
    /// The decisions of each network, by branch.
    pub(super) fn decisions(&self) -> &[ByBranch] {
        self.decisions.all()
    }

    /// What differs from the sampling of the case.
    pub(super) fn sampling(&self) -> Option<&Map<String, Value>> {
        self.sampling.as_ref()
    }

    /// Whether it was sampled with Euler's method, whatever the case says.
    pub(super) fn is_euler(&self) -> bool {
        self.name.split('_').any(|part| part == "euler")
    }

    /// How to repeat the run.
    pub(super) fn recipe(&self, networks: &[(&str, usize)], modules: &[&str]) -> Result<Recipe> {
        self.cache.recipe(&self.name, networks, Blocks { modules, metric: "residual_rel_l1" })
    }
}

impl CachedWith {
    /// How to repeat the run with these networks, each with its name and number of steps.
    pub(super) fn recipe(&self, run: &str, networks: &[(&str, usize)], blocks: Blocks) -> Result<Recipe> {
        let wrong = |e: String| bad_input(format!("run {run:?}: {e}"));
        if self.cache_manager.is_some() {
            let why = "its metric is the change of a mean, which this build does not measure";
            return Ok(Recipe::Unknown(why.to_owned()));
        }
        let published = self.strategy.as_ref().map(|strategy| strategy.part(&self.orders));
        if let Some(part) = published.or_else(|| self.teacache.as_ref().map(TeaCache::part)) {
            return part.and_then(|part| join(vec![part], networks)).map_err(|e| wrong(e.to_string()));
        }
        let Some(configs) = self.cache_config.as_ref().map(PerNetwork::all) else { return Ok(Recipe::Dense) };
        if configs.len() != networks.len() {
            let (got, expected) = (configs.len(), networks.len());
            return Err(wrong(format!("{got} cache configurations for {expected} networks")));
        }
        let mut first = 0;
        let parts = configs.iter().zip(networks).map(|(config, (_, steps))| {
            let steps = first..first + steps;
            first = steps.end;
            part(config.as_ref(), steps, blocks)
        });
        let parts: Vec<Network> = parts.collect::<Result<_>>().map_err(|e| wrong(e.to_string()))?;
        join(parts, networks).map_err(|e| wrong(e.to_string()))
    }
}

/// One network's part; `steps` are the run's steps that belong to it.
fn part(config: Option<&Value>, steps: Range<usize>, blocks: Blocks) -> Result<Network> {
    let Some(config) = config else { return Ok(Network::Dense) };
    match config.get("type").and_then(Value::as_str) {
        Some("MagCacheConfig") => MagCache::deserialize(config)?.part(steps.len()),
        Some("FirstBlockCacheConfig") => FirstBlockCache::deserialize(config)?.part(blocks.metric),
        Some("TaylorSeerCacheConfig") => TaylorSeer::deserialize(config)?.part(steps, blocks.modules),
        Some(other) => Ok(Network::Unknown(format!("this build has no strategy for {other}"))),
        None => Err(bad_input("its cache configuration has no `type`")),
    }
}

/// Joins the networks' parts into one plan, by the same path as a user's configuration file.
fn join(parts: Vec<Network>, networks: &[(&str, usize)]) -> Result<Recipe> {
    let mut all = Vec::new();
    let mut stored: Option<Residuals> = None;
    let mut measure = false;
    for (part, (name, _)) in parts.into_iter().zip(networks) {
        match part {
            Network::Unknown(why) => return Ok(Recipe::Unknown(why)),
            Network::Dense => {}
            Network::Measure => measure = true,
            Network::Tables { mut tables, residuals } => {
                if stored.as_ref().is_some_and(|stored| *stored != residuals) {
                    return Ok(Recipe::Unknown("its networks store in different dtypes".to_owned()));
                }
                stored = Some(residuals);
                if networks.len() > 1 {
                    for table in &mut tables {
                        table.insert("experts".to_owned(), vec![(*name).to_owned()].into());
                    }
                }
                all.extend(tables);
            }
        }
    }
    match (all.is_empty(), measure) {
        (true, true) => Ok(Recipe::Measure),
        (true, false) => Ok(Recipe::Dense),
        (false, false) => Ok(Recipe::Cache(CachePlan::from_tables(all, stored.unwrap_or_default())?)),
        (false, true) => Ok(Recipe::Unknown("it calibrates one network and caches another".to_owned())),
    }
}

impl MagCache {
    fn part(self, steps: usize) -> Result<Network> {
        if self.calibrate {
            return Ok(Network::Measure);
        }
        let Some(ratios) = self.mag_ratios else {
            return Err(bad_input("a MagCacheConfig without `mag_ratios` that does not calibrate"));
        };
        let mut table = json!({
            "strategy": "magcache",
            "dialect": "diffusers",
            "ratios": ratios,
            "threshold": self.threshold,
            "max_skips": self.max_skip_steps,
            "warmup": self.retention_ratio,
        });
        if self.num_inference_steps != steps {
            table["assume_steps"] = self.num_inference_steps.into();
        }
        Network::of_table(&table)
    }
}

impl FirstBlockCache {
    fn part(&self, metric: &str) -> Result<Network> {
        Network::of_table(&json!({
            "strategy": "fbcache",
            "dialect": "diffusers",
            "threshold": self.threshold,
            "metric": metric,
        }))
    }
}

impl TeaCache {
    fn part(&self) -> Result<Network> {
        let signal = match self.kind.as_str() {
            "wan_e" => "timestep-embedding",
            "wan_e0" => "timestep-projection",
            "flux" | "modulated_video" | "modulated_input" => "modulated-input",
            "modulated_all" => {
                let why = "the signal is that of the video's tokens, those of pictures dilute it";
                return Ok(Network::Unknown(why.to_owned()));
            }
            other => return Ok(Network::Unknown(format!("no signal is called {other:?}"))),
        };
        let (warmup, last_steps) = self.forced()?;
        Network::of_table(&json!({
            "strategy": "teacache",
            "threshold": self.threshold,
            "coefficients": self.coefficients,
            "signal": signal,
            "warmup": warmup,
            "last_steps": last_steps,
        }))
    }

    /// Number of first and last steps that are always computed: `first and last step`, or `steps 0-4`.
    fn forced(&self) -> Result<(usize, usize)> {
        let last = self.forced.strip_prefix("steps 0-").and_then(|last| last.parse::<usize>().ok());
        match (self.forced.as_str(), last) {
            (_, Some(last)) => Ok((last.saturating_add(1), 0)),
            ("first and last step", None) => Ok((1, 1)),
            (other, None) => Err(bad_input(format!("cannot read `forced` = {other:?}"))),
        }
    }
}
