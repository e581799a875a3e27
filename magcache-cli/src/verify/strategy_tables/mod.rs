//! Tables of newer strategies: signals and velocities that are made again from integers, and what published
//! code decides and computes on them. Toy models hand them to the strategies as users configure them.

mod dicache;
mod inputs;
mod meancache;
mod paths;
mod seacache;
pub(super) mod search;

use anyhow::{Context, Result};
use magcache_core::{CachePlan, ModelMeta, Session, Trajectory, log::Record};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::report::CaseReport;

/// Tolerance of distances, gains, latents and sums, relative to the largest value.
const TOLERANCE: f64 = 2e-5;

/// Checks a table of one of these strategies; `false` if it is none.
///
/// Errors: a damaged table.
pub(super) fn check(json: &Value, report: &mut CaseReport) -> Result<bool> {
    let has = |key: &str| json.get(key).is_some();
    if has("gains") {
        seacache::check(json, report)?;
    } else if has("published") {
        meancache::check(json, report)?;
    } else if has("climbs") {
        search::check(json, report)?;
    } else if json.pointer("/paths/0/drift_probe").is_some() {
        dicache::check(json, report)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// The rows under a key.
fn rows<T: DeserializeOwned>(json: &Value, key: &str) -> Result<Vec<T>> {
    let rows = json.get(key).with_context(|| format!("the table has no `{key}`"))?;
    Vec::deserialize(rows).with_context(|| format!("`{key}`"))
}

/// A session of one table, as a configuration file has it.
fn session(table: &Value, model: &ModelMeta, run: &Trajectory) -> Result<Session> {
    let plan: toml::Table = toml::Table::try_from(json!({ "cache": [table] }))?;
    Ok(CachePlan::parse(&plan.to_string())?.build(model, Some(run))?.registry.session())
}

/// One digit for each step of a run with one branch: 1 for a skip.
fn digits(session: &Session, steps: usize) -> String {
    let mut digits = vec!['0'; steps];
    for Record { step, .. } in session.log().records().iter().filter(|record| record.reused) {
        digits[*step] = '1';
    }
    digits.into_iter().collect()
}

/// Counts rows that differ, and keeps the first.
#[derive(Default)]
struct Tally {
    rows: usize,
    differ: usize,
    first: Option<String>,
}

impl Tally {
    fn row(&mut self, i: usize, rule: &str, got: &str, want: &str) {
        self.rows += 1;
        if got != want {
            self.differ += 1;
            self.first.get_or_insert_with(|| format!("row {i}, {rule}: got {got}, expected {want}"));
        }
    }

    fn tell(self, report: &mut CaseReport, what: &str) {
        report.count("rows", what, self.differ, self.rows, self.first);
    }
}

/// Differences from a reference, each relative to the largest value of its row.
#[derive(Default)]
struct Differences(Vec<f64>);

impl Differences {
    fn row(&mut self, got: &[f64], want: &[f64]) {
        let scale = want.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        let off = got.iter().zip(want).map(|(got, want)| (got - want).abs());
        let off = off.fold(0.0, |most: f64, off| if off.is_nan() { off } else { most.max(off) });
        self.0.push(match (off, got.len() == want.len()) {
            (_, false) => f64::INFINITY,
            (0.0, true) => 0.0,
            (off, true) => off / scale,
        });
    }

    fn tell(&self, report: &mut CaseReport, name: &str, what: &str) {
        let got: Vec<f64> = self.0.iter().map(|off| 1.0 + off).collect();
        report.numbers(name, what, &got, &vec![1.0; got.len()], TOLERANCE);
    }
}
