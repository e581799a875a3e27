//! From the configuration of a recorded run to the `[[cache]]` table that means the same here.

use std::collections::BTreeMap;

use anyhow::Result;
use magcache_core::{CachePlan, Residuals};
use serde::Deserialize;
use serde_json::Value;
use toml::Table;

use crate::failure::bad_input;

/// One recorded run.
#[derive(Deserialize)]
pub(super) struct Run {
    pub(super) name: String,
    /// By branch.
    pub(super) decisions: BTreeMap<String, Decisions>,
    /// The steps behind which `latents` were recorded.
    pub(super) latents_step_indices: Vec<usize>,
    /// The tensor that holds them.
    pub(super) latents: String,
    /// diffusers' configuration, one for each network.
    cache_config: Option<Vec<Option<Value>>>,
    teacache: Option<TeaCache>,
}

/// 1 where a step was skipped.
#[derive(Deserialize)]
pub(super) struct Decisions {
    pub(super) skip: Vec<u8>,
}

/// How a run is repeated.
#[derive(Debug)]
pub(super) enum Recipe {
    /// Without a cache.
    Dense,
    /// Without a cache, and the magnitudes of residuals are measured.
    Measure,
    /// With this cache.
    Cache(CachePlan),
    /// This build has nothing that answers to it, for this reason.
    Unknown(String),
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

/// The settings of a recorded TeaCache run, which has no diffusers class.
#[derive(Deserialize)]
struct TeaCache {
    kind: String,
    coefficients: Vec<f64>,
    threshold: f64,
    forced: String,
}

impl Run {
    /// How to repeat it in a generation of `steps` steps.
    pub(super) fn recipe(&self, steps: usize) -> Result<Recipe> {
        let wrong = |e: String| bad_input(format!("run {:?}: {e}", self.name));
        if let Some(teacache) = &self.teacache {
            return teacache.recipe().map_err(|e| wrong(e.to_string()));
        }
        let config = match self.cache_config.as_deref() {
            None | Some([None]) => return Ok(Recipe::Dense),
            Some([Some(config)]) => config,
            Some(all) => return Err(wrong(format!("{} cache configurations for one network", all.len()))),
        };
        match config.get("type").and_then(Value::as_str) {
            Some("MagCacheConfig") => {
                MagCache::deserialize(config).map_err(|e| wrong(e.to_string()))?.recipe(steps)
            }
            Some("FirstBlockCacheConfig") => {
                FirstBlockCache::deserialize(config).map_err(|e| wrong(e.to_string()))?.recipe()
            }
            Some(other) => Ok(Recipe::Unknown(format!("this build has no strategy for {other}"))),
            None => Err(wrong("its cache configuration has no `type`".to_owned())),
        }
    }
}

impl MagCache {
    fn recipe(self, steps: usize) -> Result<Recipe> {
        if self.calibrate {
            return Ok(Recipe::Measure);
        }
        let Some(ratios) = self.mag_ratios else {
            return Err(bad_input("a MagCacheConfig without `mag_ratios` that does not calibrate"));
        };
        let mut table = Table::from_iter([
            ("strategy".to_owned(), "magcache".into()),
            ("dialect".to_owned(), "diffusers".into()),
            ("ratios".to_owned(), ratios.into()),
            ("threshold".to_owned(), self.threshold.into()),
            ("max_skips".to_owned(), integer(self.max_skip_steps)),
            ("warmup".to_owned(), self.retention_ratio.into()),
        ]);
        if self.num_inference_steps != steps {
            table.insert("assume_steps".to_owned(), integer(self.num_inference_steps));
        }
        plan(table)
    }
}

impl FirstBlockCache {
    fn recipe(self) -> Result<Recipe> {
        plan(Table::from_iter([
            ("strategy".to_owned(), "fbcache".into()),
            ("dialect".to_owned(), "diffusers".into()),
            ("threshold".to_owned(), self.threshold.into()),
        ]))
    }
}

impl TeaCache {
    fn recipe(&self) -> Result<Recipe> {
        let signal = match self.kind.as_str() {
            "wan_e" => "timestep-embedding",
            "wan_e0" => "timestep-projection",
            other => return Ok(Recipe::Unknown(format!("no signal of Wan is called {other:?}"))),
        };
        let (warmup, last_steps) = self.forced()?;
        plan(Table::from_iter([
            ("strategy".to_owned(), "teacache".into()),
            ("threshold".to_owned(), self.threshold.into()),
            ("coefficients".to_owned(), self.coefficients.clone().into()),
            ("signal".to_owned(), signal.into()),
            ("warmup".to_owned(), integer(warmup)),
            ("last_steps".to_owned(), integer(last_steps)),
        ]))
    }

    /// Steps computed first and last: `first and last step`, or `steps 0-4`.
    fn forced(&self) -> Result<(usize, usize)> {
        let last = self.forced.strip_prefix("steps 0-").and_then(|last| last.parse::<usize>().ok());
        match (self.forced.as_str(), last) {
            (_, Some(last)) => Ok((last.saturating_add(1), 0)),
            ("first and last step", None) => Ok((1, 1)),
            (other, None) => Err(bad_input(format!("cannot read `forced` = {other:?}"))),
        }
    }
}

/// The same path as a user's configuration file.
fn plan(table: Table) -> Result<Recipe> {
    Ok(Recipe::Cache(CachePlan::from_tables(vec![table], Residuals::default())?))
}

fn integer(n: usize) -> toml::Value {
    toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}
