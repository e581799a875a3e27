//! Runs of published code that diffusers has no configuration for: SeaCache, DiCache and MeanCache.

use std::path::PathBuf;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use super::recipe::Network;
use crate::console::bad_input;

/// Where the model and the inputs of a case of published strategies are: in another case.
#[derive(Deserialize)]
pub(super) struct Files {
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Model {
    dir: PathBuf,
}

impl Files {
    /// The other case, relative to this one; `None` for a case that has its own.
    pub(super) fn elsewhere(&self) -> Option<&PathBuf> {
        self.model.as_ref().map(|model| &model.dir).filter(|dir| dir.components().count() > 1)
    }
}

/// The rule of a run and its values.
#[derive(Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub(super) enum Strategy {
    None {},
    SeaCache(SeaCache),
    DiCache(DiCache),
    MeanCache(MeanCache),
}

#[derive(Deserialize)]
pub(super) struct SeaCache {
    dialect: String,
    threshold: f64,
    power: f64,
    first: usize,
    last: usize,
    max_consecutive: Option<usize>,
    forecast: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct DiCache {
    model: String,
    error: String,
    threshold: f64,
    retention_ratio: f64,
    probe_depth: usize,
}

#[derive(Deserialize)]
pub(super) struct MeanCache {
    dialect: String,
}

impl Strategy {
    /// The equivalent table; `orders` has the order of every step that MeanCache replaces.
    pub(super) fn part(&self, orders: &[Option<usize>]) -> Result<Network> {
        Network::of_table(&match self {
            Self::None {} => return Ok(Network::Dense),
            Self::SeaCache(own) => own.table(),
            Self::DiCache(own) => own.table(),
            Self::MeanCache(own) => own.table(orders)?,
        })
    }
}

impl SeaCache {
    fn table(&self) -> Value {
        let mut table = json!({
            "strategy": "seacache",
            "dialect": self.dialect,
            "threshold": self.threshold,
            "power": self.power,
            "warmup": self.first,
            "last_steps": self.last,
        });
        if let Some(most) = self.max_consecutive {
            table["max_skips"] = most.into();
        }
        if self.forecast.as_deref() == Some("last residual") {
            table["forecast"] = json!({ "type": "residual" });
        }
        table
    }
}

impl DiCache {
    fn table(&self) -> Value {
        json!({
            "strategy": "dicache",
            "dialect": self.model,
            "error": self.error,
            "threshold": self.threshold,
            "retention": self.retention_ratio,
            "probe": self.probe_depth,
        })
    }
}

impl MeanCache {
    fn table(&self, orders: &[Option<usize>]) -> Result<Value> {
        let of = |skipped: bool| (0..orders.len()).filter(move |i| orders[*i].is_some() == skipped);
        let computed: Vec<usize> = of(false).collect();
        match self.dialect.as_str() {
            "official" => {
                let order = |step: &usize| orders.get(step + 1).copied().flatten().unwrap_or(0);
                let orders: Vec<usize> = computed.iter().map(order).collect();
                Ok(json!({ "strategy": "meancache", "computed": computed, "orders": orders }))
            }
            "line" => Ok(json!({
                "strategy": "schedule",
                "at": "forward",
                "skip": of(true).collect::<Vec<_>>(),
                "forecast": { "type": "taylor", "of": "output", "abscissa": "sigma" },
            })),
            other => {
                Err(bad_input(format!("unknown dialect {other:?} of MeanCache, expected official or line")))
            }
        }
    }
}
