//! Solvers over whole trajectories, and the boundary between two experts.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_models::sampler::{Sampler, SamplerError, SamplerKind, Schedule, SchedulerConfig};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    call::Call,
    case::Case,
    replay::{LINE, reference_call, replay},
    report::CaseReport,
};
use crate::console::bad_input;

/// Tolerance of samples and noise levels.
const TOLERANCE: f64 = 5e-6;

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    const FILE: &str = "scheduler_config.json";
    let config = case.folder.exists(FILE).then(|| case.folder.read_to_string(FILE)).transpose()?;
    case.compare_calls(report, |call, report| {
        let sampler = reference_call(case.name(), &call.args, config.as_deref())
            .and_then(|(config, request)| Ok((Sampler::new(&config, request.clone())?, request.mu)));
        match sampler {
            Ok((sampler, mu)) => one(sampler, mu, call, report),
            Err(error) => match error.downcast_ref() {
                Some(
                    SamplerError::UnknownClass { .. }
                    | SamplerError::Unsupported { .. }
                    | SamplerError::DynamicShift { .. },
                ) => {
                    report.leave_out(&call.name, error.to_string());
                    Ok(())
                }
                _ => Err(error),
            },
        }
    })?;
    tables(case, config.as_deref(), report)
}

/// What a case lists beside its calls.
#[derive(Deserialize)]
struct Tables {
    /// Noise levels by size and number of steps, `1024x768 n28`, or by the latter alone.
    #[serde(default)]
    sigma_table: BTreeMap<String, Vec<f64>>,
    /// Shifts by size and tokens, `1024x768 (3072 tokens)`.
    #[serde(default)]
    mu_table: BTreeMap<String, f64>,
}

/// Side of a token in pixels, where a table says sizes.
const TOKEN: usize = 16;

/// Tokens, where a key says them, and steps.
fn tokens_and_steps(key: &str) -> Option<(Option<usize>, usize)> {
    let (size, steps) = key.rsplit_once(' ').map_or((None, key), |(size, steps)| (Some(size), steps));
    let steps = steps.strip_prefix('n')?.parse().ok()?;
    let Some(size) = size else { return Some((None, steps)) };
    let (width, height) = size.split_once('x')?;
    let tokens = |side: &str| side.parse::<usize>().ok().map(|side| side / TOKEN);
    Some((Some(tokens(width)? * tokens(height)?), steps))
}

fn tables(case: &Case, config: Option<&str>, report: &mut CaseReport) -> Result<()> {
    let Tables { sigma_table, mu_table } = case.read()?;
    for (key, want) in sigma_table {
        let Some((tokens, steps)) = tokens_and_steps(&key) else {
            report.leave_out(key, "the levels are those of something else than a size and a number of steps");
            continue;
        };
        let mut args = Map::from_iter([("num_inference_steps".to_owned(), Value::from(steps))]);
        args.insert("sigmas_in".to_owned(), Value::from(LINE));
        args.extend(tokens.map(|tokens| ("image_seq_len".to_owned(), Value::from(tokens))));
        let (config, request) = reference_call(case.name(), &args, config)?;
        let got: Vec<f64> = Sampler::new(&config, request)?.sigmas().iter().map(|s| f64::from(*s)).collect();
        report.numbers(&key, "sigmas of the table", &got, &want, TOLERANCE);
    }
    for (key, want) in mu_table {
        let tokens = key.rsplit_once('(').and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        match (tokens, config) {
            (Some(tokens), Some(config)) => {
                let got = SchedulerConfig::from_json(config)?.mu(tokens);
                report.numbers(&key, "mu of the table", &[got], &[want], TOLERANCE);
            }
            _ => report.leave_out(key, "the shift is that of something else than tokens"),
        }
    }
    Ok(())
}

fn one(mut sampler: Sampler, mu: Option<f64>, call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let noise = call.required("noise")?.to_dtype(DType::F32)?;
    let timesteps = sampler.timesteps().to_vec();
    let steps = timesteps.len();
    if noise.dim(0)? != steps {
        let got = noise.dim(0)?;
        return Err(bad_input(format!("`noise` is for {got} steps, the call has {steps}")));
    }
    // The recordings use this in place of a network: a fraction of the sample, a term of the timestep, and
    // noise.
    let term = |timestep: f64| (timestep / 100.0).sin();
    let model = |i: usize, timestep: f64, x: &Tensor| ((x * 0.3)? + term(timestep))? + (noise.get(i)? * 0.1)?;
    let sigmas: Vec<f64> = sampler.sigmas().iter().map(|sigma| f64::from(*sigma)).collect();
    let trajectory = replay(&mut sampler, call.required("latents0")?, model)?;
    let device = noise.device();
    for (output, key) in &call.outputs {
        let (got, tolerance) = match output.as_str() {
            "trajectory" => (Tensor::stack(&trajectory, 0)?, TOLERANCE),
            "sigmas" => (Tensor::new(sigmas.as_slice(), device)?, TOLERANCE),
            // 1000 for a noise level of 1.
            "timesteps" => (Tensor::new(timesteps.as_slice(), device)?, 1000.0 * TOLERANCE),
            "t_term" => (Tensor::from_iter(timesteps.iter().map(|t| term(*t)), device)?, TOLERANCE),
            _ => {
                report.leave_out(key, "a schedule has no such part");
                continue;
            }
        };
        report.tensors(&call.name, output, &got, call.case.tensor(key)?, tolerance)?;
    }
    if let (Some(want), Some(got)) = (call.args.get("mu").and_then(Value::as_f64), mu) {
        report.numbers(&call.name, "mu", &[got], &[want], TOLERANCE);
    }
    Ok(())
}

/// One shift and boundary: the number of high-noise steps by solver, for each number of steps.
#[derive(Deserialize)]
struct BoundaryRow {
    flow_shift: f64,
    boundary_ratio: f64,
    steps: Vec<usize>,
    high_noise_steps: BTreeMap<String, Vec<usize>>,
}

/// True for a table of [`BoundaryRow`]s.
pub(super) fn is_boundary(table: &Value) -> bool {
    table.pointer("/rows/0/high_noise_steps").is_some_and(Value::is_object)
}

/// Recounts the steps of the high-noise expert.
pub(super) fn boundary(table: &Value, report: &mut CaseReport) -> Result<()> {
    let rows = table.get("rows").unwrap_or(&Value::Null);
    let rows = Vec::<BoundaryRow>::deserialize(rows).map_err(|e| bad_input(format!("`rows`: {e}")))?;
    for row in &rows {
        let name = format!("shift {} boundary {}", row.flow_shift, row.boundary_ratio);
        for (solver, want) in &row.high_noise_steps {
            let Some(kind) = solver_of(solver) else {
                report.leave_out(format!("{name} {solver}"), "this build has no such solver");
                continue;
            };
            let config = SchedulerConfig::new(kind, row.flow_shift);
            let count = |steps: &usize| -> Result<f64> {
                let phases = Schedule::new(&config, *steps)?.experts(Some(row.boundary_ratio))?;
                let high = phases.iter().filter(|phase| phase.expert.0 == 0);
                Ok(high.map(|phase| phase.steps.len()).sum::<usize>() as f64)
            };
            let got: Vec<f64> = row.steps.iter().map(count).collect::<Result<_>>()?;
            let want: Vec<f64> = want.iter().map(|steps| *steps as f64).collect();
            report.numbers(&name, solver, &got, &want, 0.0);
        }
    }
    Ok(())
}

/// The solver that a table names after the code that produced it.
fn solver_of(name: &str) -> Option<SamplerKind> {
    match name {
        "diffusers_unipc" => Some(SamplerKind::UniPc),
        "diffusers_flow_match_euler" => Some(SamplerKind::Euler),
        "diffusers_dpmpp" => Some(SamplerKind::DpmPp),
        "wan_official_unipc" => Some(SamplerKind::WanUniPc),
        "wan_official_dpmpp" => Some(SamplerKind::WanDpmPp),
        _ => None,
    }
}
