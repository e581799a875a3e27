//! Traces: one JSON line for every decision, and back to a schedule.

mod diff;

pub(crate) use diff::Diff;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use magcache_core::{Audit, ConfigError, HookRegistry, Level, meta};
use magcache_models::pipeline::{Generation, Request};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{bad_input, bad_input_with},
    media,
};

/// One pass of one hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) request: String,
    pub(crate) step: usize,
    pub(crate) of: usize,
    pub(crate) timestep: f64,
    pub(crate) sigma: f64,
    pub(crate) expert: u8,
    pub(crate) branch: String,
    pub(crate) evaluation: u8,
    pub(crate) strategy: Option<String>,
    pub(crate) range: [usize; 2],
    /// The module inside the block that was decided about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) module: Option<String>,
    pub(crate) metric: Option<f64>,
    pub(crate) accumulated: Option<f64>,
    /// The true error of the reuse, where it was audited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audit: Option<Errors>,
    pub(crate) decision: String,
    pub(crate) reason: String,
    pub(crate) microseconds: Option<u128>,
    pub(crate) cache_bytes: usize,
}

/// The lines of a trace, in their order.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|e| bad_input(format!("{}:{}: not a line of a trace: {e}", path.display(), i + 1)))
    };
    lines.map(parse).collect()
}

/// The errors of [`magcache_core::Audit`]; null where one is no number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Errors {
    output_l1: Option<f64>,
    output_l2: Option<f64>,
    residual_l1: Option<f64>,
    residual_l2: Option<f64>,
}

/// A file that is checked before the run and appears when it is complete.
#[derive(Debug)]
pub(crate) struct TraceFile {
    path: PathBuf,
}

impl TraceFile {
    /// Checks that `path` can be written.
    pub(crate) fn prepare(path: &Path) -> Result<Self> {
        media::probe(path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Writes every decision of a run; `names` are the strategies in the order of their hooks.
    pub(crate) fn write(self, request: &Request, names: &[String], run: &Generation) -> Result<PathBuf> {
        let mut text = Vec::new();
        for record in run.session().map_or(&[][..], |s| s.log().records()) {
            let step = run.trajectory().step(record.step);
            let time = run.times().iter().find(|t| t.step == record.step && t.branch == record.branch);
            let line = Line {
                request: format!("seed-{}", request.seed),
                step: record.step,
                of: step.total,
                timestep: step.timestep,
                sigma: step.sigma,
                expert: record.expert.0,
                branch: record.branch.to_string(),
                evaluation: record.eval,
                strategy: names.get(usize::from(record.hook.0)).cloned(),
                range: [record.blocks.start, record.blocks.end],
                module: record.module.as_deref().map(str::to_owned),
                metric: record.metric.filter(|m| m.is_finite()),
                accumulated: record.accumulated.filter(|m| m.is_finite()),
                audit: record.audit.map(Errors::of),
                decision: if record.reused { "reuse" } else { "compute" }.to_owned(),
                reason: record.why.as_str().to_owned(),
                microseconds: time.map(|t| t.time.as_micros()),
                cache_bytes: record.bytes,
            };
            serde_json::to_writer(&mut text, &line).context("cannot write a line of the trace")?;
            text.push(b'\n');
        }
        media::write_file(&self.path, &text)?;
        Ok(self.path)
    }
}

impl Errors {
    fn of(audit: Audit) -> Self {
        let finite = |error: f64| Some(error).filter(|e| e.is_finite());
        let Audit { output_l1, output_l2, residual_l1, residual_l2 } = audit;
        Self {
            output_l1: finite(output_l1),
            output_l2: finite(output_l2),
            residual_l1: finite(residual_l1),
            residual_l2: finite(residual_l2),
        }
    }
}

/// The names of a registry's hooks, in their order.
pub(crate) fn names(registry: &HookRegistry, entries: &[magcache_core::CacheEntry]) -> Vec<String> {
    entries.iter().take(registry.all().count()).map(|e| e.name.clone()).collect()
}

/// The `[[cache]]` table that skips what a trace skipped.
pub(crate) fn to_schedule(path: &Path) -> Result<toml::Table> {
    let mut skip: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut ranges = Vec::new();
    for line in read(path)? {
        let steps = skip.entry(line.branch).or_default();
        if line.decision == "reuse" {
            let strategy = line.strategy.unwrap_or_default();
            let known = meta::strategies();
            if known.iter().any(|s| s.name == strategy && s.level == Level::Forward) {
                let message = format!("{}: {strategy:?} skipped whole forwards", path.display());
                let hint = "a replay skips blocks; run the strategy itself again";
                return Err(bad_input_with(message, hint));
            }
            if let Some(module) = line.module {
                let message = format!("{}: the module {module:?} was forecast inside blocks", path.display());
                let hint = "a replay skips blocks; run the strategy itself again";
                return Err(bad_input_with(message, hint));
            }
            steps.push(i64::try_from(line.step).unwrap_or(i64::MAX));
            if !ranges.contains(&line.range) {
                ranges.push(line.range);
            }
        }
    }
    let [range] = ranges.as_slice() else {
        let message = format!(
            "{}: the trace skips {} ranges of blocks, one can be replayed",
            path.display(),
            ranges.len()
        );
        return Err(bad_input_with(message, "trace a run with a single cache that skips something"));
    };
    let list = |steps: Vec<i64>| steps.into_iter().map(toml::Value::Integer).collect();
    let skip = skip.into_iter().map(|(branch, steps)| (branch, toml::Value::Array(list(steps)))).collect();
    Ok(toml::Table::from_iter([
        ("strategy".to_owned(), toml::Value::String("schedule".to_owned())),
        ("at".to_owned(), toml::Value::String(format!("{}..{}", range[0], range[1]))),
        ("skip".to_owned(), toml::Value::Table(skip)),
    ]))
}
