//! Whole cached generations: decisions by step and branch, and latents along the way.

mod published;
mod recipe;
pub(super) mod s2v;
mod taylor;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_core::{
    Branch, CachePlan, Expert, HookRegistry, ModelMeta, Step, Trajectory, calibrate::Recorder, error::count,
    log::Record,
};
use magcache_models::{
    pipeline::{Denoiser, Generation},
    sampler::{Sampler, SamplerKind, SchedulerConfig},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use self::{
    published::Files,
    recipe::{Recipe, Run},
};
use super::{case::Case, class, report::CaseReport};
use crate::console::bad_input;

/// Tolerance of latents and measured ratios.
const TOLERANCE: f64 = 1e-4;

/// Tolerance as a fraction of the total effect of half-precision storage on the latents: the rounding of a
/// value between two representable ones depends on the last bit of a sum, and so on the machine's order of
/// addition.
const ROUNDINGS: f64 = 0.02;

#[derive(Deserialize)]
struct Recorded {
    files: Option<Files>,
    sampling: Map<String, Value>,
    runs: Vec<Run>,
}

/// How the runs of a case were made.
#[derive(Deserialize)]
pub(super) struct Sampling {
    pub(super) num_inference_steps: usize,
    pub(super) guidance_scale: f64,
    pub(super) guidance_scale_2: Option<f64>,
    pub(super) boundary_ratio: Option<f64>,
    /// Of Wan.
    flow_shift: Option<f64>,
    /// Rows and columns of the image's tokens.
    grid: Option<[usize; 2]>,
    /// The folder of the solver, or words about it.
    scheduler: Option<String>,
    /// What a family reads itself.
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Sampling {
    /// What a case says, with what one of its runs says instead.
    fn read(case: &Map<String, Value>, run: &Map<String, Value>) -> Result<Self> {
        let all = case.iter().chain(run).map(|(key, value)| (key.clone(), value.clone())).collect();
        Self::deserialize(Value::Object(all)).map_err(unreadable)
    }

    /// What only one family has.
    pub(super) fn own<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(Value::Object(self.more.clone())).map_err(unreadable)
    }

    pub(super) fn scheduler(&self, case: &Case) -> Result<SchedulerConfig> {
        const FILE: &str = "scheduler_config.json";
        let named = self.scheduler.as_ref().map(|name| case.folder.sub(name));
        let own = named.filter(|folder| folder.exists(FILE));
        let own = own.unwrap_or_else(|| case.folder.sub("scheduler"));
        Ok(SchedulerConfig::from_json(&own.read_to_string(FILE)?)?)
    }

    pub(super) fn grid(&self) -> Result<[usize; 2]> {
        self.grid
            .ok_or_else(|| bad_input("`sampling` has no `grid`, the rows and columns of the image's tokens"))
    }
}

fn unreadable(error: serde_json::Error) -> anyhow::Error {
    bad_input(format!("`sampling`: {error}"))
}

/// What all runs of a case share.
#[derive(Clone)]
pub(super) struct Setup {
    denoiser: Arc<dyn Denoiser>,
    /// The sampler at its start.
    sampler: Sampler,
    pub(super) trajectory: Trajectory,
    latents: Tensor,
    pub(super) model: ModelMeta,
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let Recorded { files, sampling, runs } = case.read()?;
    let other = files.as_ref().and_then(Files::elsewhere).map(|dir| case.beside(dir)).transpose()?;
    let model = other.as_ref().unwrap_or(case);
    let whole = Sampling::read(&sampling, &Map::new())?;
    let Some(setup) = setup(model, &whole, report)? else { return Ok(()) };
    if case.has("timesteps") {
        let want = case.tensor("timesteps")?;
        let got = Tensor::new(setup.trajectory.timesteps.as_slice(), want.device())?;
        report.tensors("sampling", "timesteps", &got, want, 0.0)?;
    }
    for run in &runs {
        let own = run.sampling().map(|own| Sampling::read(&sampling, own)).transpose()?;
        let sampling = own.as_ref().unwrap_or(&whole);
        let own = own.as_ref().map(|own| self::setup(model, own, report)).transpose()?.flatten();
        let setup = own.as_ref().unwrap_or(&setup);
        match run.recipe(&setup.networks(), &setup.model.modules)? {
            Recipe::Unknown(why) => report.leave_out(format!("run {}", run.name), why),
            Recipe::Cache(_) if setup.model.blocks() == 1 => report.leave_out(
                format!("run {}", run.name),
                "with one block diffusers counts the computed steps alone and reads the wrong ratio after a skip",
            ),
            recipe => {
                let euler = run.is_euler().then(|| setup.with_euler(sampling)).transpose()?;
                let setup = euler.as_ref().unwrap_or(setup);
                setup.check(case, run, recipe, report).with_context(|| format!("run {:?}", run.name))?;
            }
        }
    }
    Ok(())
}

/// The network of a case; `None` if there is none in this build, which is reported.
fn setup(model: &Case, sampling: &Sampling, report: &mut CaseReport) -> Result<Option<Setup>> {
    let Some(class) = class::of(model, report)? else { return Ok(None) };
    let Some(generation) = class.generation else {
        report.skip(format!("this build has no generations with {}", class.name));
        return Ok(None);
    };
    generation(model, sampling, report).map(Some)
}

impl Setup {
    /// `boundary_ratio`: where the second of two networks takes over.
    pub(super) fn new(
        denoiser: Arc<dyn Denoiser>,
        sampler: Sampler,
        latents: Tensor,
        model: ModelMeta,
        guided: bool,
        boundary_ratio: Option<f64>,
    ) -> Result<Self> {
        let trajectory = trajectory(&sampler, guided, boundary_ratio)?;
        Ok(Self { denoiser, sampler, trajectory, latents, model })
    }

    /// The same with Euler's method at the shift of the case.
    fn with_euler(&self, sampling: &Sampling) -> Result<Self> {
        let Some(shift) = sampling.flow_shift else { return Ok(self.clone()) };
        let config = SchedulerConfig::new(SamplerKind::Euler, shift);
        let sampler = Sampler::new(&config, sampling.num_inference_steps)?;
        let guided = self.trajectory.branches.len() > 1;
        let (denoiser, latents, model) =
            (Arc::clone(&self.denoiser), self.latents.clone(), self.model.clone());
        Self::new(denoiser, sampler, latents, model, guided, self.trajectory.boundary_ratio)
    }

    /// Names of the networks and their numbers of steps, in the order of their phases.
    fn networks(&self) -> Vec<(&'static str, usize)> {
        let steps = |i: usize| {
            let own = self.trajectory.phases.iter().filter(|p| usize::from(p.expert.0) == i);
            own.map(|p| p.steps.len()).sum()
        };
        self.model.experts.iter().enumerate().map(|(i, name)| (*name, steps(i))).collect()
    }

    fn check(&self, case: &Case, run: &Run, recipe: Recipe, report: &mut CaseReport) -> Result<()> {
        let recorder = matches!(recipe, Recipe::Measure).then(|| Recorder::new(&self.model));
        let mut exact = None;
        let registry = match recipe {
            Recipe::Cache(mut plan) => {
                let build = |plan: &CachePlan| plan.build(&self.model, Some(&self.trajectory));
                let registry = build(&plan)?.registry;
                if plan.residuals.dtype.take().is_some() {
                    exact = Some(build(&plan)?.registry);
                }
                registry
            }
            Recipe::Dense | Recipe::Measure | Recipe::Unknown(_) => match &recorder {
                Some(recorder) => recorder.registry(),
                None => HookRegistry::builder(self.model.blocks()).build(),
            },
        };
        let (generation, latents) = self.generate(&registry, &run.latents_step_indices)?;
        let experts = run.decisions().iter().zip(self.model.experts.iter()).enumerate();
        for (i, (by_branch, expert)) in experts {
            for (name, want) in by_branch {
                let want: Vec<bool> = want.skip.iter().map(|skip| *skip != 0).collect();
                let got = steps(&generation, Expert(i as u8), branch(name)?, &Record::is_skip);
                let of = if run.decisions().len() > 1 { format!("{expert} {name}") } else { name.clone() };
                report.decisions(&run.name, &format!("decisions {of}"), &got, &want);
            }
        }
        if !registry.module_rings().is_empty() {
            self.check_modules(run, &generation, report)?;
        }
        let tolerance = match exact {
            None => TOLERANCE,
            Some(exact) => {
                let (_, exact) = self.generate(&exact, &run.latents_step_indices)?;
                let rounding = (exact - &latents)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                TOLERANCE.max(ROUNDINGS * f64::from(rounding))
            }
        };
        report.tensors(&run.name, "latents", &latents, case.tensor(&run.latents)?, tolerance)?;
        let curve = recorder.map(|recorder| recorder.recording().curve());
        for (branch, got) in curve.into_iter().flat_map(|curve| curve.ratios) {
            let output = format!("ratios.{branch}");
            let want = case.tensor(&format!("{}.{output}", run.name))?;
            let got = Tensor::new(got, &Device::Cpu)?;
            report.tensors(&run.name, &output, &got, want, TOLERANCE)?;
        }
        Ok(())
    }

    /// Checks the steps at which the attention of the last block was forecast.
    fn check_modules(&self, run: &Run, generation: &Generation, report: &mut CaseReport) -> Result<()> {
        let last = self.model.blocks().saturating_sub(1);
        let inside = |r: &Record| r.reused && r.module.is_some() && r.blocks.contains(&last);
        for (i, by_branch) in run.decisions().iter().enumerate() {
            for (name, want) in by_branch {
                let Some(executed) = &want.inner_executed else { continue };
                let want: Vec<bool> = executed.iter().map(|times| *times == 0).collect();
                let got = steps(generation, Expert(i as u8), branch(name)?, &inside);
                report.decisions(&run.name, &format!("decisions {name} inside block {last}"), &got, &want);
            }
        }
        Ok(())
    }

    /// A run at its start.
    pub(super) fn generation(&self, registry: &Arc<HookRegistry>) -> Result<Generation> {
        let (denoiser, trajectory) = (Arc::clone(&self.denoiser), self.trajectory.clone());
        Ok(Generation::new(denoiser, trajectory, self.sampler.clone(), &self.latents, registry)?)
    }

    /// A whole run, and the latents after the steps `at`, stacked.
    fn generate(&self, registry: &Arc<HookRegistry>, at: &[usize]) -> Result<(Generation, Tensor)> {
        let steps = self.trajectory.len();
        if let Some(step) = at.iter().find(|step| **step >= steps) {
            return Err(bad_input(format!(
                "`latents_step_indices` has {step}, the run has {}",
                count(steps, "step")
            )));
        }
        let mut generation = self.generation(registry)?;
        let mut after = BTreeMap::new();
        generation.run(&|| false, &mut |g| {
            after.insert(g.next() - 1, g.latents().clone());
        })?;
        let kept: Vec<_> = at.iter().filter_map(|step| after.get(step)).collect();
        Ok((generation, Tensor::stack(&kept, 0)?))
    }
}

/// The steps of a recorded run.
pub(super) fn trajectory(sampler: &Sampler, guided: bool, boundary_ratio: Option<f64>) -> Result<Trajectory> {
    let schedule = sampler.schedule();
    Ok(Trajectory {
        phases: schedule.experts(boundary_ratio)?,
        sigmas: schedule.sigmas.iter().map(|sigma| f64::from(*sigma)).collect(),
        timesteps: schedule.timesteps.clone(),
        branches: if guided { vec![Branch::Cond, Branch::Uncond] } else { vec![Branch::Cond] },
        unguided: Vec::new(),
        guidance_end: None,
        flow_shift: None,
        boundary_ratio,
        // Recorded runs include those that are refused to users.
        multistep: false,
        clips: 1,
        first: 0,
    })
}

/// Whether something was decided in each pass of a branch in an expert's phase, in order; a run without hooks
/// decides nothing.
fn steps(
    generation: &Generation,
    expert: Expert,
    branch: Branch,
    decided: &dyn Fn(&Record) -> bool,
) -> Vec<bool> {
    steps_where(generation, &|step| step.expert == expert, branch, decided)
}

/// The same in the steps that are `own`.
fn steps_where(
    generation: &Generation,
    own: &dyn Fn(&Step) -> bool,
    branch: Branch,
    decided: &dyn Fn(&Record) -> bool,
) -> Vec<bool> {
    let log = generation.session().map(magcache_core::Session::log);
    let mine = |r: &&Record| r.branch == branch && decided(r);
    let found: BTreeSet<usize> =
        log.into_iter().flat_map(|log| log.records().iter().filter(mine).map(|r| r.step)).collect();
    let own = |step: usize| own(&generation.trajectory().step(step));
    let passes = generation.times().iter().filter(|pass| pass.branch == branch && own(pass.step));
    passes.map(|pass| found.contains(&pass.step)).collect()
}

fn branch(name: &str) -> Result<Branch> {
    match name {
        "cond" => Ok(Branch::Cond),
        "uncond" => Ok(Branch::Uncond),
        _ => Err(bad_input(format!("unknown branch {name:?} in `decisions`, expected cond or uncond"))),
    }
}
