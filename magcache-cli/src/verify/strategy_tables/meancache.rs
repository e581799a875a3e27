//! MeanCache: published schedules, latents of a toy velocity, and cheapest paths.

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use magcache_core::{Branch, ModelMeta, Pass, Trajectory};
use magcache_models::sampler::{Sampler, SamplerKind, SchedulerConfig};
use magcache_strategies::meancache::PUBLISHED;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Differences, Tally, digits, inputs, paths, rows, session};
use crate::verify::report::CaseReport;

/// Values of the toy.
const N: usize = 6;

#[derive(Deserialize)]
struct Schedule {
    name: String,
    computed: Vec<usize>,
    edge_orders: Vec<usize>,
}

#[derive(Deserialize)]
struct Row {
    steps: usize,
    shift: f64,
    solver: String,
    seed: u64,
    dialect: String,
    mask: String,
    orders: String,
    z_half: Vec<f64>,
    z_last: Vec<f64>,
}

pub(super) fn check(json: &Value, report: &mut CaseReport) -> Result<()> {
    for Schedule { name, computed, edge_orders } in rows(json, "published")? {
        let own = PUBLISHED.iter().find(|table| table.name == name);
        report.equal(&name, "computed", &own.map(|table| table.computed), &Some(&*computed));
        report.equal(&name, "orders", &own.map(|table| table.orders), &Some(&*edge_orders));
    }
    let (mut tally, mut half, mut last) = (Tally::default(), Differences::default(), Differences::default());
    for (i, row) in rows::<Row>(json, "rows")?.iter().enumerate() {
        let (decided, latents) = row.run()?;
        tally.row(i, &row.dialect, &decided, &row.mask);
        half.row(&latents[row.steps / 2], &row.z_half);
        last.row(&latents[row.steps - 1], &row.z_last);
    }
    tally.tell(report, "decisions");
    half.tell(report, "rows", "z_half");
    last.tell(report, "rows", "z_last");
    paths::check(&rows::<paths::Row>(json, "paths")?, report)?;
    let why = "what an edge costs is not measured here: the planner's costs are errors at the end of a run";
    report.leave_out("edges", why);
    Ok(())
}

impl Row {
    fn table(&self) -> Result<Value> {
        let order = |c: char| c.to_digit(10).map_or(0, |order| order as usize);
        let orders: Vec<usize> = self.orders.chars().map(order).collect();
        let of =
            |skipped: bool| (0..orders.len()).filter(move |i| (self.mask.as_bytes()[*i] == b'1') == skipped);
        let computed: Vec<usize> = of(false).collect();
        Ok(match self.dialect.as_str() {
            "official" => {
                let edges = computed.iter().map(|step| orders.get(step + 1).copied().unwrap_or(0));
                let edges: Vec<usize> = edges.collect();
                json!({ "strategy": "meancache", "computed": computed, "orders": edges })
            }
            "line" => json!({
                "strategy": "schedule", "at": "forward", "skip": of(true).collect::<Vec<_>>(),
                "forecast": { "type": "taylor", "of": "output", "abscissa": "sigma" },
            }),
            other => bail!("unknown dialect {other:?}"),
        })
    }

    /// The decisions, and the latents after every step.
    fn run(&self) -> Result<(String, Vec<Vec<f64>>)> {
        let kind = if self.solver == "unipc" { SamplerKind::UniPc } else { SamplerKind::Euler };
        let mut sampler = Sampler::new(&SchedulerConfig::new(kind, self.shift), self.steps)?;
        let sigmas: Vec<f64> = match kind {
            SamplerKind::UniPc => sampler.sigmas().iter().map(|sigma| f64::from(*sigma)).collect(),
            _ => inputs::flow_sigmas(self.steps, self.shift).iter().map(|s| f64::from(*s as f32)).collect(),
        };
        // Recorded rows include those that are refused to users: the run does not say its solver.
        let run = Trajectory::from_sigmas(&sigmas, &[Branch::Cond]);
        let model = ModelMeta::of("table", env!("CARGO_PKG_NAME")).meta().with_blocks(&[1]);
        let mut session = session(&self.table()?, &model, &run)?;
        let tensor = |seed: u64| {
            let values: Vec<f32> = inputs::noise(seed, N).into_iter().map(|v| v as f32).collect();
            Tensor::from_vec(values, (1, N), &Device::Cpu)
        };
        let c = (0..5).map(|k| tensor(self.seed + k)).collect::<candle_core::Result<Vec<_>>>()?;
        let mut z = tensor(self.seed + 9)?;
        let mut latents = Vec::new();
        for step in run.steps() {
            let s = step.sigma;
            let velocity = |z: Tensor, _: &mut Pass<'_>| {
                let squared = f64::from(s as f32 * s as f32);
                let plain = (&c[0] + (&c[1] * s)?)?;
                ((plain + (&c[2] * &z)?)? + ((&c[3] * s)? * &z)?)? + (&c[4] * squared)?
            };
            let v = session.pass(&step, Branch::Cond).forward(z.clone(), velocity)?;
            z = match kind {
                SamplerKind::UniPc => sampler.step(step.index, &v, &z)?,
                _ => (&z + (v * f64::from(step.next_sigma as f32 - s as f32))?)?,
            };
            latents.push(z.flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1()?);
        }
        Ok((digits(&session, self.steps), latents))
    }
}
