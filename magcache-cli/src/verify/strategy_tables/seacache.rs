//! SeaCache: gains of the filter, distances between filtered signals, decisions.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_core::{Branch, ModelMeta, Signal, Stacks, Streams, Trajectory, metrics};
use magcache_strategies::seacache::{filtered, gains};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Differences, Tally, digits, inputs, rows, session};
use crate::verify::report::CaseReport;

#[derive(Deserialize)]
struct Gain {
    grid: Vec<usize>,
    sigma: f64,
    power: f64,
    #[serde(rename = "gain")]
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct Path {
    grid: Vec<usize>,
    channels: usize,
    steps: usize,
    power: f64,
    seed: u64,
    drift: f64,
    jitter: f64,
    sigmas: Vec<f64>,
    distance: Vec<f64>,
    distance_to_raw: Vec<f64>,
}

#[derive(Deserialize)]
struct Row {
    path: usize,
    rule: String,
    threshold: f64,
    first: usize,
    last: usize,
    max_consecutive: Option<usize>,
    decisions: String,
}

pub(super) fn check(json: &Value, report: &mut CaseReport) -> Result<()> {
    let mut off = Differences::default();
    for Gain { grid, sigma, power, values } in rows::<Gain>(json, "gains")? {
        let whole = grid.iter().fold(vec![1.0], |all: Vec<f64>, n| {
            let axis = gains(*n, sigma, power);
            all.iter().flat_map(|a| axis.iter().map(move |b| a * f64::from(*b))).collect()
        });
        off.row(&whole, &values);
    }
    off.tell(report, "gains", "relative difference");

    let paths: Vec<Path> = rows(json, "paths")?;
    let signals = paths.iter().map(Path::signals).collect::<Result<Vec<_>>>()?;
    let [mut off, mut raw] = [Differences::default(), Differences::default()];
    for (path, signals) in paths.iter().zip(&signals) {
        let axes = 1..path.grid.len() + 1;
        let filtered =
            signals.iter().zip(&path.sigmas).map(|(x, s)| filtered(x, axes.clone(), *s, path.power));
        let filtered = filtered.collect::<candle_core::Result<Vec<_>>>()?;
        let all = |before: &[Tensor]| -> Result<Vec<f64>> {
            let each = filtered.iter().skip(1).zip(before);
            let each = each.map(|(now, before)| Ok(metrics::relative_l1(now, before)?));
            std::iter::once(Ok(0.0)).chain(each).collect()
        };
        off.row(&all(&filtered)?, &path.distance);
        raw.row(&all(signals)?, &path.distance_to_raw);
    }
    off.tell(report, "paths", "distance");
    raw.tell(report, "paths", "distance_to_raw");

    let mut tally = Tally::default();
    for (i, row) in rows::<Row>(json, "rows")?.iter().enumerate() {
        let own = paths.get(row.path).zip(signals.get(row.path));
        let (path, signals) = own.with_context(|| format!("row {i}: there is no path {}", row.path))?;
        tally.row(i, &row.rule, &path.decide(row, signals)?, &row.decisions);
    }
    tally.tell(report, "decisions");
    Ok(())
}

impl Path {
    /// The signal of every step, `[1, *grid, channels]`.
    fn signals(&self) -> Result<Vec<Tensor>> {
        let shape = [&[1], &*self.grid, &[self.channels]].concat();
        let n = shape.iter().product();
        let values = inputs::path(self.seed, self.steps, n, self.drift, self.jitter);
        values.into_iter().map(|x| Ok(Tensor::from_vec(x, shape.as_slice(), &Device::Cpu)?)).collect()
    }

    /// The decisions of the strategy in a model that shows these signals.
    fn decide(&self, row: &Row, signals: &[Tensor]) -> Result<String> {
        let model = ModelMeta::of("table", env!("CARGO_PKG_NAME"))
            .signals(&[Signal::Latents, Signal::ModulatedInput])
            .meta()
            .with_blocks(&[1]);
        let run = Trajectory::from_sigmas(&[&*self.sigmas, &[0.0]].concat(), &[Branch::Cond]);
        let mut table = json!({
            "strategy": "seacache", "dialect": row.rule, "threshold": row.threshold, "power": self.power,
            "warmup": row.first, "last_steps": row.last,
        });
        match (row.max_consecutive, row.rule.as_str()) {
            // No cap.
            (Some(0) | None, "diffusers") => table["max_skips"] = self.steps.into(),
            (Some(most), _) => table["max_skips"] = most.into(),
            _ => {}
        }
        let mut session = session(&table, &model, &run)?;
        let rank = self.grid.len();
        for (step, signal) in run.steps().zip(signals) {
            let show = |which: Signal, _: &Streams| match which {
                // Channels in front of the grid.
                Signal::Latents => {
                    let order: Vec<usize> = [0, rank + 1].into_iter().chain(1..=rank).collect();
                    signal.permute(order)?.contiguous()
                }
                _ => signal.flatten(1, rank),
            };
            Stacks::default().image(&[()], |(), x| Ok(x.clone())).signals(show).grid(&self.grid).run(
                &mut session.pass(&step, Branch::Cond),
                Tensor::ones((1, 1, 1), candle_core::DType::F32, &Device::Cpu)?,
            )?;
        }
        Ok(digits(&session, self.steps))
    }
}
