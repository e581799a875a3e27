//! Traces: one JSON line per decision, and the way back to a schedule.

mod diff;

pub(crate) use diff::Diff;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result};
use magcache_core::{ConfigError, HookRegistry, Step, config::CacheEntry, log::Audit, state::HookId};
use magcache_models::pipeline::{Generation, Request};
use serde::{Deserialize, Serialize};

use super::schedule::{self, Around, FORWARD, Hook, Replay, Seen};
use crate::{
    console::{bad_input, bad_input_with},
    media,
};

/// The decision that replaces the output of what a hook surrounds.
const REUSE: &str = "reuse";

/// One decision of one hook in one pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) request: String,
    /// The clip, in runs of several; steps count from 0 in each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) clip: Option<usize>,
    pub(crate) step: usize,
    pub(crate) of: usize,
    pub(crate) timestep: f64,
    pub(crate) sigma: f64,
    pub(crate) expert: u8,
    pub(crate) branch: String,
    pub(crate) evaluation: u8,
    pub(crate) strategy: Option<String>,
    /// What the hook surrounds.
    #[serde(default)]
    pub(crate) around: Option<Around>,
    pub(crate) range: [usize; 2],
    /// The module that the decision is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) module: Option<String>,
    /// The table of the hook's forecast, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forecast: Option<toml::Table>,
    /// Names of the experts that the cache is limited to; it has no lines in the steps of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) experts: Option<Vec<String>>,
    pub(crate) metric: Option<f64>,
    pub(crate) accumulated: Option<f64>,
    /// The true error of the reuse, if it was audited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audit: Option<Errors>,
    pub(crate) decision: String,
    pub(crate) reason: String,
    pub(crate) microseconds: Option<u128>,
    pub(crate) cache_bytes: usize,
}

/// Reads the lines of a trace, in order.
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

/// The errors of [`magcache_core::log::Audit`]; null if not a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Errors {
    output_l1: Option<f64>,
    output_l2: Option<f64>,
    residual_l1: Option<f64>,
    residual_l2: Option<f64>,
}

/// The configuration of a cache and its hook.
pub(crate) type Traced<'c> = (&'c CacheEntry, Hook);

/// Writes every decision of a run.
pub(crate) fn write(path: &Path, request: &Request, hooks: &[Traced<'_>], run: &Generation) -> Result<()> {
    let mut text = Vec::new();
    for record in run.session().map_or(&[][..], |s| s.log().records()) {
        let step = run.trajectory().step(record.step);
        let time = run.times().iter().find(|t| t.step == record.step && t.branch == record.branch);
        let (entry, hook) = hooks.get(usize::from(record.hook.0)).map(|(entry, hook)| (entry, hook)).unzip();
        let line = Line {
            request: format!("seed-{}", request.seed),
            clip: (run.trajectory().clips > 1).then_some(step.clip),
            step: step.index,
            of: step.total,
            timestep: step.timestep,
            sigma: step.sigma,
            expert: record.expert.0,
            branch: record.branch.to_string(),
            evaluation: record.eval,
            strategy: entry.map(|entry| entry.name.clone()),
            around: hook.map(|hook| hook.around),
            range: [record.blocks.start, record.blocks.end],
            module: record.module.as_deref().map(str::to_owned),
            forecast: hook.and_then(|hook| hook.forecast.clone()),
            experts: entry.and_then(|entry| entry.words.experts.clone()),
            metric: record.metric.filter(|m| m.is_finite()),
            accumulated: record.accumulated.filter(|m| m.is_finite()),
            audit: record.audit.map(Errors::of),
            decision: if record.reused { REUSE } else { "compute" }.to_owned(),
            reason: record.why.as_str().to_owned(),
            microseconds: time.map(|t| t.time.as_micros()),
            cache_bytes: record.bytes,
        };
        serde_json::to_writer(&mut text, &line).context("cannot write a line of the trace")?;
        text.push(b'\n');
    }
    Ok(media::write_file(path, &text)?)
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

/// The hooks of a registry, in order, for the run that `step` belongs to.
pub(crate) fn hooks<'c>(registry: &HookRegistry, entries: &'c [CacheEntry], step: &Step) -> Vec<Traced<'c>> {
    let of = |(id, entry)| Some((entry, schedule::hook(registry, HookId(id), step)?));
    (0..).zip(entries).map_while(of).collect()
}

/// The `[[cache]]` table that skips what a trace skipped.
pub(crate) fn to_schedule(path: &Path) -> Result<toml::Table> {
    let place = path.display().to_string();
    let lines = read(path)?;
    let single = "trace a run with a single cache that skips something";
    let own = |line: &&Line| line.decision == REUSE;
    let Some(first) = lines.iter().find(own) else {
        return Err(bad_input_with(format!("{place}: the trace skips nothing"), single));
    };
    let Some(around) = first.around else {
        let message = format!("{place}: its lines do not say what they are around, `around`");
        return Err(bad_input_with(message, "trace the run again: the file is of an earlier version"));
    };
    let sort = |line: &Line| (line.strategy.clone(), line.around, line.module.clone());
    if lines.iter().filter(own).any(|line| sort(line) != sort(first)) {
        return Err(bad_input_with(format!("{place}: several caches skip, one can be replayed"), single));
    }
    let mut by_clip: BTreeMap<Option<usize>, BTreeSet<_>> = BTreeMap::new();
    for line in &lines {
        let skipped = by_clip.entry(line.clip).or_default();
        if own(&line) {
            skipped.insert((line.step, line.branch.as_str(), line.range));
        }
    }
    if by_clip.values().zip(by_clip.values().skip(1)).any(|(one, next)| one != next) {
        let message =
            format!("{place}: its clips skip different passes, and a schedule is one for all clips");
        return Err(bad_input_with(message, "trace a run of one clip"));
    }
    let seen = lines.iter().filter(|line| sort(line) == sort(first)).map(|line| Seen {
        blocks: line.range,
        branch: line.branch.clone(),
        step: line.step,
        reused: own(&line),
    });
    let Some(([start, end], skip)) = schedule::skipped(&place, around, seen)? else {
        return Err(bad_input_with(format!("{place}: the trace skips nothing"), single));
    };
    let at = match around {
        Around::Forward => FORWARD.to_owned(),
        Around::Modules => first.module.clone().unwrap_or_default(),
        Around::Blocks => format!("{start}..{end}"),
    };
    let forecast = schedule::forecast(&place, first.forecast.clone())?;
    Replay { around, at: Some(at), forecast, experts: first.experts.clone(), skip, steps: first.of }.table()
}
