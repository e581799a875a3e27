//! Schedules as files: a configuration for this program, or the 0/1 compute mask that other engines read.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;
use magcache_core::{CacheEntry, ConfigError, DecisionLog, Trajectory};
use serde::Deserialize;

use crate::{
    failure::{bad_input, bad_input_with},
    media,
    summary::trace,
};

/// A file that a schedule will be written to.
#[derive(Debug)]
pub(crate) struct Export {
    path: PathBuf,
    form: Form,
}

/// How a schedule is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A `[[cache]]` table.
    Toml,
    /// A list of a 1 for each computed and a 0 for each skipped step.
    Mask,
}

impl Export {
    /// Checks the ending and that the file can be written.
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

    /// Writes what `log` skipped with the one cache of a configuration.
    pub(crate) fn write(
        self,
        entries: &[CacheEntry],
        log: &DecisionLog,
        run: &Trajectory,
    ) -> Result<PathBuf> {
        let [entry] = entries else {
            let message =
                format!("{} caches are configured, the schedule of one can be written", entries.len());
            return Err(bad_input_with(message, "leave one [[cache]] table"));
        };
        let skipped: Vec<(String, Vec<usize>)> = run
            .branches
            .iter()
            .map(|branch| {
                let own = log.records().iter().filter(|r| r.branch == *branch && r.is_skip());
                (branch.to_string(), own.map(|r| r.step).collect())
            })
            .collect();
        let shared = match skipped.split_first() {
            Some(((_, first), others)) if others.iter().all(|(_, other)| other == first) => {
                Some(first.as_slice())
            }
            _ => None,
        };
        let text = match (self.form, shared) {
            (Form::Mask, Some(skip)) => mask(run.len(), skip),
            (Form::Mask, None) => {
                let message = "the guidance branches skip different steps, a mask is one for all of them";
                return Err(bad_input_with(message, "--export FILE.toml has a list for each"));
            }
            (Form::Toml, shared) => table(entry, shared, &skipped)?,
        };
        media::write_file(&self.path, text.as_bytes())?;
        Ok(self.path)
    }
}

fn mask(steps: usize, skip: &[usize]) -> String {
    let all: Vec<&str> = (0..steps).map(|step| if skip.contains(&step) { "0" } else { "1" }).collect();
    format!("[{}]\n", all.join(", "))
}

/// A configuration whose only table is the schedule, around the same blocks and with the same forecast.
fn table(entry: &CacheEntry, shared: Option<&[usize]>, skipped: &[(String, Vec<usize>)]) -> Result<String> {
    let list = |steps: &[usize]| -> toml::Value {
        toml::Value::Array(steps.iter().map(|step| toml::Value::Integer(*step as i64)).collect())
    };
    let skip = match shared {
        Some(skip) => list(skip),
        None => {
            toml::Value::Table(skipped.iter().map(|(branch, steps)| (branch.clone(), list(steps))).collect())
        }
    };
    let mut out = toml::Table::from_iter([
        ("strategy".to_owned(), toml::Value::String("schedule".to_owned())),
        ("skip".to_owned(), skip),
    ]);
    let own = entry.to_table()?;
    for word in ["at", "forecast"] {
        out.extend(own.get(word).map(|value| (word.to_owned(), value.clone())));
    }
    let document =
        toml::Table::from_iter([("cache".to_owned(), toml::Value::Array(vec![toml::Value::Table(out)]))]);
    Ok(toml::to_string(&document)?)
}

/// The `[[cache]]` table that runs the schedule of a file: a trace, an exported configuration or a compute mask.
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
    let is_schedule =
        |table: &toml::Table| table.get("strategy").and_then(toml::Value::as_str) == Some("schedule");
    match <[toml::Table; 1]>::try_from(document.cache) {
        Ok([table]) if is_schedule(&table) => Ok(table),
        _ => {
            let message = format!("{place}: not one [[cache]] table with strategy = \"schedule\"");
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
    let skip = mask.iter().enumerate().filter(|(_, computed)| **computed == 0);
    let skip = skip.map(|(step, _)| toml::Value::Integer(step as i64)).collect();
    let table = BTreeMap::from([
        ("strategy".to_owned(), toml::Value::String("schedule".to_owned())),
        ("skip".to_owned(), toml::Value::Array(skip)),
    ]);
    Ok(table.into_iter().collect())
}
