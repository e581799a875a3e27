//! The conditions under which a calibration holds, and what it was measured from.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use candle_core::Device;
use magcache_models::{
    checkpoint::{AdapterPart, AdapterReport},
    pipeline::{Request, SamplingOptions},
};
use serde::{Deserialize, Serialize};

use crate::{args::Dtype, console::bad_input_with, job::Job};

/// The provenance of a profile: the table `[curve.source.measured]` and its counterparts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Conditions {
    /// SHA-256 of the network's tensors.
    pub(crate) checkpoint: String,
    /// The number formats of the network's tensors.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) weights: String,
    /// Adapters, sorted: expert or text encoder, SHA-256 of what it adds, strength, and for people the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) adapters: Vec<String>,
    /// The dtype that weights were stored in.
    pub(crate) dtype: String,
    pub(crate) device: String,
    /// How attention was computed: everything but exact attention is an approximation.
    pub(crate) attention: String,
    /// The options of the request, and values that the model derived from them.
    #[serde(flatten)]
    pub(crate) options: Facts,
    /// Whether the runs started from an image.
    pub(crate) image: bool,
    pub(crate) negative_prompt: String,
    pub(crate) prompts: Vec<String>,
    pub(crate) seeds: Vec<u64>,
    /// Number of dense runs.
    pub(crate) runs: usize,
    pub(crate) date: String,
    /// Version of this program.
    pub(crate) version: String,
}

/// Conditions by name.
pub(crate) type Facts = BTreeMap<String, toml::Value>;

/// Keys that differ between the runs of one calibration.
const OWN: [&str; 5] = ["prompts", "seeds", "runs", "date", "version"];

/// What identifies adapters, in an order of its own.
fn adapters(reports: &[AdapterReport]) -> Vec<String> {
    let one = |report: &AdapterReport| {
        let AdapterReport { adapter, part, expert, sha256, skipped, .. } = report;
        let of = match part {
            AdapterPart::Network => expert.to_string(),
            AdapterPart::Clip => "clip".to_owned(),
            AdapterPart::T5 => "t5".to_owned(),
        };
        let name = adapter.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let without = if skipped.is_empty() { String::new() } else { format!("-{}", skipped.len()) };
        format!("{of} {sha256}{without} {} {name}", adapter.strength)
    };
    let mut all: Vec<String> = reports.iter().map(one).collect();
    all.sort();
    all
}

/// The facts about these options that a calibration depends on.
pub(crate) fn facts(options: &SamplingOptions) -> Result<Facts> {
    let value = |(name, value)| Ok((name, toml::Value::try_from(value)?));
    options.conditions().into_iter().map(value).collect()
}

impl Conditions {
    /// Conditions of dense runs of a job over these prompts and seeds. Reads all weights.
    pub(crate) fn of(job: &Job, dtype: Dtype, prompts: &[String], seeds: &[u64]) -> Result<Self> {
        let whole = Self::without_weights(job, dtype)?;
        Ok(Self {
            checkpoint: job.pipeline.fingerprint()?,
            prompts: prompts.to_vec(),
            seeds: seeds.to_vec(),
            runs: prompts.len() * seeds.len(),
            ..whole
        })
    }

    /// Facts that hold for every run of a job, to compare with those that a profile was measured under.
    /// `kept` is the dtype of the weights; `None` for a run without weights, whose device is unknown too.
    pub(crate) fn facts(job: &Job, kept: Option<Dtype>) -> Result<Facts> {
        let mut facts = Self::without_weights(job, kept.unwrap_or_default())?.table()?;
        let unknown: &[&str] = if kept.is_some() { &[] } else { &["dtype", "device"] };
        let other = ["checkpoint", "negative_prompt"];
        facts.retain(|key, _| {
            let key = key.as_str();
            !OWN.contains(&key) && !other.contains(&key) && !unknown.contains(&key)
        });
        Ok(facts)
    }

    fn without_weights(job: &Job, dtype: Dtype) -> Result<Self> {
        let (request, run): (&Request, _) = (&job.request, &job.trajectory);
        let device = match job.device {
            Device::Cpu => format!("cpu {}", std::env::consts::ARCH),
            Device::Cuda(_) => "cuda".to_owned(),
            Device::Metal(_) => "metal".to_owned(),
        };
        Ok(Self {
            checkpoint: String::new(),
            weights: job.pipeline.number_formats()?,
            adapters: adapters(&job.adapters),
            dtype: dtype.name(),
            device,
            attention: "exact".to_owned(),
            options: facts(&SamplingOptions {
                sampler: Some(job.pipeline.sampler(request)?.kind()),
                flow_shift: run.flow_shift,
                boundary: run.boundary_ratio,
                ..request.options()
            })?,
            image: request.image.is_some(),
            negative_prompt: request.negative_prompt.clone(),
            prompts: Vec::new(),
            seeds: Vec::new(),
            runs: 0,
            date: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// Adds the prompts, seeds and runs of another calibration under the same conditions; `place` names it.
    ///
    /// Errors: the conditions differ; lists every difference with both values.
    pub(crate) fn join(&mut self, other: Self, place: &str) -> Result<()> {
        let (own, others) = (self.table()?, other.table()?);
        let names: BTreeSet<&String> = own.keys().chain(others.keys()).collect();
        let value =
            |of: &Facts, name: &String| of.get(name).map_or("nothing".to_owned(), ToString::to_string);
        let differ = names
            .into_iter()
            .filter(|name| !OWN.contains(&name.as_str()) && own.get(*name) != others.get(*name));
        let differ: Vec<String> = differ
            .map(|name| format!("{name} is {} there and {} here", value(&others, name), value(&own, name)))
            .collect();
        if !differ.is_empty() {
            let message = format!("{place} was calibrated under other conditions: {}", differ.join("; "));
            return Err(bad_input_with(message, "calibrate with the same ones, or leave it out"));
        }
        add(&mut self.prompts, other.prompts);
        add(&mut self.seeds, other.seeds);
        self.runs += other.runs;
        Ok(())
    }

    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.options.get(name)?.as_float()
    }

    pub(crate) fn table(&self) -> Result<Facts> {
        let table = toml::Table::try_from(self)?;
        Ok(table.into_iter().collect())
    }
}

/// Adds the values that are new.
fn add<T: PartialEq>(own: &mut Vec<T>, others: Vec<T>) {
    for other in others {
        if !own.contains(&other) {
            own.push(other);
        }
    }
}
