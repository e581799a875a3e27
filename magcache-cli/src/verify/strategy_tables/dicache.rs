//! DiCache: decisions, gains and outputs of two blocks.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_core::{Branch, ModelMeta, Stacks, Trajectory};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Differences, Tally, digits, inputs, rows, session};
use crate::verify::report::CaseReport;

#[derive(Deserialize)]
struct Path {
    n: usize,
    steps: usize,
    seed: u64,
    drift: f64,
    drift_probe: f64,
    drift_tail: f64,
    probe: f64,
    jitter: f64,
}

#[derive(Deserialize)]
struct Row {
    path: usize,
    model: String,
    error: String,
    threshold: f64,
    retention_ratio: f64,
    decisions: String,
    gains: Vec<f64>,
    output_mean_abs: Option<Vec<f64>>,
}

/// What enters the blocks, and what each of the two adds.
struct Values {
    x: Vec<Vec<f32>>,
    probe: Vec<Vec<f32>>,
    tail: Vec<Vec<f32>>,
}

pub(super) fn check(json: &Value, report: &mut CaseReport) -> Result<()> {
    let paths: Vec<Path> = rows(json, "paths")?;
    let values: Vec<Values> = paths.iter().map(Path::values).collect();
    let (mut tally, mut gains, mut outputs) =
        (Tally::default(), Differences::default(), Differences::default());
    for (i, row) in rows::<Row>(json, "rows")?.iter().enumerate() {
        let own = paths.get(row.path).zip(values.get(row.path));
        let (path, values) = own.with_context(|| format!("row {i}: there is no path {}", row.path))?;
        let (decided, got) = path.run(row, values)?;
        tally.row(i, &row.model, &decided, &row.decisions);
        if let Some(want) = &row.output_mean_abs {
            let mean = |y: &Vec<f32>| y.iter().map(|v| f64::from(v.abs())).sum::<f64>() / y.len() as f64;
            outputs.row(&got.iter().map(mean).collect::<Vec<_>>(), want);
        }
        if decided == row.decisions {
            gains.row(&values.gains(&decided, &got), &row.gains);
        }
    }
    tally.tell(report, "decisions");
    gains.tell(report, "rows", "gains");
    outputs.tell(report, "rows", "output_mean_abs");
    Ok(())
}

impl Path {
    fn values(&self) -> Values {
        let path = |seed, drift| inputs::path(seed, self.steps, self.n, drift, self.jitter);
        let mut probe = path(self.seed + 100_000, self.drift_probe);
        probe.iter_mut().flatten().for_each(|value| *value *= self.probe as f32);
        let tail = path(self.seed + 200_000, self.drift_tail);
        Values { x: path(self.seed, self.drift), probe, tail }
    }

    /// The decisions, and the output of every step.
    fn run(&self, row: &Row, values: &Values) -> Result<(String, Vec<Vec<f32>>)> {
        let model = ModelMeta::of("table", env!("CARGO_PKG_NAME")).meta().with_blocks(&[2]);
        let run = Trajectory::plain(self.steps, &[Branch::Cond]);
        let table = json!({
            "strategy": "dicache", "dialect": row.model, "error": row.error, "threshold": row.threshold,
            "retention": row.retention_ratio,
        });
        let mut session = session(&table, &model, &run)?;
        let tensor = |values: &[f32]| Tensor::from_slice(values, (1, 1, self.n), &Device::Cpu);
        let mut outputs = Vec::new();
        for step in run.steps() {
            let i = step.index;
            let y = Stacks::default()
                .image(&[&values.probe[i], &values.tail[i]], |add, x| x + tensor(add)?)
                .run(&mut session.pass(&step, Branch::Cond), tensor(&values.x[i])?)?;
            outputs.push(y.flatten_all()?.to_vec1()?);
        }
        Ok((digits(&session, self.steps), outputs))
    }
}

impl Values {
    /// The gain of every skipped step behind two computed ones: how far its output lies along their line.
    fn gains(&self, decided: &str, outputs: &[Vec<f32>]) -> Vec<f64> {
        let added =
            |y: &[f32], x: &[f32]| y.iter().zip(x).map(|(y, x)| f64::from(*y - *x)).collect::<Vec<_>>();
        let (mut computed, mut gains) = (Vec::<Vec<f64>>::new(), Vec::new());
        for (i, digit) in decided.chars().enumerate() {
            let residual = added(&outputs[i], &self.x[i]);
            match (digit, &*computed) {
                ('0', _) => computed.push(residual),
                (_, [.., older, newer]) => {
                    let line: Vec<f64> =
                        newer.iter().zip(older).map(|(newer, older)| newer - older).collect();
                    let along = line.iter().zip(residual.iter().zip(older)).map(|(l, (r, o))| l * (r - o));
                    gains.push(along.sum::<f64>() / line.iter().map(|l| l * l).sum::<f64>());
                }
                _ => {}
            }
        }
        gains
    }
}
