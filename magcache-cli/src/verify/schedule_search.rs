//! Schedules whose true errors are all known: where the planner's and the search's answers stand among them.

use std::{cell::RefCell, collections::BTreeMap, convert::Infallible, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use magcache_core::{
    CachePlan, ModelMeta, Trajectory,
    calibrate::Recorder,
    config::{FixedSteps, Residuals},
    meta,
    planner::{Continuation, Objective, Planner, ReuseErrors, Search, Skipped},
    snapshot::Snapshot,
};
use magcache_models::{
    checkpoint::Folder,
    pipeline::{Denoiser, Generation},
    sampler::{Sampler, SamplerKind, SchedulerConfig},
    wan::{WanDenoiser, WanPrompts, WanTransformer},
};
use serde::Deserialize;

use super::{
    cache_e2e::trajectory,
    case::Case,
    report::CaseReport,
    strategy_tables::search::{climbed, digits, skipped},
    transformer::Network,
};
use crate::{
    calibration::{Extent, Watched},
    search::ends,
};

/// Tolerance of latents, and relative one of errors.
const TOLERANCE: f64 = 1e-3;

/// How far below the best schedule a planned one may be, and a searched one, in dB.
const PLANNED: f64 = 0.5;
const SEARCHED: f64 = 0.3;

/// Most schedules that a search may score.
const LIMIT: usize = 50;

/// Every so many schedules are run.
const EVERY: usize = 60;

#[derive(Deserialize)]
struct Recorded {
    files: Files,
    sampling: Sampling,
    judged: BTreeMap<String, BTreeMap<String, Judged>>,
}

#[derive(Deserialize)]
struct Files {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    dir: String,
}

#[derive(Deserialize)]
struct Sampling {
    num_inference_steps: usize,
    guidance_scale: f64,
    flow_shift: f64,
    budgets: Vec<usize>,
}

#[derive(Deserialize)]
struct Judged {
    summed_error_dp: BTreeMap<String, Plan>,
    climb: Climbs,
}

#[derive(Deserialize)]
struct Plan {
    mask: String,
    predicted: f64,
}

#[derive(Deserialize)]
struct Climbs {
    from: BTreeMap<String, BTreeMap<String, Climb>>,
}

#[derive(Deserialize)]
struct Climb {
    way: Vec<String>,
    end: String,
    evaluations: usize,
}

/// The runs of a case with one solver.
struct Runs {
    denoisers: Vec<Arc<dyn Denoiser>>,
    noise: Vec<Tensor>,
    sampler: Sampler,
    trajectory: Trajectory,
    model: ModelMeta,
}

/// The errors of all schedules with one number of computed steps.
struct Table {
    steps: usize,
    budget: usize,
    /// By mask, for each run: the mean squared error of the latents at the end.
    errors: BTreeMap<String, Vec<f64>>,
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let Recorded { files, sampling, judged } = case.read()?;
    let Some(folder) = files.model.folder(case) else {
        report.skip(format!("the trained model {:?} is not there", files.model.dir));
        return Ok(());
    };
    let folder = Folder::open(&folder)?.computing_with(case.folder.ops());
    let network: Arc<WanTransformer> = Arc::new(Network::load(&folder, &case.on)?);
    for (solver, judged) in judged {
        let kind = if solver == "unipc" { SamplerKind::UniPc } else { SamplerKind::Euler };
        let runs = Runs::new(case, &network, &sampling, kind)?;
        let errors = runs.rehearsed(case, &solver, report)?;
        let planner = Planner::new(&errors)?;
        for budget in &sampling.budgets {
            let key = format!("b{budget}");
            let name = format!("{solver} {key}");
            let table = Table::new(case, &solver, &sampling, *budget)?;
            let judged = judged.get(&key).with_context(|| format!("`judged` has no {name}"))?;
            table.plans(&name, &planner, judged, report)?;
            table.climbs(&name, judged, report);
            table.search(&name, &planner, report)?;
            table.runs(&name, &runs, report)?;
        }
    }
    Ok(())
}

impl Model {
    /// Its folder: `PATH, beside golden/` in the text of a case.
    fn folder(&self, case: &Case) -> Option<PathBuf> {
        let path = self.dir.split(',').next()?.trim();
        let case = std::path::absolute(case.path()).ok()?;
        let mut found = case.ancestors().map(|above| above.join(path));
        found.find(|folder| folder.join("config.json").is_file())
    }
}

impl Runs {
    fn new(
        case: &Case,
        network: &Arc<WanTransformer>,
        sampling: &Sampling,
        kind: SamplerKind,
    ) -> Result<Self> {
        let config = network.config();
        let base = meta::model("wan2.1-t2v")?.clone().with_blocks(&[config.num_layers]);
        let model = ModelMeta { hidden_size: config.inner_dim(), profiles: (&[]).into(), ..base };
        let sampler =
            Sampler::new(&SchedulerConfig::new(kind, sampling.flow_shift), sampling.num_inference_steps)?;
        let trajectory = trajectory(&sampler, true, None)?;
        let (latents, prompts) = (case.tensor("latents0")?, case.tensor("prompt_embeds")?);
        let uncond = case.tensor("negative_prompt_embeds")?;
        let mut runs = Self { denoisers: Vec::new(), noise: Vec::new(), sampler, trajectory, model };
        for pair in 0..latents.dim(0)? {
            let (cond, uncond) = (prompts.narrow(0, pair, 1)?, Some(uncond.clone()));
            let prompts = WanPrompts { cond, uncond, image: None };
            let network = vec![Arc::clone(network)];
            runs.denoisers.push(Arc::new(WanDenoiser::new(network, prompts, vec![sampling.guidance_scale])?));
            runs.noise.push(latents.narrow(0, pair, 1)?.to_dtype(DType::F32)?);
        }
        Ok(runs)
    }

    /// The errors of each run, compared with the recorded ones.
    fn rehearsed(&self, case: &Case, solver: &str, report: &mut CaseReport) -> Result<Vec<ReuseErrors>> {
        let steps = self.trajectory.len();
        let extent = Extent { reach: steps, growth: steps - 1, windows: Vec::new(), sensitivities: false };
        let watched = Watched::new(&self.model, &Recorder::new(&self.model), extent)?;
        let (mut all, mut finals) = (Vec::new(), Vec::new());
        for (denoiser, noise) in self.denoisers.iter().zip(&self.noise) {
            let run = Generation::new(
                Arc::clone(denoiser),
                self.trajectory.clone(),
                self.sampler.clone(),
                noise,
                watched.hooks(),
            )?;
            let same = |latents: &Tensor| Ok(latents.clone());
            let (errors, latents) = watched.rehearsed(denoiser, run, &same, &|| false, &mut || {})?;
            all.push(ReuseErrors { pixels: 1.0, ..errors });
            finals.push(latents);
        }
        let finals = Tensor::cat(&finals, 0)?;
        report.tensors(solver, "final", &finals, case.tensor(&format!("{solver}.final"))?, TOLERANCE)?;
        let (error, growth) = (recorded(case, solver, "error")?, recorded(case, solver, "growth")?);
        let (mut errors, mut grown) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for (pair, run) in all.iter().enumerate() {
            for (step, own) in run.steps.iter().enumerate() {
                let n = own.sources.len();
                for (place, source) in own.sources.iter().enumerate() {
                    let want = error[(pair * steps + step) * steps + source];
                    errors[0].push(own.products[place * n + place].sqrt() / want);
                    errors[1].push(1.0);
                }
            }
            for (step, own) in &run.growth {
                grown[0].push(own / growth[pair * steps + step]);
                grown[1].push(1.0);
            }
        }
        report.numbers(solver, "errors of steps", &errors[0], &errors[1], TOLERANCE);
        report.numbers(solver, "growth", &grown[0], &grown[1], TOLERANCE);
        Ok(all)
    }

    /// Mean squared errors at the end of one run, of each schedule against the first.
    fn errors(&self, pair: usize, schedules: &[Skipped]) -> Result<Vec<f64>> {
        let begin = |skip: &Skipped, from: Option<&Snapshot>| {
            let table = FixedSteps::registered()?.continued(skip.clone(), Continuation::Residual)?;
            let plan = CachePlan::from_tables(vec![table], Residuals::default())?;
            let hooks = plan.build(&self.model, Some(&self.trajectory))?.registry;
            let (denoiser, run) = (Arc::clone(&self.denoisers[pair]), self.trajectory.clone());
            Ok(match from {
                None => Generation::new(denoiser, run, self.sampler.clone(), &self.noise[pair], &hooks)?,
                Some(from) => {
                    let from = from.reader(&Device::Cpu);
                    Generation::resume(Some(denoiser), run, self.sampler.clone(), &hooks, &from)?
                }
            })
        };
        let ends = ends(schedules, &begin, &|| false)?;
        let first = ends.first().context("no schedule")?;
        let square = |end: &Tensor| -> Result<f64> {
            Ok((end - first)?.sqr()?.to_dtype(DType::F64)?.mean_all()?.to_scalar()?)
        };
        ends.iter().skip(1).map(square).collect()
    }
}

/// A recorded tensor of rehearsals, flat.
fn recorded(case: &Case, solver: &str, what: &str) -> Result<Vec<f64>> {
    let tensor = case.tensor(&format!("rehearsed.{solver}.{what}"))?;
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

impl Table {
    fn new(case: &Case, solver: &str, sampling: &Sampling, budget: usize) -> Result<Self> {
        let masks = case.tensor(&format!("schedules.b{budget}"))?.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        let errors = case.tensor(&format!("errors.{solver}.b{budget}"))?;
        let errors = errors.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let mask = |row: Vec<i64>| row.iter().map(ToString::to_string).collect::<String>();
        let errors = masks.into_iter().map(mask).zip(errors).collect();
        Ok(Self { steps: sampling.num_inference_steps, budget, errors })
    }

    /// The mean of decibels of each schedule.
    fn scores(&self) -> BTreeMap<String, f64> {
        self.errors.iter().map(|(mask, errors)| (mask.clone(), mean(&decibels(errors)))).collect()
    }

    /// How far a schedule is below the best one, in dB.
    fn below(&self, mask: &str) -> f64 {
        let scores = self.scores();
        let best = scores.values().copied().fold(f64::NEG_INFINITY, f64::max);
        scores.get(mask).map_or(f64::NAN, |own| best - own)
    }

    /// Plans whose sums are recorded, and the planner's own.
    fn plans(&self, name: &str, planner: &Planner, judged: &Judged, report: &mut CaseReport) -> Result<()> {
        for (key, objective) in
            [("with_growth.sum", Objective::Sum), ("with_growth.minimax", Objective::Minimax)]
        {
            let want = judged.summed_error_dp.get(key).with_context(|| format!("no {key}"))?;
            let own = self.plan(planner, objective)?;
            report.equal(name, &objective.to_string(), &digits(&own.skip, self.steps), &want.mask);
            let value = if objective == Objective::Sum { own.sum } else { own.worst };
            report.numbers(name, "its error", &[value / want.predicted], &[1.0], TOLERANCE);
        }
        let own = self.plan(planner, Objective::Final)?;
        let below = self.below(&digits(&own.skip, self.steps));
        report.numbers(name, "the plan, dB below the best", &[below], &[0.0], PLANNED);
        Ok(())
    }

    fn plan(&self, planner: &Planner, objective: Objective) -> Result<magcache_core::planner::Planned> {
        let plans = planner.schedules(Continuation::Residual, objective);
        plans.into_iter().find(|plan| plan.computed == self.budget).context("no plan")
    }

    fn climbs(&self, name: &str, judged: &Judged, report: &mut CaseReport) {
        let scores = self.scores();
        for (start, by_window) in &judged.climb.from {
            for (window, want) in by_window {
                let Some(first) = want.way.first() else { continue };
                let window = window.strip_prefix("window_").and_then(|steps| steps.parse().ok());
                let got = climbed(&scores, first, window);
                let want = (want.end.clone(), want.way.len() - 1, want.evaluations);
                report.equal(name, &format!("climb from {start}"), &got, &want);
            }
        }
    }

    /// A search from the plan.
    fn search(&self, name: &str, planner: &Planner, report: &mut CaseReport) -> Result<()> {
        let search = Search {
            steps: self.steps,
            starts: vec![self.plan(planner, Objective::Final)?.skip],
            fixed: vec![0],
            max_gap: self.steps,
            limit: LIMIT,
            seed: 0,
        };
        let asked = RefCell::new(0);
        let Ok(found) = search.run(|all: &[Skipped]| {
            *asked.borrow_mut() += all.len();
            let of = |skip: &Skipped| self.errors.get(&digits(skip, self.steps)).map(|e| decibels(e));
            Ok::<_, Infallible>(all.iter().map(of).collect())
        });
        let best = found.best().map(|(skip, _)| self.below(&digits(skip, self.steps)));
        report.numbers(name, "the search, dB below the best", &[best.unwrap_or(f64::NAN)], &[0.0], SEARCHED);
        report.equal(name, "scored once", &*asked.borrow(), &found.scores.len());
        let over = found.scores.len().saturating_sub(LIMIT);
        report.count(name, "schedules scored", over, LIMIT, None);
        Ok(())
    }

    /// Runs some of the schedules.
    fn runs(&self, name: &str, runs: &Runs, report: &mut CaseReport) -> Result<()> {
        let some: Vec<(&String, &Vec<f64>)> = self.errors.iter().step_by(EVERY).collect();
        let schedules: Vec<Skipped> =
            std::iter::once(Vec::new()).chain(some.iter().map(|(mask, _)| skipped(mask))).collect();
        let mut ratios = Vec::new();
        for pair in 0..runs.noise.len() {
            let got = runs.errors(pair, &schedules)?;
            ratios.extend(got.iter().zip(&some).map(|(got, (_, want))| got / want[pair]));
        }
        report.numbers(name, "errors of schedules", &ratios, &vec![1.0; ratios.len()], TOLERANCE);
        Ok(())
    }
}

fn decibels(errors: &[f64]) -> Vec<f64> {
    errors.iter().map(|error| -10.0 * error.log10()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
