//! Schedules as files: a configuration for this program, or the 0/1 compute mask that other engines read.

use std::path::{Path, PathBuf};

use anyhow::Result;
use magcache_core::{
    ConfigError, HookRegistry, Trajectory, Why,
    config::{CacheEntry, FixedSteps, Skips},
    log::DecisionLog,
    state::HookId,
};
use serde::Deserialize;

use super::{
    schedule::{self, Around, FORWARD, Replay, Seen},
    trace,
};
use crate::{
    console::{bad_input, bad_input_with},
    media,
};

#[derive(Debug)]
pub(crate) struct Export {
    path: PathBuf,
    form: Form,
}

/// The format of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Toml,
    /// A list with 1 for each computed and 0 for each skipped step.
    Mask,
}

impl Export {
    /// Checks the extension and that the file can be written.
    pub(crate) fn prepare(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        let form = match ending.to_str() {
            Some("toml") => Form::Toml,
            Some("json") => Form::Mask,
            _ => {
                let message = format!("{}: a schedule is written as .toml or .json", path.display());
                return Err(bad_input_with(
                    message,
                    "FILE.toml for this program, FILE.json for a 0/1 compute mask",
                ));
            }
        };
        media::probe(path)?;
        Ok(Self { path: path.to_owned(), form })
    }

    /// Writes what `log` records as skipped by the only cache of a configuration.
    pub(crate) fn write(
        self,
        entries: &[CacheEntry],
        registry: &HookRegistry,
        log: &DecisionLog,
        run: &Trajectory,
    ) -> Result<PathBuf> {
        let [entry] = entries else {
            let message =
                format!("{} caches are configured, the schedule of one can be written", entries.len());
            return Err(bad_input_with(message, "leave one [[cache]] table"));
        };
        let place = format!("the schedule of {:?}", entry.name);
        let Some(hook) = schedule::hook(registry, HookId(0), &run.step(run.first)) else {
            return Err(bad_input(format!("{place}: it has no hook")));
        };
        let seen = log.records().iter().filter(|record| record.why != Why::OuterCache).map(|record| Seen {
            blocks: [record.blocks.start, record.blocks.end],
            branch: record.branch.to_string(),
            step: record.step,
            reused: record.reused,
        });
        let replay = Replay {
            around: hook.around,
            at: if hook.around == Around::Forward {
                Some(FORWARD.to_owned())
            } else {
                entry.words.at.clone()
            },
            forecast: schedule::forecast(&place, hook.forecast)?,
            experts: entry.words.experts.clone(),
            skip: schedule::skipped(&place, hook.around, seen)?.map(|(_, skip)| skip).unwrap_or_default(),
            steps: run.len(),
        };
        let text = match self.form {
            Form::Mask => replay.mask()?,
            Form::Toml => {
                let tables = toml::Value::Array(vec![toml::Value::Table(replay.table()?)]);
                toml::to_string(&toml::Table::from_iter([("cache".to_owned(), tables)]))?
            }
        };
        media::write_file(&self.path, text.as_bytes())?;
        Ok(self.path)
    }
}

/// The `[[cache]]` table that runs the schedule in a file: a trace, an exported configuration or a compute
/// mask.
pub(crate) fn read(path: &Path) -> Result<toml::Table> {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str() {
        Some("toml") => from_toml(path),
        Some("json") => from_mask(path),
        _ => trace::to_schedule(path),
    }
}

fn text(path: &Path) -> Result<String> {
    let read = std::fs::read_to_string(path);
    Ok(read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?)
}

fn from_toml(path: &Path) -> Result<toml::Table> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        cache: Vec<toml::Table>,
    }
    let place = path.display().to_string();
    let document: Document = toml::from_str(&text(path)?).map_err(|e| ConfigError::toml(&place, &e))?;
    let fixed = FixedSteps::registered()?.name();
    let is_schedule =
        |table: &toml::Table| table.get("strategy").and_then(toml::Value::as_str) == Some(fixed);
    match <[toml::Table; 1]>::try_from(document.cache) {
        Ok([table]) if is_schedule(&table) => Ok(table),
        _ => {
            let message = format!("{place}: not one [[cache]] table with strategy = {fixed:?}");
            Err(bad_input_with(
                message,
                "magcache schedule --export FILE.toml writes one; others run with --config",
            ))
        }
    }
}

fn from_mask(path: &Path) -> Result<toml::Table> {
    let place = path.display();
    let mask: Vec<u8> = serde_json::from_str(&text(path)?).map_err(|e| {
        bad_input_with(format!("{place}: not a compute mask: {e}"), "a list such as [1, 1, 0, 1]")
    })?;
    if let Some(other) = mask.iter().find(|value| **value > 1) {
        return Err(bad_input(format!("{place}: a compute mask holds 0 and 1, not {other}")));
    }
    let skipped = mask.iter().enumerate().filter(|(_, computed)| **computed == 0);
    let skips = Skips::All(skipped.map(|(step, _)| step).collect());
    Ok(FixedSteps::registered()?.table(skips, Some(mask.len()))?)
}
